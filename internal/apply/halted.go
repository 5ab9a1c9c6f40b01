package apply

import "context"

// Halted says why nothing of an overlay may be written now, deletions included:
// its Cluster was paused by somebody, is being deleted, or could not be read. Nil
// means that nothing stands in the way. It looks at Request.Cluster and GitPaused.
func (a *Applier) Halted(ctx context.Context, req Request) *Error {
	return a.newRun(req).halted(ctx)
}
