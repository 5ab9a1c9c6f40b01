// Package crds holds the CustomResourceDefinitions of the provider kinds that are simulated, in our
// own words: the field lists of the originals with what the API server itself checks.
package crds

import "embed"

// FS holds one file for each kind.
//
//go:embed *.yaml
var FS embed.FS
