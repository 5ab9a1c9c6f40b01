package agent_test

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/testenv"
)

// guardedResources must not be deleted unless a test approved it.
var guardedResources = []string{"namespaces", "secrets", "clusters", "machinedeployments", "proxmoxclusters", "taloscontrolplanes"}

// check checks what must hold after every scenario.
func (w *world) check() {
	w.Helper()
	w.checkDeletes()
	w.checkInventories()
	w.checkSecrets()
}

// checkDeletes: nothing guarded was deleted without an approval, nothing twice, and
// never without a precondition. ClusterOverlays are the agent's own.
func (w *world) checkDeletes() {
	w.Helper()
	seen := map[string]int{}
	for _, r := range env.Requests(w.T, w.user, 0) {
		if r.Verb != "delete" && r.Verb != "deletecollection" || r.Code >= 300 {
			continue
		}
		name := strings.TrimPrefix(r.Namespace+"/"+r.Name, "/")
		if r.Resource == "namespaces" {
			name = r.Name
		}
		if slices.Contains(guardedResources, r.Resource) && !w.approved[strings.TrimSuffix(r.Resource, "s")+" "+name] {
			w.Errorf("deleted without an approval: %s", r)
		}
		seen[r.Resource+" "+name]++
	}
	for what, n := range seen {
		if n > 1 && !strings.HasPrefix(what, "clusteroverlays ") && !strings.HasPrefix(what, "configmaps ") {
			w.Errorf("deleted %d times: %s", n, what)
		}
	}
}

// labelled lists the live objects that carry the Fleet's label.
func (w *world) labelled() []*unstructured.Unstructured {
	w.Helper()
	var all []*unstructured.Unstructured
	for _, k := range kinds {
		var list unstructured.UnstructuredList
		list.SetAPIVersion(k.APIVersion)
		list.SetKind(k.Kind + "List")
		w.must(env.Client().List(context.Background(), &list, client.MatchingLabels{v1alpha1.FleetLabel: apply.FleetLabelValue(w.ns, "fleet")}))
		for i := range list.Items {
			all = append(all, &list.Items[i])
		}
	}
	return all
}

// checkInventories: every live object that carries our labels is in exactly one
// inventory, that of the overlay which its label names. Namespaces may be shared.
func (w *world) checkInventories() {
	w.Helper()
	w.eventually("each object is in one inventory", func() string {
		owners := map[types.UID][]string{}
		for name, o := range w.overlays() {
			for _, e := range o.Status.Inventory {
				if e.UID != "" {
					owners[e.UID] = append(owners[e.UID], name)
				}
			}
		}
		var wrong []string
		for _, u := range w.labelled() {
			who := owners[u.GetUID()]
			if u.GetKind() == "Namespace" && (len(who) > 0 || u.GetLabels()[v1alpha1.OverlayLabel] == "") {
				continue
			}
			if len(who) != 1 || who[0] != u.GetLabels()[v1alpha1.OverlayLabel] {
				wrong = append(wrong, fmt.Sprintf("%s %s/%s of %s is in the inventories %v", u.GetKind(), u.GetNamespace(), u.GetName(), u.GetLabels()[v1alpha1.OverlayLabel], who))
			}
		}
		return strings.Join(wrong, "\n")
	})
}

// checkSecrets: secret material shows in no status, event or log.
func (w *world) checkSecrets() {
	w.Helper()
	everything := map[string]string{"log": w.logs.String(), "events": strings.Join(w.events(), "\n"), "Fleet": toJSON(w.getFleet())}
	for name, o := range w.overlays() {
		everything[name] = toJSON(o)
	}
	for where, text := range everything {
		for _, secret := range w.secrets {
			if strings.Contains(text, secret) {
				w.Errorf("%s holds the secret %q", where, secret)
			}
		}
	}
}

// mark is the present end of the audit log.
func (w *world) mark() testenv.Mark {
	w.Helper()
	return env.Mark(w.T)
}
