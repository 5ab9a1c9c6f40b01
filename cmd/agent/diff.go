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
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/agent"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/inventory"
	"capstan.dev/capstan/internal/object"
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
	tree    tree.Tree
	path    string
	owner   apply.Owner
	fleet   *v1alpha1.Fleet          // nil if there is none
	overlay *v1alpha1.ClusterOverlay // nil if there is none
	values  *render.Substitution
	secrets *unstructured.Unstructured // values that come from Secrets, nil if none do
	applier *apply.Applier
	others  []string // paths of the Fleet's other overlays in the working copy
	around  *neighbours
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
	s.tree = tree.FromDir(root)
	p := plan.Plan{Overlay: s.owner.Overlay, Path: rel, Secrets: s.secrets}
	gone, err := s.gone(func(warning string) { fmt.Fprintln(a.err, "warning: "+warning) })
	if err != nil {
		return p, err
	}
	if s.around, err = s.look(ctx); err != nil {
		return p, err
	}
	if s.suspended() {
		fmt.Fprintln(a.err, "warning: it is suspended: the agent would write nothing now")
	}
	var desired []inventory.Desired
	if !gone {
		built, err := planner.Build(ctx, planner.BuildInput{Tree: s.tree, Owner: s.owner, Substitution: s.values})
		if err != nil {
			return p, err
		}
		for _, warning := range built.Warnings {
			fmt.Fprintln(a.err, "warning: "+warning)
		}
		desired = built.Desired
		if p.Changes, err = s.applied(ctx, built, func(halted *apply.Error) {
			fmt.Fprintln(a.err, "warning: the agent would write nothing now: "+halted.Error())
		}); err != nil {
			return p, err
		}
	}
	leaving, err := s.leaving(ctx, desired, gone)
	p.Changes = append(p.Changes, leaving...)
	return p, err
}

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
	s := &subject{path: path, owner: apply.Owner{Path: path}}
	var err error
	if s.fleet, err = fleetOfPath(ctx, c, namespace, fleetName, path); err != nil {
		return nil, err
	}
	if s.applier, err = apply.New(apply.Options{Config: config}); err != nil {
		return nil, err
	}
	if s.fleet == nil {
		fmt.Fprintf(a.err, "warning: no Fleet in namespace %s; objects are compared without Capstan's labels, and deletions are not known\n", namespace)
		return s, nil
	}
	s.owner.FleetNamespace, s.owner.FleetName = s.fleet.Namespace, s.fleet.Name
	s.owner.Overlay = planner.OverlayName(s.fleet.Name, path)
	if s.values, s.secrets, err = agent.GatherSubstitution(ctx, c, s.fleet); err != nil {
		return nil, err
	}
	var overlay v1alpha1.ClusterOverlay
	err = c.Get(ctx, client.ObjectKey{Namespace: s.fleet.Namespace, Name: s.owner.Overlay}, &overlay)
	switch {
	case err == nil:
		s.overlay = &overlay
	case !apierrors.IsNotFound(err):
		return nil, fmt.Errorf("read ClusterOverlay %s: %w", s.owner.Overlay, err)
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
	_, err = s.tree.Stat(s.path)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, err
	case err != nil && s.overlay == nil:
		return false, fmt.Errorf("there is no directory %s, and no overlay of that path in the cluster", s.path)
	case err == nil:
		warn(fmt.Sprintf("%s is no overlay of Fleet %s: %s", s.path, s.fleet.Name, why))
	}
	return s.overlay != nil, nil
}

func (s *subject) suspended() bool {
	return s.fleet != nil && s.fleet.Spec.Suspend || s.overlay != nil && s.overlay.Spec.Suspend
}

// applied asks the API server what applying would do to each object.
func (s *subject) applied(ctx context.Context, built *planner.Built, halted func(*apply.Error)) ([]plan.Change, error) {
	req := built.Request(s.owner)
	req.ReadAll = true
	if s.fleet == nil {
		// The objects carry no labels then, and whatever carries any is another's.
		req.Owner = apply.Owner{FleetName: "none", Overlay: "none"}
	}
	report, err := s.applier.DryRun(ctx, req)
	if err == nil {
		if from := s.takeovers(report); len(from) > 0 {
			req.TakeOverFrom = from
			report, err = s.applier.DryRun(ctx, req)
		}
	}
	if err != nil {
		return nil, err
	}
	if report.Halted != nil {
		halted(report.Halted)
	}
	manifests := map[object.ID]int{}
	for i, u := range built.Objects {
		manifests[object.IDOf(u)] = i
	}
	changes := make([]plan.Change, 0, len(report.Outcomes))
	for _, o := range report.Outcomes {
		change := plan.Change{ID: o.ID, Action: actionOf(o), Before: o.Before, After: o.After, Note: o.Note}
		if o.Err != nil {
			change.Error = o.Err.Message
		}
		if twice := s.duplicate(o.ID); twice != "" {
			change.Action, change.Error = plan.Invalid, twice
		}
		if change.After == nil {
			change.After = built.Objects[manifests[o.ID]]
		}
		changes = append(changes, change)
	}
	return changes, nil
}

