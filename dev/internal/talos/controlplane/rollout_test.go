package controlplane

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capstan.dev/capstan/dev/internal/talos/api"
)

// controlPlane is one with three machines of version v1.34.4, from template cp-v1.
func controlPlane(change ...func(*api.TalosControlPlane)) *api.TalosControlPlane {
	tcp := &api.TalosControlPlane{Spec: api.TalosControlPlaneSpec{
		Replicas: ptr.To(int32(3)), Version: "v1.34.4",
		InfrastructureTemplate: corev1.ObjectReference{
			APIVersion: "infrastructure.cluster.x-k8s.io/v1alpha2", Kind: "ProxmoxMachineTemplate", Name: "cp-v1", Namespace: "ns",
		},
		ControlPlaneConfig: api.ControlPlaneConfig{ControlPlaneConfig: config},
		RolloutStrategy: &api.RolloutStrategy{
			Type: api.RollingUpdateStrategyType, RollingUpdate: &api.RollingUpdate{MaxSurge: ptr.To(intstr.FromInt32(1))},
		},
	}}
	for _, f := range change {
		f(tcp)
	}
	return tcp
}

var config = api.TalosConfigSpec{GenerateType: "controlplane", TalosVersion: "v1.12", StrategicPatches: []string{"machine: {}\n"}}

// machine is one made from that control plane.
func machine() (*clusterv1.Machine, made) {
	m := &clusterv1.Machine{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Spec: clusterv1.MachineSpec{Version: "v1.34.4"}}
	infra := &unstructured.Unstructured{}
	infra.SetAnnotations(map[string]string{
		clusterv1.TemplateClonedFromNameAnnotation:      "cp-v1",
		clusterv1.TemplateClonedFromGroupKindAnnotation: "ProxmoxMachineTemplate.infrastructure.cluster.x-k8s.io",
	})
	return m, made{infra: infra, config: &api.TalosConfig{Spec: *config.DeepCopy()}}
}

// What rolls the control plane, and what does not.
func TestOutdated(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*api.TalosControlPlane)
		from   func(*clusterv1.Machine, *made)
		want   bool
	}{
		"nothing":       {want: false},
		"version":       {change: func(c *api.TalosControlPlane) { c.Spec.Version = "v1.34.5" }, want: true},
		"template name": {change: func(c *api.TalosControlPlane) { c.Spec.InfrastructureTemplate.Name = "cp-v2" }, want: true},
		"template kind": {change: func(c *api.TalosControlPlane) { c.Spec.InfrastructureTemplate.Kind = "OtherTemplate" }, want: true},
		"template version": {change: func(c *api.TalosControlPlane) {
			c.Spec.InfrastructureTemplate.APIVersion = "infrastructure.cluster.x-k8s.io/v1"
		}, want: false},
		"template namespace":     {change: func(c *api.TalosControlPlane) { c.Spec.InfrastructureTemplate.Namespace = "" }, want: false},
		"replicas":               {change: func(c *api.TalosControlPlane) { c.Spec.Replicas = ptr.To(int32(5)) }, want: false},
		"talosVersion":           {change: func(c *api.TalosControlPlane) { spec(c).TalosVersion = "v1.13" }, want: true},
		"a space in a patch":     {change: func(c *api.TalosControlPlane) { spec(c).StrategicPatches = []string{"machine: {} \n"} }, want: true},
		"an explicit empty list": {change: func(c *api.TalosControlPlane) { spec(c).ConfigPatches = []api.ConfigPatches{} }, want: true},
		"hostname: {}":           {change: func(c *api.TalosControlPlane) { spec(c).Hostname = api.HostnameSpec{} }, want: false},
		"init is not compared":   {change: func(c *api.TalosControlPlane) { c.Spec.ControlPlaneConfig.InitConfig.GenerateType = "init" }, want: false},
		"version, OnDelete": {change: func(c *api.TalosControlPlane) {
			c.Spec.Version = "v1.35.0"
			c.Spec.RolloutStrategy.Type = api.OnDeleteStrategyType
		}, want: false},
		"infrastructure is gone":     {from: func(_ *clusterv1.Machine, m *made) { m.infra = nil }, want: false},
		"config is gone":             {from: func(_ *clusterv1.Machine, m *made) { m.config = nil }, want: false},
		"annotations are gone":       {from: func(_ *clusterv1.Machine, m *made) { m.infra.SetAnnotations(nil) }, want: false},
		"config of a machine edited": {from: func(_ *clusterv1.Machine, m *made) { m.config.Spec.Data = "x" }, want: true},
		"outdated, being deleted": {from: func(m *clusterv1.Machine, _ *made) {
			m.Spec.Version = "v1.33.0"
			m.DeletionTimestamp = ptr.To(metav1.Now())
		}, want: false},
	} {
		t.Run(name, func(t *testing.T) {
			tcp := controlPlane()
			if tt.change != nil {
				tt.change(tcp)
			}
			m, from := machine()
			if tt.from != nil {
				tt.from(m, &from)
			}
			// As the API server gives both back.
			tcp, from.config = roundTrip(t, tcp), roundTrip(t, from.config)
			got := outdated(tcp, []*clusterv1.Machine{m}, map[string]made{"m": from})
			if (len(got) == 1) != tt.want {
				t.Errorf("outdated: %v, want %v", len(got) == 1, tt.want)
			}
		})
	}
}

