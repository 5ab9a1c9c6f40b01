package apply_test

import (
	"context"
	"errors"
	"testing"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
)

// A deletion happens once, and only to the object that is on record as ours.
func TestDelete(t *testing.T) {
	ctx := context.Background()
	b := newBed(t)
	remove := func(ref v1alpha1.ObjectReference, owner apply.Owner, want apply.DeleteOutcome) {
		t.Helper()
		mark := env.Mark(t)
		got, err := b.apply.Delete(ctx, ref, owner)
		if err != nil || got != want {
			t.Errorf("%s, %v; want %s", got, err, want)
		}
		deletes := 0
		for _, r := range env.Requests(t, b.user, mark) {
			if r.Verb == "delete" {
				deletes++
			}
		}
		if (deletes == 1) != (want == apply.DeleteDeleted) || deletes > 1 {
			t.Errorf("%s sent %d deletes", want, deletes)
		}
	}
	made := func(extra string) v1alpha1.ObjectReference {
		t.Helper()
		return b.run(b.request(`{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS` + extra + `}}`)).Outcomes[0].Ref
	}

	remove(v1alpha1.ObjectReference{Version: "v1", Kind: "ConfigMap", Namespace: b.ns, Name: "c"}, b.owner, apply.DeleteGone)
	remove(v1alpha1.ObjectReference{Group: "example.com", Version: "v1", Kind: "Widget", Namespace: b.ns, Name: "w"}, b.owner, apply.DeleteGone)

	ref := made("")
	other := b.owner
	other.Overlay = "other"
	remove(ref, other, apply.DeleteNotOurs)
	other = b.owner
	other.FleetNamespace = "elsewhere" // an overlay of the same name in another namespace
	remove(ref, other, apply.DeleteNotOurs)
	changed := ref
	changed.UID = "ffffffff-ffff-ffff-ffff-ffffffffffff"
	remove(changed, b.owner, apply.DeleteUIDChanged)
	served := ref
	served.Version = "v0" // not served any more
	remove(served, b.owner, apply.DeleteDeleted)
	remove(ref, b.owner, apply.DeleteGone)

	// A copy of a manifest with our labels is not ours if it was never on record.
	copied := b.request(configMap).Objects[0]
	if err := env.Client().Create(ctx, copied); err != nil {
		t.Fatal(err)
	}
	unknown := ref
	unknown.UID = ""
	remove(unknown, b.owner, apply.DeleteNotOurs)
	if err := env.Client().Delete(ctx, copied); err != nil {
		t.Fatal(err)
	}
	made("")
	remove(unknown, b.owner, apply.DeleteDeleted)

	ref = made(`, annotations: {capstan.dev/prune: disabled}`)
	remove(ref, b.owner, apply.DeleteKept)
	ref = made(`, annotations: {clusterctl.cluster.x-k8s.io/block-move: ""}`)
	remove(ref, b.owner, apply.DeleteBlocked)

	ref = made(`, finalizers: [example.com/wait]`)
	remove(ref, b.owner, apply.DeleteDeleted)
	remove(ref, b.owner, apply.DeleteTerminating)
	b.unlock(b.live(configMap))
	remove(ref, b.owner, apply.DeleteGone)
}

// Absence is the API server's word and nothing else.
func TestGet(t *testing.T) {
	ctx := context.Background()
	b := newBed(t)
	ref := v1alpha1.ObjectReference{Version: "v1", Kind: "ConfigMap", Namespace: b.ns, Name: "c"}
	if _, err := b.apply.Get(ctx, ref); !apply.IsNotFound(err) {
		t.Errorf("absent: %v", err)
	}
	var e *apply.Error
	widget := v1alpha1.ObjectReference{Group: "example.com", Version: "v1", Kind: "Widget", Namespace: b.ns, Name: "w"}
	if _, err := b.apply.Get(ctx, widget); !apply.IsNotFound(err) || !errors.As(err, &e) {
		t.Errorf("no such kind: %v", err)
	}
	b.must(b.request(configMap))
	if u, err := b.apply.Get(ctx, ref); err != nil || field(u, "data", "a") != "one" {
		t.Errorf("%v, %v", u, err)
	}
	// A reference with the namespace that kustomize gives to unknown kinds.
	ns := v1alpha1.ObjectReference{Version: "v1", Kind: "Namespace", Namespace: "whatever", Name: b.ns}
	if u, err := b.apply.Get(ctx, ns); err != nil || u.GetName() != b.ns {
		t.Errorf("cluster-scoped: %v, %v", u, err)
	}
}
