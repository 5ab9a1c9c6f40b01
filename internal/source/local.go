package source

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/go-git/go-billy/v5"
	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// localRepo is a repository of the local file system, opened in place. go-git's
// file transport is of no use here: it executes git.
type localRepo struct {
	repo *git.Repository
	fs   billy.Filesystem // the .git folder, with that of the main worktree laid under
}

// openLocal opens a bare repository, a working copy, or a linked worktree.
func openLocal(path string) (localRepo, error) {
	repo, err := git.PlainOpenWithOptions(path, &git.PlainOpenOptions{EnableDotGitCommonDir: true})
	switch {
	case errors.Is(err, git.ErrRepositoryNotExists):
		return localRepo{}, errorf(RepositoryNotFound, "there is no Git repository in this folder")
	case err != nil:
		return localRepo{}, errorf(RepositoryUnreadable, "the repository can't be opened: %v", err)
	}
	st, ok := repo.Storer.(*filesystem.Storage)
	if !ok {
		return localRepo{}, errorf(RepositoryUnreadable, "the repository's storage is of a kind that can't be read")
	}
	return localRepo{repo: repo, fs: st.Filesystem()}, nil
}

// advertised lists the references as a server would.
func (l localRepo) advertised() (advertised, error) {
	adv := advertised{refs: map[string]plumbing.Hash{}}
	iter, err := l.repo.References()
	if err != nil {
		return advertised{}, errorf(RepositoryUnreadable, "the references can't be read: %v", err)
	}
	defer iter.Close()
	for {
		ref, err := iter.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return advertised{}, errorf(RepositoryUnreadable, "the references can't be read: %v", err)
		}
		if ref.Type() == plumbing.HashReference && ref.Name() != plumbing.HEAD {
			adv.refs[ref.Name().String()] = ref.Hash()
		}
	}
	head, err := l.repo.Head()
	if err == nil {
		adv.head = head.Hash()
	}
	if len(adv.refs) == 0 && adv.head.IsZero() {
		return advertised{}, errorf(EmptyRepository, "the repository is empty; make a first commit")
	}
	return adv, nil
}

// OpenWorkingCopy finds the working copy that a path is in: the closest folder at
// or above it that holds .git, as a folder or as the file of a worktree or
// submodule. It returns that folder and the path relative to it, slash-separated,
// "" for the root itself; links in the path are resolved. It neither executes git
// nor reads the repository. The error says so if there is none.
func OpenWorkingCopy(path string) (root, rel string, err error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", "", err
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return "", "", err
	}
	for dir := abs; ; dir = filepath.Dir(dir) {
		info, err := os.Lstat(filepath.Join(dir, ".git"))
		if err == nil && (info.IsDir() || info.Mode().IsRegular()) {
			if rel, err = filepath.Rel(dir, abs); err != nil {
				return "", "", err
			}
			if rel == "." {
				rel = ""
			}
			return dir, filepath.ToSlash(rel), nil
		}
		if err != nil && !os.IsNotExist(err) && !errors.Is(err, syscall.ENOTDIR) {
			return "", "", err
		}
		if filepath.Dir(dir) == dir {
			return "", "", errorf(RepositoryNotFound, "%s is not inside a Git working copy", path)
		}
	}
}
