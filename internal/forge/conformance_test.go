package forge_test

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"capstan.dev/capstan/internal/forge"
	"capstan.dev/capstan/internal/giteatest"
)

// world is a forge with a repository, and what happens on it that is not our doing.
type world interface {
	// options open the repository with just what it needs.
	options(t *testing.T) forge.Options
	// weak credentials can see everything and change nothing.
	weak(t *testing.T) forge.Credentials
	// main is a commit of the repository.
	main() string
	// statuses are those that hold for a commit.
	statuses(t *testing.T, commit string) []forge.Status
	// pulls makes pull requests, drafts, and returns what is to be known of them.
	pulls(t *testing.T, count int, base string, fork bool) []forge.PullRequest
	close(t *testing.T, number int)
	comment(t *testing.T, number int, body string) int64
	comments(t *testing.T, number int) map[int64]string
	deleteComment(t *testing.T, id int64)
}

// worlds are the forges that all behave alike.
var worlds = map[string]func(t *testing.T) world{
	"gitea": func(t *testing.T) world { return newGiteaWorld(t, giteatest.ForTest(t), forge.Gitea) },
	"gitea with a certificate of its own": func(t *testing.T) world {
		return newGiteaWorld(t, giteatest.NewForTest(t, giteatest.Options{TLS: true, FastQueues: true}), forge.Forgejo)
	},
	"github.com":                   func(t *testing.T) world { return newGitHubFake(t, githubSetup{}) },
	"github.com, as an App":        func(t *testing.T) world { return newGitHubFake(t, githubSetup{app: true}) },
	"GitHub Enterprise":            func(t *testing.T) world { return newGitHubFake(t, githubSetup{enterprise: true}) },
	"GitHub Enterprise, as an App": func(t *testing.T) world { return newGitHubFake(t, githubSetup{enterprise: true, app: true}) },
}

// behaviours are what every forge does. They share a repository.
var behaviours = []struct {
	name string
	test func(t *testing.T, w world)
}{
	{"a status appears", statusAppears},
	{"a status replaces the one before", statusReplaces},
	{"statuses of many contexts", statusMany},
	{"descriptions are cut", statusLong},
	{"a status that is none", statusInvalid},
	{"a commit that is not there", statusUnknownCommit},
	{"a repository that is not there", unknownRepository},
	{"a token that nobody knows", badToken},
	{"a token that may not write", weakToken},
	{"pull requests are listed", pullsListed},
	{"a pull request is read", pullRead},
	{"more pull requests than a page has", pullsIncomplete},
	{"a comment is found among many", commentFound},
	{"a comment is edited in place", commentEdited},
	{"a comment was deleted", commentDeleted},
	{"a comment is too long", commentLong},
	{"the observer is told", observed},
}

func TestConformance(t *testing.T) {
	for name, make := range worlds {
		t.Run(name, func(t *testing.T) {
			w := make(t)
			for _, b := range behaviours {
				t.Run(b.name, func(t *testing.T) { b.test(t, w) })
			}
		})
	}
}

