package main

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
)

// record creates a Fleet or an overlay, or brings it to the state of the one given, as
// the agent does.
func (w *world) record(object client.Object) {
	w.Helper()
	object.SetNamespace(w.ns)
	generation := object.GetGeneration()
	want, ok := object.DeepCopyObject().(client.Object)
	if !ok {
		w.Fatal("not an object")
	}
	live, ok := object.DeepCopyObject().(client.Object)
	if !ok {
		w.Fatal("not an object")
	}
	if f, ok := live.(*v1alpha1.Fleet); ok {
		f.Spec.Git.URL = "https://git.example.com/fleet.git"
	}
	live.SetGeneration(0)
	live.SetResourceVersion("")
	if err := env.Client().Create(w.Context(), live); err != nil {
		w.must(env.Client().Get(w.Context(), client.ObjectKeyFromObject(object), live))
	}
	base, _ := live.DeepCopyObject().(client.Object)
	// What speaks of its spec in the example speaks of the live one's too.
	lag := func(observed int64) int64 { return live.GetGeneration() - (generation - observed) }
	now := metav1.Now()
	switch l := live.(type) {
	case *v1alpha1.Fleet:
		if from, ok := want.(*v1alpha1.Fleet); ok {
			l.Status = from.Status
		}
		l.Status.ObservedGeneration = lag(l.Status.ObservedGeneration)
		timed(l.Status.Conditions, now)
	case *v1alpha1.ClusterOverlay:
		if from, ok := want.(*v1alpha1.ClusterOverlay); ok {
			l.Status = from.Status
		}
		l.Status.ObservedGeneration = lag(l.Status.ObservedGeneration)
		timed(l.Status.Conditions, now)
	}
	w.must(env.Client().Status().Patch(w.Context(), live, client.MergeFrom(base)))
}

// timed gives conditions what the API server wants of them.
func timed(conditions []metav1.Condition, now metav1.Time) {
	for i := range conditions {
		c := &conditions[i]
		c.LastTransitionTime = now
		if c.Reason == "" {
			c.Reason = v1alpha1.SucceededReason
		}
	}
}

// waiting is a `status --wait` under way.
type waiting struct {
	*world
	out, err screen
	ended    chan int
	cancel   context.CancelFunc
}

// wait starts a wait. --kubeconfig may be among the arguments.
func (w *world) wait(args ...string) *waiting {
	w.Helper()
	ctx, cancel := context.WithCancel(w.Context())
	r := &waiting{world: w, ended: make(chan int, 1), cancel: cancel}
	w.Cleanup(cancel)
	args = append([]string{"status", "--wait", "--kubeconfig", w.kubeconfig, "--namespace", w.ns}, args...)
	go func() { r.ended <- execute(ctx, strings.NewReader(""), &r.out, &r.err, args) }()
	return r
}

// says waits until the wait has said something.
func (r *waiting) says(part string) {
	r.Helper()
	r.eventually("it says "+part, func() string {
		select {
		case code := <-r.ended:
			r.ended <- code
			if text := r.out.String() + r.err.String(); !strings.Contains(text, part) {
				r.Fatalf("ended with %d and didn't say %q:\n%s", code, part, text)
			}
		default:
		}
		if text := r.out.String() + r.err.String(); !strings.Contains(text, part) {
			return text + "\n(end of output)"
		}
		return ""
	})
}

// ends waits for the end.
func (r *waiting) ends(code int, parts ...string) {
	r.Helper()
	select {
	case got := <-r.ended:
		text := r.out.String() + r.err.String()
		if got != code {
			r.Fatalf("exit code %d, want %d:\n%s", got, code, text)
		}
		for _, part := range parts {
			if !strings.Contains(text, part) {
				r.Errorf("it didn't say %q:\n%s", part, text)
			}
		}
	case <-time.After(patience):
		r.Fatalf("the wait doesn't end:\n%s%s", r.out.String(), r.err.String())
	}
}

func TestWait(t *testing.T) {
	w := newWorld(t)
	w.record(fleetAt(revision2, revision1))
	w.record(overlayAt("clusters/other", revision1))
	w.record(overlayAt("clusters/dev", revision2, at(v1alpha1.PhaseProgressing, metav1.ConditionUnknown, "a VM is cloned")))
	all, one := w.wait(), w.wait("clusters/dev")
	other := w.wait("clusters/other")
	other.ends(0, "converged")
	for _, r := range []*waiting{all, one} {
		r.says("clusters/dev: Progressing 1/3: a VM is cloned")
	}
	w.record(overlayAt("clusters/dev", revision2, at(v1alpha1.PhaseDegraded, metav1.ConditionFalse, "a Node is gone")))
	for _, r := range []*waiting{all, one} {
		r.says("a Node is gone")
	}
	w.record(overlayAt("clusters/dev", revision2))
	one.ends(0, "clusters/dev: Converged main@22222222")
	all.says("clusters/dev: Converged")
	select {
	case code := <-all.ended:
		t.Fatalf("ended with %d although the Fleet doesn't say that all has converged", code)
	default:
	}
	w.record(fleetAt(revision2, revision2))
	all.ends(0, "fleet/home: converged at main@22222222")
	if text := all.out.String(); strings.Contains(text, "clusters/other") {
		t.Errorf("nothing happened to clusters/other:\n%s", text)
	}
	if n := strings.Count(all.out.String(), "a VM is cloned"); n != 1 {
		t.Errorf("said %d times, want once:\n%s", n, all.out.String())
	}
}

