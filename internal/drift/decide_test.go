package drift_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/capi"
	"capstan.dev/capstan/internal/drift"
	"capstan.dev/capstan/internal/object"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func by(manager string) v1alpha1.Writer {
	if manager == "" {
		return v1alpha1.Writer{}
	}
	return v1alpha1.Writer{Manager: manager, Class: string(capi.ClassifyManager(manager)), Operation: "Update"}
}

func changed(field, manager string) v1alpha1.Finding {
	return v1alpha1.Finding{Class: v1alpha1.FindingChanged, Field: field, From: "3", To: "5", Writer: by(manager)}
}

func findings(all ...v1alpha1.Finding) []v1alpha1.Finding { return all }

var (
	person, unknown, controller = changed("/spec/replicas", "kubectl-edit"), changed("/spec/replicas", "mystery"), changed("/spec/replicas", "manager")

	foreign = v1alpha1.Finding{Class: v1alpha1.FindingForeign, Field: "/spec/paused", To: "true", Writer: by("mystery")}
	lost    = v1alpha1.Finding{Class: v1alpha1.FindingOwnershipLost, Writer: by("manager")}
	missing = v1alpha1.Finding{Class: v1alpha1.FindingMissing}

	scaleDown = []capi.Consequence{{Kind: capi.ConsequenceScaleDown, Machines: 2, Message: "removes 2 machines"}, {Kind: capi.ConsequenceInPlace, Message: "harmless"}}
	harmless  = []capi.Consequence{{Kind: capi.ConsequenceScaleUp, Machines: 2, Message: "adds 2 machines"}}
)

// last is a correction some time ago.
func last(count int32, ago time.Duration, findings ...v1alpha1.Finding) *v1alpha1.Correction {
	return &v1alpha1.Correction{Time: metav1.NewTime(noon.Add(-ago)), Count: count, Findings: findings}
}

