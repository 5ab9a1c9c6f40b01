package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/inventory"
)

type approveOptions struct {
	yes, deletion, correction bool
	hashes                    []string
}

func newApproveCommand(a *app) *cobra.Command {
	var o approveOptions
	cmd := &cobra.Command{
		Use:   "approve OVERLAY|PATH",
		Short: "Approve the pending deletion, or held corrections, of an overlay",
		Long: `Show what waits for an approval, ask, and approve exactly that: an overlay's pending
deletion, or the corrections that are held because they would replace or remove
machines. If what was shown changes before the agent acts, the approval is void.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, namespace, err := a.client()
			if err != nil {
				return err
			}
			overlay, err := findOverlay(cmd.Context(), c, namespace, args[0])
			if err != nil {
				return err
			}
			corrections, err := o.ofCorrections(overlay)
			switch {
			case err != nil:
				return err
			case corrections:
				return a.approveCorrections(cmd.Context(), c, overlay, o)
			}
			return a.approveDeletion(cmd.Context(), c, overlay, o)
		},
	}
	cmd.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&o.deletion, "deletion", false, "approve the pending deletion, not held corrections")
	cmd.Flags().BoolVar(&o.correction, "correction", false, "approve held corrections, not the pending deletion")
	cmd.Flags().StringSliceVar(&o.hashes, "hash", nil, "approve only what has this hash; of corrections, there may be several")
	cmd.MarkFlagsMutuallyExclusive("deletion", "correction")
	return cmd
}

// ofCorrections tells whether corrections are to be approved, or else the deletion.
func (o approveOptions) ofCorrections(overlay *v1alpha1.ClusterOverlay) (bool, error) {
	if o.deletion || o.correction {
		return o.correction, nil
	}
	pending, held := overlay.Status.PendingDeletion, len(heldCorrections(overlay))
	switch {
	case pending != nil && !pending.Approved && held > 0:
		return false, fmt.Errorf("%s has a pending deletion and %s; say with --deletion or --correction what you mean",
			overlay.Name, counted(held, "held correction"))
	case pending == nil && held == 0:
		return false, fmt.Errorf("%s has no pending deletion and no held correction", overlay.Name)
	}
	return held > 0, nil
}

// approveDeletion shows the pending deletion, asks, and approves it.
func (a *app) approveDeletion(ctx context.Context, c client.Client, overlay *v1alpha1.ClusterOverlay, o approveOptions) error {
	pending := overlay.Status.PendingDeletion
	switch {
	case pending == nil:
		return fmt.Errorf("%s has no pending deletion", overlay.Name)
	case pending.Approved:
		return fmt.Errorf("the deletion of %s is approved already and under way", overlay.Name)
	case len(o.hashes) > 1:
		return fmt.Errorf("%s has one pending deletion, and so one hash", overlay.Name)
	case len(o.hashes) == 1 && o.hashes[0] != pending.Hash:
		return fmt.Errorf("the pending deletion of %s is now %s, not %s; look at it again", overlay.Name, pending.Hash, o.hashes[0])
	}
	a.printPending(overlay)
	if !o.yes && !a.confirm(overlay, "This can't be undone.") {
		return errors.New("not approved; nothing was changed")
	}
	if err := annotate(ctx, c, overlay, v1alpha1.ApproveDeletionAnnotation, pending.Hash); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "approved; follow it with: capstan status -n %s --watch\n", overlay.Namespace)
	return nil
}

func (a *app) printPending(overlay *v1alpha1.ClusterOverlay) {
	pending := overlay.Status.PendingDeletion
	fmt.Fprintln(a.out, printable(fmt.Sprintf("%s (%s): %s", overlay.Spec.Path, pending.Reason, pending.Message)))
	for _, ref := range pending.Objects {
		fmt.Fprintf(a.out, "  %s  uid %s\n", inventory.IDOf(ref), ref.UID)
	}
	fmt.Fprintf(a.out, "hash %s\n", pending.Hash)
}

// confirm says what is at stake, and asks for the word that names it.
func (a *app) confirm(overlay *v1alpha1.ClusterOverlay, stake string) bool {
	word := overlay.Name
	if overlay.Status.Cluster != "" {
		word = overlay.Status.Cluster
	}
	fmt.Fprintf(a.out, "%s Type %s to approve: ", stake, word)
	line, _ := bufio.NewReader(a.in).ReadString('\n')
	return strings.TrimSpace(line) == word
}
