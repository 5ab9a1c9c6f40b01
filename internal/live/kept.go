package live

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/drift"
)

// kept is what stays in memory of a live object. There are tens of thousands of them, most
// of which are never looked at: content is packed, and unpacked when it is looked at. A
// kept object never changes.
type kept struct {
	key     types.NamespacedName
	uid     types.UID
	version string
	// cluster is the name of the Cluster that it was made for, "" for none.
	cluster  string
	deleting bool
	// mode is the annotation capstan.dev/drift, nil for none.
	mode *string
	// sight is nil for what controllers made.
	sight *drift.Sight
	// content is what progress depends on, packed; nil if nothing does.
	content []byte
}

// keep takes from an object, which it destroys, what is needed of it. Nothing of what it
// returns refers to the object's content, which may be secret.
func (s source) keep(u *unstructured.Unstructured) (*kept, error) {
	k := &kept{
		key: types.NamespacedName{Namespace: u.GetNamespace(), Name: u.GetName()},
		uid: u.GetUID(), version: u.GetResourceVersion(), deleting: u.GetDeletionTimestamp() != nil,
	}
	if s.made {
		k.cluster = u.GetLabels()[capi.ClusterLabel]
	} else {
		if mode, ok := u.GetAnnotations()[v1alpha1.DriftAnnotation]; ok {
			k.mode = &mode
		}
		sight := drift.See(u)
		for i := range sight.Foreign { // a string that was cut would hold on to all of it
			f := &sight.Foreign[i]
			f.Field, f.From, f.To = strings.Clone(f.Field), strings.Clone(f.From), strings.Clone(f.To)
		}
		k.sight = &sight
	}
	if !s.progresses() {
		return k, nil
	}
	capi.Trim(u)
	content, err := pack(u.Object)
	if err != nil {
		return nil, fmt.Errorf("keep %s %s: %w", s.kind.Kind, k.key, err) // it came as JSON
	}
	k.content = content
	return k, nil
}

// object unpacks the content; nil if there is none.
func (k *kept) object() *unstructured.Unstructured {
	if k == nil || k.content == nil {
		return nil
	}
	content, err := unpack(k.content)
	if err != nil {
		return nil // keep wrote it
	}
	return &unstructured.Unstructured{Object: content}
}

// GetObjectMeta gives a reflector what it asks objects for.
func (k *kept) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: k.key.Namespace, Name: k.key.Name, UID: k.uid, ResourceVersion: k.version}
}

// GetObjectKind and DeepCopyObject make it a runtime.Object, which events carry.
func (k *kept) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject returns the object: it never changes.
func (k *kept) DeepCopyObject() runtime.Object { return k }
