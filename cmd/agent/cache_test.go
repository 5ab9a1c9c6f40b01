package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestCacheIsOnlyACache damages the folder of the mirrors while the agent runs and
// while it doesn't: the next commit arrives all the same, and nothing is deleted.
func TestCacheIsOnlyACache(t *testing.T) {
	damages := map[string]func(w *world){
		"files cut": func(w *world) {
			cut := 0
			w.must(filepath.WalkDir(w.cache, func(path string, d fs.DirEntry, err error) error {
				if err != nil || !d.Type().IsRegular() {
					return err
				}
				cut++
				// Git's files are read only; a new file doesn't change what is mapped.
				content, err := os.ReadFile(path)
				if err == nil {
					err = os.Remove(path)
				}
				if err == nil {
					err = os.WriteFile(path, content[:len(content)/2], 0o600)
				}
				return err
			}))
			if cut == 0 {
				w.Fatal("there is nothing in the cache")
			}
		},
		"folder gone": func(w *world) { w.must(os.RemoveAll(w.cache)) },
		"folder empty": func(w *world) {
			w.must(os.RemoveAll(w.cache))
			w.must(os.Mkdir(w.cache, 0o700))
		},
	}
	for name, damage := range damages {
		for _, running := range []bool{true, false} {
			state := " while stopped"
			if running {
				state = " while running"
			}
			t.Run(name+state, func(t *testing.T) {
				w := newWorld(t)
				first := w.commit(merge(settings("one"), settingsOf("other")))
				w.fleet("home")
				p := w.agent()
				w.untilApplied("clusters/dev", first)
				w.untilApplied("clusters/other", first)
				if !running {
					w.stop(p)
				}
				damage(w)
				second := w.commit(merge(settings("two"), settingsOf("other")))
				if !running {
					w.agent()
				}
				w.look()
				w.untilApplied("clusters/dev", second)
				if got := w.deletes(); len(got) > 0 {
					t.Errorf("deleted: %q", got)
				}
				if o := w.find("clusters/other"); o == nil || o.Status.AppliedRevision != "main@sha1:"+first || o.Status.PendingDeletion != nil {
					t.Errorf("the other overlay is touched: %+v", o)
				}
			})
		}
	}
}
