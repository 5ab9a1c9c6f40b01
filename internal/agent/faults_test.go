package agent_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/gittest"
)

// Whatever becomes of the repository, the last good state stays and the Fleet says
// what is wrong.
func TestRepositoryFaults(t *testing.T) {
	w := newWorld(t)
	w.fleet()
	w.start()
	w.look()
	w.untilFleet(v1alpha1.FetchedCondition, "EmptyRepository")
	files := merge(clusterOf("a", "one"), simple("b", "one"))
	first := w.push(files)
	w.untilApplied(first, "clusters/a", "clusters/b")
	w.untilFleet(v1alpha1.FetchedCondition, v1alpha1.SucceededReason)
	head := w.repo.Head()
	mark := w.mark()
	unharmed := func(what string) {
		t.Helper()
		for _, write := range w.written(mark) {
			if !strings.Contains(write, "fleets/status") {
				t.Errorf("%s: %s", what, write)
			}
		}
	}
	w.repo.DeleteBranch("main")
	w.look()
	w.eventually("the Fleet says that the branch is gone", func() string {
		f := w.getFleet()
		if has(f.Status.Conditions, v1alpha1.FetchedCondition, "RefNotFound") || has(f.Status.Conditions, v1alpha1.FetchedCondition, "EmptyRepository") {
			return ""
		}
		return toJSON(f.Status)
	})
	unharmed("deleted branch")
	w.repo.Branch("main", head)
	w.look()
	w.untilFleet(v1alpha1.FetchedCondition, v1alpha1.SucceededReason)
	unharmed("branch restored")
	for what, fault := range map[string]gittest.Fault{"500": gittest.Status(http.StatusInternalServerError), "cut": gittest.Cut(100)} {
		w.repo.HTTP().SetFault(gittest.InfoRefs, fault)
		w.look()
		w.untilFleet(v1alpha1.FetchedCondition, "ServerUnavailable")
		unharmed(what)
		w.repo.HTTP().SetFault(gittest.InfoRefs, nil)
	}
	// A fetch that breaks off, with a commit that would delete everything.
	w.repo.Remove("remove", "clusters")
	w.commit(map[string]string{"README.md": "x"})
	w.repo.HTTP().SetFault(gittest.UploadPack, gittest.Cut(50))
	w.look()
	w.untilFleet(v1alpha1.FetchedCondition, "ServerUnavailable")
	unharmed("broken fetch")
	w.repo.HTTP().SetFault(gittest.UploadPack, nil)
	// A force-push is a commit like any other.
	replaced := map[string]string{}
	for path, content := range merge(clusterOf("a", "forced"), simple("b", "one")) {
		replaced[path] = strings.ReplaceAll(content, "NS", w.ns)
	}
	forced := revision(w.repo.ForcePush(replaced, "forced"))
	w.look()
	w.untilApplied(forced, "clusters/a")
	if got := w.data("-a/settings"); got != "forced" {
		t.Errorf("settings: %q", got)
	}
	w.repo.HTTP().Stop()
	w.look()
	w.untilFleet(v1alpha1.FetchedCondition, "ServerUnavailable")
	w.wantLive("Cluster", "-a/a")
	w.check()
}

// Commits in quick succession, there and back again, end in what the last one says.
func TestQuickCommits(t *testing.T) {
	w := newWorld(t)
	names := []string{"a", "b", "c", "d"}
	var paths []string
	files := map[string]string{}
	for _, name := range names {
		files = merge(files, simple(name, "0", configMap("-"+name, "extra", "x")))
		paths = append(paths, "clusters/"+name)
	}
	first := revision(w.commit(files))
	w.fleet()
	w.start()
	w.untilApplied(first, paths...)
	for i := range 12 {
		change := map[string]string{}
		for j, name := range names {
			// Back to the first content every other time, and the extra object comes and goes.
			if (i+j)%2 == 0 {
				change = merge(change, simple(name, "0", configMap("-"+name, "extra", "x")))
			} else {
				change = merge(change, simple(name, fmt.Sprint(i)))
			}
		}
		w.commit(change)
		w.request(w.getFleet()) // doesn't wait
	}
	last := map[string]string{}
	for _, name := range names {
		last = merge(last, simple(name, "0", configMap("-"+name, "extra", "x")))
	}
	w.push(last)
	for _, name := range names {
		w.eventually(name+" ends in the last commit", func() string {
			if got := w.data("-" + name + "/settings"); got != "0" {
				return "settings: " + got
			}
			if w.data("-"+name+"/extra") != "x" {
				return "extra is missing"
			}
			if o := w.overlay("clusters/" + name); !applied(o) || o.Status.Objects != 3 {
				return describe(o)
			}
			return ""
		})
	}
	// Nothing is stuck: a deletion that needs all overlays to be rendered happens.
	w.push(simple("a", "0"))
	w.untilGone("ConfigMap", "-a/extra")
	w.check()
}

// People edit overlays while the agent writes their status: nothing is lost.
func TestStatusConflict(t *testing.T) {
	w := newWorld(t)
	first := revision(w.commit(clusterOf("a", "0")))
	w.fleet()
	w.start()
	w.untilApplied(first, "clusters/a")
	stop := make(chan struct{})
	var editing sync.WaitGroup
	editing.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				w.annotate(w.overlay("clusters/a"), "people/note", fmt.Sprint(i))
			}
		}
	})
	var last string
	for i := range 5 {
		last = w.push(clusterOf("a", fmt.Sprint("value-", i), configMap("-a", fmt.Sprint("extra-", i), "x")))
	}
	close(stop)
	editing.Wait()
	w.untilApplied(last, "clusters/a")
	for i := range 4 {
		w.untilGone("ConfigMap", fmt.Sprint("-a/extra-", i))
	}
	w.check()
}
