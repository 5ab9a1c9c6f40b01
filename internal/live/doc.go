// Package live keeps the live objects that progress depends on by watches: those that
// overlays declare, and those that controllers make of them. Nothing is asked of the API
// server as long as nothing happens.
package live
