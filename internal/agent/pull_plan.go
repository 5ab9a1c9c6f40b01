package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/commitstatus"
	"capstan.dev/capstan/internal/forge"
	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/plan"
	"capstan.dev/capstan/internal/planner"
	"capstan.dev/capstan/internal/render"
	"capstan.dev/capstan/internal/sandbox"
	"capstan.dev/capstan/internal/source"
	"capstan.dev/capstan/internal/tree"
)

// verdict is what is said of a pull request.
type verdict struct {
	state       forge.State
	description string
	overlays    []plan.OverlayPlan
	notes       []string
}

// planPullStep renders what the pull request concerns, and compares it with the
// cluster by dry-runs. Its content is a stranger's: it is rendered in a child process
// and planned as untrusted.
func planPullStep(ctx context.Context, run *pullRun) (err error) {
	if run.verdict != nil {
		return nil
	}
	box, err := run.sandbox(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err := box.Close(); err != nil {
			ctrl.LoggerFrom(ctx).Error(err, "end the sandbox of a pull request")
		}
	}()
	done := run.metrics.planning()
	defer func() {
		if !errors.Is(err, errLater) {
			done(err)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, run.limit) // the sandbox's start is none of the content's doing
	defer cancel()
	found, _, err := box.Discover(ctx, render.DiscoverInput{
		Tree: run.proposal.Tree, Paths: run.fleet.Spec.Overlays.Paths, Exclude: run.fleet.Spec.Overlays.Exclude,
	})
	if err != nil {
		return run.faulty(ctx, err)
	}
	paths := make(map[string]bool, len(found))
	for _, o := range found {
		if unfit(o.Path) == "" {
			paths[o.Path] = true
		}
	}
	concerned, err := run.board.concerned(run.name.Fleet, run.view, run.proposal.Tree, paths)
	if err != nil {
		return run.faulty(ctx, err)
	}
	if waits, err := run.unapplied(ctx, concerned); err != nil {
		return err
	} else if waits && run.checked.patient(run.name) {
		return errLater
	}
	plans, err := run.plans(ctx, box, concerned, paths)
	if err != nil {
		return run.faulty(ctx, err)
	}
	ok, description := plan.Verdict(plans)
	run.verdict = &verdict{state: forge.Success, description: description, overlays: plans, notes: run.halted}
	if !ok {
		run.verdict.state = forge.Failure
	}
	return nil
}

// faulty tells what is wrong with the pull request from what is wrong here: what kills
// the sandbox, can't be read or takes too long is the content's fault.
func (run *pullRun) faulty(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		run.refuse(fmt.Sprintf("it takes longer than %s to plan; split it", run.limit))
	case ctx.Err() == nil && (errors.Is(err, sandbox.ErrKilled) || errors.Is(err, errTooMuch) || unreadable(err)):
		run.refuse(withoutAddress(err))
	default:
		return err
	}
	return nil
}

// unreadable reports whether it is for what a file or directory is that it could not
// be read.
func unreadable(err error) bool {
	return slices.Contains([]source.Reason{source.TooLarge, source.TreeInvalid}, source.ReasonOf(err))
}

// withoutAddress is the text of an error without the address that the agent knows the
// repository by: strangers may know it by another.
func withoutAddress(err error) string {
	if e, ok := errors.AsType[*source.Error](err); ok && e.URL != "" {
		return strings.ReplaceAll(err.Error(), e.URL+": ", "")
	}
	return err.Error()
}

// refuse has it said that the pull request can't be planned, and why.
func (run *pullRun) refuse(why string) {
	run.verdict = &verdict{state: forge.Failure, description: why, notes: []string{why}}
}

// unapplied reports whether one of the overlays is being brought to the target now.
// What that changes would be taken for the pull request's doing.
func (run *pullRun) unapplied(ctx context.Context, paths []string) (bool, error) {
	desired := run.board.outlook(run.name.Fleet).desired
	for _, path := range paths {
		if !run.view.paths[path] {
			continue
		}
		var o v1alpha1.ClusterOverlay
		name := planner.OverlayName(run.fleet.Name, path)
		if err := run.client.Get(ctx, client.ObjectKey{Namespace: run.fleet.Namespace, Name: name}, &o); err != nil {
			return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
		}
		ready := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ReadyCondition)
		if ready == nil || ready.Reason == v1alpha1.ApplyingReason || commitstatus.Hash(o.Status.DesiredRevision) != desired[name] {
			return true, nil
		}
	}
	return false, nil
}

// concerned lists the overlays, by path, that render otherwise from another tree than
// from the view's, and those that come or go.
func (b *board) concerned(fleet types.NamespacedName, v *view, other tree.Tree, paths map[string]bool) ([]string, error) {
	b.mu.Lock()
	closures := map[string]render.Closure{}
	if f := b.fleets[fleet]; f != nil {
		for path, r := range f.renderings {
			if r != nil && r.sequence == v.sequence {
				closures[path] = r.closure
			}
		}
	}
	b.mu.Unlock()
	all := maps.Clone(v.paths)
	maps.Copy(all, paths)
	var concerned []string
	for _, path := range slices.Sorted(maps.Keys(all)) {
		closure, known := closures[path]
		if known && v.paths[path] && paths[path] {
			same, err := closure.Unchanged(other)
			if err != nil {
				return nil, fmt.Errorf("compare the inputs of %s: %w", path, err)
			}
			if same {
				continue
			}
		}
		concerned = append(concerned, path)
	}
	return concerned, nil
}

const (
	// keepBuilt is how many renders are kept in memory between the two looks at them,
	// and how many plans are kept with their objects.
	keepBuilt = 50
	// keepBytes bounds the memory of either. The objects of one render can be large.
	keepBytes = 64 << 20
	// mostObjects is how many objects may be planned for one pull request.
	mostObjects = 200_000
)

