// Package apply is the only package that reads or writes managed objects.
//
// It sends its own server-side-apply patches, as one field manager, and never
// deletes an object to make it anew. An apply goes in two phases: a dry-run of
// all objects at once, whose errors are all collected, and, only if none failed,
// the writes, stage by stage. Both phases use the same patch, so what a plan
// shows is what an apply does.
//
// Fields that Git declares may be left to others, such as the replicas to an
// autoscaler: once somebody has taken one it is left out of both phases.
//
// What the API server says is turned into an [Error] in one place. An object
// counts as absent only if the API server said so of this object; every other
// error while reading leaves things as they are.
package apply
