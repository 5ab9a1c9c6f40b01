package web

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"capstan.dev/capstan/api/v1alpha1"
)

// policy lets a browser do nothing with a page but show it.
const policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

//go:embed page.html
var pageText string

// page answers with the status of a Fleet, or of one of its overlays.
func (h *handler) page(w http.ResponseWriter, r *http.Request, path []string) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		notAllowed("GET, HEAD").write(w)
		return
	}
	if !h.pageRate.AllowN(h.Clock.Now(), 1) {
		answer{code: http.StatusTooManyRequests, text: "too many requests; try again in a second", header: [2]string{"Retry-After", "1"}}.write(w)
		return
	}
	var content bytes.Buffer
	a := survive(r.Context(), h.Log, func(ctx context.Context) answer { return h.show(ctx, &content, path) })
	if a.code != http.StatusOK {
		a.write(w)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", policy)
	header.Set("Referrer-Policy", "no-referrer")
	_, _ = w.Write(content.Bytes()) // who has gone doesn't read it
}

// show renders a page.
func (h *handler) show(ctx context.Context, content *bytes.Buffer, path []string) answer {
	absent := answer{code: http.StatusNotFound, text: "not found: there is no such Fleet or overlay"}
	if len(path) != 2 && len(path) != 3 {
		return absent
	}
	name, ok := fleetNamed(path[:2])
	if !ok || len(path) == 3 && len(validation.IsDNS1123Subdomain(path[2])) > 0 {
		return absent
	}
	fleet, overlays, err := h.Pages.Fleet(ctx, name)
	if err != nil {
		h.Log.Error(err, "a status page can't be shown", "fleet", name.String())
		return answer{code: http.StatusServiceUnavailable, text: "the status can't be read now; the agent's log says why", header: [2]string{"Retry-After", "5"}}
	}
	if fleet == nil {
		return absent
	}
	var data any
	if len(path) == 2 {
		data = h.fleetPage(fleet, overlays)
	} else {
		i := slices.IndexFunc(overlays, func(o v1alpha1.ClusterOverlay) bool { return o.Name == path[2] })
		if i < 0 {
			return absent
		}
		data = h.overlayPage(name, &overlays[i], h.Clock.Now())
	}
	if err := pages.ExecuteTemplate(content, fmt.Sprint("page", len(path)), data); err != nil {
		h.Log.Error(err, "a status page can't be rendered", "fleet", name.String())
		return answer{code: http.StatusInternalServerError, text: "an error of the agent; its log says more"}
	}
	return answer{code: http.StatusOK}
}

// fleetPage is what the page of a Fleet shows.
type fleetPage struct {
	Name                              types.NamespacedName
	Observed, Applied, Converged, Tip string
	Suspended                         bool
	Conditions                        []metav1.Condition
	Counts                            []stateCount
	// There is the bar of the overlays that have converged.
	There           bar
	Total, Deleting int
	Overlays        []overlayRow
}

type stateCount struct {
	State string
	Count int
}

type overlayRow struct {
	Name, Path, State, Cluster, Desired, Applied, Converged, Waits, Expected string
	Machines                                                                 bar
	Pending                                                                  bool
}

// converged is the state of an overlay whose machines are there.
const converged = string(v1alpha1.PhaseConverged)

func (h *handler) fleetPage(f *v1alpha1.Fleet, overlays []v1alpha1.ClusterOverlay) fleetPage {
	p := fleetPage{
		Name:     types.NamespacedName{Namespace: f.Namespace, Name: f.Name},
		Observed: short(f.Status.ObservedRevision), Applied: short(f.Status.AppliedRevision), Converged: short(f.Status.ConvergedRevision),
		Suspended: f.Spec.Suspend, Conditions: f.Status.Conditions, Total: len(overlays),
	}
	if f.Status.Forge != nil {
		p.Tip = short(f.Status.Forge.Tip)
	}
	counts, now := map[string]int{}, h.Clock.Now()
	for i := range overlays {
		o := &overlays[i]
		row := overlayRow{
			Name: o.Name, Path: o.Spec.Path, State: h.Pages.State(o), Cluster: o.Status.Cluster, Waits: waitsFor(o),
			Desired: short(o.Status.DesiredRevision), Applied: short(o.Status.AppliedRevision), Converged: short(o.Status.ConvergedRevision),
			Pending: o.Status.PendingDeletion != nil,
		}
		if progress := o.Status.Progress; progress != nil {
			row.Machines = bar{Done: progress.ControlPlane.Done + progress.Workers.Done, Of: progress.ControlPlane.Desired + progress.Workers.Desired}
			row.Expected = expected(progress, now)
		}
		counts[row.State]++
		if row.Pending {
			p.Deleting++
		}
		p.Overlays = append(p.Overlays, row)
	}
	for state, n := range counts {
		p.Counts = append(p.Counts, stateCount{state, n})
	}
	p.There = bar{Done: int32(counts[converged]), Of: int32(len(overlays))} //nolint:gosec // overlays fit in memory
	slices.SortFunc(p.Counts, func(a, b stateCount) int { return cmp.Compare(a.State, b.State) })
	slices.SortFunc(p.Overlays, func(a, b overlayRow) int { return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Name, b.Name)) })
	return p
}

