package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"capstan.dev/capstan/dev/internal/chaos"
)

// settings are what a management cluster is started with: the flags that up and serve share.
type settings struct {
	port         int
	machineBoot  time.Duration
	chaos        []string
	providerCRDs []string
	timeout      time.Duration
}

func (s *settings) bind(cmd *cobra.Command) {
	f := cmd.Flags()
	f.IntVar(&s.port, "port", 0, "port of the API server on 127.0.0.1 (default: that of the last start, or any free one)")
	f.DurationVar(&s.machineBoot, "machine-boot", 2*time.Second, "how long a machine takes to boot")
	f.StringArrayVar(&s.chaos, "chaos", nil, `what goes wrong, can be repeated; changes a running cluster, too:
never-boots=<namespace>/<machine>[:<count>|:all], node-unhealthy=<namespace>/<machine>[:<count>|:all],
api-delay=<duration>, webhook-down, or none; patterns such as prod-talos/prod-workers-* are allowed`)
	f.StringArrayVar(&s.providerCRDs, "provider-crds", nil, "file or folder with CRDs of the real providers to use instead of ours, can be repeated")
	f.DurationVar(&s.timeout, "timeout", 2*time.Minute, "how long the start may take")
}

// args is s on a command line again.
func (s *settings) args() []string {
	args := []string{fmt.Sprintf("--port=%d", s.port), "--machine-boot=" + s.machineBoot.String(), "--timeout=" + s.timeout.String()}
	for _, c := range s.chaos {
		args = append(args, "--chaos="+c)
	}
	for _, c := range s.providerCRDs {
		args = append(args, "--provider-crds="+c)
	}
	return args
}

// complete checks s, makes paths absolute, and returns the knobs.
func (s *settings) complete() (knobs chaos.Knobs, err error) {
	if s.port < 0 || s.port > 65535 {
		return knobs, fmt.Errorf("--port %d is no port: take one from 1 to 65535", s.port)
	}
	if s.machineBoot < 0 {
		return knobs, fmt.Errorf("--machine-boot %s is negative", s.machineBoot)
	}
	if s.timeout <= 0 {
		return knobs, fmt.Errorf("--timeout %s leaves no time", s.timeout)
	}
	for i, path := range s.providerCRDs {
		if s.providerCRDs[i], err = filepath.Abs(path); err != nil {
			return knobs, err
		}
	}
	return parseKnobs(s.chaos)
}

func parseKnobs(all []string) (knobs chaos.Knobs, err error) {
	for _, setting := range all {
		if setting == "none" {
			if len(all) > 1 {
				return knobs, errors.New("--chaos none does not go with other knobs")
			}
			return knobs, nil
		}
		if err := knobs.Parse(setting); err != nil {
			return knobs, fmt.Errorf("--%w", err)
		}
	}
	return knobs, nil
}

// describe is the knobs for people.
func describe(knobs chaos.Knobs) string {
	if text := knobs.String(); text != "" {
		return text
	}
	return "none"
}

// conflicts are the flags that were given, differ from what runs, and can't change while it runs.
func (s *settings) conflicts(cmd *cobra.Command, running record) error {
	for _, c := range []struct {
		flag, asked, is string
	}{
		{"port", fmt.Sprint(s.port), fmt.Sprint(running.Port)},
		{"machine-boot", s.machineBoot.String(), running.MachineBoot.String()},
		{"provider-crds", strings.Join(s.providerCRDs, " "), strings.Join(running.ProviderCRDs, " ")},
	} {
		if cmd.Flags().Changed(c.flag) && c.asked != c.is {
			return fmt.Errorf("it is running already, with --%s %q; that changes only with a new start: run `devcluster down --dir %s` first", c.flag, c.is, running.Dir)
		}
	}
	return nil
}
