package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
)

// approveCorrections shows held corrections, all or those with the given hashes, asks, and
// approves them.
func (a *app) approveCorrections(ctx context.Context, c client.Client, overlay *v1alpha1.ClusterOverlay, o approveOptions) error {
	held := heldCorrections(overlay)
	chosen, err := withHashes(overlay.Name, held, o.hashes)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.out, "%s: %s to approve\n", oneLine(overlay.Spec.Path), counted(len(chosen), "held correction"))
	now, s := time.Now(), a.style(false)
	for i := range chosen {
		fmt.Fprintln(a.out)
		if err := printDrifted(a.out, s, &chosen[i], now); err != nil {
			return err
		}
	}
	if !o.yes && !a.confirm(overlay, "\nThis may replace or remove machines.") {
		return errors.New("not approved; nothing was changed")
	}
	approved := approvals(overlay.Annotations[v1alpha1.ApproveCorrectionAnnotation], held, chosen)
	if err := annotate(ctx, c, overlay, v1alpha1.ApproveCorrectionAnnotation, approved); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "approved; follow it with: capstan drift -n %s %s --watch\n", overlay.Namespace, overlay.Name)
	return nil
}

// withHashes are the corrections that have one of the hashes, all if there is none.
func withHashes(overlay string, held []v1alpha1.DriftedObject, hashes []string) ([]v1alpha1.DriftedObject, error) {
	if len(held) == 0 {
		return nil, fmt.Errorf("%s has no held correction", overlay)
	}
	if len(hashes) == 0 {
		return held, nil
	}
	all := hashesOf(held)
	for _, hash := range hashes {
		if !slices.Contains(all, hash) {
			return nil, fmt.Errorf("%s has no held correction %q, but %s; look at it again", overlay, hash, strings.Join(all, ", "))
		}
	}
	return slices.DeleteFunc(slices.Clone(held), func(d v1alpha1.DriftedObject) bool { return !slices.Contains(hashes, d.Hash) }), nil
}

// approvals is the value of the annotation: the hashes of what was chosen, and those of
// before that the agent has not come to yet. Approvals of what is not held any more go.
func approvals(before string, held, chosen []v1alpha1.DriftedObject) string {
	approved := hashesOf(chosen)
	for hash := range strings.SplitSeq(before, ",") {
		approved = append(approved, strings.TrimSpace(hash))
	}
	return strings.Join(slices.DeleteFunc(hashesOf(held), func(hash string) bool { return !slices.Contains(approved, hash) }), ",")
}

func hashesOf(list []v1alpha1.DriftedObject) []string {
	var all []string
	for i := range list {
		all = append(all, list[i].Hash)
	}
	return all
}
