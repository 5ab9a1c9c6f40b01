package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/agent"
	"capstan.dev/capstan/internal/capi"
)

type statusOptions struct {
	watch, allNamespaces bool
	output               string
	interval             time.Duration
}

func newStatusCommand(a *app) *cobra.Command {
	var o statusOptions
	cmd := &cobra.Command{
		Use: "status", Short: "Show the Fleets and their overlays", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.output != "table" && o.output != "json" {
				return fmt.Errorf("--output %q: want table or json", o.output)
			}
			c, _, namespace, err := a.client()
			if err != nil {
				return err
			}
			if o.allNamespaces {
				namespace = ""
			}
			if o.interval <= 0 {
				return fmt.Errorf("--interval %s: must be positive", o.interval)
			}
			if o.watch {
				return a.watchStatus(cmd.Context(), c, namespace, o)
			}
			s, err := readStatus(cmd.Context(), c, namespace)
			if err != nil {
				return err
			}
			if s.warning != "" {
				fmt.Fprintln(a.err, s.warning)
			}
			return a.printStatus(a.out, s, o.output)
		},
	}
	cmd.Flags().BoolVarP(&o.watch, "watch", "w", false, "go on showing until interrupted")
	cmd.Flags().BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "show all namespaces")
	cmd.Flags().StringVarP(&o.output, "output", "o", "table", "table or json")
	cmd.Flags().DurationVar(&o.interval, "interval", time.Second, "how often --watch looks")
	return cmd
}

// fleetStatus is one Fleet as `status -o json` prints it.
type fleetStatus struct {
	Namespace        string                 `json:"namespace"`
	Name             string                 `json:"name"`
	ObservedRevision string                 `json:"observedRevision"`
	Overlays         v1alpha1.OverlayCounts `json:"overlays"`
	Suspended        bool                   `json:"suspended,omitempty"`
	Problem          string                 `json:"problem,omitempty"`
}

// overlayStatus is one overlay as `status -o json` prints it.
type overlayStatus struct {
	Namespace       string                    `json:"namespace"`
	Name            string                    `json:"name"`
	Fleet           string                    `json:"fleet"`
	Path            string                    `json:"path"`
	Cluster         string                    `json:"cluster,omitempty"`
	State           agent.State               `json:"state"`
	Objects         int32                     `json:"objects"`
	ControlPlane    capi.Replicas             `json:"controlPlane,omitzero"`
	Workers         capi.Replicas             `json:"workers,omitzero"`
	DesiredRevision string                    `json:"desiredRevision,omitempty"`
	AppliedRevision string                    `json:"appliedRevision,omitempty"`
	PendingDeletion *v1alpha1.PendingDeletion `json:"pendingDeletion,omitempty"`
	Message         string                    `json:"message,omitempty"`
}

// fleetView is all that status shows.
type fleetView struct {
	Fleets   []fleetStatus   `json:"fleets"`
	Overlays []overlayStatus `json:"overlays"`

	warning string // why machines are not shown; "" if they are
}

// readStatus reads Fleets and overlays; namespace "" stands for all.
func readStatus(ctx context.Context, c client.Client, namespace string) (fleetView, error) {
	view := fleetView{Fleets: []fleetStatus{}, Overlays: []overlayStatus{}}
	var fleets v1alpha1.FleetList
	if err := c.List(ctx, &fleets, client.InNamespace(namespace)); err != nil {
		return view, fmt.Errorf("list Fleets: %w", err)
	}
	var overlays v1alpha1.ClusterOverlayList
	if err := c.List(ctx, &overlays, client.InNamespace(namespace)); err != nil {
		return view, fmt.Errorf("list ClusterOverlays: %w", err)
	}
	for i := range fleets.Items {
		f := &fleets.Items[i]
		view.Fleets = append(view.Fleets, fleetStatus{
			Namespace: f.Namespace, Name: f.Name, ObservedRevision: f.Status.ObservedRevision,
			Overlays: agent.Count(ofFleet(overlays.Items, f)), Suspended: f.Spec.Suspend, Problem: problemOf(f.Status.Conditions),
		})
	}
	machines, err := readMachines(ctx, c, overlays.Items)
	if err != nil {
		view.warning = "warning: machines are not shown: " + err.Error()
	}
	for i := range overlays.Items {
		o := &overlays.Items[i]
		m := machines[ownerOf(o)]
		view.Overlays = append(view.Overlays, overlayStatus{
			Namespace: o.Namespace, Name: o.Name, Fleet: o.Spec.FleetRef.Name, Path: o.Spec.Path,
			Cluster: o.Status.Cluster, State: agent.StateOf(o), Objects: o.Status.Objects,
			ControlPlane: m.controlPlane, Workers: m.workers,
			DesiredRevision: o.Status.DesiredRevision, AppliedRevision: o.Status.AppliedRevision,
			PendingDeletion: o.Status.PendingDeletion, Message: messageOf(o),
		})
	}
	slices.SortFunc(view.Overlays, func(a, b overlayStatus) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Fleet, b.Fleet), cmp.Compare(a.Path, b.Path))
	})
	return view, nil
}

