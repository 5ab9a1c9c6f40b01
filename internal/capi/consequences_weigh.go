package capi

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
)

// Sentences that several weighs say.
const (
	sameToControllers = "means the same"
	addsMachines      = "adds {machines}"
	removesMachines   = "removes {machines}"
)

// valuesOf writes what a field was and becomes, of versions, names and numbers.
func valuesOf(from, to any) string {
	return " " + valueText(from) + " -> " + valueText(to)
}

func valueText(value any) string {
	switch v := plainNumber(value).(type) {
	case nil:
		return "(none)"
	case string:
		return clip(v)
	case int64, bool:
		return clip(fmt.Sprint(v))
	}
	return "(a list or map)"
}

// replicas reads a number of replicas.
func replicas(value any) (n int32, known bool) {
	v, ok := plainNumber(value).(int64)
	if !ok || v < 0 || v > math.MaxInt32 {
		return 0, false
	}
	return int32(v), true
}

// prefix returns the first elements of a JSON pointer.
func prefix(pointer string, elements int) string {
	end := 0
	for ; elements > 0 && end < len(pointer); elements-- {
		next := strings.IndexByte(pointer[end+1:], '/')
		if next < 0 {
			return pointer
		}
		end += 1 + next
	}
	return pointer[:end]
}

// weighScale says what another number of replicas does. A field that is gone is what
// defaulting makes of it: 1, or what the autoscaler's range has.
func weighScale(e *edit, c change, r *consequenceRule) []outcome {
	from, known := replicas(c.from)
	if c.from == nil {
		from, known = 1, true
	}
	to, readable := replicas(c.to)
	if c.to == nil {
		to, readable = e.defaultReplicas(from), true
	}
	o := e.says(c, r, ConsequenceNone, sameToControllers)
	if c.to == nil {
		o.detail += ", which becomes " + strconv.Itoa(int(to))
	}
	switch {
	case !known || !readable:
		// What isn't a number can't be counted; it may be fewer.
		o.kind, o.says = ConsequenceScaleDown, "may remove machines"
	case to > from:
		o.kind, o.says, o.machines = ConsequenceScaleUp, addsMachines, to-from
	case to < from:
		o.kind, o.says, o.machines = ConsequenceScaleDown, removesMachines, from-to
	}
	return []outcome{o}
}

// defaultReplicas is what replicas that aren't given become (cluster-api v1.14
// core/webhooks/admission/machinedeployment.go, calculateMachineDeploymentReplicas;
// machinepool.go and machineset.go do the same).
func (e *edit) defaultReplicas(from int32) int32 {
	if !IsMachineOwner(e.after.GroupVersionKind().GroupKind()) {
		return 1
	}
	annotations := e.after.GetAnnotations()
	least, err1 := strconv.ParseInt(annotations[clusterv1.AutoscalerMinSizeAnnotation], 10, 32)
	most, err2 := strconv.ParseInt(annotations[clusterv1.AutoscalerMaxSizeAnnotation], 10, 32)
	if err1 != nil || err2 != nil {
		return 1
	}
	return max(min(from, int32(most)), int32(least))
}

// weighKubeadmScale adds what the webhook of KubeadmControlPlane refuses.
func weighKubeadmScale(e *edit, c change, r *consequenceRule) []outcome {
	to, known := replicas(c.to)
	external := firstAt(e.after, "/spec/kubeadmConfigSpec/clusterConfiguration/etcd/external") != nil
	if c.to != nil && known && (to == 0 || to%2 == 0 && !external) {
		return []outcome{e.says(c, r, ConsequenceRejected, "is refused: replicas must be positive, and odd unless etcd is external")}
	}
	return weighScale(e, c, r)
}

// weighTalosScale adds that a control plane of Talos never becomes empty.
func weighTalosScale(e *edit, c change, r *consequenceRule) []outcome {
	outcomes := weighScale(e, c, r)
	if to, known := replicas(c.to); known && to == 0 {
		if o := &outcomes[0]; o.machines > 1 {
			o.machines--
		} else {
			outcomes = nil
		}
		outcomes = append(outcomes, e.says(c, r, ConsequenceUnsafe, "is never reached: the last machine of a control plane of Talos is not removed"))
	}
	return outcomes
}

// weighReference tells whether a reference names another object: the version of its
// API, which Cluster API updates itself, does not count, nor do a namespace, which
// can only be the object's own, and what is left of a core reference.
func weighReference(e *edit, c change, r *consequenceRule) []outcome {
	_, _, detail, same := e.refs(c, r)
	if same {
		return []outcome{e.says(c, r, ConsequenceNone, "names the same object")}
	}
	o := e.says(c, r, r.kinds[0], r.says)
	o.detail = detail
	return e.held(o)
}

