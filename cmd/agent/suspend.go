package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
)

// newSuspendCommand returns suspend or, with on false, resume.
func newSuspendCommand(a *app, on bool) *cobra.Command {
	use, short, done := "resume", "Let the agent act again on overlays or a Fleet", "resumed"
	if on {
		use, short, done = "suspend", "Stop every write to the objects of overlays or a Fleet", "suspended"
	}
	return &cobra.Command{
		Use: use + " OVERLAY|PATH|fleet/NAME...", Short: short, Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, namespace, err := a.client()
			if err != nil {
				return err
			}
			targets := make([]client.Object, 0, len(args)) // all of them before anything is changed
			for _, arg := range args {
				target, err := findTarget(cmd.Context(), c, namespace, arg)
				if err != nil {
					return err
				}
				targets = append(targets, target)
			}
			for i, target := range targets {
				base, _ := target.DeepCopyObject().(client.Object)
				switch t := target.(type) {
				case *v1alpha1.Fleet:
					t.Spec.Suspend = on
				case *v1alpha1.ClusterOverlay:
					t.Spec.Suspend = on
				}
				if err := c.Patch(cmd.Context(), target, client.MergeFrom(base)); err != nil {
					return fmt.Errorf("%s %s: %w", use, args[i], err)
				}
				fmt.Fprintf(a.out, "%s %s\n", args[i], done)
			}
			return nil
		},
	}
}