func TestDecide(t *testing.T) {
	at := func(d time.Duration) time.Time { return noon.Add(d) }
	for name, test := range map[string]struct {
		c        drift.Case
		want     v1alpha1.DriftAction
		parts    string // of the message, separated by |
		next     time.Time
		override []string
	}{
		"a person's":            {c: drift.Case{Findings: findings(person)}, want: v1alpha1.DriftCorrecting},
		"a former owner's":      {c: drift.Case{Findings: findings(changed("/x", "helm"))}, want: v1alpha1.DriftCorrecting},
		"nobody's":              {c: drift.Case{Findings: findings(changed("/x", ""))}, want: v1alpha1.DriftCorrecting},
		"deleted":               {c: drift.Case{Findings: findings(missing)}, want: v1alpha1.DriftCorrecting},
		"unknown, once":         {c: drift.Case{Findings: findings(unknown)}, want: v1alpha1.DriftCorrecting, override: []string{"mystery"}},
		"harmless consequences": {c: drift.Case{Findings: findings(person), Consequences: harmless}, want: v1alpha1.DriftCorrecting},
		"foreign beside":        {c: drift.Case{Findings: findings(person, foreign)}, want: v1alpha1.DriftCorrecting},
		"several unknown": {c: drift.Case{Findings: findings(changed("/b", "zzz"), changed("/a", "aaa"), changed("/c", "zzz"))},
			want: v1alpha1.DriftCorrecting, override: []string{"aaa", "zzz"}},

		"foreign":                    {c: drift.Case{Findings: findings(foreign)}, want: v1alpha1.DriftReported, parts: "not in Git"},
		"foreign, and an obstacle":   {c: drift.Case{Findings: findings(foreign), Obstacle: "suspended"}, want: v1alpha1.DriftReported},
		"foreign of a controller":    {c: drift.Case{Findings: findings(v1alpha1.Finding{Class: v1alpha1.FindingForeign, Writer: by("manager")})}, want: v1alpha1.DriftReported},
		"reported":                   {c: drift.Case{Findings: findings(person), Mode: v1alpha1.DriftReport}, want: v1alpha1.DriftReported, parts: "only reported"},
		"reported with an obstacle":  {c: drift.Case{Findings: findings(person), Mode: v1alpha1.DriftReport, Obstacle: "a typo"}, want: v1alpha1.DriftReported, parts: "a typo"},
		"reported, not held":         {c: drift.Case{Findings: findings(person), Mode: v1alpha1.DriftReport, Consequences: scaleDown, Hash: "h"}, want: v1alpha1.DriftReported},
		"obstacle":                   {c: drift.Case{Findings: findings(person), Obstacle: "the Cluster is paused"}, want: v1alpha1.DriftBlocked, parts: "the Cluster is paused"},
		"obstacle, though approved":  {c: drift.Case{Findings: findings(person), Obstacle: "no", Consequences: scaleDown, Hash: "h", Approved: true}, want: v1alpha1.DriftBlocked},
		"a controller's":             {c: drift.Case{Findings: findings(controller)}, want: v1alpha1.DriftBlocked, parts: `spec.replicas belongs to "manager" (controller)|leave it out of Git`},
		"a controller's, approved":   {c: drift.Case{Findings: findings(controller), Consequences: scaleDown, Hash: "h", Approved: true}, want: v1alpha1.DriftBlocked},
		"a controller has Git's":     {c: drift.Case{Findings: findings(lost)}, want: v1alpha1.DriftCorrecting},
		"and another, not Git's":     {c: drift.Case{Findings: findings(lost, controller)}, want: v1alpha1.DriftBlocked, parts: `replicas belongs to "manager" (controller); leave it out of Git, or make that manager give it up`},
		"a controller's and others'": {c: drift.Case{Findings: findings(controller, changed("/a", "kubectl-edit"), foreign)}, want: v1alpha1.DriftBlocked, parts: "1 other change waits"},

		"held":     {c: drift.Case{Findings: findings(person), Consequences: scaleDown, Hash: "ab12cd"}, want: v1alpha1.DriftHeld, parts: "removes 2 machines; approve with capstan.dev/approve-correction: ab12cd"},
		"approved": {c: drift.Case{Findings: findings(person), Consequences: scaleDown, Hash: "ab12cd", Approved: true}, want: v1alpha1.DriftCorrecting},
		"held, not fought over": {c: drift.Case{Findings: findings(person), Consequences: scaleDown, Hash: "h", Last: last(9, 0, person)},
			want: v1alpha1.DriftHeld},

		"approved, in a fight": {c: drift.Case{Findings: findings(person), Consequences: scaleDown, Hash: "h", Approved: true, Last: last(9, 0, person)},
			want: v1alpha1.DriftCorrecting},
		"approved, of no consequence": {c: drift.Case{Findings: findings(person), Consequences: harmless, Hash: "h", Approved: true, Last: last(3, 0, person)},
			want: v1alpha1.DriftFight, next: at(10 * time.Second)},
		"the second time": {c: drift.Case{Findings: findings(person), Last: last(1, time.Second, person)}, want: v1alpha1.DriftCorrecting},
		"the third time":  {c: drift.Case{Findings: findings(person), Last: last(2, time.Second, person)}, want: v1alpha1.DriftCorrecting},
		"the fourth time": {c: drift.Case{Findings: findings(person), Last: last(3, time.Second, person)},
			want: v1alpha1.DriftFight, next: at(9 * time.Second), parts: `"kubectl-edit" (person)|spec.replicas|3 corrections`},
		"the fourth time, later":                     {c: drift.Case{Findings: findings(person), Last: last(3, 10*time.Second, person)}, want: v1alpha1.DriftCorrecting},
		"the sixth time":                             {c: drift.Case{Findings: findings(person), Last: last(5, 0, person)}, want: v1alpha1.DriftFight, next: at(40 * time.Second)},
		"the hundredth time":                         {c: drift.Case{Findings: findings(person), Last: last(99, 0, person)}, want: v1alpha1.DriftFight, next: at(10 * time.Minute)},
		"long ago":                                   {c: drift.Case{Findings: findings(person), Last: last(99, 71*time.Minute, person)}, want: v1alpha1.DriftCorrecting},
		"nobody's again":                             {c: drift.Case{Findings: findings(missing), Last: last(4, 0, missing)}, want: v1alpha1.DriftFight, next: at(20 * time.Second), parts: "somebody"},
		"unknown, again":                             {c: drift.Case{Findings: findings(unknown), Last: last(1, time.Minute, unknown)}, want: v1alpha1.DriftFight, next: at(9 * time.Minute), parts: `"mystery" (unknown)|1 correction`},
		"unknown, and again":                         {c: drift.Case{Findings: findings(unknown), Last: last(3, 0, unknown)}, want: v1alpha1.DriftFight, next: at(40 * time.Minute)},
		"unknown, for ever":                          {c: drift.Case{Findings: findings(unknown), Last: last(1000000, 0, unknown)}, want: v1alpha1.DriftFight, next: at(6 * time.Hour)},
		"unknown, paused":                            {c: drift.Case{Findings: findings(unknown), Last: last(1, 10*time.Minute, unknown)}, want: v1alpha1.DriftCorrecting, override: []string{"mystery"}},
		"unknown, after a person":                    {c: drift.Case{Findings: findings(unknown), Last: last(1, 0, person)}, want: v1alpha1.DriftCorrecting, override: []string{"mystery"}},
		"foreign of somebody unknown does not count": {c: drift.Case{Findings: findings(person), Last: last(1, time.Minute, person, foreign)}, want: v1alpha1.DriftCorrecting},
	} {
		t.Run(name, func(t *testing.T) {
			test.c.Now = noon
			got := drift.Decide(test.c)
			if got.Action != test.want {
				t.Fatalf("%s (%s), want %s", got.Action, got.Message, test.want)
			}
			for part := range strings.SplitSeq(test.parts, "|") {
				if !strings.Contains(got.Message, part) {
					t.Errorf("message %q does not say %q", got.Message, part)
				}
			}
			if got.Message == "" || len(got.Message) > 1024 {
				t.Errorf("message %q", got.Message)
			}
			if !got.Next.Equal(test.next) {
				t.Errorf("next %v, want %v", got.Next, test.next)
			}
			if diff := cmp.Diff(test.override, got.Override); diff != "" {
				t.Errorf("override (-want +got):\n%s", diff)
			}
			if held := got.Action == v1alpha1.DriftHeld; held && got.Hash != test.c.Hash {
				t.Errorf("hash %q", got.Hash)
			}
			if again := drift.Decide(test.c); !cmp.Equal(got, again) {
				t.Errorf("decided otherwise the second time: %+v", again)
			}
		})
	}
}

