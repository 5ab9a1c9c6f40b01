package giteatest

import (
	"fmt"
	"os"
	"path/filepath"
)

// header is added to the head of each page: what scripts would do for looking at
// statuses and for getting around. Without it the statuses of a commit stay hidden.
const header = `<style>
.tippy-target:has(> .commit-status-panel) { position: absolute; z-index: 10; background: var(--color-menu, white); }
[data-global-init="initCommitStatuses"]:is(:hover, :focus) + .tippy-target,
.tippy-target:has(> .commit-status-panel):hover,
.ui.dropdown:is(:hover, :focus-within) > .menu { display: block !important; }
</style>
`

// styles gives Gitea's pages their looks, as far as they are in its module: the
// style sheets that a build would bundle are such that browsers read them as they
// are. It links them to where Gitea serves what somebody added. Scripts are not in
// the module; each page complains in a box about those that it can't load, so
// there are empty ones.
func styles(staticRoot, custom string) error {
	files := map[string]string{
		filepath.Join(custom, "templates", "custom", "header.tmpl"): header,
		filepath.Join(custom, "public", "assets", "js", "iife.js"):  "",
		filepath.Join(custom, "public", "assets", "js", "index.js"): "",
	}
	for path, content := range files {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("giteatest: %w", err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return fmt.Errorf("giteatest: %w", err)
		}
	}
	css := filepath.Join(custom, "public", "assets", "css")
	if err := os.RemoveAll(css); err != nil { // the links of another version
		return fmt.Errorf("giteatest: %w", err)
	}
	if err := os.MkdirAll(css, 0o700); err != nil {
		return fmt.Errorf("giteatest: %w", err)
	}
	for _, dir := range []string{"css", filepath.Join("css", "themes")} {
		from := filepath.Join(staticRoot, "web_src", dir)
		entries, err := os.ReadDir(from)
		if err != nil {
			return fmt.Errorf("giteatest: the style sheets of Gitea: %w", err)
		}
		for _, e := range entries {
			if err := os.Symlink(filepath.Join(from, e.Name()), filepath.Join(css, e.Name())); err != nil {
				return fmt.Errorf("giteatest: %w", err)
			}
		}
	}
	return nil
}
