package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/commitstatus"
	"capstan.dev/capstan/internal/forge"
	"capstan.dev/capstan/internal/source"
)

// list finds open pull requests whose events were missed: one request and no write.
// It returns the time until the next look.
func (run *pullRun) list(ctx context.Context) (time.Duration, error) {
	open, complete, err := run.forge.OpenPullRequests(ctx, run.fleet.Spec.Git.Ref.Branch)
	if err != nil {
		return 0, err
	}
	seen := map[int64]bool{}
	for _, p := range open {
		seen[int64(p.Number)] = true
		name := pullRequest{Fleet: run.name.Fleet, Number: p.Number}
		if !run.checked.is(name, p.Head) {
			run.enqueue(name)
		}
	}
	if complete {
		for _, known := range pullsOf(run.fleet) {
			if !seen[known.Number] {
				run.enqueue(pullRequest{Fleet: run.name.Fleet, Number: int(known.Number)})
			}
		}
	}
	return run.jitter(run.fleet.Spec.Forge.PullRequests.Interval.Duration), nil
}

// pullsOf lists the pull requests that something was said about.
func pullsOf(f *v1alpha1.Fleet) []v1alpha1.ReportedPullRequest {
	if f.Status.Forge == nil {
		return nil
	}
	return f.Status.Forge.PullRequests
}

// readPullStep asks the forge what the pull request is. Events are hints: only this
// counts. One that is closed, or wants into another branch, is forgotten.
func readPullStep(ctx context.Context, run *pullRun) error {
	var err error
	run.pull, err = run.forge.PullRequest(ctx, run.name.Number)
	if forge.KindOf(err) == forge.NotFound || err == nil && (!run.pull.Open || run.pull.Base != run.fleet.Spec.Git.Ref.Branch) {
		run.checked.drop(run.name)
		if err := run.forgetPulls(ctx, run.fleet, func(p v1alpha1.ReportedPullRequest) bool { return p.Number == int64(run.name.Number) }); err != nil {
			return err
		}
		return errStop
	}
	return err
}

// forgetPulls takes pull requests out of the record.
func (r *pullReconciler) forgetPulls(ctx context.Context, known *v1alpha1.Fleet, which func(v1alpha1.ReportedPullRequest) bool) error {
	return updateFleetStatus(ctx, r.client, r.reader, known, func(f *v1alpha1.Fleet) {
		if f.Status.Forge != nil {
			f.Status.Forge.PullRequests = slices.DeleteFunc(f.Status.Forge.PullRequests, which)
		}
	})
}

// fetchPullStep fetches the head and lays its changes over the target. What the forge
// names as the head is believed only once it was fetched.
func fetchPullStep(ctx context.Context, run *pullRun) error {
	mirror := run.mirrors.held(run.name.Fleet)
	if mirror == nil {
		return fmt.Errorf("the repository is not open")
	}
	target := &source.Snapshot{Revision: run.view.revision, Tree: run.view.tree}
	proposal, err := mirror.Proposal(ctx, run.pull.Ref, target)
	switch source.ReasonOf(err) {
	case source.RefNotFound: // closed meanwhile, or not there yet: the list asks again
		return errStop
	case source.Unrelated, source.TooLarge, source.TreeInvalid:
		run.refuse(withoutAddress(err))
		return nil
	}
	if err != nil {
		return err
	}
	run.proposal = proposal
	run.pull.Head = proposal.Head
	if len(proposal.Conflicts) > 0 {
		const shown = 3
		names := strings.Join(proposal.Conflicts[:min(shown, len(proposal.Conflicts))], ", ")
		if n := len(proposal.Conflicts) - shown; n > 0 {
			names += fmt.Sprintf(" and %d more", n)
		}
		run.verdict = &verdict{
			state:       forge.Failure,
			description: "rebase needed: " + names,
			notes: []string{fmt.Sprintf("Rebase needed: %s changed here and, to something else, on %s since.",
				names, run.fleet.Spec.Git.Ref.Branch)},
		}
	}
	return nil
}

// planContext is the context of the plan's commit status.
func planContext(f *v1alpha1.Fleet) string {
	_, plan := commitstatus.Contexts(f)
	return plan
}
