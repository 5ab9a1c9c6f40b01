package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/agent"
)

type statusOptions struct {
	watch, allNamespaces, ascii, wait bool
	output                            string
	interval                          time.Duration // of watch
	timeout                           time.Duration // of wait
	revision                          string        // to wait for; "" for what is desired
}

func newStatusCommand(a *app) *cobra.Command {
	var o statusOptions
	cmd := &cobra.Command{
		Use:   "status [OVERLAY|PATH|fleet/NAME]...",
		Short: "Show how far the Fleets and their overlays are, or wait until they are there",
		Long: `With no argument, or with fleet/NAME, show Fleets and their overlays. With an overlay,
show it down to its machines.

With --wait, wait until all that is named has converged: exit code 0. It is 1 as soon
as that won't happen by itself, because something failed, is stuck or waits for a
person, and 2 after --timeout.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(cmd.Flags().Changed, args); err != nil {
				return err
			}
			c, namespace, err := a.watcher()
			if err != nil {
				return err
			}
			if o.allNamespaces {
				namespace = ""
			}
			switch {
			case o.wait:
				return a.awaitConvergence(cmd.Context(), c, namespace, args, o)
			case o.watch:
				return a.watchStatus(cmd.Context(), a.statusPage(c, namespace, args), o)
			}
			page, err := a.statusPage(c, namespace, args)(cmd.Context())
			if err != nil {
				return err
			}
			for _, warning := range page.warnings() {
				fmt.Fprintln(a.err, warning)
			}
			if o.output == "json" {
				return a.printJSON(page)
			}
			return page.text(a.out, a.style(o.ascii), time.Now())
		},
	}
	cmd.Flags().BoolVarP(&o.watch, "watch", "w", false, "go on showing until interrupted")
	cmd.Flags().BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "show all namespaces")
	cmd.Flags().StringVarP(&o.output, "output", "o", "table", "table or json")
	cmd.Flags().DurationVar(&o.interval, "interval", time.Second, "how often --watch looks")
	cmd.Flags().BoolVar(&o.ascii, "ascii", false, "no colors, and only characters of ASCII of our own; the default unless the output is a terminal")
	cmd.Flags().BoolVar(&o.wait, "wait", false, "wait until all that is named has converged")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 10*time.Minute, "how long --wait waits")
	cmd.Flags().StringVar(&o.revision, "revision", "", "with --wait: the commit to wait for, at least 7 digits of it; default: the one that is desired")
	return cmd
}

// check finds options that are wrong, or that don't go together.
func (o *statusOptions) check(changed func(flag string) bool, args []string) error {
	switch {
	case o.output != "table" && o.output != "json":
		return fmt.Errorf("--output %q: want table or json", o.output)
	case o.interval <= 0:
		return fmt.Errorf("--interval %s: must be positive", o.interval)
	case o.timeout <= 0:
		return fmt.Errorf("--timeout %s: must be positive", o.timeout)
	case o.wait && (o.watch || o.output == "json"):
		return errors.New("--wait prints a line for each change: it goes with neither --watch nor -o json")
	case !o.wait && (changed("timeout") || changed("revision")):
		return errors.New("--timeout and --revision are for --wait")
	case changed("revision") && !isRevision(o.revision):
		return fmt.Errorf("--revision %q: want a commit, at least 7 digits of it", o.revision)
	case o.allNamespaces && len(args) > 0:
		return errors.New("-A shows all there is: it goes without arguments")
	case !o.wait && len(args) > 1:
		return errors.New("status shows one overlay or Fleet at a time; --wait takes several")
	}
	return nil
}

// isRevision tells whether a text can be (the beginning of) a commit's hash.
func isRevision(text string) bool {
	return len(text) >= 7 && len(text) <= 64 && strings.Trim(text, "0123456789abcdef") == ""
}

// watcher returns a client that can watch too, and the namespace to work in.
func (a *app) watcher() (client.WithWatch, string, error) {
	config, namespace, err := a.connect()
	if err != nil {
		return nil, "", err
	}
	c, err := client.NewWithWatch(config, client.Options{Scheme: newScheme()})
	if err != nil {
		return nil, "", fmt.Errorf("reach the management cluster: %w", err)
	}
	return c, namespace, nil
}

// page is something that status shows. It marshals to what -o json prints, and says
// nothing there that depends on when it is printed.
type page interface {
	text(out io.Writer, s style, now time.Time) error
	// warnings say what couldn't be read and is left out.
	warnings() []string
}

// statusPage says how to read what the arguments ask for.
func (a *app) statusPage(c client.Client, namespace string, args []string) func(context.Context) (page, error) {
	return func(ctx context.Context) (page, error) {
		if len(args) == 0 {
			return readFleets(ctx, c, namespace, "")
		}
		target, err := findTarget(ctx, c, namespace, args[0])
		if err != nil {
			return nil, err
		}
		if overlay, ok := target.(*v1alpha1.ClusterOverlay); ok {
			return readOverlay(ctx, c, overlay)
		}
		return readFleets(ctx, c, namespace, target.GetName())
	}
}

// outcomeOf says in a line how a target stands; ok is false if something is wrong.
func outcomeOf(target client.Object) (line string, ok bool) {
	switch t := target.(type) {
	case *v1alpha1.Fleet:
		if problem := problemOf(t.Status.Conditions); problem != "" {
			return "fleet/" + t.Name + ": " + problem, false
		}
		if t.Spec.Suspend {
			return "fleet/" + t.Name + ": suspended, so Git was not looked at", true
		}
		return "fleet/" + t.Name + ": at " + t.Status.ObservedRevision, true
	case *v1alpha1.ClusterOverlay:
		state := agent.StateOf(t)
		if message := messageOf(t); message != "" {
			return fmt.Sprintf("%s: %s: %s", t.Spec.Path, state, message), state != agent.StateFailed
		}
		return fmt.Sprintf("%s: %s %s", t.Spec.Path, state, t.Status.AppliedRevision), true
	}
	return "", false
}