// errTooMuch is the fault of a pull request.
var errTooMuch = fmt.Errorf("the overlays that it concerns render more than %d objects; split it", mostObjects)

// plans renders the concerned overlays and plans them one by one. All are rendered
// first: what one loses another may have.
func (run *pullRun) plans(ctx context.Context, box Sandbox, concerned []string, paths map[string]bool) ([]plan.OverlayPlan, error) {
	var overlays v1alpha1.ClusterOverlayList
	if err := run.client.List(ctx, &overlays, client.InNamespace(run.fleet.Namespace), client.MatchingFields{fleetIndex: run.fleet.Name}); err != nil {
		return nil, err
	}
	except := make(map[string]bool, len(concerned))
	for _, path := range concerned {
		except[path] = true
	}
	around := planner.NeighboursFromInventories(overlays.Items, except)
	values, placeholders := run.view.untrusted(run.digest)
	// build renders one overlay; fault says what is wrong with its content.
	build := func(path string) (built *planner.Built, fault string, _ error) {
		built, err := planner.Build(ctx, planner.BuildInput{
			Tree: run.proposal.Tree, Owner: run.ownerOf(path), Substitution: values, Digester: run.digest, Renderer: box,
		})
		switch {
		case ctx.Err() != nil || errors.Is(err, sandbox.ErrStart) || errors.Is(err, render.ErrTree) && !unreadable(err):
			return nil, "", errors.Join(ctx.Err(), err)
		case err != nil:
			return nil, masked(withoutAddress(err), placeholders), nil
		}
		return built, "", nil
	}
	kept, faults := map[string]*planner.Built{}, map[string]string{}
	objects, weight := 0, 0
	for _, path := range concerned {
		if !paths[path] {
			continue
		}
		built, fault, err := build(path)
		if err != nil {
			return nil, err
		}
		if fault != "" {
			faults[path] = fault
		}
		around.Add(path, run.ownerOf(path).Overlay, built)
		if built == nil {
			continue
		}
		if objects += len(built.Objects); objects > mostObjects {
			return nil, errTooMuch
		}
		if w := object.Weight(built.Objects...); len(kept) < keepBuilt && weight+w <= keepBytes {
			kept[path], weight = built, weight+w
		}
	}
	applier, err := run.applier(run.fleet.Namespace, run.view.serviceAccount)
	if err != nil {
		return nil, err
	}
	byPath := map[string]*v1alpha1.ClusterOverlay{}
	for i := range overlays.Items {
		if o := &overlays.Items[i]; o.Name == planner.OverlayName(run.fleet.Name, o.Spec.Path) {
			byPath[o.Spec.Path] = o
		}
	}
	all := make([]plan.OverlayPlan, 0, len(concerned))
	weight = 0
	for i, path := range concerned {
		built := kept[path]
		if built == nil && paths[path] && faults[path] == "" {
			var err error
			if built, faults[path], err = build(path); err != nil {
				return nil, err
			}
		}
		if faults[path] != "" {
			all = append(all, plan.OverlayPlan{Path: path, Err: faults[path]})
			continue
		}
		result, err := planner.Plan(ctx, applier, planner.Input{
			Tree: run.proposal.Tree, Fleet: run.fleet, Overlay: byPath[path], Owner: run.ownerOf(path), Gone: !paths[path],
			Built: built, Renderer: box, Substitution: values, Secrets: run.view.secrets, Placeholders: placeholders,
			Digester: run.digest, Around: around, Untrusted: true,
		})
		delete(kept, path)
		if err != nil {
			return nil, err
		}
		if result.Halted != nil {
			run.halted = append(run.halted, fmt.Sprintf("%s: nothing would be written now: %s", path, result.Halted.Message))
		}
		if w := result.Plan.Weight(); i < keepBuilt && weight+w <= keepBytes {
			weight += w
		} else {
			result.Plan.DropObjects() // it is too far down to be shown with them
		}
		all = append(all, plan.OverlayPlan{Path: path, Plan: result.Plan})
	}
	return all, nil
}

func (run *pullRun) ownerOf(path string) apply.Owner {
	return apply.Owner{
		FleetNamespace: run.fleet.Namespace, FleetName: run.fleet.Name,
		Overlay: planner.OverlayName(run.fleet.Name, path), Path: path,
	}
}

// untrusted is the view's substitution with placeholders for the values that come
// from Secrets. Nobody can guess a placeholder, so none can be written into a pull
// request.
func (v *view) untrusted(digest object.Digester) (*render.Substitution, map[string]string) {
	if v.substitution == nil {
		return nil, nil
	}
	values, placeholders := maps.Clone(v.substitution.Values), map[string]string{}
	for key, value := range v.secretValues() {
		_, name, _ := strings.Cut(key, "/")
		if values[name] == value && v.substitution.Values[name] == value {
			placeholder := "capstan-" + digest.Strings("placeholder", name)[:24]
			values[name], placeholders[placeholder] = placeholder, value
		}
	}
	return &render.Substitution{Values: values}, placeholders
}

// secretValues are the values of variables that come from Secrets, by name of the
// Secret and key.
func (v *view) secretValues() map[string]string {
	if v.secrets == nil {
		return nil
	}
	values, _, err := unstructured.NestedStringMap(v.secrets.Object, "stringData")
	if err != nil {
		return nil
	}
	return values
}

// masked takes placeholders out of a text about a stranger's content. The values that
// they stand for were never there: one that is in the text is the stranger's guess, and
// to take it out would say that it is right.
func masked(text string, placeholders map[string]string) string {
	for placeholder := range placeholders {
		text = strings.ReplaceAll(text, placeholder, "***")
	}
	return text
}
