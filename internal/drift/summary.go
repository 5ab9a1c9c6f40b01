package drift

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/object"
)

// Sort brings drifted objects into the order in which people should look at them.
func Sort(list []v1alpha1.DriftedObject) {
	slices.SortStableFunc(list, func(a, b v1alpha1.DriftedObject) int {
		return cmp.Or(cmp.Compare(rank(a.Action), rank(b.Action)), object.Compare(idOf(a), idOf(b)))
	})
}

func rank(action v1alpha1.DriftAction) int {
	order := []v1alpha1.DriftAction{
		v1alpha1.DriftHeld, v1alpha1.DriftFight, v1alpha1.DriftBlocked, v1alpha1.DriftCorrecting, v1alpha1.DriftReported,
	}
	if i := slices.Index(order, action); i >= 0 {
		return i
	}
	return len(order)
}

func idOf(d v1alpha1.DriftedObject) object.ID {
	return object.ID{Group: d.Group, Kind: d.Kind, Namespace: d.Namespace, Name: d.Name}
}

// maxSummary is how long the message of a condition may be.
const maxSummary = 1024

// Summary is the reason and the message of the condition InSync while it is False: total
// objects have drifted, and the list has those that the status has room for. It says the
// same of the same list, in whatever order.
func Summary(list []v1alpha1.DriftedObject, total int) (reason, message string) {
	list = slices.Clone(list)
	Sort(list)
	total = max(total, len(list))
	reason = v1alpha1.DriftedReason
	if len(list) > 0 {
		switch list[0].Action {
		case v1alpha1.DriftHeld:
			reason = v1alpha1.CorrectionHeldReason
		case v1alpha1.DriftFight:
			reason = v1alpha1.FightReason
		case v1alpha1.DriftBlocked:
			reason = v1alpha1.CorrectionBlockedReason
		case v1alpha1.DriftCorrecting, v1alpha1.DriftReported:
		}
	}
	message = plural(total, "object drifted", "objects drifted")
	separator := ": "
	for i, d := range list {
		rest := ""
		if left := total - i - 1; left > 0 {
			rest = fmt.Sprintf("; and %d more", left)
		}
		one := describe(d)
		if i > 0 && len(message)+len(separator)+len(one)+len(rest) > maxSummary {
			return reason, message + fmt.Sprintf("; and %d more", total-i)
		}
		message += separator + cut(one, maxSummary-len(message)-len(separator)-len(rest))
		separator = "; "
	}
	if left := total - len(list); left > 0 && len(list) > 0 {
		message += fmt.Sprintf("; and %d more", left)
	}
	return reason, message
}

// describe says of one object what is different and what is done about it.
func describe(d v1alpha1.DriftedObject) string {
	name := d.Name
	if d.Namespace != "" {
		name = d.Namespace + "/" + name
	}
	s := d.Kind + " " + name
	if len(d.Findings) > 0 {
		s += ": " + Describe(d.Findings[0])
		if more := len(d.Findings) - 1 + int(d.MoreFindings); more > 0 {
			s += fmt.Sprintf(" and %d more", more)
		}
	}
	action := strings.ToLower(string(d.Action))
	if d.Message != "" && d.Action != v1alpha1.DriftCorrecting && d.Action != v1alpha1.DriftReported {
		action += ": " + d.Message
	}
	return s + " (" + action + ")"
}

// Describe says what a finding is, in a few words.
func Describe(f v1alpha1.Finding) string {
	const most = 60
	by := ""
	if f.Writer.Manager != "" {
		by = " by " + f.Writer.Manager
	}
	switch f.Class {
	case v1alpha1.FindingMissing:
		return "deleted" + by
	case v1alpha1.FindingRecreated:
		return "made anew" + by
	case v1alpha1.FindingOwnershipLost:
		return fieldName(f.Field) + " taken over" + by
	case v1alpha1.FindingForeign:
		return fieldName(f.Field) + " set to " + cut(f.To, most) + by
	case v1alpha1.FindingChanged:
		if f.Field == "" {
			return "changed" + by // in what isn't known
		}
	}
	from, to := cut(f.From, most), cut(f.To, most)
	if from == "" {
		from = "none"
	}
	if to == "" {
		to = "none"
	}
	return fieldName(f.Field) + " " + from + " -> " + to + by
}

// fieldName is a JSON pointer as people write fields: with dots, indexes and odd names in
// brackets.
func fieldName(pointer string) string {
	if pointer == "" {
		return "everything"
	}
	var b strings.Builder
	for _, part := range strings.Split(pointer[1:], "/") {
		name := unescaper.Replace(part)
		switch {
		case strings.ContainsAny(name, "./[]\" ") || name == "":
			fmt.Fprintf(&b, "[%q]", name)
		case strings.Trim(name, "0123456789") == "":
			b.WriteString("[" + name + "]")
		default:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(name)
		}
	}
	return b.String()
}