// TestFights lets somebody change an object back at once, or after a while, for two days.
func TestFights(t *testing.T) {
	const hours = 48
	for seed := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, 7))
		classes := [][]string{{"kubectl-edit"}, {"mystery"}, {"helm"}, {""}, {"kubectl-edit", "mystery"}, {"manager"}, {"manager", "kubectl-edit"}}
		managers := classes[seed%uint64(len(classes))]
		controller := managers[0] == "manager"
		slow := random.IntN(2) == 0
		var list []v1alpha1.Correction
		var times []time.Time
		now := noon
		for now.Before(noon.Add(hours * time.Hour)) {
			finding := changed("/spec/replicas", managers[0])
			all := findings(finding)
			if len(managers) > 1 { // alternate, or both
				switch {
				case controller:
					all = append(all, changed("/spec/version", managers[1]))
				case random.IntN(2) == 0:
					all = findings(changed("/spec/replicas", managers[1]))
				}
			}
			c := drift.Case{Ref: ref("workers"), Findings: all, Now: now}
			c.Last = lastOf(list, "workers")
			d := drift.Decide(c)
			if d.Action == v1alpha1.DriftCorrecting {
				times = append(times, now)
				list = drift.Remember(list, v1alpha1.Correction{ObjectReference: c.Ref, Findings: all}, c.Last, now)
				// Others are corrected, too.
				other := fmt.Sprint("other-", random.IntN(5))
				list = drift.Remember(list, v1alpha1.Correction{ObjectReference: ref(other), Findings: all}, lastOf(list, other), now)
				now = now.Add(time.Second)
				if slow && random.IntN(4) == 0 {
					now = now.Add(time.Duration(random.IntN(100)) * time.Minute)
				}
				continue
			}
			if d.Action == v1alpha1.DriftFight && !d.Next.After(now) {
				t.Fatalf("seed %d: to wait until %v at %v", seed, d.Next, now)
			}
			if now = now.Add(time.Minute); d.Action == v1alpha1.DriftFight {
				now = d.Next
			}
		}
		if controller {
			if len(times) > 0 {
				t.Errorf("seed %d: %d corrections of what a controller has written", seed, len(times))
			}
			continue
		}
		most := 0
		for i := range times {
			n := 0
			for _, other := range times[i:] {
				if other.Before(times[i].Add(time.Hour)) {
					n++
				}
			}
			most = max(most, n)
		}
		// 3 at once, then after 10, 20, 40 seconds and so on, at last every 10 minutes.
		bound := 15
		if managers[0] == "mystery" {
			bound = 4
		}
		if most > bound {
			t.Errorf("seed %d: %d corrections against %q in an hour, at most %d", seed, most, managers, bound)
		}
		for day := range hours / 24 {
			n := 0
			for _, at := range times {
				if from := noon.Add(time.Duration(day) * 24 * time.Hour); !at.Before(from) && at.Before(from.Add(24*time.Hour)) {
					n++
				}
			}
			if n == 0 {
				t.Errorf("seed %d: no correction against %q on day %d", seed, managers, day)
			}
		}
	}
}

