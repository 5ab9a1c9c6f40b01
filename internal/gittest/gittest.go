// Package gittest gives tests real Git repositories and real Git servers: smart
// HTTP through git http-backend, and SSH that runs git upload-pack. It needs the
// git binary, keeps out of the user's Git configuration and cleans up after
// itself. Only tests import it.
package gittest

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"
)

// DefaultBranch is the branch that HEAD of a new repository names.
const DefaultBranch = "main"

// LinkPrefix marks a content given to [Repo.Commit] as the target of a symlink.
const LinkPrefix = "symlink:"

// Repo is a bare Git repository on disk. Commits are made with git fast-import,
// one process each. Its methods end the test on failure, so call them from the
// test's own goroutine; they are not safe for concurrent use.
type Repo struct {
	t      testing.TB
	path   string
	branch string
	clock  int64 // seconds since the epoch of the last commit, so that hashes are reproducible

	once sync.Once
	http *HTTPServer
}

// NewRepo makes an empty bare repository in a temporary folder.
func NewRepo(t testing.TB) *Repo {
	t.Helper()
	r := &Repo{t: t, path: filepath.Join(t.TempDir(), "repo.git"), branch: DefaultBranch, clock: 1_700_000_000}
	if out, err := command("", "init", "--quiet", "--bare", "--initial-branch="+DefaultBranch, r.path).CombinedOutput(); err != nil {
		t.Fatalf("gittest: git init: %v\n%s", err, out)
	}
	return r
}

// Path returns the folder of the repository (bare).
func (r *Repo) Path() string { return r.path }

// FileURL returns the repository's file:// URL.
func (r *Repo) FileURL() string {
	return (&url.URL{Scheme: "file", Path: filepath.ToSlash(r.path)}).String()
}

// HTTP returns a plain HTTP server of this repository, started on first use and
// stopped when the test ends.
func (r *Repo) HTTP() *HTTPServer {
	r.t.Helper()
	r.once.Do(func() { r.http = NewHTTP(r.t, HTTPOptions{}) })
	return r.http
}

// URL returns the repository's URL at [Repo.HTTP].
func (r *Repo) URL() string {
	r.t.Helper()
	return r.HTTP().URL(r)
}

// Git runs git in the repository and returns its trimmed standard output.
func (r *Repo) Git(args ...string) string {
	r.t.Helper()
	return r.GitInput("", args...)
}

