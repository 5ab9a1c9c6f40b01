// Package gitea puts a Fleet's repository on a local Gitea, as docs/forges.md tells a
// person to, and reads what the agent says there.
package gitea

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/internal/giteatest"
)

// Options for [Create]. All are required.
type Options struct {
	Server *giteatest.Server
	// Owner is the name of a new user: the person who pushes.
	Owner string
	// Agent is the name of a new user: the one whose token the agent gets.
	Agent string
	// Name of the new repository.
	Name string
	// Fleet is the name that the Fleet will have.
	Fleet types.NamespacedName
	// Receiver is where the agent receives webhooks, such as http://127.0.0.1:9292.
	Receiver string
}

// Repository is a private repository with all that a Fleet needs of it, except the
// webhook.
type Repository struct {
	Options

	// Password of the owner.
	Password string
	// token of the agent, and the secret of the webhook.
	token, secret string
}

// scopes are those that docs/forges.md asks for. Fetching needs no more.
var scopes = []string{"write:repository", "write:issue"}

// Create makes an empty repository, its owner, and a user for the agent with a token.
func Create(ctx context.Context, o Options) (*Repository, error) {
	r := &Repository{Options: o, Password: rand.Text(), secret: rand.Text()}
	if err := o.Server.CreateUser(ctx, o.Owner, r.Password); err != nil {
		return nil, err
	}
	if err := o.Server.CreateUser(ctx, o.Agent, rand.Text()); err != nil {
		return nil, err
	}
	if err := o.Server.CreateRepo(ctx, o.Owner, o.Name, true); err != nil {
		return nil, err
	}
	access := map[string]string{"permission": "write"}
	if err := o.Server.API(ctx, http.MethodPut, r.path("/collaborators/"+url.PathEscape(o.Agent)), access, nil); err != nil {
		return nil, err
	}
	var err error
	r.token, err = o.Server.Token(ctx, o.Agent, scopes...)
	return r, err
}

// CreateHook has Gitea tell the agent of pushes and pull requests from now on.
func (r *Repository) CreateHook(ctx context.Context) error {
	return r.Server.CreateHook(ctx, r.Owner, r.Name, r.Receiver+"/webhooks/"+r.Fleet.String(), r.secret, "push", "pull_request")
}

// Page is where people look at the repository.
func (r *Repository) Page() string { return r.Server.URL() + "/" + r.Owner + "/" + r.Name }

// API is the address of the repository in Gitea's API.
func (r *Repository) API() string { return r.Server.URL() + "/api/v1" + r.path("") }

// PushURL is where the owner pushes to, with the password.
func (r *Repository) PushURL() string {
	return r.Server.GitURL(r.Owner, r.Password, r.Owner, r.Name)
}

// Secrets are what the Fleet's references need: credentials for Git, the token for the
// forge, and the secret of the webhook. The agent takes none with keys that it doesn't
// know, so each is one of its own.
func (r *Repository) Secrets() []client.Object {
	secret := func(suffix string, data map[string]string) client.Object {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: r.Name + suffix, Namespace: r.Fleet.Namespace}, StringData: data}
	}
	return []client.Object{
		secret("-git", map[string]string{"username": r.Agent, "password": r.token}),
		secret("-forge", map[string]string{"token": r.token}),
		secret("-webhook", map[string]string{"secret": r.secret}),
	}
}

// Spec is what a Fleet's spec says of the repository.
func (r *Repository) Spec() map[string]any {
	secret := func(suffix string) map[string]any { return map[string]any{"name": r.Name + suffix} }
	return map[string]any{
		"git":   map[string]any{"url": r.Server.GitURL("", "", r.Owner, r.Name), "secretRef": secret("-git")},
		"forge": map[string]any{"kind": "Gitea", "secretRef": secret("-forge"), "webhookSecretRef": secret("-webhook")},
	}
}

// Status is a commit status.
type Status struct {
	Context     string `json:"context"`
	State       string `json:"status"`
	Description string `json:"description"`
	URL         string `json:"target_url"`
}

// Statuses are the newest ones of a commit, one for each context.
func (r *Repository) Statuses(ctx context.Context, commit string) ([]Status, error) {
	var combined struct{ Statuses []Status }
	err := r.Server.API(ctx, http.MethodGet, r.path("/commits/"+url.PathEscape(commit)+"/status"), nil, &combined)
	return combined.Statuses, err
}

// OpenPullRequest opens one from a branch to main and returns its number.
func (r *Repository) OpenPullRequest(ctx context.Context, branch, title string) (int, error) {
	var pull struct{ Number int }
	err := r.Server.API(ctx, http.MethodPost, r.path("/pulls"), map[string]string{"head": branch, "base": "main", "title": title}, &pull)
	return pull.Number, err
}

// Comments are the texts that were written below a pull request.
func (r *Repository) Comments(ctx context.Context, number int) ([]string, error) {
	var comments []struct{ Body string }
	if err := r.Server.API(ctx, http.MethodGet, r.path("/issues/"+strconv.Itoa(number)+"/comments"), nil, &comments); err != nil {
		return nil, err
	}
	var texts []string
	for _, c := range comments {
		texts = append(texts, c.Body)
	}
	return texts, nil
}

// path of the repository in Gitea's API.
func (r *Repository) path(rest string) string {
	return fmt.Sprintf("/repos/%s/%s%s", url.PathEscape(r.Owner), url.PathEscape(r.Name), rest)
}
