package capi

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capstan.dev/capstan/internal/object"
)

// rolled is what a rollout follows from: a MachineDeployment replaces the Machines of
// every MachineSet whose template differs in it, and of no other (cluster-api v1.14
// core/reconcilers/machinedeployment/mdutil MachineTemplateUpToDate).
type rolled struct {
	version, dataSecret, failureDomain string
	bootstrap, infrastructure          object.ID
}

// rolledOf reads it from spec.template of either version; the version of a reference's
// kind is no part of it.
func rolledOf(u *unstructured.Unstructured) rolled {
	r := rolled{
		version:       nested(u, "spec", "template", "spec", "version"),
		dataSecret:    nested(u, "spec", "template", "spec", "bootstrap", "dataSecretName"),
		failureDomain: nested(u, "spec", "template", "spec", "failureDomain"),
	}
	r.bootstrap, _ = reference(u, "spec", "template", "spec", "bootstrap", "configRef")
	r.infrastructure, _ = reference(u, "spec", "template", "spec", "infrastructureRef")
	return r
}

// differs names the first difference.
func (r rolled) differs(want rolled) string {
	switch {
	case r.version != want.version:
		return fmt.Sprintf("version %s instead of %s", cmp.Or(r.version, "unknown"), cmp.Or(want.version, "unknown"))
	case r.infrastructure != want.infrastructure:
		return fmt.Sprintf("%s %s instead of %s", r.infrastructure.Kind, r.infrastructure.Name, want.infrastructure.Name)
	case r.bootstrap != want.bootstrap:
		return fmt.Sprintf("%s %s instead of %s", r.bootstrap.Kind, r.bootstrap.Name, want.bootstrap.Name)
	case r.dataSecret != want.dataSecret:
		return "another bootstrap Secret"
	case r.failureDomain != want.failureDomain:
		return fmt.Sprintf("failure domain %s instead of %s", cmp.Or(r.failureDomain, "unset"), cmp.Or(want.failureDomain, "unset"))
	}
	return ""
}

// rolloutAfter is the time of a scheduled rollout, in either version; zero if there is none.
func rolloutAfter(u *unstructured.Unstructured) time.Time {
	at, _ := time.Parse(time.RFC3339, cmp.Or(nested(u, "spec", "rollout", "after"), nested(u, "spec", "rolloutAfter")))
	return at
}

// setOutdated says why Machines of a MachineSet aren't as their MachineDeployment declares.
func setOutdated(set, deployment *unstructured.Unstructured, now time.Time) string {
	if why := rolledOf(set).differs(rolledOf(deployment)); why != "" {
		return why
	}
	created := set.GetCreationTimestamp().Time
	if after := rolloutAfter(deployment); !after.IsZero() && !now.Before(after) && created.Before(after) {
		return "older than spec.rollout.after"
	}
	return ""
}

// outdatedWorker says why a Machine of a MachineDeployment isn't as declared.
func (m *machine) outdatedWorker(deployment *unstructured.Unstructured, now time.Time) string {
	if why := setOutdated(m.set, deployment, now); why != "" {
		return why
	}
	return otherVersion(m.u, nested(deployment, "spec", "template", "spec", "version"))
}

