// Package planner says what a tree would do to the overlays of a Fleet: it renders
// an overlay into objects that are ready to be applied, and asks the API server, by
// dry-run alone, what applying them and deleting what has left Git would change. The
// agent, its check of pull requests and `capstan diff` all come through here, so they
// say the same.
package planner
