// Package dev is the local management cluster. So far it only pins the version of Cluster API whose
// CRDs that cluster serves: they are read from the module's folder, which `go list -m` names.
package dev

import (
	// Keep the requirements in go.mod; nothing here uses the packages.
	_ "sigs.k8s.io/cluster-api/api/core/v1beta2"
	_ "sigs.k8s.io/cluster-api/util/version"
)
