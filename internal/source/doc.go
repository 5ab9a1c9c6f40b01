// Package source turns a Git repository into revisions and read-only trees: it
// resolves what a Fleet tracks, keeps a bare mirror up to date by incremental
// fetches, and serves the complete tree of any commit without a checkout. The
// mirror is only a cache: whatever is wrong with it is answered by rebuilding it.
package source
