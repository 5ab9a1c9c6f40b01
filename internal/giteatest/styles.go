package giteatest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// styles gives Gitea's pages their looks, as far as they are in its module: the
// style sheets that a build would bundle are such that browsers read them as they
// are. It links them to where Gitea serves what somebody added.
func styles(staticRoot, custom string) error {
	css := filepath.Join(custom, "public", "assets", "css")
	if err := os.MkdirAll(css, 0o700); err != nil {
		return fmt.Errorf("giteatest: %w", err)
	}
	for _, dir := range []string{"css", filepath.Join("css", "themes")} {
		entries, err := os.ReadDir(filepath.Join(staticRoot, "web_src", dir))
		if err != nil {
			return fmt.Errorf("giteatest: the style sheets of Gitea: %w", err)
		}
		for _, e := range entries {
			link := filepath.Join(css, e.Name())
			if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("giteatest: %w", err)
			}
			if err := os.Symlink(filepath.Join(staticRoot, "web_src", dir, e.Name()), link); err != nil {
				return fmt.Errorf("giteatest: %w", err)
			}
		}
	}
	return nil
}
