package forge_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"capstan.dev/capstan/internal/forge"
	"capstan.dev/capstan/internal/giteatest"
)

var record = flag.Bool("record", false, "write the deliveries of a real Gitea to testdata")

// A delivery is what arrived at a webhook.
type delivery struct {
	header http.Header
	body   []byte
}

// receiver takes the deliveries of a repository's webhook.
type receiver struct {
	world  *giteaWorld
	hook   int64
	secret string
	got    chan delivery
}

func newReceiver(t *testing.T, w *giteaWorld) *receiver {
	t.Helper()
	r := &receiver{world: w, secret: "the secret of the hook", got: make(chan delivery, 100)}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		if err != nil {
			t.Error(err)
		}
		r.got <- delivery{q.Header.Clone(), body}
	}))
	t.Cleanup(server.Close)
	var hook struct{ ID int64 }
	w.as(t, w.owner, "POST", w.repo("/hooks"), map[string]any{
		"type": "gitea", "active": true,
		"events": []string{"push", "create", "delete", "pull_request", "pull_request_sync", "pull_request_comment", "issue_comment"},
		"config": map[string]string{"url": server.URL, "content_type": "json", "secret": r.secret},
	}, &hook)
	r.hook = hook.ID
	return r
}

// expect waits for what a step makes Gitea deliver: each must be signed right, and one each
// must be read as one of the events.
func (r *receiver) expect(t *testing.T, step string, want map[string]forge.Event) {
	t.Helper()
	timeout := time.After(time.Minute)
	var others []forge.Event // what happened before there was a webhook may come, too
	for len(want) > 0 {
		select {
		case d := <-r.got:
			if err := forge.Verify(d.header, d.body, [][]byte{[]byte(r.secret)}); err != nil {
				t.Errorf("%s: %v", step, err)
			}
			if err := forge.Verify(d.header, append(d.body, ' '), [][]byte{[]byte(r.secret)}); err == nil {
				t.Errorf("%s: a delivery that was changed is accepted", step)
			}
			event, err := forge.Parse(d.header, d.body)
			if err != nil {
				t.Fatalf("%s: %v\n%s", step, err, d.body)
			}
			name, found := "", false
			for n, e := range want {
				if gocmp.Equal(e, event) {
					name, found = n, true
				}
			}
			if !found {
				others = append(others, event)
				continue
			}
			delete(want, name)
			if *record {
				r.write(t, name, d)
			}
		case <-timeout:
			t.Fatalf("%s: not delivered: %+v; but: %+v", step, want, others)
		}
	}
}

// write keeps a delivery, without what is of this machine and this run.
func (r *receiver) write(t *testing.T, name string, d delivery) {
	t.Helper()
	var header, body bytes.Buffer
	for _, key := range slices.Sorted(func(yield func(string) bool) {
		for key := range d.header {
			if !yield(key) {
				return
			}
		}
	}) {
		if strings.Contains(key, "Signature") || key == "Content-Length" || key == "Accept-Encoding" || strings.Contains(key, "Target") {
			continue
		}
		value := d.header.Get(key)
		if strings.HasSuffix(key, "-Delivery") {
			value = "f3c1a0de-0000-4000-8000-000000000000"
		}
		fmt.Fprintf(&header, "%s: %s\n", key, value)
	}
	if err := json.Indent(&body, d.body, "", " "); err != nil {
		t.Fatal(err)
	}
	content := strings.NewReplacer(r.world.server.URL(), "https://gitea.example.com", r.world.owner.Name, "acme").Replace(body.String())
	content = strings.ReplaceAll(content, "@noreply.127.0.0.1", "@noreply.gitea.example.com")
	content = regexp.MustCompile(`20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)`).ReplaceAllString(content, "2026-01-02T03:04:05Z")
	content = regexp.MustCompile(`ssh://[^"]*|[a-z0-9]+@127\.0\.0\.1:[^"]*`).ReplaceAllString(content, "git@gitea.example.com:acme/fleet.git")
	content = regexp.MustCompile(`https?://127\.0\.0\.1:\d+`).ReplaceAllString(content, "https://gitea.example.com")
	archive := txtar.Format(&txtar.Archive{
		Comment: []byte("Delivered by a real Gitea 1.26 (go test -run TestGiteaDeliveries -record).\n"),
		Files:   []txtar.File{{Name: "header", Data: header.Bytes()}, {Name: "body.json", Data: []byte(content + "\n")}},
	})
	if err := os.WriteFile(filepath.Join("testdata", "webhooks", "gitea-"+name+".txtar"), archive, 0o644); err != nil {
		t.Fatal(err)
	}
}

