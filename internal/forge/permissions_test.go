package forge_test

import (
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"capstan.dev/capstan/internal/forge"
	"capstan.dev/capstan/internal/giteatest"
)

// What each scope of a token is good for on a real Gitea. docs/forges.md says so to people.
func TestGiteaScopes(t *testing.T) {
	w := newGiteaWorld(t, giteatest.ForTest(t), forge.Gitea)
	pr := w.pulls(t, 1, "main", false)[0]
	comment := w.comment(t, pr.Number, "a comment")
	const status, list, get, find, create, edit = "set-status", "list-pull-requests", "get-pull-request", "list-comments", "create-comment", "edit-comment"
	for _, tt := range []struct {
		scopes []string
		may    []string
	}{
		{[]string{"read:user"}, nil},
		{[]string{"read:repository"}, []string{list, get}},
		{[]string{"write:repository"}, []string{status, list, get}},
		{[]string{"read:issue"}, []string{find}},
		{[]string{"write:issue"}, []string{find, create, edit}},
		{[]string{"read:repository", "write:issue"}, []string{list, get, find, create, edit}},
		{[]string{"write:repository", "write:issue"}, []string{status, list, get, find, create, edit}},
	} {
		f := open(t, w, func(o *forge.Options) { o.Credentials.Token = w.token(t, w.owner, tt.scopes...) })
		want, got := map[string]forge.ErrorKind{}, map[string]forge.ErrorKind{}
		for name, err := range operations(t, f, w.main(), pr.Number, comment) {
			got[name], want[name] = forge.KindOf(err), forge.Forbidden
		}
		for _, name := range tt.may {
			want[name] = ""
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("%v: %s", tt.scopes, diff)
		}
	}
}

// What a collaborator's token with all scopes is good for, by the access of its user.
func TestGiteaAccess(t *testing.T) {
	w := newGiteaWorld(t, giteatest.ForTest(t), forge.Gitea)
	pr := w.pulls(t, 1, "main", false)[0]
	for _, tt := range []struct {
		access       string
		status, edit forge.ErrorKind
	}{{"read", forge.Forbidden, forge.Forbidden}, {"write", "", ""}} {
		user := w.server.NewUser(t)
		w.as(t, w.owner, "PUT", w.repo("/collaborators/%s", user.Name), map[string]string{"permission": tt.access}, nil)
		f := open(t, w, func(o *forge.Options) {
			o.Credentials.Token = w.token(t, user, "write:repository", "write:issue")
		})
		theirs := w.comment(t, pr.Number, "somebody else's")
		errs := operations(t, f, w.main(), pr.Number, theirs)
		if got := forge.KindOf(errs["set-status"]); got != tt.status {
			t.Errorf("%s: set-status: %v", tt.access, errs["set-status"])
		}
		if got := forge.KindOf(errs["edit-comment"]); got != tt.edit {
			t.Errorf("%s: edit-comment of somebody else: %v", tt.access, errs["edit-comment"])
		}
		for _, name := range []string{"list-pull-requests", "get-pull-request", "list-comments", "create-comment"} {
			if errs[name] != nil {
				t.Errorf("%s: %s: %v", tt.access, name, errs[name])
			}
		}
	}
}
