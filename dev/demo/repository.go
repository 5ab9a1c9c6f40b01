package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// host is where the agent finds the Fleet's repository.
type host interface {
	// start starts it. It is stopped after ctx has ended, or sooner if something fails; fail is for
	// when it ends by itself.
	start(ctx context.Context, fail func(error)) (stop func() error, err error)
	// publish brings the repository there.
	publish(ctx context.Context) error
	// flags are those that the agent needs.
	flags() []string
	// spec is the Fleet's, with the objects that it refers to.
	spec() (spec map[string]any, needs []client.Object)
	// show shows what is to be seen there once the fleet is applied.
	show(ctx context.Context) error
	// explain adds to the values of the explanation.
	explain(values map[string]any)
}

// folder is the host of a repository that the agent reads where the person commits.
type folder struct{ *demo }

func (folder) start(context.Context, func(error)) (stop func() error, err error) {
	return func() error { return nil }, nil
}

func (folder) publish(context.Context) error { return nil }

func (folder) flags() []string { return []string{"--allow-local", "--webhook-address", "0"} }

func (f folder) spec() (spec map[string]any, needs []client.Object) {
	return map[string]any{"git": map[string]any{"url": f.repository, "interval": "2s"}}, nil
}

func (folder) show(context.Context) error { return nil }

func (folder) explain(map[string]any) {}

// makeRepository commits the sample fleet.
func (d *demo) makeRepository(ctx context.Context) error {
	if err := os.CopyFS(filepath.Join(d.repository, "clusters"), os.DirFS(filepath.Join(d.root, "clusters"))); err != nil {
		return fmt.Errorf("copy clusters/: %w", err)
	}
	return d.git(ctx, [][]string{
		{"init", "-q", "-b", "main"},
		{"config", "user.name", "demo"},
		{"config", "user.email", "demo@localhost"},
		{"config", "commit.gpgsign", "false"},
		{"add", "."},
		{"commit", "-q", "-m", "The sample fleet"},
	}...)
}

// git runs commands of git in the repository.
func (d *demo) git(ctx context.Context, commands ...[]string) error {
	for _, args := range commands {
		cmd := exec.CommandContext(ctx, "git", append([]string{"-C", d.repository}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("git %s: %w: %s", args[0], err, out)
		}
	}
	return nil
}
