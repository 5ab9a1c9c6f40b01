package drift

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
)

// maxMessage is how long the message of a decision may be.
const maxMessage = 1024

// Case is all that a decision about one drifted object depends on.
type Case struct {
	// Overlay and Ref say which object it is.
	Overlay types.UID
	Ref     v1alpha1.ObjectReference
	// Findings say in what it differs.
	Findings []v1alpha1.Finding
	// Mode is what is done about drift of it.
	Mode v1alpha1.DriftMode
	// Consequences are those of the correction, and Hash stands for exactly it. Approved
	// says that a person has approved this hash.
	Consequences []capi.Consequence
	Hash         string
	Approved     bool
	// Last is the last correction of the object, if it is remembered.
	Last *v1alpha1.Correction
	// Obstacle says why nothing can be written now; empty if nothing is in the way.
	Obstacle string
	Now      time.Time
}

// Decision is what is done about a drifted object.
type Decision struct {
	Action  v1alpha1.DriftAction
	Message string
	// Hash is what an approval has to hold; empty if none is waited for or was given.
	Hash string
	// Next is when to decide again; zero if there is nothing to wait for.
	Next time.Time
	// Override are the unknown managers that give way this time.
	Override []string
}

// policy decides a case, or leaves it to the next one.
type policy func(Case) (Decision, bool)

// policies are asked in order; the first that decides counts.
var policies = []policy{
	onlyForeign,
	reportMode,
	obstacle,
	controllers,
	consequences,
	fight,
}

// Decide says what is done about a drifted object. The same case gives the same decision.
func Decide(c Case) Decision {
	for _, decide := range policies {
		if d, decided := decide(c); decided {
			d.Message = cut(d.Message, maxMessage)
			return d
		}
	}
	d := Decision{Action: v1alpha1.DriftCorrecting, Message: "is applied again", Override: unknownWriters(c.Findings)}
	if c.Approved && disruptive(c.Consequences) {
		d.Hash = c.Hash
	}
	return d
}

// onlyForeign: Git says nothing about the fields, so they are nobody's to take back.
func onlyForeign(c Case) (Decision, bool) {
	for _, f := range c.Findings {
		if f.Class != v1alpha1.FindingForeign {
			return Decision{}, false
		}
	}
	return Decision{Action: v1alpha1.DriftReported, Message: "not in Git: add it there, or remove it here"}, true
}

func reportMode(c Case) (Decision, bool) {
	if c.Mode != v1alpha1.DriftReport {
		return Decision{}, false
	}
	d := Decision{Action: v1alpha1.DriftReported, Message: "drift is only reported"}
	if c.Obstacle != "" {
		d.Message += ": " + c.Obstacle
	}
	return d, true
}

func obstacle(c Case) (Decision, bool) {
	return Decision{Action: v1alpha1.DriftBlocked, Message: c.Obstacle}, c.Obstacle != ""
}

// controllers: what a controller has written is never taken from it, and an object is
// applied as a whole or not at all.
func controllers(c Case) (Decision, bool) {
	var theirs []string
	others := 0
	for _, f := range c.Findings {
		switch {
		case f.Class != v1alpha1.FindingChanged && f.Class != v1alpha1.FindingOwnershipLost:
		case f.Class == v1alpha1.FindingOwnershipLost && f.Writer.Class == string(capi.ManagerController):
			// It has Git's value: to apply that as well takes nothing from anybody.
		case f.Writer.Class == string(capi.ManagerController):
			theirs = append(theirs, fmt.Sprintf("%s belongs to %q (controller)", fieldName(f.Field), f.Writer.Manager))
		default:
			others++
		}
	}
	if len(theirs) == 0 {
		return Decision{}, false
	}
	const most = 3
	message := strings.Join(theirs[:min(len(theirs), most)], ", ")
	if len(theirs) > most {
		message += fmt.Sprintf(" and %d more", len(theirs)-most)
	}
	message += "; leave it out of Git, or make that manager give it up"
	if others > 0 {
		message += fmt.Sprintf("; %s until then", plural(others, "other change waits", "other changes wait"))
	}
	return Decision{Action: v1alpha1.DriftBlocked, Message: message}, true
}

// consequences: who changed a cluster by hand at night may have saved it.
func consequences(c Case) (Decision, bool) {
	if c.Approved || !disruptive(c.Consequences) {
		return Decision{}, false
	}
	var messages []string
	for _, consequence := range c.Consequences {
		if consequence.Disruptive() {
			messages = append(messages, consequence.Message)
		}
	}
	return Decision{
		Action: v1alpha1.DriftHeld, Hash: c.Hash,
		Message: fmt.Sprintf("%s; approve with %s: %s", cut(strings.Join(messages, ", "), maxMessage/2),
			v1alpha1.ApproveCorrectionAnnotation, c.Hash),
	}, true
}

func disruptive(all []capi.Consequence) bool {
	return slices.ContainsFunc(all, capi.Consequence.Disruptive)
}

// fight: who changes it again and again is not convinced by more of the same.
func fight(c Case) (Decision, bool) {
	if Forgotten(c.Last, c.Now) || c.Approved && disruptive(c.Consequences) {
		return Decision{}, false // a person who approves it wants it now
	}
	next := c.Last.Time.Add(pause(c.Last, c.Findings))
	if !next.After(c.Now) {
		return Decision{}, false
	}
	fields, names := contested(c.Findings)
	who := "somebody"
	if len(names) > 0 {
		who = strings.Join(names, ", ")
	}
	return Decision{
		Action: v1alpha1.DriftFight, Next: next,
		Message: fmt.Sprintf("%s changes %s again after %s: stop it, or leave the field out of Git",
			who, fields, plural(int(c.Last.Count), "correction", "corrections")),
	}, true
}

// contested names the fields that a fight is about, and who changed them.
func contested(findings []v1alpha1.Finding) (fields string, names []string) {
	var all []string
	for _, f := range findings {
		if f.Class == v1alpha1.FindingForeign {
			continue
		}
		all = append(all, fieldName(f.Field))
		if f.Writer.Manager != "" {
			names = append(names, fmt.Sprintf("%q (%s)", f.Writer.Manager, f.Writer.Class))
		}
	}
	slices.Sort(names)
	const most = 3
	fields = strings.Join(all[:min(len(all), most)], ", ")
	if len(all) > most {
		fields += fmt.Sprintf(" and %d more", len(all)-most)
	}
	return fields, slices.Compact(names)
}

// plural is a number with the word that belongs to it.
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