func ref(name string) v1alpha1.ObjectReference {
	return v1alpha1.ObjectReference{Group: "cluster.x-k8s.io", Version: "v1beta2", Kind: "MachineDeployment", Namespace: "team-a", Name: name, UID: "uid-1"}
}

// lastOf is the last correction of an object in a list; nil if there is none.
func lastOf(list []v1alpha1.Correction, name string) *v1alpha1.Correction {
	for i := range list {
		if list[i].Name == name {
			return &list[i]
		}
	}
	return nil
}

func TestRemember(t *testing.T) {
	at := func(d time.Duration) time.Time { return noon.Add(d) }
	var list []v1alpha1.Correction
	for i, step := range []struct {
		name     string
		finding  v1alpha1.Finding
		after    time.Duration
		want     int32
		position string
	}{
		{"a", person, 0, 1, "a"},
		{"b", person, time.Minute, 1, "b a"},
		{"a", person, 2 * time.Minute, 2, "a b"},
		{"a", person, 61 * time.Minute, 3, "a b"},
		{"b", person, 3 * time.Hour, 1, "b a"},
		{"a", unknown, 4 * time.Hour, 1, "a b"},
		// The pause after an unknown manager's change is not a quiet time.
		{"a", unknown, 5*time.Hour + 5*time.Minute, 2, "a b"},
	} {
		kept := append([]v1alpha1.Correction(nil), list...)
		many := []v1alpha1.Finding{step.finding, foreign, foreign, foreign, foreign, foreign, foreign}
		got := drift.Remember(list, v1alpha1.Correction{ObjectReference: ref(step.name), Findings: many}, lastOf(list, step.name), at(step.after))
		if diff := cmp.Diff(kept, list); diff != "" {
			t.Fatalf("step %d changes the list it was given:\n%s", i, diff)
		}
		list = got
		var names []string
		for _, c := range list {
			names = append(names, c.Name)
		}
		if list[0].Count != step.want || strings.Join(names, " ") != step.position || len(list[0].Findings) != 5 {
			t.Errorf("step %d: count %d of %v with %d findings, want %d of %s", i, list[0].Count, names, len(list[0].Findings), step.want, step.position)
		}
	}
	again := ref("a")
	again.UID, again.Version = "uid-2", "v1beta1"
	if got := drift.Remember(list, v1alpha1.Correction{ObjectReference: again}, lastOf(list, "a"), at(5*time.Hour+6*time.Minute)); len(got) != 2 || got[0].Count != 3 {
		t.Errorf("made anew it counts as another object: %+v", got)
	}
}

func TestModeOf(t *testing.T) {
	for name, test := range map[string]struct {
		fleet, overlay v1alpha1.DriftMode
		annotation     string
		want           v1alpha1.DriftMode
		problem        bool
	}{
		"nothing":              {want: v1alpha1.DriftCorrect},
		"fleet":                {fleet: v1alpha1.DriftReport, want: v1alpha1.DriftReport},
		"overlay":              {fleet: v1alpha1.DriftReport, overlay: v1alpha1.DriftCorrect, want: v1alpha1.DriftCorrect},
		"annotation":           {fleet: v1alpha1.DriftReport, overlay: v1alpha1.DriftReport, annotation: "correct", want: v1alpha1.DriftCorrect},
		"annotation, any case": {annotation: " REPORT ", want: v1alpha1.DriftReport},
		"annotation, a typo":   {annotation: "corect", want: v1alpha1.DriftReport, problem: true},
	} {
		t.Run(name, func(t *testing.T) {
			var annotations map[string]string
			if test.annotation != "" {
				annotations = map[string]string{v1alpha1.DriftAnnotation: test.annotation}
			}
			got, problem := drift.ModeOf(v1alpha1.DriftSpec{Mode: test.fleet}, v1alpha1.OverlayDriftSpec{Mode: test.overlay}, annotations)
			if got != test.want || (problem != "") != test.problem || test.problem && !strings.Contains(problem, test.annotation) {
				t.Errorf("%s, problem %q", got, problem)
			}
		})
	}
}

