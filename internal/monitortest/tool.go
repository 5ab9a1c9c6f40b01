package monitortest

import (
	"os"
	"path/filepath"
	"testing"
)

// Root is the folder of the repository.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "tools", "prometheus", "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("not inside Capstan's repository: no tools/prometheus/go.mod at or above the working directory")
		}
		dir = parent
	}
}

// tool is the path of a program that `make prometheus` builds.
func tool(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(Root(t), "bin", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no %s in bin/: run `make prometheus` (%v)", name, err)
	}
	return path
}
