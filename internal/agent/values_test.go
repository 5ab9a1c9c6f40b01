package agent

import (
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// What no Fleet of a namespace names any more is not kept.
func TestValuesEvicted(t *testing.T) {
	secrets := schema.GroupVersionKind{Version: "v1", Kind: "Secret"}
	kept := types.NamespacedName{Namespace: "ns", Name: "kept"}
	dropped := types.NamespacedName{Namespace: "ns", Name: "dropped"}
	elsewhere := types.NamespacedName{Namespace: "other", Name: "dropped"}
	c := &valueCache{held: map[schema.GroupVersionKind]map[types.NamespacedName]*valueObject{
		secrets: {kept: {}, dropped: {}, elsewhere: {}},
	}}
	c.evict("ns", func(kind, name string) bool { return kind == "Secret" && name == "kept" })
	if held := c.held[secrets]; held[kept] == nil || held[dropped] != nil || held[elsewhere] == nil {
		t.Errorf("held: %v", held)
	}
}