func spec(c *api.TalosControlPlane) *api.TalosConfigSpec {
	return &c.Spec.ControlPlaneConfig.ControlPlaneConfig
}

// roundTrip encodes and decodes, which a clone of the control plane's configuration goes through; explicit empty
// lists of the control plane itself are kept by the API server and so put back.
func roundTrip[T any](t *testing.T, in *T) *T {
	t.Helper()
	if in == nil {
		return nil
	}
	if tcp, ok := any(in).(*api.TalosControlPlane); ok && spec(tcp).ConfigPatches != nil {
		return in
	}
	content, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	out := new(T)
	if err := json.Unmarshal(content, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// One machine more before one less, never below what is wanted without a surge of zero.
func TestDecide(t *testing.T) {
	surge := func(n int32) func(*api.TalosControlPlane) {
		return func(c *api.TalosControlPlane) {
			c.Spec.RolloutStrategy.RollingUpdate.MaxSurge = ptr.To(intstr.FromInt32(n))
		}
	}
	for name, tt := range map[string]struct {
		change             func(*api.TalosControlPlane)
		machines, outdated int
		want               action
	}{
		"first machine":             {nil, 0, 0, create},
		"second":                    {nil, 1, 0, create},
		"all there":                 {nil, 3, 0, done},
		"one too many":              {nil, 4, 0, remove},
		"rollout: surge":            {nil, 3, 3, create},
		"rollout: remove":           {nil, 4, 3, remove},
		"rollout while scaling up":  {nil, 1, 1, create},
		"rollout without surge":     {surge(0), 3, 3, remove},
		"rollout without a machine": {surge(0), 2, 2, create},
		"OnDelete, one outdated":    {func(c *api.TalosControlPlane) { c.Spec.RolloutStrategy.Type = api.OnDeleteStrategyType }, 3, 1, wait},
	} {
		t.Run(name, func(t *testing.T) {
			tcp := controlPlane()
			if tt.change != nil {
				tt.change(tcp)
			}
			got, err := decide(tcp, tt.machines, tt.outdated)
			if err != nil || got != tt.want {
				t.Errorf("%s, %v; want %s", got, err, tt.want)
			}
		})
	}
	if _, err := decide(controlPlane(func(c *api.TalosControlPlane) { c.Spec.RolloutStrategy = nil }), 3, 1); err == nil {
		t.Error("a rollout without a strategy")
	}
}

// The order in which machines go.
func TestPick(t *testing.T) {
	at := func(name string, age int, marked bool) *clusterv1.Machine {
		m := &clusterv1.Machine{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Unix(int64(1000-age), 0))}}
		if marked {
			m.Annotations = map[string]string{clusterv1.DeleteMachineAnnotation: ""}
		}
		return m
	}
	old, young, marked := at("old", 3, false), at("young", 1, false), at("marked", 2, true)
	for name, tt := range map[string]struct {
		machines, outdated []*clusterv1.Machine
		want               string
	}{
		"the oldest":                  {[]*clusterv1.Machine{young, old}, nil, "old"},
		"outdated before older":       {[]*clusterv1.Machine{young, old}, []*clusterv1.Machine{young}, "young"},
		"marked before outdated":      {[]*clusterv1.Machine{young, old, marked}, []*clusterv1.Machine{young, old}, "marked"},
		"marked and outdated first":   {[]*clusterv1.Machine{at("x", 9, true), old, marked}, []*clusterv1.Machine{old, marked}, "marked"},
		"the oldest of the outdated ": {[]*clusterv1.Machine{at("ancient", 9, false), old, young}, []*clusterv1.Machine{young, old}, "old"},
	} {
		if got := pick(tt.machines, tt.outdated).Name; got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}

func TestDefault(t *testing.T) {
	tcp := &api.TalosControlPlane{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: api.TalosControlPlaneSpec{Version: "1.34.4"}}
	if err := (webhook{}).Default(t.Context(), tcp); err != nil {
		t.Fatal(err)
	}
	want := api.TalosControlPlaneSpec{
		Replicas: ptr.To(int32(1)), Version: "v1.34.4", InfrastructureTemplate: corev1.ObjectReference{Namespace: "ns"},
		RolloutStrategy: &api.RolloutStrategy{
			Type: api.RollingUpdateStrategyType, RollingUpdate: &api.RollingUpdate{MaxSurge: ptr.To(intstr.FromInt32(1))},
		},
	}
	if diff := cmp.Diff(want, tcp.Spec); diff != "" {
		t.Error(diff)
	}
	onDelete := &api.TalosControlPlane{Spec: api.TalosControlPlaneSpec{Version: "v1.0.0", RolloutStrategy: &api.RolloutStrategy{Type: api.OnDeleteStrategyType}}}
	if err := (webhook{}).Default(t.Context(), onDelete); err != nil || onDelete.Spec.RolloutStrategy.RollingUpdate != nil {
		t.Errorf("OnDelete was given %+v, %v", onDelete.Spec.RolloutStrategy, err)
	}
}
