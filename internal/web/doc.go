// Package web is what the agent serves over HTTP: it receives the forge's webhooks and
// shows a read-only status page. A webhook is a hint that nothing depends on: what is
// refused or lost here is found by the next look at Git. So the package spends as little
// as it can on a delivery until its signature was checked, and tells whoever has not
// signed nothing, not even which Fleets there are.
//
// It knows neither Git nor the API server; both are behind [Fleets], [Hints] and [Pages].
package web