func judgeMachineDeployment(o *overlay, u *unstructured.Unstructured, v *verdict) {
	id := object.IDOf(u)
	want := replicasOf(u)
	v.observed(u)
	done := v.machines(o, id, want)
	onDelete := nested(u, "spec", "rollout", "strategy", "type") == "OnDelete" || nested(u, "spec", "strategy", "type") == "OnDelete"
	o.machineSets(u, v, want)
	if !done && !onDelete {
		o.blocked(u, v)
	}
	v.onDelete(o, id, want, onDelete)
	if after := rolloutAfter(u); after.After(o.Now) && (o.until.IsZero() || after.Before(o.until)) {
		o.until = after
	}

	// All of it is the sum of its MachineSets, which have been judged.
	before := len(v.findings)
	counters := [][]string{
		{"status", "replicas"}, {"status", "readyReplicas"}, {"status", "availableReplicas"}, {"status", "upToDateReplicas"},
	}
	if u.GroupVersionKind().Version == "v1beta1" {
		counters[3] = []string{"status", "updatedReplicas"}
		v.replicas(u, 0, []string{"status", "unavailableReplicas"})
	}
	v.replicas(u, want, counters...)
	v.mayBe(derived, u, clusterv1.AvailableCondition)
	v.mustNot(u, clusterv1.MachineDeploymentRollingOutCondition, clusterv1.ScalingUpCondition, clusterv1.ScalingDownCondition,
		clusterv1.RemediatingCondition)
	v.notFalse(derived, u, clusterv1.MachinesUpToDateCondition, clusterv1.MachinesReadyCondition)
	if newStyle(u) { // else its Machines don't say whether they are available, see isReady
		v.sums(before)
	}
	v.mustNot(u, clusterv1.DeletingCondition)
	if paused, _, _ := unstructured.NestedBool(u.Object, "spec", "paused"); paused && len(v.findings) > 0 {
		v.softened(selfPaused)
	}
}

// setsOf are the MachineSets of a MachineDeployment.
func (o *overlay) setsOf(deployment *unstructured.Unstructured) []*unstructured.Unstructured {
	var out []*unstructured.Unstructured
	for _, set := range o.sets {
		r := metav1.GetControllerOf(set)
		if set.GetNamespace() == deployment.GetNamespace() && r != nil && r.Kind == "MachineDeployment" && r.Name == deployment.GetName() {
			out = append(out, set)
		}
	}
	return out
}

// machineSets: those that are as declared have all the replicas, and no other has any. It
// is what tells when Machines aren't seen yet that have been decided on.
func (o *overlay) machineSets(deployment *unstructured.Unstructured, v *verdict, want int64) {
	var have int64
	for _, set := range o.setsOf(deployment) {
		n := replicasOf(set)
		current := setOutdated(set, deployment, o.Now) == ""
		switch {
		case set.GetDeletionTimestamp() != nil:
		case current:
			have += n
		case n > 0:
			v.add(derived, "MachineSet %s is outdated and has %d replicas", set.GetName(), n)
		}
		judgeSet(set, v)
	}
	if have != want {
		v.add(derived, "its MachineSet has %d of %d replicas", have, want)
	}
}

// judgeSet judges a MachineSet that isn't declared, for the sake of what it belongs to.
func judgeSet(set *unstructured.Unstructured, v *verdict) {
	if set.GetDeletionTimestamp() != nil {
		if left, _ := count(set, "status", "replicas"); left > 0 {
			v.add(derived, "MachineSet %s is being deleted and has %d machines", set.GetName(), left)
		}
		return
	}
	inner := &verdict{}
	judgeCounters(set, inner, replicasOf(set))
	for _, f := range inner.findings {
		f.weight, f.text = derived, fmt.Sprintf("MachineSet %s: %s", set.GetName(), f.text)
		v.findings = append(v.findings, f)
	}
}

// judgeCounters: a MachineSet's controller has seen its specification and counts as many.
func judgeCounters(set *unstructured.Unstructured, v *verdict, want int64) {
	v.observed(set)
	counters := [][]string{{"status", "replicas"}, {"status", "readyReplicas"}, {"status", "availableReplicas"}}
	if set.GroupVersionKind().Version != "v1beta1" && metav1.GetControllerOf(set) != nil {
		counters = append(counters, []string{"status", "upToDateReplicas"})
	}
	before := len(v.findings)
	v.replicas(set, want, counters...)
	if newStyle(set) {
		v.sums(before)
	}
}

func judgeMachineSet(o *overlay, u *unstructured.Unstructured, v *verdict) {
	want := replicasOf(u)
	if !v.machines(o, object.IDOf(u), want) {
		o.quoteHold(u, u, v)
	}
	judgeCounters(u, v, want)
	v.mustNot(u, clusterv1.ScalingUpCondition, clusterv1.ScalingDownCondition, clusterv1.RemediatingCondition, clusterv1.DeletingCondition)
}