// What a real Gitea delivers is signed, and read as what happened.
func TestGiteaDeliveries(t *testing.T) {
	w := newGiteaWorld(t, giteatest.ForTest(t), forge.Gitea)
	r := newReceiver(t, w)
	repository := w.owner.Name + "/fleet"
	push := func(ref, before, after string, complete bool, paths ...string) forge.Event {
		return forge.Event{Kind: forge.PushEvent, Repository: repository, Ref: "refs/heads/" + ref, Before: before, After: after, Paths: paths, PathsComplete: complete}
	}
	ignored := func(what string) forge.Event {
		return forge.Event{Kind: forge.IgnoredEvent, Repository: repository, Reason: what + " is not used"}
	}
	none := strings.Repeat("0", 40)
	commit := func(branch string, files ...string) string {
		w.clone.Checkout(branch)
		contents := map[string]string{}
		for _, file := range files {
			contents[file] = file + time.Now().String()
		}
		return w.clone.Commit(contents, "change")
	}

	first := w.commit
	second := commit("main", "clusters/b/ünï code.yaml", "clusters/a/kustomization.yaml")
	w.push("main")
	r.expect(t, "a push", map[string]forge.Event{"push": push("main", first, second, true, "clusters/a/kustomization.yaml", "clusters/b/ünï code.yaml")})

	third := w.clone.Remove("remove", "clusters/b/ünï code.yaml")
	w.push("main")
	r.expect(t, "a removal", map[string]forge.Event{"removal": push("main", second, third, true, "clusters/b/ünï code.yaml")})

	tip := third
	for i := range 8 {
		tip = commit("main", fmt.Sprintf("many/%d", i))
	}
	w.push("main")
	r.expect(t, "many commits", map[string]forge.Event{"push-many": push("main", third, tip, false, "many/3", "many/4", "many/5", "many/6", "many/7")})

	w.clone.Branch("change", tip)
	head := commit("change", "clusters/a/change")
	w.push("change")
	r.expect(t, "a new branch", map[string]forge.Event{
		"branch-created": push("change", none, head, false, "clusters/a/change"), "create": ignored("event create")})

	var pr struct{ Number int }
	w.as(t, w.owner, "POST", w.repo("/pulls"), map[string]string{"head": "change", "base": "main", "title": "a change"}, &pr)
	pull := func(action string) forge.Event {
		return forge.Event{Kind: forge.PullRequestEvent, Repository: repository, Number: pr.Number, Action: action, Head: head, Base: "main", BaseCommit: tip}
	}
	r.expect(t, "a pull request", map[string]forge.Event{"pull-opened": pull("opened")})

	before := head
	head = commit("change", "clusters/a/change2")
	w.push("change")
	r.expect(t, "a push to it", map[string]forge.Event{
		"push-to-pull": push("change", before, head, true, "clusters/a/change2"), "pull-synchronized": pull("synchronize")})

	id := w.comment(t, pr.Number, "a comment")
	r.expect(t, "a comment", map[string]forge.Event{"comment": ignored("event issue_comment")})
	w.as(t, w.owner, "PATCH", w.repo("/issues/comments/%d", id), map[string]string{"body": "another"}, nil)
	r.expect(t, "an edited comment", map[string]forge.Event{"comment-edited": ignored("event issue_comment")})

	w.as(t, w.owner, "PATCH", w.repo("/pulls/%d", pr.Number), map[string]string{"title": "another title"}, nil)
	r.expect(t, "another title", map[string]forge.Event{"pull-edited": pull("edited")})
	var label struct{ ID int64 }
	w.as(t, w.owner, "POST", w.repo("/labels"), map[string]string{"name": "a", "color": "#00ff00"}, &label)
	w.as(t, w.owner, "POST", w.repo("/issues/%d/labels", pr.Number), map[string][]int64{"labels": {label.ID}}, nil)
	r.expect(t, "a label", map[string]forge.Event{"pull-labelled": ignored("event pull_request_label")})

	w.close(t, pr.Number)
	r.expect(t, "closed", map[string]forge.Event{"pull-closed": pull("closed")})
	w.as(t, w.owner, "PATCH", w.repo("/pulls/%d", pr.Number), map[string]string{"state": "open"}, nil)
	r.expect(t, "opened again", map[string]forge.Event{"pull-reopened": pull("reopened")})

	w.clone.Branch("change", before)
	forced := commit("change", "clusters/a/forced")
	w.push("change")
	// Nothing in it says that the push was forced: see Event.PathsComplete.
	e := pull("synchronize")
	e.Head = forced
	r.expect(t, "a forced push", map[string]forge.Event{
		"push-forced": push("change", head, forced, true, "clusters/a/forced"), "pull-forced": e})
	w.clone.Branch("change", tip)
	w.push("change")
	r.expect(t, "a forced push back", map[string]forge.Event{"push-back": push("change", forced, tip, false)})

	w.push(":change")
	// There is no push event with it; GitHub sends one.
	r.expect(t, "a branch deleted", map[string]forge.Event{"delete": ignored("event delete")})
	w.clone.Tag("v1", tip)
	w.push("refs/tags/v1")
	tag := push("", none, tip, false)
	tag.Ref = "refs/tags/v1"
	r.expect(t, "a tag", map[string]forge.Event{"push-tag": tag})

	w.as(t, w.owner, "POST", w.repo("/hooks/%d/tests", r.hook), nil, nil)
	r.expect(t, "a test delivery", map[string]forge.Event{"test": push("main", tip, tip, false)})
}
