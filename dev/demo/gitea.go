package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/dev/internal/gitea"
	"capstan.dev/capstan/internal/giteatest"
)

// onGitea is the host of a repository on a real Gitea, which tells the agent of pushes and shows what
// the agent says of them. The person's repository is a clone.
type onGitea struct {
	*demo

	remote *gitea.Repository
	pull   int // the number of the pull request that the demo opens
}

func (g *onGitea) start(ctx context.Context, fail func(error)) (stop func() error, err error) {
	g.say("starting a Gitea")
	o, err := giteatest.Locate()
	if err != nil {
		return nil, err
	}
	o.Dir, o.FastQueues = filepath.Join(g.dir, "gitea"), g.fast
	server, err := giteatest.Start(ctx, o)
	if err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		select {
		case <-running.Done():
		case <-server.Done():
			if running.Err() == nil {
				log, _ := os.ReadFile(server.LogFile())
				fail(fmt.Errorf("Gitea ended by itself; it says:\n%s", log[max(0, len(log)-8000):]))
			}
		}
	}()
	stop = func() error {
		cancel()
		return server.Stop()
	}
	port, err := giteatest.FreePort()
	if err == nil {
		g.remote, err = gitea.Create(ctx, gitea.Options{
			Server: server, Owner: "demo", Agent: "capstan", Name: "fleet",
			Fleet:    types.NamespacedName{Namespace: namespace, Name: fleetName},
			Receiver: fmt.Sprintf("http://127.0.0.1:%d", port),
		})
	}
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}

// publish pushes. The webhook comes after that: there is no Fleet yet that it could be for.
func (g *onGitea) publish(ctx context.Context) error {
	g.say("pushing it to %s, and creating a webhook there", g.remote.Page())
	err := g.git(ctx, [][]string{
		{"config", "http.proxy", ""}, // Gitea is on this machine
		{"remote", "add", "origin", g.remote.PushURL()},
		{"push", "-q", "-u", "origin", "main"},
	}...)
	if err != nil {
		return err
	}
	return g.remote.CreateHook(ctx)
}

func (g *onGitea) flags() []string {
	return []string{"--webhook-address", strings.TrimPrefix(g.remote.Receiver, "http://"), "--external-url", g.remote.Receiver}
}

func (g *onGitea) spec() (spec map[string]any, needs []client.Object) {
	return g.remote.Spec(), g.remote.Secrets()
}

// show shows the statuses of the first commit, and what is said about a pull request.
func (g *onGitea) show(ctx context.Context) error {
	head, err := g.head(ctx, "main")
	if err != nil {
		return err
	}
	if err := g.showStatuses(ctx, "the first commit", head, "capstan/"+fleetName); err != nil {
		return err
	}
	if err := g.propose(ctx); err != nil {
		return err
	}
	if head, err = g.head(ctx, "more-workers"); err != nil {
		return err
	}
	if err := g.showStatuses(ctx, "the pull request", head, "capstan/"+fleetName+"/plan"); err != nil {
		return err
	}
	return g.showComment(ctx)
}

// propose opens a pull request.
func (g *onGitea) propose(ctx context.Context) error {
	g.say("opening a pull request: 4 workers for staging")
	file := filepath.Join(g.repository, "clusters", "staging", "cluster.yaml")
	if err := g.git(ctx, []string{"switch", "-qc", "more-workers"}); err != nil {
		return err
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, bytes.Replace(content, []byte("replicas: 2"), []byte("replicas: 4"), 1), 0o600); err != nil {
		return err
	}
	const title = "staging: 4 workers"
	err = g.git(ctx, [][]string{
		{"commit", "-qam", title},
		{"push", "-q", "-u", "origin", "more-workers"},
		{"switch", "-q", "main"},
	}...)
	if err != nil {
		return err
	}
	g.pull, err = g.remote.OpenPullRequest(ctx, "more-workers", title)
	return err
}

// showStatuses shows the statuses of a commit once the last of them is there, and none is open.
func (g *onGitea) showStatuses(ctx context.Context, name, commit, last string) error {
	var all []gitea.Status
	err := g.await(ctx, "there were no final statuses beside "+name, func(ctx context.Context) (what any, done bool, err error) {
		all, err = g.remote.Statuses(ctx, commit)
		open := slices.ContainsFunc(all, func(s gitea.Status) bool { return s.State == "pending" })
		return all, !open && slices.ContainsFunc(all, func(s gitea.Status) bool { return s.Context == last }), err
	})
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b gitea.Status) int { return strings.Compare(a.Context, b.Context) })
	g.say("the statuses of %s, %s/commit/%s:\n", name, g.remote.Page(), commit)
	for _, s := range all {
		fmt.Fprintf(g.out, "    %-8s %-30s %s\n", s.State, s.Context, s.Description)
	}
	fmt.Fprintln(g.out)
	return nil
}

// showComment shows what the agent has written below the pull request.
func (g *onGitea) showComment(ctx context.Context) error {
	var all []string
	err := g.await(ctx, "nothing was written below the pull request", func(ctx context.Context) (what any, done bool, err error) {
		all, err = g.remote.Comments(ctx, g.pull)
		return all, len(all) > 0, err
	})
	if err != nil {
		return err
	}
	g.say("the comment below it, %s/pulls/%d:\n\n%s\n", g.remote.Page(), g.pull, indent(all[0]))
	return nil
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ") + "\n"
}

func (g *onGitea) explain(values map[string]any) {
	values["Push"] = " && git push -q"
	values["Gitea"] = map[string]any{
		"Page": g.remote.Page(), "API": g.remote.API(), "Clone": g.remote.PushURL(), "User": g.remote.Owner, "Password": g.remote.Password,
		"Status": g.remote.Receiver + "/fleets/" + g.remote.Fleet.String(), "Pull": g.pull,
	}
}

// head is the commit of a branch.
func (g *onGitea) head(ctx context.Context, branch string) (string, error) {
	out, err := exec.CommandContext(ctx, "git", "-C", g.repository, "rev-parse", branch).Output()
	if err != nil {
		return "", fmt.Errorf("git rev-parse: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