// TestHash checks that an approval is for one correction alone: of one object, as it is,
// in one overlay.
func TestHash(t *testing.T) {
	r := recorded(t, "talos")
	d := object.NewDigester([]byte("key"))
	base := drift.Hash(d, "overlay-1", ref("a"), r.live, r.answer)
	if len(base) != 12 || base != drift.Hash(d, "overlay-1", ref("a"), r.live, r.answer) {
		t.Fatalf("hash %q, or it is not steady", base)
	}
	edit := func(u *unstructured.Unstructured, pointer string, value any) *unstructured.Unstructured {
		u = u.DeepCopy()
		change(u, pointer, value)
		return u
	}
	secret := "/spec/controlPlaneConfig/controlplane/strategicPatches/0"
	other, otherUID := ref("a"), ref("a")
	other.Name, otherUID.UID = "b", "uid-9"
	for name, got := range map[string]string{
		"key":             drift.Hash(object.NewDigester([]byte("other")), "overlay-1", ref("a"), r.live, r.answer),
		"overlay":         drift.Hash(d, "overlay-2", ref("a"), r.live, r.answer),
		"object":          drift.Hash(d, "overlay-1", other, r.live, r.answer),
		"recorded UID":    drift.Hash(d, "overlay-1", otherUID, r.live, r.answer),
		"live UID":        drift.Hash(d, "overlay-1", ref("a"), edit(r.live, "/metadata/uid", "uid-8"), r.answer),
		"live value":      drift.Hash(d, "overlay-1", ref("a"), edit(r.live, "/spec/replicas", int64(2)), r.answer),
		"live secret":     drift.Hash(d, "overlay-1", ref("a"), edit(r.live, secret, "other"), r.answer),
		"declared value":  drift.Hash(d, "overlay-1", ref("a"), r.live, edit(r.answer, "/spec/replicas", int64(5))),
		"declared secret": drift.Hash(d, "overlay-1", ref("a"), r.live, edit(r.answer, secret, "other")),
		"deleted":         drift.Hash(d, "overlay-1", ref("a"), nil, r.answer),
		"another's field": drift.Hash(d, "overlay-1", ref("a"), edit(r.live, "/metadata/labels/x", "y"), r.answer),
	} {
		if got == base {
			t.Errorf("another %s, and the same hash", name)
		}
	}
	for name, live := range map[string]*unstructured.Unstructured{
		"status":          edit(r.live, "/status/replicas", int64(2)),
		"resourceVersion": edit(r.live, "/metadata/resourceVersion", "99"),
		"generation":      edit(r.live, "/metadata/generation", int64(99)),
	} {
		if got := drift.Hash(d, "overlay-1", ref("a"), live, r.answer); got != base {
			t.Errorf("another hash because of %s: an approval could never hit", name)
		}
	}
	// A dry-run gives an object that isn't there a new UID each time.
	made := drift.Hash(d, "overlay-1", ref("a"), nil, r.answer)
	if made != drift.Hash(d, "overlay-1", ref("a"), nil, edit(r.answer, "/metadata/uid", "uid-7")) {
		t.Error("another hash because of the UID of a dry-run")
	}
}