// refs reads the reference that a change is in.
func (e *edit) refs(c change, r *consequenceRule) (from, to map[string]any, detail string, same bool) {
	root := c.field
	for _, pattern := range r.fields {
		if Covers(pattern, c.field) {
			root = prefix(c.field, strings.Count(pattern, "/"))
		}
	}
	from, _ = at(e.before, root).(map[string]any)
	to, _ = at(e.after, root).(map[string]any)
	same = text(from, "kind") == text(to, "kind") && text(from, "name") == text(to, "name") && groupOf(from) == groupOf(to)
	name := func(ref map[string]any) string {
		if text(ref, "name") == "" {
			return "(none)"
		}
		return clip(text(ref, "kind") + " " + text(ref, "name"))
	}
	return from, to, dotted(root) + " " + name(from) + " -> " + name(to), same
}

// weighClusterReference is about what a Cluster is made of.
func weighClusterReference(e *edit, c change, r *consequenceRule) []outcome {
	from, to, detail, same := e.refs(c, r)
	o := e.says(c, r, ConsequenceUnsafe, "leaves what is there running and starts another one from nothing")
	o.detail = detail
	switch {
	case same:
		o.kind, o.says, o.detail = ConsequenceNone, "names the same object", dotted(c.field)
	case text(to, "name") == "":
		o.kind, o.says = ConsequenceRejected, "is refused: a reference can't be removed"
	case text(from, "name") == "":
		o.kind, o.says = ConsequenceInPlace, "becomes part of the cluster"
	}
	return []outcome{o}
}

// weighNetwork: the subnets of a cluster are read when the configuration of a machine
// is made, so they must not change afterwards.
func weighNetwork(e *edit, c change, r *consequenceRule) []outcome {
	if !initialized(e) {
		return []outcome{e.says(c, r, ConsequenceLatent, "applies to the machines, of which there are none yet")}
	}
	return []outcome{e.says(c, r, ConsequenceUnsafe, r.says)}
}

// initialized tells whether a Cluster has a control plane, which is so unless it
// says the opposite.
func initialized(e *edit) bool {
	if e.before.Object["status"] == nil {
		return true
	}
	if done, _ := at(e.before, "/status/initialization/controlPlaneInitialized").(bool); done {
		return true
	}
	if ready, _ := at(e.before, "/status/controlPlaneReady").(bool); ready {
		return true
	}
	const kind = clusterv1.ClusterControlPlaneInitializedCondition // of both styles
	return conditionOf(e.before, kind).True() || oldCondition(e.before, kind).True()
}

// weighEndpoint: it is filled in once, and then in every certificate and kubeconfig.
func weighEndpoint(e *edit, c change, r *consequenceRule) []outcome {
	if empty(c.from) || empty(c.to) {
		return []outcome{e.says(c, r, ConsequenceInPlace, "is filled in from the infrastructure where it is empty")}
	}
	return []outcome{e.says(c, r, ConsequenceUnsafe, r.says)}
}

func empty(value any) bool {
	value = plainNumber(value)
	return value == nil || value == "" || value == int64(0)
}

// weighWorkerVersion: the webhooks add a missing v.
func weighWorkerVersion(e *edit, c change, r *consequenceRule) []outcome {
	if sameVersion(c) {
		return []outcome{e.says(c, r, ConsequenceNone, sameToControllers)}
	}
	return e.held(e.says(c, r, r.kinds[0], r.says))
}

func sameVersion(c change) bool {
	from, _ := c.from.(string)
	to, _ := c.to.(string)
	return strings.TrimPrefix(from, "v") == strings.TrimPrefix(to, "v")
}

// weighKubeadmVersion: the webhook adds a missing v and refuses to skip a minor
// version, but not to go back.
func weighKubeadmVersion(e *edit, c change, r *consequenceRule) []outcome {
	from, to := parseVersion(c.from), parseVersion(c.to)
	switch {
	case sameVersion(c):
		return []outcome{e.says(c, r, ConsequenceNone, sameToControllers)}
	case from != nil && to != nil && (to.Major() > from.Major() || to.Major() == from.Major() && to.Minor() >= from.Minor()+2):
		return []outcome{e.says(c, r, ConsequenceRejected, "is refused: minor versions can't be skipped")}
	}
	return e.rolls(c, r, from, to)
}

// weighTalosVersion: nobody checks the version, and a missing v is another version.
func weighTalosVersion(e *edit, c change, r *consequenceRule) []outcome {
	from, to := parseVersion(c.from), parseVersion(c.to)
	outcomes := e.rolls(c, r, from, to)
	if from != nil && to != nil && to.Major() == from.Major() && to.Minor() >= from.Minor()+2 {
		outcomes = append(outcomes, e.says(c, r, ConsequenceUnsafe, "skips a minor version, which Kubernetes does not support"))
	}
	return outcomes
}