// blocked quotes what keeps a MachineDeployment from making Machines.
func (o *overlay) blocked(deployment *unstructured.Unstructured, v *verdict) {
	before := len(v.findings)
	current := false
	for _, set := range o.setsOf(deployment) {
		if setOutdated(set, deployment, o.Now) == "" {
			current = true
			o.quoteHold(set, deployment, v)
		}
	}
	if len(v.findings) > before {
		return
	}
	// Without a MachineSet for the present template, the words "would be blocked" of the
	// condition mean that it can't be made.
	if c := conditionOf(deployment, clusterv1.ScalingUpCondition); c != nil && (c.True() || !current) {
		o.quoteMissing(c, deployment, v)
	}
}

// quoteHold quotes what keeps a MachineSet from making Machines.
func (o *overlay) quoteHold(set, templates *unstructured.Unstructured, v *verdict) {
	c := conditionOf(set, clusterv1.ScalingUpCondition)
	if !c.True() || o.quoteMissing(c, templates, v) {
		return
	}
	if _, why, is := strings.Cut(c.message, "blocked because:"); is {
		v.add(own, "no machine is made yet: %s", plain(why))
	}
}

// quoteMissing finds in a condition that a template doesn't exist: nothing goes on until it
// does. It is old news if the template is declared, as it is applied before.
func (o *overlay) quoteMissing(c *condition, u *unstructured.Unstructured, v *verdict) bool {
	if !strings.Contains(c.message, "not exist") {
		return false
	}
	r := rolledOf(u)
	for _, id := range []object.ID{r.infrastructure, r.bootstrap} {
		if id.Kind == "" || !strings.Contains(c.message, id.Kind) {
			continue
		}
		if o.templateDeclared(id) {
			v.add(own, "waits for its controller to see %s %s", id.Kind, id.Name)
		} else {
			v.add(stuck, "%s %s does not exist", id.Kind, id.Name)
		}
	}
	return true
}

// machines: as many Machines as declared are done, and there is no other. It tells whether
// that is so.
func (v *verdict) machines(o *overlay, id object.ID, want int64) bool {
	var done, others int64
	owned := o.ownedBy(id)
	for _, m := range owned {
		if m.Done() {
			done++
		} else {
			others++
		}
	}
	for _, m := range owned {
		if m.paused() {
			v.add(person, "Machine %s is paused", m.Name)
		}
	}
	if done == want && others == 0 {
		return true
	}
	blocked := own
	for _, m := range owned {
		if m.Blocked {
			blocked = stuck
		}
	}
	text := fmt.Sprintf("%d of %d machines", done, want)
	if int64(len(owned)) > want {
		text += fmt.Sprintf(", %d to go", int64(len(owned))-want)
	}
	v.findings = append(v.findings, finding{weight: blocked, machines: true, text: join(": ", text, waiting(owned))})
	return false
}

// onDelete: all machines are there and well, some are outdated, and it is for a person to
// delete them.
func (v *verdict) onDelete(o *overlay, id object.ID, want int64, strategy bool) {
	if !strategy {
		return
	}
	var outdated int64
	owned := o.ownedBy(id)
	for _, m := range owned {
		if !m.Ready || m.Leaving {
			return
		}
		if !m.UpToDate {
			outdated++
		}
	}
	if outdated == 0 || int64(len(owned)) != want {
		return
	}
	for i := range v.findings {
		if v.findings[i].machines {
			v.findings[i].weight = derived
		}
	}
	verb, object := "are", "them"
	if outdated == 1 {
		verb, object = "is", "it"
	}
	v.add(person, "%d of %d machines %s outdated and stay%s until somebody deletes %s: strategy OnDelete",
		outdated, want, verb, map[bool]string{true: "s"}[outdated == 1], object)
}