// overlayPage is what the page of an overlay shows.
type overlayPage struct {
	Fleet                       types.NamespacedName
	Overlay                     *v1alpha1.ClusterOverlay
	State                       string
	Desired, Applied, Converged string
	// Waits says what it waits for, "" if for nothing.
	Waits    string
	Progress *progressPage
	Pending  *v1alpha1.PendingDeletion
	// Approve is the command that approves the pending deletion, "" if there is nothing
	// to approve.
	Approve string
	History []historyRow
}

// waitsFor is what a person has to know of an overlay, "" if all is well: what is wrong,
// what is to be deleted, and what its machines wait for.
func waitsFor(o *v1alpha1.ClusterOverlay) string {
	var lines []string
	for _, c := range o.Status.Conditions {
		if c.Status == metav1.ConditionFalse && (c.Type == v1alpha1.RenderedCondition || c.Type == v1alpha1.ValidCondition ||
			c.Type == v1alpha1.AppliedCondition || c.Type == v1alpha1.InSyncCondition) {
			lines = append(lines, c.Reason+": "+c.Message)
			break // what comes later follows from it
		}
	}
	if c := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.PendingDeletionCondition); c != nil && c.Message != "" {
		lines = append(lines, c.Reason+": "+c.Message)
	}
	if p := o.Status.Progress; p != nil && p.Message != "" {
		lines = append(lines, string(p.Phase)+": "+p.Message)
	} else if c := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ConvergedCondition); len(lines) == 0 && c != nil &&
		c.Status != metav1.ConditionTrue && c.Message != "" {
		lines = append(lines, c.Reason+": "+c.Message)
	}
	return strings.Join(lines, "\n")
}

func (h *handler) overlayPage(fleet types.NamespacedName, o *v1alpha1.ClusterOverlay, now time.Time) overlayPage {
	p := overlayPage{
		Fleet: fleet, Overlay: o, State: h.Pages.State(o), Pending: o.Status.PendingDeletion,
		Desired: short(o.Status.DesiredRevision), Applied: short(o.Status.AppliedRevision), Converged: short(o.Status.ConvergedRevision),
		Waits: waitsFor(o), Progress: progressOf(o.Status.Progress, now),
	}
	if p.Pending != nil && !p.Pending.Approved {
		p.Approve = fmt.Sprintf("capstan approve -n %s --hash %s %s", o.Namespace, p.Pending.Hash, o.Name)
	}
	for _, e := range o.Status.History {
		p.History = append(p.History, historyOf(e))
	}
	return p
}

// short is main@1234abcd for main@sha1:1234abcd…, or the beginning of a hash.
func short(revision string) string {
	const digits = 8
	ref, hash, ok := strings.Cut(revision, "sha1:")
	if !ok {
		ref, hash = "", revision
	}
	return ref + hash[:min(digits, len(hash))]
}

// pages are the templates. Texts come from Git and API servers, so they pass through
// visible: escaping keeps them from being HTML, not from turning their neighbours round.
var pages = template.Must(template.New("").Funcs(template.FuncMap{
	"text": visible,
	"object": func(r v1alpha1.ObjectReference) string {
		kind := r.Kind
		if r.Group != "" {
			kind += "." + r.Group
		}
		return visible(kind + " " + strings.TrimPrefix(r.Namespace+"/"+r.Name, "/"))
	},
}).Parse(pageText))

// visible replaces what can't be seen, line ends and tabs apart.
func visible(text any) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || printable(r) {
			return r
		}
		return '·'
	}, fmt.Sprint(text))
}

// printable reports whether a character shows as itself.
func printable(r rune) bool {
	return r != unicode.ReplacementChar && unicode.IsPrint(r)
}
