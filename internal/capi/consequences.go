package capi

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// ConsequenceKind says what a change of an object does to the cluster that the
// object is part of. A greater one is more severe.
type ConsequenceKind int

// The kinds of consequences, the least severe first.
const (
	// ConsequenceNone: no controller acts on it.
	ConsequenceNone ConsequenceKind = iota
	// ConsequenceLatent: accepted, touches nothing that is there, applies to
	// machines that are made later.
	ConsequenceLatent
	// ConsequenceInPlace: existing objects are changed, no machine is replaced.
	ConsequenceInPlace
	// ConsequencePause: controllers stop, or go on.
	ConsequencePause
	// ConsequenceUnsafe: accepted and harmful.
	ConsequenceUnsafe
	// ConsequenceRejected: the API server or a webhook refuses it.
	ConsequenceRejected
	// ConsequenceScaleUp: machines are added.
	ConsequenceScaleUp
	// ConsequenceScaleDown: machines are removed.
	ConsequenceScaleDown
	// ConsequenceRollout: machines of workers are replaced.
	ConsequenceRollout
	// ConsequenceControlPlaneRollout: machines of a control plane are replaced.
	ConsequenceControlPlaneRollout
	// ConsequenceDeletion: the object and what belongs to it is deleted.
	ConsequenceDeletion
	// ConsequenceRebuild: a cluster, or what it can't be without, is made anew.
	ConsequenceRebuild
)

// String names the kind as messages and the documentation do.
func (k ConsequenceKind) String() string {
	names := []string{
		"none", "latent", "in place", "pause", "unsafe", "rejected", "scale-up", "scale-down",
		"rollout", "control plane rollout", "deletion", "rebuild",
	}
	if k < 0 || int(k) >= len(names) {
		return "unknown"
	}
	return names[k]
}

// Consequence is what a change of some fields of an object does.
type Consequence struct {
	Kind ConsequenceKind
	// Fields are the JSON pointers of the changed fields that have it, sorted;
	// none if the object is made or deleted.
	Fields []string
	// Machines is how many machines are touched; 0 if none or unknown.
	Machines int32
	// Message is a short sentence for a person. It has no values but versions,
	// numbers of replicas and names of objects.
	Message string
}

// Disruptive tells whether the consequence replaces or removes machines, or builds
// anew what a cluster can't be without.
func (c Consequence) Disruptive() bool { return c.Kind >= ConsequenceScaleDown }

// Consequences says what it means when an object becomes another, the most severe
// first: before is the live object, nil if there is none; after is nil if it is
// deleted. Both are of the same API version. It says nothing about the status, nor
// about kinds that Cluster API doesn't know, unless their removal is guarded.
//
// It looks at one object. A field that it doesn't know counts as what may replace
// machines if it belongs to what machines are made from.
func Consequences(before, after *unstructured.Unstructured) []Consequence {
	switch {
	case before == nil && after == nil:
		return nil
	case before == nil:
		return made(after)
	case after == nil:
		return deleted(before)
	}
	table := tableOf(before.GroupVersionKind().GroupKind())
	if table == nil {
		return nil
	}
	e := &edit{before: before, after: after, table: table}
	var outcomes []outcome
	for _, c := range changesOf(before, after) {
		outcomes = append(outcomes, e.outcomesOf(c)...)
	}
	return merge(outcomes)
}

// outcome is what the change of one field does.
type outcome struct {
	kind ConsequenceKind
	// says is a sentence without the field, in which {machines} stands for how many
	// there are.
	says string
	// field is what is changed, detail how a message names it.
	field, detail string
	machines      int32
	// pool is the worker pool of a topology that it is about, if it is.
	pool string
	// rule is what says so.
	rule *consequenceRule
}

// merge makes one consequence of all outcomes that are alike.
func merge(outcomes []outcome) []Consequence {
	type group struct {
		Consequence
		says    string
		details []string
		// pools have machines of their own; all other fields are about the same ones.
		pools map[string]int32
	}
	var groups []*group
	for _, o := range outcomes {
		i := slices.IndexFunc(groups, func(g *group) bool { return g.Kind == o.kind && g.says == o.says })
		if i < 0 {
			i, groups = len(groups), append(groups, &group{
				Consequence: Consequence{Kind: o.kind}, says: o.says, pools: map[string]int32{},
			})
		}
		g := groups[i]
		if !slices.Contains(g.Fields, o.field) {
			g.Fields = append(g.Fields, o.field)
		}
		if !slices.Contains(g.details, o.detail) {
			g.details = append(g.details, o.detail)
		}
		g.pools[o.pool] = max(g.pools[o.pool], o.machines)
	}
	slices.SortStableFunc(groups, func(a, b *group) int { return cmp.Compare(b.Kind, a.Kind) })
	var merged []Consequence
	for _, g := range groups {
		slices.Sort(g.Fields)
		for _, machines := range g.pools {
			g.Machines += machines
		}
		g.Message = sentence(g.says, g.Machines, g.details)
		merged = append(merged, g.Consequence)
	}
	return merged
}

// sentence fills a sentence in, and says of which fields it is.
func sentence(says string, machines int32, details []string) string {
	text := strings.ReplaceAll(says, "{machines}", machinesText(machines))
	const most = 3
	rest := ""
	if len(details) > most {
		rest = " and " + strconv.Itoa(len(details)-most) + " more"
		details = details[:most]
	}
	if len(details) == 0 {
		return text
	}
	return text + ": " + strings.Join(details, ", ") + rest
}

// machinesText says how many machines; 0 is unknown.
func machinesText(machines int32) string {
	switch machines {
	case 0:
		return "machines"
	case 1:
		return "1 machine"
	}
	return strconv.Itoa(int(machines)) + " machines"
}