func TestSummary(t *testing.T) {
	drifted := func(name string, action v1alpha1.DriftAction, message string, all ...v1alpha1.Finding) v1alpha1.DriftedObject {
		return v1alpha1.DriftedObject{ObjectReference: ref(name), Action: action, Message: message, Findings: all}
	}
	held := drifted("workers", v1alpha1.DriftHeld, "would remove 2 machines; approve with capstan.dev/approve-correction: ab12cd", changed("/spec/replicas", "kubectl-scale"))
	reported := drifted("a", v1alpha1.DriftReported, "not in Git", foreign)
	fights := drifted("b", v1alpha1.DriftFight, "it fights", unknown, foreign)
	blocked := drifted("c", v1alpha1.DriftBlocked, "it is a controller's", controller)
	correcting := drifted("d", v1alpha1.DriftCorrecting, "", missing)
	for name, test := range map[string]struct {
		list            []v1alpha1.DriftedObject
		total           int
		reason, message string
	}{
		"held": {[]v1alpha1.DriftedObject{reported, held}, 2, v1alpha1.CorrectionHeldReason,
			"2 objects drifted: MachineDeployment team-a/workers: spec.replicas 3 -> 5 by kubectl-scale " +
				"(held: would remove 2 machines; approve with capstan.dev/approve-correction: ab12cd); " +
				"MachineDeployment team-a/a: spec.paused set to true by mystery (reported)"},
		"fight": {[]v1alpha1.DriftedObject{blocked, fights}, 5, v1alpha1.FightReason,
			"5 objects drifted: MachineDeployment team-a/b: spec.replicas 3 -> 5 by mystery and 1 more (fight: it fights); " +
				"MachineDeployment team-a/c: spec.replicas 3 -> 5 by manager (blocked: it is a controller's); and 3 more"},
		"blocked":    {[]v1alpha1.DriftedObject{correcting, blocked}, 2, v1alpha1.CorrectionBlockedReason, ""},
		"correcting": {[]v1alpha1.DriftedObject{correcting}, 1, v1alpha1.DriftedReason, "1 object drifted: MachineDeployment team-a/d: deleted (correcting)"},
		"reported":   {[]v1alpha1.DriftedObject{reported}, 1, v1alpha1.DriftedReason, ""},
	} {
		t.Run(name, func(t *testing.T) {
			reason, message := drift.Summary(test.list, test.total)
			if reason != test.reason || test.message != "" && message != test.message {
				t.Errorf("%s: %s\nwant %s: %s", reason, message, test.reason, test.message)
			}
			test.list[0], test.list[len(test.list)-1] = test.list[len(test.list)-1], test.list[0]
			if _, again := drift.Summary(test.list, test.total); again != message {
				t.Errorf("in another order it says something else:\n%s\n%s", message, again)
			}
		})
	}
	var many []v1alpha1.DriftedObject
	for i := range 50 {
		many = append(many, drifted(fmt.Sprintf("w%02d", i), v1alpha1.DriftHeld, strings.Repeat("ä", i*20), person))
		if _, message := drift.Summary(many, 300); len(message) > 1024 || !strings.Contains(message, "300 objects") || !strings.Contains(message, " more") {
			t.Fatalf("%d bytes: %s", len(message), message)
		}
	}
	_, message := drift.Summary([]v1alpha1.DriftedObject{drifted("x", v1alpha1.DriftHeld, strings.Repeat("ä", 1000), person)}, 9)
	if len(message) > 1024 || !strings.HasSuffix(message, "…; and 8 more") {
		t.Errorf("%d bytes: %s", len(message), message)
	}
}

func TestSort(t *testing.T) {
	var list []v1alpha1.DriftedObject
	for _, action := range []v1alpha1.DriftAction{
		v1alpha1.DriftReported, v1alpha1.DriftCorrecting, v1alpha1.DriftBlocked, v1alpha1.DriftFight, v1alpha1.DriftHeld,
	} {
		for _, name := range []string{"b", "a"} {
			list = append(list, v1alpha1.DriftedObject{ObjectReference: ref(name), Action: action})
		}
	}
	drift.Sort(list)
	var got []string
	for _, d := range list {
		got = append(got, string(d.Action)+" "+d.Name)
	}
	want := []string{
		"Held a", "Held b", "Fight a", "Fight b", "Blocked a", "Blocked b", "Correcting a", "Correcting b", "Reported a", "Reported b",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Somebody who works on an object is not one who insists; but alternating fields is no way
// to go on for ever.
func TestDifferentEdits(t *testing.T) {
	person := func(field string) []v1alpha1.Finding {
		return []v1alpha1.Finding{{Class: v1alpha1.FindingChanged, Field: field, Writer: v1alpha1.Writer{Manager: "kubectl-edit", Class: "person"}}}
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		count      int32
		last, here string
		want       v1alpha1.DriftAction
	}{
		{drift.PersonCorrections - 1, "/spec/a", "/spec/a", v1alpha1.DriftCorrecting},
		{drift.PersonCorrections, "/spec/a", "/spec/a", v1alpha1.DriftFight},
		{drift.PersonCorrections, "/spec/a", "/spec", v1alpha1.DriftFight},
		{drift.PersonCorrections, "/spec/a", "/spec/b", v1alpha1.DriftCorrecting},
		{drift.PersonCorrections, "", "/spec/b", v1alpha1.DriftFight}, // what was lost last isn't known
		{drift.PersonEdits, "/spec/a", "/spec/b", v1alpha1.DriftFight},
	} {
		last := &v1alpha1.Correction{Count: c.count, Time: metav1.NewTime(now)}
		if c.last != "" {
			last.Findings = person(c.last)
		}
		got := drift.Decide(drift.Case{Findings: person(c.here), Mode: v1alpha1.DriftCorrect, Last: last, Now: now})
		if got.Action != c.want {
			t.Errorf("%d corrections of %q, now %q: %s, want %s", c.count, c.last, c.here, got.Action, c.want)
		}
	}
}
