package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	pathpkg "path"
	"path/filepath"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/agent"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/plan"
	"capstan.dev/capstan/internal/planner"
	"capstan.dev/capstan/internal/render"
	"capstan.dev/capstan/internal/source"
	"capstan.dev/capstan/internal/tree"
)

func newDiffCommand(a *app) *cobra.Command {
	var fleet, output string
	cmd := &cobra.Command{
		Use:   "diff PATH",
		Short: "Show what an overlay of the working copy would change in the cluster",
		Long: `Render an overlay of the working copy and compare it with the management cluster by
a server-side dry-run: what would be created, changed and deleted, and everything
that the API server would refuse. Secret material is masked. Nothing is written.

Exit code 0: no change. 1: changes. 2: an error, or objects would be refused.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output %q: want text or json", output)
			}
			p, err := a.diff(cmd.Context(), args[0], fleet)
			if err != nil {
				return err
			}
			if output == "json" {
				err = p.JSON(a.out)
			} else {
				err = p.Text(a.out, isTerminal(a.out))
			}
			switch {
			case err != nil:
				return err
			case p.HasErrors():
				return exitCode(exitFailure)
			case p.HasChanges():
				return exitCode(exitChanges)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&fleet, "fleet", "", "Fleet that the overlay belongs to; default: the only one, or the one that has it")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

// subject is what is compared: an overlay of the working copy, and what the cluster
// knows of it.
type subject struct {
	planner.Input
	applier *apply.Applier
	others  []string // paths of the Fleet's other overlays in the working copy
}

// diff compares a directory with the cluster.
func (a *app) diff(ctx context.Context, path, fleetName string) (plan.Plan, error) {
	root, rel, err := workingCopy(path)
	if err != nil {
		return plan.Plan{}, err
	}
	c, config, namespace, err := a.client()
	if err != nil {
		return plan.Plan{}, err
	}
	s, err := a.subject(ctx, c, config, namespace, fleetName, rel)
	if err != nil {
		return plan.Plan{}, err
	}
	s.Tree = tree.FromDir(root)
	if s.Gone, err = s.gone(a.warn); err != nil {
		return plan.Plan{}, err
	}
	like := planner.BuildInput{Tree: s.Tree, Owner: s.Owner, Substitution: s.Substitution}
	if s.Around, err = planner.RenderNeighbours(ctx, like, s.others); err != nil {
		return plan.Plan{}, err
	}
	if s.suspended() {
		a.warn("it is suspended: the agent would write nothing now")
	}
	result, err := planner.Plan(ctx, s.applier, s.Input)
	for _, warning := range result.Warnings {
		a.warn(warning)
	}
	if result.Halted != nil {
		a.warn("the agent would write nothing now: " + result.Halted.Error())
	}
	return result.Plan, err
}

func (a *app) warn(text string) { fmt.Fprintln(a.err, "warning: "+text) }

// workingCopy finds the repository of a path. The path itself may be gone: then
// removing it is what is compared.
func workingCopy(path string) (root, rel string, err error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return source.OpenWorkingCopy(path)
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return "", "", err
	}
	root, parent, err := workingCopy(filepath.Dir(absolute))
	return root, pathpkg.Join(parent, filepath.Base(absolute)), err
}

// subject finds the Fleet and the overlay of a directory.
func (a *app) subject(ctx context.Context, c client.Client, config *rest.Config, namespace, fleetName, path string) (*subject, error) {
	s := &subject{Input: planner.Input{Owner: apply.Owner{Path: path}}}
	var err error
	if s.Fleet, err = fleetOfPath(ctx, c, namespace, fleetName, path); err != nil {
		return nil, err
	}
	if s.applier, err = apply.New(apply.Options{Config: config}); err != nil {
		return nil, err
	}
	if s.Fleet == nil {
		a.warn(fmt.Sprintf("no Fleet in namespace %s; objects are compared without Capstan's labels, and deletions are not known", namespace))
		return s, nil
	}
	s.Owner.FleetNamespace, s.Owner.FleetName = s.Fleet.Namespace, s.Fleet.Name
	s.Owner.Overlay = planner.OverlayName(s.Fleet.Name, path)
	if s.Substitution, s.Secrets, err = agent.GatherSubstitution(ctx, c, s.Fleet); err != nil {
		return nil, err
	}
	var overlay v1alpha1.ClusterOverlay
	err = c.Get(ctx, client.ObjectKey{Namespace: s.Fleet.Namespace, Name: s.Owner.Overlay}, &overlay)
	switch {
	case err == nil:
		s.Overlay = &overlay
	case !apierrors.IsNotFound(err):
		return nil, fmt.Errorf("read ClusterOverlay %s: %w", s.Owner.Overlay, err)
	}
	return s, nil
}

// fleetOfPath returns the Fleet that a person names, the one that has an overlay at
// the path, or the only one.
func fleetOfPath(ctx context.Context, c client.Client, namespace, name, path string) (*v1alpha1.Fleet, error) {
	if name == "" {
		if overlay, err := findOverlay(ctx, c, namespace, path); err == nil {
			name = overlay.Spec.FleetRef.Name
		}
	}
	return findFleet(ctx, c, namespace, name)
}

// gone reports whether an overlay that the cluster knows is none any more: its
// directory is gone, or the Fleet doesn't take it for one.
func (s *subject) gone(warn func(string)) (bool, error) {
	found, why, err := s.discover()
	if err != nil || found {
		return false, err
	}
	_, err = s.Tree.Stat(s.Owner.Path)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, err
	case err != nil && s.Overlay == nil:
		return false, fmt.Errorf("there is no directory %s, and no overlay of that path in the cluster", s.Owner.Path)
	case err == nil:
		warn(fmt.Sprintf("%s is no overlay of Fleet %s: %s", s.Owner.Path, s.Fleet.Name, why))
	}
	return s.Overlay != nil, nil
}

// discover tells whether the path is an overlay of the working copy, and finds the
// others. Without a Fleet it is what a person says it is.
func (s *subject) discover() (found bool, why string, err error) {
	if s.Fleet == nil {
		_, err := s.Tree.Stat(s.Owner.Path)
		return err == nil, "", nil
	}
	overlays, skipped, err := render.Discover(render.DiscoverInput{
		Tree: s.Tree, Paths: s.Fleet.Spec.Overlays.Paths, Exclude: s.Fleet.Spec.Overlays.Exclude,
	})
	if err != nil {
		return false, "", err
	}
	for _, o := range overlays {
		if o.Path == s.Owner.Path {
			found = true
		} else {
			s.others = append(s.others, o.Path)
		}
	}
	why = fmt.Sprintf("no glob of spec.overlays.paths %q matches it", s.Fleet.Spec.Overlays.Paths)
	for _, o := range skipped {
		if o.Path == s.Owner.Path {
			why = o.Reason
		}
	}
	return found, why, nil
}

func (s *subject) suspended() bool {
	return s.Fleet != nil && s.Fleet.Spec.Suspend || s.Overlay != nil && s.Overlay.Spec.Suspend
}