// GitInput is [Repo.Git] with standard input.
func (r *Repo) GitInput(stdin string, args ...string) string {
	r.t.Helper()
	cmd := command(r.path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatalf("gittest: git %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// Checkout selects the branch that [Repo.Commit] and [Repo.Remove] work on. A
// branch that doesn't exist yet is born at the next commit, without a parent.
func (r *Repo) Checkout(branch string) { r.branch = branch }

// Commit adds or replaces files on the selected branch and returns the hash of
// the commit. A content that starts with [LinkPrefix] becomes a symlink.
func (r *Repo) Commit(files map[string]string, message string) string {
	r.t.Helper()
	paths := make([]string, 0, len(files))
	for p := range files {
		paths = append(paths, p)
	}
	sort.Strings(paths)
	var changes bytes.Buffer
	for _, p := range paths {
		mode, content := "100644", files[p]
		if target, ok := strings.CutPrefix(content, LinkPrefix); ok {
			mode, content = "120000", target
		}
		fmt.Fprintf(&changes, "M %s inline %s\ndata %d\n%s\n", mode, p, len(content), content)
	}
	return r.fastImport(r.branch, r.head(r.branch), changes.String(), message)
}

// Remove deletes files or whole folders on the selected branch and returns the
// hash of the commit.
func (r *Repo) Remove(message string, paths ...string) string {
	r.t.Helper()
	var changes strings.Builder
	for _, p := range paths {
		fmt.Fprintf(&changes, "D %s\n", p)
	}
	return r.fastImport(r.branch, r.head(r.branch), changes.String(), message)
}

// Submodule adds a gitlink at a path and returns the hash of the commit.
func (r *Repo) Submodule(path, commit string) string {
	r.t.Helper()
	return r.fastImport(r.branch, r.head(r.branch), fmt.Sprintf("M 160000 %s %s\n", commit, path), "add a submodule")
}

// Head returns the commit of the selected branch, "" while it has none.
func (r *Repo) Head() string {
	r.t.Helper()
	return r.head(r.branch)
}

// Branch points a branch at a commit, whatever it was before.
func (r *Repo) Branch(name, hash string) {
	r.t.Helper()
	r.SetRef("refs/heads/"+name, hash)
}

// DeleteBranch removes a branch.
func (r *Repo) DeleteBranch(name string) {
	r.t.Helper()
	r.Git("update-ref", "-d", "refs/heads/"+name)
}

// SetRef points any reference at an object, as a forge does for refs/pull/7/head.
func (r *Repo) SetRef(name, hash string) {
	r.t.Helper()
	r.Git("update-ref", name, hash)
}

// Tag makes a lightweight tag.
func (r *Repo) Tag(name, hash string) {
	r.t.Helper()
	r.SetRef("refs/tags/"+name, hash)
}

// AnnotatedTag makes an annotated tag and returns the hash of the tag object.
func (r *Repo) AnnotatedTag(name, hash, message string) string {
	r.t.Helper()
	r.Git("tag", "--annotate", "--message="+message, name, hash)
	return r.Git("rev-parse", "refs/tags/"+name)
}

// Reset moves the selected branch to a commit, as a force-push of it does.
func (r *Repo) Reset(hash string) {
	r.t.Helper()
	r.Branch(r.branch, hash)
}

// ForcePush replaces the selected branch by one commit without a parent that
// holds only these files, and returns its hash.
func (r *Repo) ForcePush(files map[string]string, message string) string {
	r.t.Helper()
	branch := r.branch
	r.branch = "gittest-force-push"
	hash := r.Commit(files, message)
	r.DeleteBranch(r.branch)
	r.branch = branch
	r.Reset(hash)
	return hash
}

func (r *Repo) head(branch string) string {
	r.t.Helper()
	out, err := command(r.path, "rev-parse", "--verify", "--quiet", "refs/heads/"+branch).Output()
	if err != nil {
		return "" // rev-parse --quiet says only by its exit code that there is none
	}
	return strings.TrimSpace(string(out))
}

func (r *Repo) fastImport(branch, parent, changes, message string) string {
	r.t.Helper()
	r.clock++
	var in bytes.Buffer
	fmt.Fprintf(&in, "commit refs/heads/%s\nmark :1\ncommitter Capstan Test <test@capstan.invalid> %d +0000\ndata %d\n%s\n",
		branch, r.clock, len(message), message)
	if parent != "" {
		fmt.Fprintf(&in, "from %s\n", parent)
	}
	in.WriteString(changes)
	in.WriteString("\nget-mark :1\ndone\n")
	cmd := command(r.path, "fast-import", "--quiet", "--done", "--cat-blob-fd=1")
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = &in, &stderr
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatalf("gittest: git fast-import: %v\n%s", err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// command prepares git without the configuration of the user and the machine,
// and without any GIT_ variable that a hook may have set around the test.
func command(dir string, args ...string) *exec.Cmd {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = environ()
	return cmd
}

func environ() []string {
	env := []string{
		"GIT_CONFIG_GLOBAL=" + os.DevNull,
		"GIT_CONFIG_SYSTEM=" + os.DevNull,
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=Capstan Test", "GIT_AUTHOR_EMAIL=test@capstan.invalid", "GIT_AUTHOR_DATE=1700000000 +0000",
		"GIT_COMMITTER_NAME=Capstan Test", "GIT_COMMITTER_EMAIL=test@capstan.invalid", "GIT_COMMITTER_DATE=1700000000 +0000",
		"HOME=" + os.DevNull,
		"LC_ALL=C",
	}
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "GIT_") && name != "HOME" && name != "LC_ALL" {
			env = append(env, kv)
		}
	}
	return env
}
