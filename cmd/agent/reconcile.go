package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
)

const fleetPrefix = "fleet/"

func newReconcileCommand(a *app) *cobra.Command {
	var timeout time.Duration
	var async bool
	cmd := &cobra.Command{
		Use:   "reconcile [OVERLAY|PATH|fleet/NAME]...",
		Short: "Look at Git now, or compare an overlay with the cluster in full",
		Long: `With no argument, or with fleet/NAME, look at the Git repository now instead of at
the next interval. With an overlay, read every object of it again and restore what
is missing or changed.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, namespace, err := a.client()
			if err != nil {
				return err
			}
			targets, err := reconcileTargets(cmd.Context(), c, namespace, args)
			if err != nil {
				return err
			}
			request := time.Now().UTC().Format(time.RFC3339Nano)
			for _, target := range targets {
				if err := annotate(cmd.Context(), c, target, v1alpha1.RequestedAtAnnotation, request); err != nil {
					return err
				}
			}
			if async {
				return nil
			}
			return a.awaitRequests(cmd.Context(), c, targets, request, timeout)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait for the agent")
	cmd.Flags().BoolVar(&async, "async", false, "do not wait")
	return cmd
}

// reconcileTargets finds what the arguments name: all Fleets if there are none.
func reconcileTargets(ctx context.Context, c client.Client, namespace string, args []string) ([]client.Object, error) {
	var targets []client.Object
	for _, arg := range args {
		target, err := findTarget(ctx, c, namespace, arg)
		if err != nil {
			return nil, err
		}
		if overlay, ok := target.(*v1alpha1.ClusterOverlay); ok {
			// Without its Fleet nobody would answer.
			if _, err := findFleet(ctx, c, namespace, overlay.Spec.FleetRef.Name); err != nil {
				return nil, fmt.Errorf("%s: %w", arg, err)
			}
		}
		targets = append(targets, target)
	}
	if len(args) > 0 {
		return targets, nil
	}
	var fleets v1alpha1.FleetList
	if err := c.List(ctx, &fleets, client.InNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("list the Fleets in namespace %s: %w", namespace, err)
	}
	for i := range fleets.Items {
		targets = append(targets, &fleets.Items[i])
	}
	if len(targets) == 0 {
		return nil, fmt.Errorf("no Fleet in namespace %s", namespace)
	}
	return targets, nil
}

// findTarget returns the Fleet or overlay that an argument names.
func findTarget(ctx context.Context, c client.Client, namespace, arg string) (client.Object, error) {
	if name, ok := strings.CutPrefix(arg, fleetPrefix); ok {
		if name == "" { // stands for the only one elsewhere
			return nil, fmt.Errorf("%q: want fleet/NAME", arg)
		}
		return findFleet(ctx, c, namespace, name)
	}
	return findOverlay(ctx, c, namespace, arg)
}

// annotate sets an annotation.
func annotate(ctx context.Context, c client.Client, target client.Object, key, value string) error {
	base, ok := target.DeepCopyObject().(client.Object)
	if !ok {
		return errors.New("not an object")
	}
	annotations := target.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[key] = value
	target.SetAnnotations(annotations)
	if err := c.Patch(ctx, target, client.MergeFrom(base)); err != nil {
		return fmt.Errorf("annotate %s: %w", target.GetName(), err)
	}
	return nil
}

// awaitRequests waits until the agent has handled the requests, and says how each
// came out.
func (a *app) awaitRequests(ctx context.Context, c client.Client, targets []client.Object, request string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	failed := false
	for _, target := range targets {
		err := wait.PollUntilContextCancel(ctx, 250*time.Millisecond, true, func(ctx context.Context) (bool, error) {
			if err := c.Get(ctx, client.ObjectKeyFromObject(target), target); err != nil {
				return false, err
			}
			asked, handled := target.GetAnnotations()[v1alpha1.RequestedAtAnnotation], handledRequest(target)
			return handled == request || asked != "" && handled == asked, nil // somebody may have asked after us
		})
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("%s: the agent has not answered within %s; is it running?", target.GetName(), timeout)
		}
		if err != nil {
			return fmt.Errorf("wait for %s: %w", target.GetName(), err)
		}
		line, ok := outcomeOf(target)
		failed = failed || !ok
		fmt.Fprintln(a.out, printable(line))
	}
	if failed {
		return exitCode(exitFailure)
	}
	return nil
}

func handledRequest(target client.Object) string {
	switch t := target.(type) {
	case *v1alpha1.Fleet:
		return t.Status.LastHandledRequest
	case *v1alpha1.ClusterOverlay:
		return t.Status.LastHandledRequest
	}
	return ""
}
