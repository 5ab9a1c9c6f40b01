package main

import (
	"bufio"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/inventory"
)

func newApproveCommand(a *app) *cobra.Command {
	var yes bool
	var hash string
	cmd := &cobra.Command{
		Use:   "approve OVERLAY|PATH",
		Short: "Approve the pending deletion of an overlay",
		Long: `Show what an overlay's pending deletion would delete, ask, and approve exactly that
set of objects. If the set changes before the agent acts, the approval is void.`,
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
			pending := overlay.Status.PendingDeletion
			switch {
			case pending == nil:
				return fmt.Errorf("%s has no pending deletion", overlay.Name)
			case pending.Approved:
				return fmt.Errorf("the deletion of %s is approved already and under way", overlay.Name)
			case hash != "" && hash != pending.Hash:
				return fmt.Errorf("the pending deletion of %s is now %s, not %s; look at it again", overlay.Name, pending.Hash, hash)
			}
			a.printPending(overlay)
			if !yes && !a.confirm(overlay) {
				return fmt.Errorf("not approved; nothing was changed")
			}
			if err := annotate(cmd.Context(), c, overlay, v1alpha1.ApproveDeletionAnnotation, pending.Hash); err != nil {
				return err
			}
			fmt.Fprintf(a.out, "approved; follow it with: capstan status -n %s --watch\n", namespace)
			return nil
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().StringVar(&hash, "hash", "", "approve only if the pending deletion has this hash")
	return cmd
}

func (a *app) printPending(overlay *v1alpha1.ClusterOverlay) {
	pending := overlay.Status.PendingDeletion
	fmt.Fprintln(a.out, printable(fmt.Sprintf("%s (%s): %s", overlay.Spec.Path, pending.Reason, pending.Message)))
	for _, ref := range pending.Objects {
		fmt.Fprintf(a.out, "  %s  uid %s\n", inventory.IDOf(ref), ref.UID)
	}
	fmt.Fprintf(a.out, "hash %s\n", pending.Hash)
}

// confirm asks for the word that names what is lost.
func (a *app) confirm(overlay *v1alpha1.ClusterOverlay) bool {
	word := overlay.Name
	if overlay.Status.Cluster != "" {
		word = overlay.Status.Cluster
	}
	fmt.Fprintf(a.out, "This can't be undone. Type %s to approve: ", word)
	line, _ := bufio.NewReader(a.in).ReadString('\n')
	return strings.TrimSpace(line) == word
}
