package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"capstan.dev/capstan/dev/internal/host"
)

// A report is what status prints as JSON.
type report struct {
	// State is starting, running, stopping, stopped or failed.
	State  string `json:"state"`
	Error  string `json:"error,omitempty"`
	PID    int    `json:"pid,omitempty"`
	Uptime string `json:"uptime,omitempty"`
	Dir    string `json:"dir"`

	API         string        `json:"api,omitempty"`
	Kubeconfig  string        `json:"kubeconfig,omitempty"`
	Versions    host.Versions `json:"versions,omitzero"`
	MachineBoot string        `json:"machineBoot,omitempty"`
	Chaos       string        `json:"chaos,omitempty"`
	Memory      []process     `json:"memory,omitempty"`
	Clusters    []cluster     `json:"clusters,omitempty"`
	// ClustersError is why Clusters could not be listed.
	ClustersError string `json:"clustersError,omitempty"`
}

func newStatusCommand(dir *string) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show whether the management cluster runs, and its Clusters; exit code 1 if it does not run",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "" && output != "json" {
				return fmt.Errorf("-o %s: there is only json", output)
			}
			r, err := inspect(cmd.Context(), *dir, time.Now())
			if err != nil {
				return err
			}
			if output == "json" {
				encoder := json.NewEncoder(cmd.OutOrStdout())
				encoder.SetIndent("", "  ")
				err = encoder.Encode(r)
			} else {
				err = r.print(cmd.OutOrStdout())
			}
			if err == nil && r.State != "running" {
				err = errNotRunning
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, or nothing for people")
	return cmd
}

func inspect(ctx context.Context, dir string, now time.Time) (report, error) {
	pid, running, err := host.User(dir)
	if err != nil {
		return report{}, err
	}
	last, err := lastRecord(dir)
	if err != nil && !running {
		return report{}, err
	}
	r := report{Dir: dir, State: "stopped"}
	if !running {
		switch {
		case last.Error != "":
			r.State, r.Error = "failed", last.Error
		case last.PID != 0 && !last.Stopping:
			r.State, r.Error = "failed", fmt.Sprintf("process %d was killed", last.PID)
		}
		return r, nil
	}
	r.State, r.PID = "starting", pid
	if last.PID != pid {
		return r, nil
	}
	if last.Stopping {
		r.State = "stopping"
	}
	r.Uptime = now.Sub(last.Started).Round(time.Second).String()
	r.MachineBoot, r.Chaos = last.MachineBoot.String(), describe(last.Knobs)
	r.Memory = memory(pid)
	if !last.Ready {
		return r, nil
	}
	r.State = "running"
	r.API, r.Kubeconfig, r.Versions = last.API, last.Kubeconfig, last.Versions
	if r.Clusters, err = listClusters(ctx, last.Kubeconfig); err != nil {
		r.ClustersError = err.Error()
	}
	return r, nil
}

func (r report) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(w, name+":\t"+format+"\n", args...) }
	switch r.State {
	case "running":
		line("State", "running (process %d, for %s)", r.PID, r.Uptime)
	case "starting", "stopping":
		line("State", "%s (process %d)", r.State, r.PID)
	case "failed":
		line("State", "failed: %s", r.Error)
	default:
		line("State", "%s", r.State)
	}
	line("Folder", "%s", r.Dir)
	if r.State == "running" {
		line("API server", "%s", r.API)
		line("Kubeconfig", "%s", r.Kubeconfig)
		line("Versions", "Cluster API %s, Kubernetes %s, etcd %s", r.Versions.ClusterAPI, r.Versions.Kubernetes, r.Versions.Etcd)
		line("Machine boot", "%s", r.MachineBoot)
		line("Chaos", "%s", r.Chaos)
		total := 0
		for _, p := range r.Memory {
			line("Memory", "%s %d MiB", p.Name, p.MiB)
			total += p.MiB
		}
		if len(r.Memory) > 0 {
			line("Memory", "%d MiB in all", total)
		}
	}
	if err := w.Flush(); err != nil || r.State != "running" {
		return err
	}
	fmt.Fprintln(out)
	return printClusters(out, r.Clusters, r.ClustersError)
}
