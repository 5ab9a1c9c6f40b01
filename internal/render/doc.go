// Package render turns one overlay of one commit into the exact set of objects
// it declares, and says which files that took. It is a pure function of the tree
// it is given: no clock decides, no environment is read, nothing is fetched and
// nothing is executed, whatever the overlay says.
//
// Kustomize runs in process on a read-only file system over the commit's tree.
// That file system is the gate: every byte that kustomize interprets passes it,
// so it is where hostile input is refused, limits are kept, Cluster API's
// references are taught to kustomize, and the closure is recorded.
package render