// ofFleet picks the overlays of a Fleet. They are counted here, because the Fleet's
// own counts follow a moment later.
func ofFleet(overlays []v1alpha1.ClusterOverlay, f *v1alpha1.Fleet) []v1alpha1.ClusterOverlay {
	var own []v1alpha1.ClusterOverlay
	for _, o := range overlays {
		if o.Namespace == f.Namespace && o.Spec.FleetRef.Name == f.Name {
			own = append(own, o)
		}
	}
	return own
}

// problemOf returns the message of the first condition that is False.
func problemOf(conditions []metav1.Condition) string {
	for _, c := range conditions {
		if c.Status == metav1.ConditionFalse && c.Type != v1alpha1.PendingDeletionCondition && c.Type != v1alpha1.ReadyCondition {
			return c.Reason + ": " + c.Message
		}
	}
	return ""
}

// messageOf is what a person has to know of an overlay, "" if all is well.
func messageOf(o *v1alpha1.ClusterOverlay) string {
	if problem := problemOf(o.Status.Conditions); problem != "" {
		return problem
	}
	if c := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.PendingDeletionCondition); c != nil && c.Message != "" {
		return c.Reason + ": " + c.Message
	}
	return ""
}

// printStatus prints what status shows.
func (a *app) printStatus(out io.Writer, view fleetView, output string) error {
	if output == "json" {
		return a.printJSON(view)
	}
	table := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "FLEET\tREVISION\tOVERLAYS\tAPPLIED\tFAILED\tPENDING DELETION\tPROBLEM")
	for _, f := range view.Fleets {
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%d\t%s\n", f.Namespace+"/"+f.Name, shortRevision(f.ObservedRevision),
			f.Overlays.Total, f.Overlays.Applied, f.Overlays.Failed, f.Overlays.PendingDeletion, short(cmp.Or(f.Problem, suspendedText(f.Suspended))))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(view.Fleets) == 0 {
		fmt.Fprintln(out, "(no Fleet)")
	}
	fmt.Fprintln(out)
	table = tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "OVERLAY\tCLUSTER\tSTATE\tOBJECTS\tCONTROL PLANE\tWORKERS\tDESIRED\tAPPLIED\tMESSAGE")
	for _, o := range view.Overlays {
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", cell(o.Path), cmp.Or(o.Cluster, "-"), o.State, o.Objects,
			o.ControlPlane, o.Workers, shortRevision(o.DesiredRevision), shortRevision(o.AppliedRevision), short(o.Message))
	}
	return table.Flush()
}

// suspendedText says that a Fleet is suspended, "" if it is not.
func suspendedText(suspended bool) string {
	if suspended {
		return "suspended"
	}
	return ""
}

// shortRevision is main@1234abcd for main@sha1:1234abcd….
func shortRevision(revision string) string {
	ref, hash, ok := strings.Cut(revision, "sha1:")
	if !ok {
		return cmp.Or(revision, "-")
	}
	return ref + hash[:min(8, len(hash))]
}

// cell is a text that can't break a table.
func cell(text string) string {
	return strings.NewReplacer("\n", " ", "\t", " ").Replace(printable(text))
}

// short is as much of a message as a table has room for.
func short(message string) string {
	const room = 120
	if runes := []rune(message); len(runes) > room {
		message = string(runes[:room]) + " …"
	}
	return cell(message)
}

// watchStatus shows the status whenever it changes: on a terminal in place,
// otherwise one below the other.
func (a *app) watchStatus(ctx context.Context, c client.Client, namespace string, o statusOptions) error {
	clear := isTerminal(a.out)
	var last []byte
	var warned string
	ticker := time.NewTicker(o.interval)
	defer ticker.Stop()
	for {
		var page bytes.Buffer
		view, err := readStatus(ctx, c, namespace)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			fmt.Fprintln(&page, "can't read the status: "+err.Error())
		default:
			if o.output == "json" {
				err = (&app{out: &page}).printJSON(view)
			} else {
				err = a.printStatus(&page, view, o.output)
			}
			if err != nil {
				return err
			}
			switch {
			case view.warning == "":
			case clear: // it would be wiped off a terminal
				fmt.Fprintln(&page, "\n"+printable(view.warning))
			case view.warning != warned:
				fmt.Fprintln(a.err, view.warning)
			}
			warned = view.warning
		}
		if !bytes.Equal(page.Bytes(), last) {
			last = slices.Clone(page.Bytes())
			if clear {
				fmt.Fprint(a.out, "\x1b[H\x1b[2J")
			} else {
				fmt.Fprintln(a.out)
			}
			if _, err := a.out.Write(last); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// outcomeOf says in a line how a target stands; ok is false if something is wrong.
func outcomeOf(target client.Object) (line string, ok bool) {
	switch t := target.(type) {
	case *v1alpha1.Fleet:
		if problem := problemOf(t.Status.Conditions); problem != "" {
			return "fleet/" + t.Name + ": " + problem, false
		}
		if t.Spec.Suspend {
			return "fleet/" + t.Name + ": suspended, so Git was not looked at", true
		}
		return "fleet/" + t.Name + ": at " + t.Status.ObservedRevision, true
	case *v1alpha1.ClusterOverlay:
		state := agent.StateOf(t)
		if message := messageOf(t); message != "" {
			return fmt.Sprintf("%s: %s: %s", t.Spec.Path, state, message), state != agent.StateFailed
		}
		return fmt.Sprintf("%s: %s %s", t.Spec.Path, state, t.Status.AppliedRevision), true
	}
	return "", false
}