// weighTopologyVersion: the webhook refuses to go back. To skip a minor version is
// refused too, unless the ClusterClass lists versions: then it is done in steps.
func weighTopologyVersion(e *edit, c change, r *consequenceRule) []outcome {
	from, to := parseVersion(c.from), parseVersion(c.to)
	_, unsafe := e.after.GetAnnotations()[clusterv1.ClusterTopologyUnsafeUpdateVersionAnnotation]
	switch {
	case sameVersion(c):
		return []outcome{e.says(c, r, ConsequenceNone, sameToControllers)}
	case from != nil && to != nil && to.LessThan(from) && !unsafe:
		return []outcome{e.says(c, r, ConsequenceRejected, "is refused: the version of a topology can't go back")}
	}
	return []outcome{e.says(c, r, r.kinds[0], r.says)}
}

// rolls adds to the replacement that a version goes back.
func (e *edit) rolls(c change, r *consequenceRule, from, to *version.Version) []outcome {
	outcomes := e.held(e.says(c, r, ConsequenceControlPlaneRollout, r.says))
	if from != nil && to != nil && to.Major() == from.Major() && to.Minor() < from.Minor() {
		outcomes = append(outcomes, e.says(c, r, ConsequenceUnsafe, "goes back a minor version, which Kubernetes does not support for control planes"))
	}
	return outcomes
}

// parseVersion returns nil if it isn't one.
func parseVersion(value any) *version.Version {
	s, _ := value.(string)
	v, err := version.ParseSemantic(s)
	if err != nil {
		return nil
	}
	return v
}

// weighAfter: machines older than that time are replaced once it has passed. When it
// is taken away, or set to an earlier time, nothing is, unless it had not passed.
func weighAfter(e *edit, c change, r *consequenceRule) []outcome {
	if c.to == nil {
		return []outcome{e.says(c, r, ConsequenceInPlace, "no machine has to be younger than that any more")}
	}
	return e.held(e.says(c, r, r.kinds[0], r.says))
}

// weighExpiry: machines are replaced so many days before their certificates expire.
func weighExpiry(e *edit, c change, r *consequenceRule) []outcome {
	from, to := plainNumber(c.from), plainNumber(c.to)
	was, _ := from.(int64)
	if is, _ := to.(int64); is <= was {
		return []outcome{e.says(c, r, ConsequenceInPlace, "machines are replaced later, before their certificates expire")}
	}
	o := e.says(c, r, r.kinds[0], r.says)
	o.machines = 0 // whose certificates are that old is not known
	return []outcome{o}
}

// weighStrategy: with OnDelete, machines that are outdated may be left; they are
// replaced when the strategy becomes another.
func weighStrategy(e *edit, c change, r *consequenceRule) []outcome {
	if c.from != "OnDelete" {
		return []outcome{e.says(c, r, ConsequenceInPlace, "decides how machines are replaced next time")}
	}
	outdated, known := int32(0), false
	if all, ok := replicas(firstAt(e.before, "/status/replicas")); ok {
		if updated, ok := replicas(firstAt(e.before, "/status/upToDateReplicas", "/status/updatedReplicas")); ok {
			outdated, known = max(all-updated, 0), true
		}
	}
	if known && outdated == 0 && !IsControlPlane(e.before.GroupVersionKind().GroupKind()) {
		return []outcome{e.says(c, r, ConsequenceInPlace, "decides how machines are replaced next time")}
	}
	o := e.says(c, r, r.kinds[0], r.says)
	o.machines = outdated
	return []outcome{o}
}

// weighTalosSurge: a single machine can't be replaced without another one.
func weighTalosSurge(e *edit, c change, r *consequenceRule) []outcome {
	wanted, known := replicas(at(e.after, "/spec/replicas"))
	if surge := plainNumber(c.to); (surge == int64(0) || surge == "0") && (!known || wanted <= 1) {
		return []outcome{e.says(c, r, ConsequenceUnsafe, "no rollout comes to an end: a single machine is never removed first")}
	}
	return []outcome{e.says(c, r, ConsequenceInPlace, "decides how machines are replaced next time")}
}

