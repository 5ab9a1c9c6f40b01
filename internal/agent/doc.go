// Package agent is the loop: it follows the Git repositories of Fleets, decides
// which overlays a commit concerns, and brings those to the management cluster.
//
// There are three reconcilers, each a list of named steps with one file per step:
// the fleet reconciler (Git to a published view), the overlay reconciler (view to
// applied and pruned objects) and the summary reconciler (overlay states to the
// Fleet's counts). They meet on the board, the agent's memory, which holds nothing
// that Git and the custom resources could not rebuild.
package agent