// TestWaitEnds lets waits end badly.
func TestWaitEnds(t *testing.T) {
	w := newWorld(t)
	if r := w.run("", "status", "--wait"); r.code != 1 || !strings.Contains(r.out, "(no Fleet)") {
		t.Errorf("without a Fleet: %s", r)
	}
	w.record(fleetAt(revision2, revision1))
	progressing := at(v1alpha1.PhaseProgressing, metav1.ConditionUnknown, "a VM is cloned")
	w.record(overlayAt("clusters/dev", revision2, progressing))
	w.wait("clusters/none").ends(1, "there is no such overlay")
	w.wait("--timeout=1s").ends(2, "not converged within 1s", "clusters/dev: Progressing 1/3: a VM is cloned")

	w.record(overlayAt("clusters/new", revision2, progressing))
	deleted := w.wait("clusters/new")
	deleted.says("clusters/new: Progressing")
	stalls := w.wait("clusters/dev")
	stalls.says("clusters/dev: Progressing")
	interrupted := w.wait("clusters/dev")
	interrupted.says("clusters/dev: Progressing")
	interrupted.cancel()
	interrupted.ends(2, "interrupted")

	o := overlayAt("clusters/new", revision2)
	o.Namespace = w.ns
	w.must(env.Client().Delete(w.Context(), o))
	deleted.ends(1, "clusters/new: deleted meanwhile")
	w.record(overlayAt("clusters/dev", revision2, at(v1alpha1.PhaseStalled, metav1.ConditionFalse, "no quota")))
	stalls.ends(1, "clusters/dev: Stalled 1/3: no quota")
	w.wait().ends(1, "no quota")
	w.wait("--revision", "3333333", "--timeout=1s").ends(2, "commit 3333333 is not observed yet; at main@22222222")
}

// TestWaitOptions has command lines that make no sense.
func TestWaitOptions(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct{ args, want string }{
		{"--wait --watch", "--wait prints"}, {"--wait -o json", "--wait prints"}, {"--timeout 1m", "are for --wait"},
		{"--wait --timeout 0s", "must be positive"}, {"--wait --revision main", "want a commit"}, {"--revision 1234567", "are for --wait"},
		{"-A clusters/dev", "without arguments"}, {"a b", "one overlay or Fleet at a time"}, {"--wait --revision=", "want a commit"},
	} {
		if r := w.run("", append([]string{"status"}, strings.Fields(c.args)...)...); r.code != 2 || !strings.Contains(r.err, c.want) {
			t.Errorf("%s: %s", c.args, r)
		}
	}
}

// TestWaitWithoutRights ends at once: nothing gets better by waiting.
func TestWaitWithoutRights(t *testing.T) {
	w := newWorld(t)
	c, err := client.NewWithWatch(env.Restricted(t, "stranger-in-"+w.ns, w.ns), client.Options{Scheme: newScheme()})
	w.must(err)
	var out, errOut screen
	err = (&app{out: &out, err: &errOut}).awaitConvergence(t.Context(), c, w.ns, nil, statusOptions{timeout: patience})
	if err == nil || !strings.Contains(err.Error(), "forbidden") {
		t.Errorf("error %v", err)
	}
}

// TestWaitSurvives waits while connections break and nobody answers for a while.
func TestWaitSurvives(t *testing.T) {
	w := newWorld(t)
	w.record(fleetAt(revision2, revision1))
	w.record(overlayAt("clusters/dev", revision2, at(v1alpha1.PhaseProgressing, metav1.ConditionUnknown, "a VM is cloned")))
	g := w.newGate(0, func(*http.Request) bool { return false })
	r := w.wait("clusters/dev", "--kubeconfig", g.kubeconfig)
	r.says("a VM is cloned")
	g.server.CloseClientConnections()
	w.record(overlayAt("clusters/dev", revision2))
	r.ends(0, "clusters/dev: Converged main@22222222")
}

// TestWaitRestart waits while the API server is restarted. It isn't parallel to others:
// they need the API server.
func TestWaitRestart(t *testing.T) {
	w := &world{T: t, g: gomega.NewWithT(t), ns: env.Namespace(t)}
	w.user = "waiting-in-" + w.ns
	w.kubeconfig = env.Kubeconfig(t, w.user)
	w.record(fleetAt(revision2, revision1))
	w.record(overlayAt("clusters/dev", revision2, at(v1alpha1.PhaseProgressing, metav1.ConditionUnknown, "a VM is cloned")))
	g := w.newGate(0, func(*http.Request) bool { return false })
	r := w.wait("clusters/dev", "--kubeconfig", g.kubeconfig)
	r.says("a VM is cloned")
	// The API server ends once nobody watches any more.
	stopped, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			g.server.CloseClientConnections()
			select {
			case <-stopped:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	env.StopAPIServer(t)
	close(stopped)
	<-done
	r.says("can't read the status, trying on: ")
	w.wait("clusters/dev", "--timeout=2s").ends(2, "not converged within 2s, as far as is known: ")
	env.StartAPIServer(t)
	w.eventually("the API server is back", func() string {
		var fleets v1alpha1.FleetList
		if err := env.Client().List(w.Context(), &fleets, client.InNamespace(w.ns)); err != nil {
			return err.Error()
		}
		return ""
	})
	w.record(overlayAt("clusters/dev", revision2))
	r.ends(0, "clusters/dev: Converged main@22222222")
	if n := strings.Count(r.out.String(), "\n"); n != 3 {
		t.Errorf("%d lines, want one for each change and one for the end:\n%s", n, r.out.String())
	}
}
