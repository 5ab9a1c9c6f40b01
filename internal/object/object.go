// Package object is the vocabulary for Kubernetes objects as the agent handles
// them: identity, stable order, digests and the masking of secret material.
// Values only; nothing here talks to a cluster.
package object

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// ID identifies an object in a cluster, whatever API version it is read at.
type ID struct {
	// Group is the API group, "" for the core group.
	Group string
	// Kind is the kind as manifests spell it.
	Kind string
	// Namespace is empty for cluster-scoped objects.
	Namespace string
	// Name is the object's name.
	Name string
}

// IDOf returns the identity of an object.
func IDOf(u *unstructured.Unstructured) ID {
	gk := u.GroupVersionKind().GroupKind()
	return ID{Group: gk.Group, Kind: gk.Kind, Namespace: u.GetNamespace(), Name: u.GetName()}
}

// GroupKind returns the group and kind.
func (id ID) GroupKind() schema.GroupKind {
	return schema.GroupKind{Group: id.Group, Kind: id.Kind}
}

// String is the form people read: Kind.group namespace/name.
func (id ID) String() string {
	name := id.Name
	if id.Namespace != "" {
		name = id.Namespace + "/" + id.Name
	}
	return id.GroupKind().String() + " " + name
}

// Compare orders identities by group, kind, namespace and name.
func Compare(a, b ID) int {
	return cmp.Or(
		cmp.Compare(a.Group, b.Group),
		cmp.Compare(a.Kind, b.Kind),
		cmp.Compare(a.Namespace, b.Namespace),
		cmp.Compare(a.Name, b.Name),
	)
}

// Sort brings objects into the stable order of [Compare].
func Sort(objects []*unstructured.Unstructured) {
	slices.SortStableFunc(objects, func(a, b *unstructured.Unstructured) int {
		return Compare(IDOf(a), IDOf(b))
	})
}

// Digester computes digests that can be shown to people: with a key they tell
// nothing about content that could be guessed, such as a password.
type Digester struct{ key []byte }

// NewDigester returns a Digester that keys its digests (HMAC-SHA256).
func NewDigester(key []byte) Digester { return Digester{key: slices.Clone(key)} }

// Object returns the digest of an object's content in its canonical JSON form.
func (d Digester) Object(u *unstructured.Unstructured) (string, error) {
	content, err := json.Marshal(u.Object) // maps are written in key order
	if err != nil {
		return "", fmt.Errorf("digest of %s: %w", IDOf(u), err)
	}
	return d.Bytes(content), nil
}

// Bytes returns the digest of some bytes: the first 128 bits of the HMAC in hex.
func (d Digester) Bytes(content []byte) string {
	mac := hmac.New(sha256.New, d.key)
	mac.Write(content)
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// Strings returns the digest of a list; its elements can't run into each other.
func (d Digester) Strings(parts ...string) string {
	mac := hmac.New(sha256.New, d.key)
	for _, p := range parts {
		fmt.Fprintf(mac, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// Weight is about how many bytes of memory objects take; nil takes none.
func Weight(objects ...*unstructured.Unstructured) int {
	total := 0
	for _, u := range objects {
		if u != nil {
			total += weigh(u.Object)
		}
	}
	return total
}

func weigh(value any) int {
	const each = 16 // the interface; about as much again for what it points to
	switch v := value.(type) {
	case string:
		return 2*each + len(v)
	case map[string]any:
		total := 48
		for key, element := range v {
			total += 2*each + len(key) + weigh(element)
		}
		return total
	case []any:
		total := 2 * each
		for _, element := range v {
			total += weigh(element)
		}
		return total
	}
	return 2 * each
}