func open(t *testing.T, w world, change ...func(*forge.Options)) forge.Forge {
	t.Helper()
	o := w.options(t)
	for _, c := range change {
		c(&o)
	}
	f, err := forge.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func set(t *testing.T, f forge.Forge, s forge.Status) {
	t.Helper()
	if err := f.SetStatus(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

// status is the one of a context, if there is just one.
func status(t *testing.T, w world, context string) forge.Status {
	t.Helper()
	var found []forge.Status
	for _, s := range w.statuses(t, w.main()) {
		if s.Context == context {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		t.Fatalf("the context %q has %d statuses: %v", context, len(found), found)
	}
	return found[0]
}

func statusAppears(t *testing.T, w world) {
	f := open(t, w)
	for _, state := range []forge.State{forge.Pending, forge.Success, forge.Failure, forge.Errored} {
		want := forge.Status{Commit: w.main(), Context: "capstan/appears/" + string(state), State: state,
			Description: "control plane 2/3 rolled, workers 4/6; 1 m 40 s", TargetURL: "https://capstan.example.com/fleet?a=b"}
		set(t, f, want)
		if diff := gocmp.Diff(want, status(t, w, want.Context)); diff != "" {
			t.Error(diff)
		}
	}
	bare := forge.Status{Commit: w.main(), Context: "capstan/bare", State: forge.Success}
	set(t, f, bare)
	if diff := gocmp.Diff(bare, status(t, w, bare.Context)); diff != "" {
		t.Error(diff)
	}
}

func statusReplaces(t *testing.T, w world) {
	f := open(t, w)
	s := forge.Status{Commit: w.main(), Context: "capstan/replaced", State: forge.Pending, Description: "first"}
	set(t, f, s)
	s.State, s.Description = forge.Failure, "second"
	set(t, f, s)
	s.State, s.Description = forge.Success, "third"
	set(t, f, s)
	if diff := gocmp.Diff(s, status(t, w, s.Context)); diff != "" {
		t.Error(diff)
	}
}

func statusMany(t *testing.T, w world) {
	f := open(t, w)
	var want []forge.Status
	for i := range 60 {
		s := forge.Status{Commit: w.main(), Context: fmt.Sprintf("capstan/many/%02d", i), State: forge.Success, Description: fmt.Sprint(i)}
		set(t, f, s)
		want = append(want, s)
	}
	got := slices.DeleteFunc(w.statuses(t, w.main()), func(s forge.Status) bool { return !strings.HasPrefix(s.Context, "capstan/many/") })
	slices.SortFunc(got, func(a, b forge.Status) int { return cmp.Compare(a.Context, b.Context) })
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func statusLong(t *testing.T, w world) {
	f := open(t, w)
	limit := f.Limits().Description
	for _, text := range []string{
		strings.Repeat("a", limit), strings.Repeat("a", limit+1), strings.Repeat("ü", limit), strings.Repeat("ü", limit+1),
		strings.Repeat("漢字", limit), strings.Repeat("🚜", limit+1), "two\nlines\tand \x1b[31mcolour", "broken \xff byte",
	} {
		set(t, f, forge.Status{Commit: w.main(), Context: "capstan/long", State: forge.Failure, Description: text})
		got := status(t, w, "capstan/long").Description
		n := utf8.RuneCountInString(got)
		switch cutOff := strings.HasSuffix(got, "…"); {
		case n > limit || !utf8.ValidString(got) || strings.ContainsAny(got, "\n\t\x1b"):
			t.Errorf("%q was made %q", text, got)
		case cutOff != (utf8.RuneCountInString(text) > limit):
			t.Errorf("%q was made %q, of %d characters", text, got, n)
		case n <= limit && !cutOff && strings.Trim(text, "aü") == "" && got != text:
			t.Errorf("%q was made %q without need", text, got)
		}
	}
}

func statusInvalid(t *testing.T, w world) {
	f := open(t, w)
	good := forge.Status{Commit: w.main(), Context: "capstan/x", State: forge.Success}
	for name, change := range map[string]func(*forge.Status){
		"short commit":  func(s *forge.Status) { s.Commit = s.Commit[:12] },
		"a branch":      func(s *forge.Status) { s.Commit = "main" },
		"a path":        func(s *forge.Status) { s.Commit = "../../issues" },
		"no context":    func(s *forge.Status) { s.Context = "" },
		"two lines":     func(s *forge.Status) { s.Context = "a\nb" },
		"no such state": func(s *forge.Status) { s.State = "warning" },
	} {
		s := good
		change(&s)
		if err := f.SetStatus(t.Context(), s); forge.KindOf(err) != forge.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func statusUnknownCommit(t *testing.T, w world) {
	err := open(t, w).SetStatus(t.Context(), forge.Status{Commit: strings.Repeat("1", 40), Context: "capstan/x", State: forge.Success})
	failed(t, err, forge.NotFound)
}

// operations are all that a forge can be asked for.
func operations(t *testing.T, f forge.Forge, commit string, pr int, comment int64) map[string]error {
	t.Helper()
	errs := map[string]error{}
	errs["set-status"] = f.SetStatus(t.Context(), forge.Status{Commit: commit, Context: "capstan/operations", State: forge.Success})
	_, _, errs["list-pull-requests"] = f.OpenPullRequests(t.Context(), "main")
	_, errs["get-pull-request"] = f.PullRequest(t.Context(), pr)
	_, _, errs["list-comments"] = f.FindComment(t.Context(), pr, "<!-- marker -->")
	_, errs["create-comment"] = f.CreateComment(t.Context(), pr, "a comment")
	errs["edit-comment"] = f.EditComment(t.Context(), pr, comment, "another comment")
	return errs
}

func unknownRepository(t *testing.T, w world) {
	f := open(t, w, func(o *forge.Options) { o.Repository = "nothing" })
	for _, err := range operations(t, f, w.main(), 1, 1) {
		if kind := forge.KindOf(err); kind == forge.Forbidden && w.options(t).Credentials.Token == "" {
			continue // an App is told so when it logs in
		}
		failed(t, err, forge.NotFound)
	}
}

func badToken(t *testing.T, w world) {
	const token = "0123456789abcdef0123456789abcdef01234567"
	f := open(t, w, func(o *forge.Options) { o.Credentials = forge.Credentials{Token: token, CA: o.Credentials.CA} })
	for _, err := range operations(t, f, w.main(), 1, 1) {
		failed(t, err, forge.Unauthorized)
		if err != nil && strings.Contains(err.Error(), token) {
			t.Errorf("the token is in %q", err)
		}
	}
}

func weakToken(t *testing.T, w world) {
	pr := w.pulls(t, 1, "main", false)[0]
	comment := w.comment(t, pr.Number, "a comment")
	f := open(t, w, func(o *forge.Options) { o.Credentials = w.weak(t) })
	for name, err := range operations(t, f, w.main(), pr.Number, comment) {
		switch name {
		case "set-status", "create-comment", "edit-comment":
			failed(t, err, forge.Forbidden)
			if err != nil && !strings.Contains(err.Error(), "needs") {
				t.Errorf("%s: %q does not say what is needed", name, err)
			}
		default:
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func pullsListed(t *testing.T, w world) {
	f := open(t, w)
	old, other := w.pulls(t, 1, "staging", false), w.pulls(t, 1, "main", false)
	forked, closed := w.pulls(t, 1, "staging", true), w.pulls(t, 1, "staging", false)
	w.close(t, closed[0].Number)
	got, complete, err := f.OpenPullRequests(t.Context(), "staging")
	if err != nil || !complete {
		t.Fatalf("complete: %v, %v", complete, err)
	}
	byNumber := cmpopts.SortSlices(func(a, b forge.PullRequest) bool { return a.Number < b.Number })
	if diff := gocmp.Diff(slices.Concat(old, forked), got, byNumber); diff != "" {
		t.Error(diff)
	}
	if slices.ContainsFunc(got, func(pr forge.PullRequest) bool { return pr.Number == other[0].Number }) {
		t.Error("a pull request for another branch is listed")
	}
	none, complete, err := f.OpenPullRequests(t.Context(), "no-such-branch")
	if err != nil || !complete || len(none) != 0 {
		t.Errorf("of no branch: %v, %v, %v", none, complete, err)
	}
}

func pullRead(t *testing.T, w world) {
	f := open(t, w)
	for _, fork := range []bool{false, true} {
		want := w.pulls(t, 1, "main", fork)[0]
		got, err := f.PullRequest(t.Context(), want.Number)
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		w.close(t, want.Number)
		want.Open = false
		if got, err = f.PullRequest(t.Context(), want.Number); err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	_, err := f.PullRequest(t.Context(), 987654)
	failed(t, err, forge.NotFound)
}

func pullsIncomplete(t *testing.T, w world) {
	const page = 3
	made := w.pulls(t, page+1, "main", false)
	f := open(t, w)
	forge.SetPage(f, page)
	got, complete, err := f.OpenPullRequests(t.Context(), "main")
	if err != nil {
		t.Fatal(err)
	}
	if complete || len(got) != page {
		t.Errorf("%d pull requests, complete: %v; want %d and more to come", len(got), complete, page)
	}
	// What was made last is among those updated last; forges count that in seconds.
	if last := made[len(made)-1].Number; !slices.ContainsFunc(got, func(pr forge.PullRequest) bool { return pr.Number == last }) {
		t.Errorf("the pull request made last, %d, is not among the first", last)
	}
}

func commentFound(t *testing.T, w world) {
	f := open(t, w)
	forge.SetPage(f, 10)
	number := w.pulls(t, 1, "main", false)[0].Number
	const marker = "<!-- capstan: fleet -->"
	if id, found, err := f.FindComment(t.Context(), number, marker); err != nil || found {
		t.Fatalf("a comment before there is one: %d, %v, %v", id, found, err)
	}
	for i := range 15 {
		w.comment(t, number, fmt.Sprintf("comment %d", i))
	}
	want, err := f.CreateComment(t.Context(), number, marker+"\n| Cluster | Change |\n|---|---|\n| a | ünïcode 🚜 |\n")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		w.comment(t, number, fmt.Sprintf("comment %d after", i))
	}
	w.comment(t, number, "a later one: "+marker)
	if id, found, err := f.FindComment(t.Context(), number, marker); err != nil || !found || id != want {
		t.Errorf("found %d, %v, %v; want %d", id, found, err, want)
	}
	if got := w.comments(t, number)[want]; !strings.Contains(got, "ünïcode 🚜") {
		t.Errorf("the comment reads %q", got)
	}
	if id, found, err := f.FindComment(t.Context(), number, "<!-- capstan: other -->"); err != nil || found {
		t.Errorf("found %d, %v, %v; there is none", id, found, err)
	}
	_, err = f.CreateComment(t.Context(), 987654, "text")
	failed(t, err, forge.NotFound)
	_, _, err = f.FindComment(t.Context(), 987654, marker)
	failed(t, err, forge.NotFound)
}

func commentEdited(t *testing.T, w world) {
	f := open(t, w)
	number := w.pulls(t, 1, "main", false)[0].Number
	id, err := f.CreateComment(t.Context(), number, "before")
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{"after", "after", "at last"} {
		if err := f.EditComment(t.Context(), number, id, body); err != nil {
			t.Fatal(err)
		}
	}
	if diff := gocmp.Diff(map[int64]string{id: "at last"}, w.comments(t, number)); diff != "" {
		t.Error(diff)
	}
}

func commentDeleted(t *testing.T, w world) {
	f := open(t, w)
	number := w.pulls(t, 1, "main", false)[0].Number
	id, err := f.CreateComment(t.Context(), number, "before")
	if err != nil {
		t.Fatal(err)
	}
	w.deleteComment(t, id)
	failed(t, f.EditComment(t.Context(), number, id, "after"), forge.NotFound)
}

func commentLong(t *testing.T, w world) {
	f := open(t, w)
	number := w.pulls(t, 1, "main", false)[0].Number
	limit := f.Limits().Comment
	largest := strings.Repeat("0123456789abcde\n", limit/16) + strings.Repeat("x", limit%16)
	id, err := f.CreateComment(t.Context(), number, largest)
	if err != nil {
		t.Fatal(err)
	}
	if got := w.comments(t, number)[id]; got != largest {
		t.Errorf("a comment of %d bytes came back with %d", len(largest), len(got))
	}
	_, err = f.CreateComment(t.Context(), number, largest+"x")
	failed(t, err, forge.Invalid)
	failed(t, f.EditComment(t.Context(), number, id, largest+"x"), forge.Invalid)
	_, err = f.CreateComment(t.Context(), number, " \n")
	failed(t, err, forge.Invalid)
}

func observed(t *testing.T, w world) {
	type seen struct {
		Operation string
		Outcome   forge.ErrorKind
	}
	var got []seen
	f := open(t, w, func(o *forge.Options) {
		o.Observe = func(operation string, outcome forge.ErrorKind, _ int) { got = append(got, seen{operation, outcome}) }
	})
	set(t, f, forge.Status{Commit: w.main(), Context: "capstan/observed", State: forge.Success})
	_, _ = f.PullRequest(t.Context(), 987654)
	if diff := gocmp.Diff([]seen{{"set-status", ""}, {"get-pull-request", forge.NotFound}}, got); diff != "" {
		t.Error(diff)
	}
}

// failed checks the kind of an error, and that it is one a person can be shown.
func failed(t *testing.T, err error, kind forge.ErrorKind) {
	t.Helper()
	switch {
	case forge.KindOf(err) != kind:
		t.Errorf("%q: %v, want %s", forge.KindOf(err), err, kind)
	case strings.ContainsAny(err.Error(), "\n\r\t") || utf8.RuneCountInString(err.Error()) > 800:
		t.Errorf("the error is not one line: %q", err)
	}
}

// trusting is a client that trusts a certificate.
func trusting(t *testing.T, ca []byte) *http.Client {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		t.Fatal("no certificate")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}
