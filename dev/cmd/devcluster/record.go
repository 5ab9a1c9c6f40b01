package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"capstan.dev/capstan/dev/internal/chaos"
	"capstan.dev/capstan/dev/internal/host"
)

// A record is what serve tells the other commands about itself, in run.json. Only the process that has
// the folder writes it.
type record struct {
	Dir     string    `json:"dir"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	// Steps are what has been reached.
	Steps []string `json:"steps,omitempty"`
	Ready bool     `json:"ready"`
	// Stopping says that it was asked to stop. Without that and without Error it was killed.
	Stopping bool `json:"stopping,omitempty"`
	// Error is why it did not start, or ended.
	Error string `json:"error,omitempty"`

	API          string        `json:"api,omitempty"`
	Port         int           `json:"port,omitempty"`
	Kubeconfig   string        `json:"kubeconfig,omitempty"`
	Versions     host.Versions `json:"versions,omitzero"`
	MachineBoot  time.Duration `json:"machineBoot"`
	ProviderCRDs []string      `json:"providerCRDs,omitempty"`
	Knobs        chaos.Knobs   `json:"knobs"`
}

func recordPath(dir string) string { return filepath.Join(dir, "run.json") }
func chaosPath(dir string) string  { return filepath.Join(dir, "chaos.json") }
func logPath(dir string) string    { return filepath.Join(dir, "logs", "devcluster.log") }

// readRecord returns the record of the process with that pid; the zero record if it has written none.
func readRecord(dir string, pid int) (record, error) {
	r, err := lastRecord(dir)
	if err != nil || r.PID != pid {
		return record{}, err
	}
	return r, nil
}

// lastRecord returns the last record that was written.
func lastRecord(dir string) (record, error) {
	var r record
	err := readJSON(recordPath(dir), &r)
	return r, err
}

func (r record) write() error { return writeJSON(recordPath(r.Dir), r) }

// reached adds a step.
func (r *record) reached(step string) { r.Steps = append(slices.Clip(r.Steps), step) }

// readJSON reads a file into v, if the file is there.
func readJSON(path string, v any) error {
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, v); err != nil {
		return fmt.Errorf("%s is damaged: %w", path, err)
	}
	return nil
}

// writeJSON replaces a file at once: a reader sees the old or the new content.
func writeJSON(path string, v any) error {
	content, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return host.WriteFile(path, append(content, '\n'))
}
