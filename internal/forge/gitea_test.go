package forge_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"capstan.dev/capstan/internal/forge"
	"capstan.dev/capstan/internal/giteatest"
	"capstan.dev/capstan/internal/gittest"
)

// giteaWorld is a repository on a real Gitea.
type giteaWorld struct {
	server *giteatest.Server
	http   *http.Client
	owner  giteatest.User
	clone  *gittest.Repo
	commit string
	// branches are how many were made for pull requests.
	branches int
	// fork is the user who has a fork, if there is one.
	fork giteatest.User
	kind forge.Kind
}

func newGiteaWorld(t *testing.T, server *giteatest.Server, kind forge.Kind) *giteaWorld {
	t.Helper()
	w := &giteaWorld{server: server, http: http.DefaultClient, kind: kind}
	if ca := server.CA(); ca != nil {
		w.http = trusting(t, ca)
	}
	w.owner = server.NewUser(t)
	if err := server.CreateRepo(t.Context(), w.owner.Name, "fleet", true); err != nil {
		t.Fatal(err)
	}
	w.clone = gittest.NewRepo(t)
	if server.CA() != nil {
		w.clone.Git("config", "http.sslVerify", "false")
	}
	w.commit = w.clone.Commit(map[string]string{"clusters/a/kustomization.yaml": "resources: []\n"}, "first")
	w.push("main", "main:staging")
	return w
}

func (w *giteaWorld) push(refs ...string) {
	address := w.server.GitURL(w.owner.Name, w.owner.Password, w.owner.Name, "fleet")
	w.clone.Git(append([]string{"push", "--quiet", "--force", address}, refs...)...)
}

// as asks Gitea's API as a user.
func (w *giteaWorld) as(t *testing.T, user giteatest.User, method, path string, in, out any) http.Header {
	t.Helper()
	var body bytes.Buffer
	if err := json.NewEncoder(&body).Encode(in); err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, w.server.URL()+"/api/v1"+path, &body)
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth(user.Name, user.Password)
	r.Header.Set("Content-Type", "application/json")
	response, err := w.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode >= 300 {
		t.Fatalf("%s %s: %s: %s", method, path, response.Status, content)
	}
	if out != nil {
		if err := json.Unmarshal(content, out); err != nil {
			t.Fatalf("%s %s: %v: %s", method, path, err, content)
		}
	}
	return response.Header
}

func (w *giteaWorld) repo(path string, args ...any) string {
	return "/repos/" + w.owner.Name + "/fleet" + fmt.Sprintf(path, args...)
}

func (w *giteaWorld) token(t *testing.T, user giteatest.User, scopes ...string) string {
	t.Helper()
	token, err := w.server.Token(t.Context(), user.Name, scopes...)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (w *giteaWorld) options(t *testing.T) forge.Options {
	t.Helper()
	return forge.Options{Kind: w.kind, URL: w.server.URL(), Owner: w.owner.Name, Repository: "fleet",
		Credentials: forge.Credentials{Token: w.token(t, w.owner, "write:repository", "write:issue"), CA: w.server.CA()}}
}

func (w *giteaWorld) weak(t *testing.T) forge.Credentials {
	t.Helper()
	return forge.Credentials{Token: w.token(t, w.owner, "read:repository", "read:issue"), CA: w.server.CA()}
}

func (w *giteaWorld) main() string { return w.commit }

func (w *giteaWorld) statuses(t *testing.T, commit string) []forge.Status {
	t.Helper()
	var all []forge.Status
	for n := 1; ; n++ {
		var page struct {
			Statuses []struct {
				Context, Description, Status string
				Target                       string `json:"target_url"`
			}
			Total int `json:"total_count"`
		}
		w.as(t, w.owner, "GET", w.repo("/commits/%s/status?page=%d&limit=50", commit, n), nil, &page)
		for _, s := range page.Statuses {
			all = append(all, forge.Status{Commit: commit, Context: s.Context, State: forge.State(s.Status),
				Description: s.Description, TargetURL: strings.TrimPrefix(s.Target, w.server.URL())})
		}
		if len(page.Statuses) == 0 {
			return all
		}
	}
}

func (w *giteaWorld) branch(count int) []string {
	var names []string
	for range count {
		w.branches++
		name := fmt.Sprintf("change-%d", w.branches)
		w.clone.Branch(name, w.commit)
		w.clone.Checkout(name)
		w.clone.Commit(map[string]string{"clusters/a/" + name: name}, name)
		names = append(names, name)
	}
	w.clone.Checkout("main")
	return names
}

func (w *giteaWorld) head(branch string) string {
	return strings.TrimSpace(w.clone.Git("rev-parse", branch))
}

func (w *giteaWorld) pulls(t *testing.T, count int, base string, fork bool) []forge.PullRequest {
	t.Helper()
	branches := w.branch(count)
	author, prefix := w.owner, ""
	if fork {
		if w.fork.Name == "" {
			w.fork = w.server.NewUser(t)
			w.as(t, w.owner, "PUT", w.repo("/collaborators/%s", w.fork.Name), map[string]string{"permission": "read"}, nil)
			w.as(t, w.fork, "POST", w.repo("/forks"), map[string]string{}, nil)
		}
		author, prefix = w.fork, w.fork.Name+":"
		address := w.server.GitURL(w.fork.Name, w.fork.Password, w.fork.Name, "fleet")
		w.clone.Git(append([]string{"push", "--quiet", address}, branches...)...)
	} else {
		w.push(branches...)
	}
	var prs []forge.PullRequest
	for _, branch := range branches {
		var created struct{ Number int }
		w.as(t, author, "POST", w.repo("/pulls"), map[string]string{"head": prefix + branch, "base": base, "title": "WIP: " + branch}, &created)
		prs = append(prs, forge.PullRequest{Number: created.Number, Title: "WIP: " + branch, Author: author.Name, Head: w.head(branch),
			Base: base, Fork: fork, Open: true, Draft: true, Ref: fmt.Sprintf("refs/pull/%d/head", created.Number)})
	}
	return prs
}

func (w *giteaWorld) close(t *testing.T, number int) {
	t.Helper()
	w.as(t, w.owner, "PATCH", w.repo("/pulls/%d", number), map[string]string{"state": "closed"}, nil)
}

func (w *giteaWorld) comment(t *testing.T, number int, body string) int64 {
	t.Helper()
	var c struct{ ID int64 }
	w.as(t, w.owner, "POST", w.repo("/issues/%d/comments", number), map[string]string{"body": body}, &c)
	return c.ID
}

func (w *giteaWorld) comments(t *testing.T, number int) map[int64]string {
	t.Helper()
	var list []struct {
		ID   int64
		Body string
	}
	w.as(t, w.owner, "GET", w.repo("/issues/%d/comments", number), nil, &list)
	all := map[int64]string{}
	for _, c := range list {
		all[c.ID] = c.Body
	}
	return all
}

func (w *giteaWorld) deleteComment(t *testing.T, id int64) {
	t.Helper()
	w.as(t, w.owner, "DELETE", w.repo("/issues/comments/%d", id), nil, nil)
}
