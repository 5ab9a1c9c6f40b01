package agent

import (
	"context"
	"fmt"
	"slices"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/forge"
	"capstan.dev/capstan/internal/plan"
)

// maxPulls is how many pull requests a Fleet's status remembers.
const maxPulls = 200

// tellPullStep says on the pull request what was found, unless it says so already:
// one commit status on its head, and one comment, edited in place. A pull request that
// concerns no cluster gets no comment. A crash in between has both said again.
func tellPullStep(ctx context.Context, run *pullRun) error {
	said := v1alpha1.ReportedPullRequest{
		Number: int64(run.name.Number), Head: run.pull.Head, Target: run.view.revision.Hash,
		Digest: run.digest.Strings(string(run.verdict.state), run.verdict.description, run.comment(""))[:16],
	}
	if !repeats(run.fleet, &said) {
		// The cache may lack what was said a moment ago, and that would be said again.
		var live v1alpha1.Fleet
		if err := run.reader.Get(ctx, run.name.Fleet, &live); err != nil {
			return client.IgnoreNotFound(err)
		}
		if !repeats(&live, &said) {
			return run.tell(ctx, said)
		}
	}
	run.checked.done(run.name, run.pull.Head)
	return nil
}

// repeats reports whether a Fleet's record has it that the same was said before. It takes
// over the number of the comment.
func repeats(f *v1alpha1.Fleet, said *v1alpha1.ReportedPullRequest) bool {
	for _, before := range pullsOf(f) {
		if before.Number == said.Number {
			said.Comment = before.Comment
			return before.Head == said.Head && before.Digest == said.Digest
		}
	}
	return false
}

// tell says it, and remembers that it was said.
func (run *pullRun) tell(ctx context.Context, said v1alpha1.ReportedPullRequest) error {
	// If it can't be commented on, all is tried again, but for this.
	if what := said.Head + " " + said.Digest; !run.checked.hasStatus(run.name, what) {
		if err := run.forge.SetStatus(ctx, forge.Status{
			Commit: run.pull.Head, Context: planContext(run.fleet), State: run.verdict.state,
			Description: run.verdict.description, TargetURL: run.pages.URL(run.name.Fleet, ""),
		}); err != nil {
			return err
		}
		run.checked.gotStatus(run.name, what)
	}
	var err error
	if said.Comment, err = run.say(ctx, said.Comment); err != nil {
		return err
	}
	ctrl.LoggerFrom(ctx).Info("planned a pull request", "number", run.name.Number, "head", run.pull.Head,
		"target", said.Target, "overlays", len(run.verdict.overlays), "state", run.verdict.state)
	run.checked.done(run.name, run.pull.Head)
	return run.remember(ctx, said)
}

// remember puts what was said on record, unless there is to be none any more: the forge
// was taken away meanwhile, and the record with it, so nobody would take it away again.
func (run *pullRun) remember(ctx context.Context, said v1alpha1.ReportedPullRequest) error {
	return updateFleetStatus(ctx, run.client, run.reader, run.fleet, func(f *v1alpha1.Fleet) {
		if !plansPulls(f) {
			return
		}
		if f.Status.Forge == nil {
			f.Status.Forge = &v1alpha1.ForgeStatus{}
		}
		pulls := slices.DeleteFunc(f.Status.Forge.PullRequests, func(p v1alpha1.ReportedPullRequest) bool { return p.Number == said.Number })
		f.Status.Forge.PullRequests = append([]v1alpha1.ReportedPullRequest{said}, pulls[:min(len(pulls), maxPulls-1)]...)
	})
}

// say creates or edits the comment, and returns its number; 0 if there is none.
func (run *pullRun) say(ctx context.Context, id int64) (int64, error) {
	target := run.fleet.Spec.Git.Ref.Branch + "@" + run.view.revision.Hash[:7]
	body := run.comment(target)
	if id == 0 {
		found, ok, err := run.forge.FindComment(ctx, run.name.Number, run.marker())
		if err != nil {
			return 0, err
		}
		if ok {
			id = found
		}
	}
	if id != 0 {
		err := run.forge.EditComment(ctx, run.name.Number, id, body)
		if forge.KindOf(err) != forge.NotFound { // else somebody has deleted it
			return id, err
		}
	}
	if len(run.verdict.overlays) == 0 && len(run.verdict.notes) == 0 {
		return 0, nil
	}
	return run.forge.CreateComment(ctx, run.name.Number, body)
}

// comment is the text of the comment. Without a target it says what doesn't change
// with every commit of the target.
func (run *pullRun) comment(target string) string {
	return plan.Comment(plan.CommentInput{
		Marker: run.marker(), Fleet: run.name.Fleet.String(), Target: target, Head: run.pull.Head,
		Overlays: run.verdict.overlays, Notes: run.verdict.notes, Limit: run.forge.Limits().Comment,
	})
}

// marker is how the comment is found again. It can't be made by others, who could
// else have us edit theirs.
func (run *pullRun) marker() string {
	return fmt.Sprintf("<!-- capstan plan %s -->", run.digest.Strings("comment", run.name.Fleet.String(), fmt.Sprint(run.name.Number))[:24])
}

// replan has all pull requests looked at again, because their target has changed or is
// known at last. Those that something was said about may be too many for the list.
func (r *pullReconciler) replan(fleet *v1alpha1.Fleet) {
	name := client.ObjectKeyFromObject(fleet)
	r.checked.forget(name)
	r.enqueue(pullRequest{Fleet: name})
	for _, p := range pullsOf(fleet) {
		r.enqueue(pullRequest{Fleet: name, Number: int(p.Number)})
	}
}