// weighTalosConfig: the configuration is compared as it is written. An empty list gets
// lost when a machine's TalosConfig is made, so that the two are never equal.
func weighTalosConfig(e *edit, c change, r *consequenceRule) []outcome {
	hollow := func(value any) bool { list, ok := value.([]any); return ok && len(list) == 0 }
	if hollow(c.from) && c.to == nil {
		return []outcome{e.says(c, r, ConsequenceNone, "ends a rollout without end: the empty list never got to the machines")}
	}
	outcomes := e.held(e.says(c, r, ConsequenceControlPlaneRollout, r.says))
	if hollow(c.to) {
		outcomes = append(outcomes, e.says(c, r, ConsequenceUnsafe, "is never up to date: the empty list does not get to the machines, which are replaced again and again"))
	}
	return outcomes
}

// weighKubeadmConfig: what kubeadm would read the same replaces nothing (cluster-api
// v1.14 controlplane/kubeadm/pkg/filters.go, dropOmittableFields;
// bootstrap/kubeadm/webhooks/admission/kubeadmconfigtemplate.go,
// ApplyPreviousKubeadmConfigDefaults).
func weighKubeadmConfig(e *edit, c change, r *consequenceRule) []outcome {
	if sameToKubeadm(c) {
		return []outcome{e.says(c, r, ConsequenceNone, sameToControllers)}
	}
	return []outcome{e.says(c, r, ConsequenceControlPlaneRollout, r.says)}
}

func sameToKubeadm(c change) bool {
	if strings.HasSuffix(c.field, "/nodeRegistration/taints") {
		return false // none asks for kubeadm's, an empty list for no taint
	}
	if none(c.from) && none(c.to) {
		return true
	}
	defaults := map[string]string{
		"/spec/kubeadmConfigSpec/format":                                             "cloud-config",
		"/spec/kubeadmConfigSpec/initConfiguration/nodeRegistration/imagePullPolicy": "IfNotPresent",
		"/spec/kubeadmConfigSpec/joinConfiguration/nodeRegistration/imagePullPolicy": "IfNotPresent",
	}
	usual, has := defaults[c.field]
	isUsual := func(value any) bool { return none(value) || value == usual }
	return has && isUsual(c.from) && isUsual(c.to)
}

// none tells whether a value is as good as absent.
func none(value any) bool {
	list, isList := value.([]any)
	return value == nil || value == "" || isList && len(list) == 0
}

// weighKubeadmInit: only the machine that was there first was made with it, and only
// if it differs from what joining machines get is that machine compared with it.
func weighKubeadmInit(e *edit, c change, r *consequenceRule) []outcome {
	outcomes := weighKubeadmConfig(e, c, r)
	for i := range outcomes {
		outcomes[i].machines = min(outcomes[i].machines, 1)
	}
	return outcomes
}

// weighKubeadmEtcd: etcd can't move into the control plane or out of it.
func weighKubeadmEtcd(e *edit, c change, r *consequenceRule) []outcome {
	const field = "/spec/kubeadmConfigSpec/clusterConfiguration/etcd/external"
	if (at(e.before, field) == nil) != (at(e.after, field) == nil) {
		return []outcome{e.says(c, r, ConsequenceRejected, "is refused: etcd can't become external, nor cease to be")}
	}
	return weighKubeadmConfig(e, c, r)
}

// weighPool: workers of a topology that come and go.
func weighPool(e *edit, c change, r *consequenceRule) []outcome {
	n, known := replicas(c.element["replicas"])
	if !known {
		n = 1
	}
	o := e.says(c, r, ConsequenceScaleUp, addsMachines)
	switch {
	case c.field != o.pool:
		return []outcome{e.says(c, r, ConsequenceRollout, r.says)}
	case c.to == nil:
		o.kind, o.says = ConsequenceScaleDown, removesMachines
	}
	o.machines, o.detail = n, dotted(prefix(c.field, 4))+" "+clip(text(c.element, "name"))
	return []outcome{o}
}

// weighStrategyOfSet: a default that was never written may be.
func weighStrategyOfSet(e *edit, c change, r *consequenceRule) []outcome {
	if empty(c.from) {
		return []outcome{e.says(c, r, ConsequenceNone, "is the default")}
	}
	return []outcome{e.says(c, r, ConsequenceRejected, r.says)}
}

// weighTemplate: controllers clone a template and don't look at it again, except those
// of a ClusterClass, which replace the machines of all its Clusters.
func weighTemplate(e *edit, c change, r *consequenceRule) []outcome {
	if ofClass(e) {
		return []outcome{e.says(c, r, ConsequenceControlPlaneRollout, "may replace machines of every Cluster of its ClusterClass")}
	}
	return []outcome{e.says(c, r, r.kinds[0], r.says)}
}

func ofClass(e *edit) bool {
	return slices.ContainsFunc(e.before.GetOwnerReferences(), func(o metav1.OwnerReference) bool {
		return o.Kind == "ClusterClass"
	})
}
