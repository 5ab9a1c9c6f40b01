package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// stateFormat counts the incompatible ways in which we have kept things in the folder.
const stateFormat = 1

// Versions of what has written the data. Another version might not read it.
type Versions struct {
	ClusterAPI string `json:"clusterAPI"`
	Kubernetes string `json:"kubernetes"`
	Etcd       string `json:"etcd"`
}

// A state is what state.json keeps from one start to the next. The zero value is that of a
// new folder.
type state struct {
	Format int `json:"format"`
	Versions
	// Port of the published address.
	Port int `json:"port"`
}

func statePath(dir string) string { return filepath.Join(dir, "state.json") }

func readState(dir string) (state, error) {
	content, err := os.ReadFile(statePath(dir))
	if errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(dir, "etcd")); !errors.Is(err, os.ErrNotExist) {
			return state{}, fmt.Errorf("%s is gone, though there is data beside it; %s", statePath(dir), wayOut(dir))
		}
		return state{}, nil
	}
	if err != nil {
		return state{}, fmt.Errorf("read the state: %w", err)
	}
	var s state
	if err := json.Unmarshal(content, &s); err != nil {
		return state{}, fmt.Errorf("%s is damaged (%w); %s", statePath(dir), err, wayOut(dir))
	}
	if s.Format < 1 || s.Port < 0 || s.Port > 65535 {
		return state{}, fmt.Errorf("%s is damaged (format %d, port %d); %s", statePath(dir), s.Format, s.Port, wayOut(dir))
	}
	return s, nil
}

func writeState(dir string, s state) error {
	content, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return WriteFile(statePath(dir), append(content, '\n'))
}

// check fails unless data of s may be used by the versions that are to run.
func (s state) check(dir string, now Versions) error {
	if s == (state{}) {
		return nil
	}
	for _, v := range []struct{ what, was, is string }{
		{"format", fmt.Sprint(s.Format), fmt.Sprint(stateFormat)},
		{"Cluster API", s.ClusterAPI, now.ClusterAPI},
		{"Kubernetes", s.Versions.Kubernetes, now.Kubernetes},
		{"etcd", s.Etcd, now.Etcd},
	} {
		if v.was != v.is {
			return fmt.Errorf("%s was made by devcluster with %s %s, and this one has %s; %s", statePath(dir), v.what, v.was, v.is, wayOut(dir))
		}
	}
	return nil
}

func wayOut(dir string) string {
	return fmt.Sprintf("run `devcluster down --wipe --dir %s` or choose another --dir", dir)
}
