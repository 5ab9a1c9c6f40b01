package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
)

type driftOptions struct {
	fleet                                  string
	watch, allNamespaces, ascii, corrected bool
	output                                 string
	interval                               time.Duration // of watch
}

func newDriftCommand(a *app) *cobra.Command {
	var o driftOptions
	cmd := &cobra.Command{
		Use:   "drift [OVERLAY|PATH|fleet/NAME]",
		Short: "Show live objects that no longer say what was applied, and who changed them",
		Long: `With no argument, or with fleet/NAME, list the objects that have drifted. With an
overlay, show each of them in full: what was applied, what is live, who wrote it, what
is done about it, and what that would change.

This is what the agent has recorded; nothing is asked of the objects themselves.

Exit code 0: nothing has drifted. 1: something has. 2: an error, or nothing is known
to have drifted and not all overlays can be judged.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(args); err != nil {
				return err
			}
			c, _, namespace, err := a.client()
			if err != nil {
				return err
			}
			if o.allNamespaces {
				namespace = ""
			}
			if o.watch {
				read := func(ctx context.Context) (page, error) { return o.read(ctx, c, namespace, args) }
				return a.watchStatus(cmd.Context(), read, statusOptions{ascii: o.ascii, output: o.output, interval: o.interval})
			}
			shown, err := o.read(cmd.Context(), c, namespace, args)
			if err != nil {
				return err
			}
			if o.output == "json" {
				err = a.printJSON(shown)
			} else {
				err = shown.text(a.out, a.style(o.ascii), time.Now())
			}
			if code := shown.verdict(); err == nil && code != 0 {
				return exitCode(code)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&o.fleet, "fleet", "", "only the overlays of this Fleet, as fleet/NAME")
	cmd.Flags().BoolVar(&o.corrected, "corrections", false, "list too what was corrected last: who lost which change")
	cmd.Flags().BoolVarP(&o.watch, "watch", "w", false, "go on showing until interrupted")
	cmd.Flags().BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "show all namespaces")
	cmd.Flags().StringVarP(&o.output, "output", "o", "table", "table or json")
	cmd.Flags().DurationVar(&o.interval, "interval", time.Second, "how often --watch looks")
	cmd.Flags().BoolVar(&o.ascii, "ascii", false, "no colors, and only characters of ASCII of our own; the default unless the output is a terminal")
	return cmd
}

// check finds options that are wrong, or that don't go together.
func (o *driftOptions) check(args []string) error {
	switch {
	case o.output != "table" && o.output != "json":
		return fmt.Errorf("--output %q: want table or json", o.output)
	case o.interval <= 0:
		return fmt.Errorf("--interval %s: must be positive", o.interval)
	case o.allNamespaces && (len(args) > 0 || o.fleet != ""):
		return errors.New("-A shows all there is: it goes without an argument and without --fleet")
	case o.fleet != "" && len(args) > 0:
		return errors.New("--fleet lists the overlays of a Fleet: it goes without an argument")
	}
	return nil
}

// driftPage is something that drift shows.
type driftPage interface {
	page
	// verdict is the exit code.
	verdict() int
}

// exitNotJudged is the code if it isn't known whether anything has drifted: a script
// must not take that for a no.
const exitNotJudged = exitFailure

// read reads what the arguments ask for.
func (o *driftOptions) read(ctx context.Context, c client.Client, namespace string, args []string) (driftPage, error) {
	fleet := o.fleet
	if fleet != "" {
		args = []string{fleetPrefix + fleet}
	}
	if len(args) > 0 {
		target, err := findTarget(ctx, c, namespace, args[0])
		if err != nil {
			return nil, err
		}
		if overlay, ok := target.(*v1alpha1.ClusterOverlay); ok {
			return overlayDriftOf(overlay), nil
		}
		fleet = target.GetName()
	}
	var overlays v1alpha1.ClusterOverlayList
	if err := c.List(ctx, &overlays, client.InNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("list ClusterOverlays: %w", err)
	}
	view := driftViewOf(overlays.Items, fleet)
	view.corrected = o.corrected
	if len(view.Overlays) > 0 {
		return view, nil
	}
	switch {
	case fleet != "":
		return nil, fmt.Errorf("Fleet %s has no overlay", fleet)
	case namespace != "":
		return nil, fmt.Errorf("no overlay in namespace %s", namespace)
	}
	return nil, errors.New("no overlay in any namespace")
}

// driftViewOf is what drift shows of the overlays of a Fleet, of all if it is "".
func driftViewOf(overlays []v1alpha1.ClusterOverlay, fleet string) driftView {
	view := driftView{Overlays: []overlayDrift{}}
	for i := range overlays {
		if fleet == "" || overlays[i].Spec.FleetRef.Name == fleet {
			view.Overlays = append(view.Overlays, overlayDriftOf(&overlays[i]))
		}
	}
	slices.SortFunc(view.Overlays, func(a, b overlayDrift) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Fleet, b.Fleet), cmp.Compare(a.Path, b.Path))
	})
	return view
}