func actionOf(o apply.Outcome) plan.Action {
	switch o.Action {
	case apply.ActionCreated:
		return plan.Create
	case apply.ActionConfigured:
		return plan.Update
	case apply.ActionUnchanged:
		return plan.Unchanged
	case apply.ActionSkipped:
		return plan.Skipped
	case apply.ActionNotChecked, apply.ActionNotReached:
		return plan.NotChecked
	default:
		if o.Err != nil && (o.Err.Reason == v1alpha1.ConflictReason || o.Err.Reason == v1alpha1.OwnedByOtherReason) {
			return plan.Conflict
		}
		return plan.Invalid
	}
}

// leaving says what would become of the objects that are not rendered any more, by
// the agent's own decision.
func (s *subject) leaving(ctx context.Context, desired []inventory.Desired, gone bool) ([]plan.Change, error) {
	if s.overlay == nil {
		return nil, nil
	}
	in := inventory.PruneInput{
		OverlayUID: s.overlay.UID, OverlayName: s.overlay.Name, Whole: len(desired) == 0,
		Reason: v1alpha1.ObjectsRemovedReason, Previous: s.overlay.Status.PendingDeletion,
		Hold: s.around.hold(), NamespacesInUse: s.around.namespaces,
		Staying: inventory.Staying(s.overlay.Status.Inventory, desired),
	}
	switch {
	case gone:
		in.Reason = v1alpha1.PathRemovedReason
	case in.Whole:
		in.Reason = v1alpha1.EmptyRenderReason
	}
	leaving := inventory.Leaving(s.overlay.Status.Inventory, desired)
	ids := make([]object.ID, 0, len(leaving))
	for _, entry := range leaving {
		ids = append(ids, inventory.IDOf(entry.ObjectReference))
	}
	for i, entry := range leaving {
		c := inventory.Candidate{Entry: entry, OwnerLabel: s.overlay.Name, HandedTo: s.around.claims[ids[i]]}
		c.Live, c.ReadError = s.applier.Get(ctx, entry.ObjectReference)
		if apply.IsNotFound(c.ReadError) {
			c.Live, c.ReadError = nil, nil
		}
		if c.ReadError != nil {
			return nil, c.ReadError
		}
		if c.Live != nil && c.HandedTo == "" {
			var err error
			if c.Users, err = planner.UsersOf(ctx, s.applier, entry, ids); err != nil {
				return nil, err
			}
		}
		in.Candidates = append(in.Candidates, c)
	}
	return leavingChanges(in, inventory.PlanPrune(in)), nil
}

// leavingChanges puts a prune decision into words.
func leavingChanges(in inventory.PruneInput, decided inventory.PrunePlan) []plan.Change {
	live := map[object.ID]inventory.Candidate{}
	for _, c := range in.Candidates {
		live[inventory.IDOf(c.Entry.ObjectReference)] = c
	}
	deleted, pending := map[object.ID]bool{}, map[object.ID]bool{}
	for _, ref := range decided.Delete {
		deleted[inventory.IDOf(ref)] = true
	}
	if decided.Pending != nil {
		for _, ref := range decided.Pending.Objects {
			pending[inventory.IDOf(ref)] = true
		}
	}
	var changes []plan.Change
	said := notesOf(decided.Forget, decided.Notes)
	for _, ref := range decided.Forget {
		id := inventory.IDOf(ref)
		if live[id].Live != nil { // else nothing happens to it
			changes = append(changes, plan.Change{ID: id, Action: plan.Retained, Before: live[id].Live, Note: said[id]})
		}
	}
	for _, entry := range decided.Keep {
		id := inventory.IDOf(entry.ObjectReference)
		change := plan.Change{ID: id, Action: plan.Retained, Before: live[id].Live, Note: entry.Message}
		switch {
		case pending[id]:
			change.Action = plan.PendingDeletion
		case deleted[id]:
			change.Action, change.Note = plan.Delete, ""
		}
		changes = append(changes, change)
	}
	return changes
}
