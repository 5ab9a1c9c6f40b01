package capi_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/blang/semver/v4"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	bootstrapv1 "sigs.k8s.io/cluster-api/api/bootstrap/kubeadm/v1beta2"
	controlplanev1beta1 "sigs.k8s.io/cluster-api/api/controlplane/kubeadm/v1beta1" //nolint:staticcheck // what manifests still say
	controlplanev1 "sigs.k8s.io/cluster-api/api/controlplane/kubeadm/v1beta2"
	clusterv1beta1 "sigs.k8s.io/cluster-api/api/core/v1beta1" //nolint:staticcheck // what manifests still say
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	kcp "sigs.k8s.io/cluster-api/controlplane/kubeadm/pkg"
	"sigs.k8s.io/cluster-api/controlplane/kubeadm/pkg/desiredstate"
	kubeadmadmission "sigs.k8s.io/cluster-api/controlplane/kubeadm/webhooks/admission"
	kubeadmconversion "sigs.k8s.io/cluster-api/controlplane/kubeadm/webhooks/conversion"
	"sigs.k8s.io/cluster-api/core/reconcilers/machinedeployment/mdutil"
	coreconversion "sigs.k8s.io/cluster-api/core/webhooks/conversion"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/dev/internal/edits"
	"capstan.dev/capstan/internal/capi"
)

// The machines were made when a rollout.after had passed that is earlier, and before any that an edit
// sets; all these times are over. An expiry of 20 days takes their certificates in, one of 10 doesn't.
var (
	earlier = metav1.Unix(1_000_000, 0)
	created = metav1.Unix(2_000_000, 0)
	later   = metav1.Unix(3_000_000, 0)
	now     = metav1.Unix(4_000_000, 0)
	expiry  = metav1.NewTime(now.Add(15 * 24 * time.Hour))
)

// values that controllers parse.
func values(field string) (first, other any) {
	switch {
	case strings.HasSuffix(field, "clusterConfiguration.kubernetesVersion"):
		return "v1.33.1", "v1.34.0"
	case field == "version", field == "template.spec.version":
		return "v1.33.1", "v1.34.0"
	case strings.HasSuffix(field, "Ref.apiVersion"):
		return "infrastructure.cluster.x-k8s.io/v1beta1", "infrastructure.cluster.x-k8s.io/v1beta2"
	case strings.HasSuffix(field, "Ref.apiGroup"):
		return "infrastructure.cluster.x-k8s.io", "other.cluster.x-k8s.io"
	case strings.HasSuffix(field, "joinConfiguration.nodeRegistration.name"):
		// Not that of initConfiguration: else no machine is replaced for an edit of that.
		return "joined", "other"
	case field == "rollout.after", field == "rolloutAfter":
		return earlier, later
	case strings.HasSuffix(strings.TrimSuffix(field, "{}"), "trategy.type"):
		return "RollingUpdate", "OnDelete"
	}
	return nil, nil
}

// TestConsequencesOfMachineDeployments: the tables say that machines are replaced for exactly those
// edits after which Cluster API finds no MachineSet that is up to date.
func TestConsequencesOfMachineDeployments(t *testing.T) {
	upToDate := func(t *testing.T, before, after *clusterv1.MachineDeployment) bool {
		ms := &clusterv1.MachineSet{
			ObjectMeta: metav1.ObjectMeta{Name: "ms", CreationTimestamp: created},
			Spec:       clusterv1.MachineSetSpec{Replicas: ptr.To[int32](3), Template: before.Spec.Template},
		}
		current, _, _, _ := mdutil.FindNewAndOldMachineSets(after, []*clusterv1.MachineSet{ms}, now)
		return current != nil
	}
	t.Run("v1beta2", func(t *testing.T) {
		check(t, clusterv1.GroupVersion.String(), func(o *clusterv1.MachineDeployment) any { return &o.Spec },
			func(t *testing.T, o *clusterv1.MachineDeployment) *clusterv1.MachineDeployment { return o }, upToDate, nil)
	})
	t.Run("v1beta1", func(t *testing.T) {
		check(t, clusterv1beta1.GroupVersion.String(), func(o *clusterv1beta1.MachineDeployment) any { return &o.Spec },
			func(t *testing.T, o *clusterv1beta1.MachineDeployment) *clusterv1.MachineDeployment {
				hub := &clusterv1.MachineDeployment{}
				if err := coreconversion.ConvertMachineDeploymentV1Beta1ToHub(t.Context(), o.DeepCopy(), hub); err != nil {
					t.Fatal(err)
				}
				return hub
			}, upToDate, nil)
	})
}

// TestConsequencesOfKubeadmControlPlanes: they say so for exactly those edits after which a machine that
// was there first, or one that joined, is not up to date; and that an edit is refused for exactly those
// that the webhook refuses because of their field.
func TestConsequencesOfKubeadmControlPlanes(t *testing.T) {
	refused := func(t *testing.T, before, after *controlplanev1.KubeadmControlPlane) bool {
		webhook := &kubeadmadmission.KubeadmControlPlane{}
		before, after = before.DeepCopy(), after.DeepCopy()
		for _, o := range []*controlplanev1.KubeadmControlPlane{before, after} {
			if err := webhook.Default(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		}
		_, err := webhook.ValidateUpdate(t.Context(), before, after)
		if err == nil {
			return false
		}
		// Not what is wrong with values: no control plane is valid that has everything.
		return strings.Contains(err.Error(), "cannot be modified") || strings.Contains(err.Error(), "spec.replicas") ||
			strings.Contains(err.Error(), "cannot change between external and local etcd")
	}
	t.Run("v1beta2", func(t *testing.T) {
		check(t, controlplanev1.GroupVersion.String(), func(o *controlplanev1.KubeadmControlPlane) any { return &o.Spec },
			func(t *testing.T, o *controlplanev1.KubeadmControlPlane) *controlplanev1.KubeadmControlPlane {
				return o
			},
			kubeadmUpToDate, refused)
	})
	t.Run("v1beta1", func(t *testing.T) {
		check(t, controlplanev1beta1.GroupVersion.String(), func(o *controlplanev1beta1.KubeadmControlPlane) any { return &o.Spec },
			func(t *testing.T, o *controlplanev1beta1.KubeadmControlPlane) *controlplanev1.KubeadmControlPlane {
				hub := &controlplanev1.KubeadmControlPlane{}
				if err := kubeadmconversion.ConvertKubeadmControlPlaneV1Beta1ToHub(t.Context(), o.DeepCopy(), hub); err != nil {
					t.Fatal(err)
				}
				return hub
			}, kubeadmUpToDate, refused)
	})
}

// kubeadmUpToDate tells whether machines that were made from a control plane are what it asks for now.
func kubeadmUpToDate(t *testing.T, before, after *controlplanev1.KubeadmControlPlane) bool {
	t.Helper()
	if _, err := semver.ParseTolerant(after.Spec.Version); err != nil {
		return false // no machine is what can't be parsed
	}
	cluster := &clusterv1.Cluster{ObjectMeta: metav1.ObjectMeta{Name: "prod"}}
	ref := before.Spec.MachineTemplate.Spec.InfrastructureRef
	infra := &unstructured.Unstructured{Object: map[string]any{"apiVersion": ref.APIGroup + "/v1", "kind": "Infra"}}
	infra.SetAnnotations(map[string]string{
		clusterv1.TemplateClonedFromNameAnnotation:      ref.Name,
		clusterv1.TemplateClonedFromGroupKindAnnotation: ref.GroupKind().String(),
	})
	for _, joined := range []bool{true, false} {
		config, err := desiredstate.ComputeDesiredKubeadmConfig(before, cluster, joined, "one", nil)
		if err != nil {
			t.Fatal(err)
		}
		machine := &clusterv1.Machine{
			ObjectMeta: metav1.ObjectMeta{Name: "one", CreationTimestamp: created},
			Spec: clusterv1.MachineSpec{Version: before.Spec.Version, Bootstrap: clusterv1.Bootstrap{
				ConfigRef: clusterv1.ContractVersionedObjectReference{APIGroup: bootstrapv1.GroupVersion.Group, Kind: "KubeadmConfig", Name: "one"},
			}},
			Status: clusterv1.MachineStatus{CertificatesExpiryDate: expiry},
		}
		upToDate, _, err := kcp.UpToDate(t.Context(), templates{}, cluster, machine, after, &now,
			map[string]*unstructured.Unstructured{"one": infra}, map[string]*bootstrapv1.KubeadmConfig{"one": config})
		if err != nil {
			t.Fatal(err)
		}
		if !upToDate {
			return false
		}
	}
	return true
}

// templates has every template, and the definition of its kind.
type templates struct{ client.Client }

func (templates) Get(_ context.Context, _ client.ObjectKey, o client.Object, _ ...client.GetOption) error {
	switch o := o.(type) {
	case *metav1.PartialObjectMetadata:
		o.SetLabels(map[string]string{clusterv1.GroupVersion.String(): "v1"})
	case *unstructured.Unstructured:
		return unstructured.SetNestedMap(o.Object, map[string]any{"spec": map[string]any{}}, "spec", "template")
	default:
		return fmt.Errorf("no %T here", o)
	}
	return nil
}

// object is a pointer to one of the type.
type object[T any] interface {
	*T
	client.Object
}

// check edits every field of a type.
func check[T, Hub any, O object[T]](
	t *testing.T, apiVersion string, spec func(O) any, convert func(*testing.T, O) *Hub,
	upToDate func(t *testing.T, before, after *Hub) bool, refused func(t *testing.T, before, after *Hub) bool,
) {
	kind := strings.TrimPrefix(fmt.Sprintf("%T", *new(T)), strings.Split(fmt.Sprintf("%T", *new(T)), ".")[0]+".")
	filled := func() O {
		o := O(new(T))
		edits.Fill(spec(o), values)
		return o
	}
	all := edits.All(spec(filled()), values)
	rollouts := 0
	for _, edit := range all {
		before, after := filled(), filled()
		edit.Do(spec(after), values)
		said := capi.Consequences(manifest(t, apiVersion, kind, before), manifest(t, apiVersion, kind, after))
		var rolls, rejected bool
		for _, c := range said {
			rolls = rolls || c.Kind == capi.ConsequenceRollout || c.Kind == capi.ConsequenceControlPlaneRollout
			rejected = rejected || c.Kind == capi.ConsequenceRejected
		}
		hubBefore, hubAfter := convert(t, before), convert(t, after)
		if refused != nil {
			if want := refused(t, hubBefore, hubAfter); want != rejected {
				t.Errorf("%s: refused is %t, but %v", edit, want, said)
			}
			if rejected {
				continue
			}
		}
		if strings.HasPrefix(edit.Field, "kubeadmConfigSpec.useExperimentalRetryJoin") {
			continue // gone since Cluster API v1.11; before, it was compared
		}
		if want := !upToDate(t, hubBefore, hubAfter); want != rolls {
			t.Errorf("%s: rolls out is %t, but %v", edit, want, said)
		}
		if rolls {
			rollouts++
		}
	}
	t.Logf("%d edits, of which %d replace machines", len(all), rollouts)
	if rollouts == 0 || rollouts == len(all) {
		t.Error("nothing was told apart")
	}
}

func manifest(t *testing.T, apiVersion, kind string, o any) *unstructured.Unstructured {
	t.Helper()
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{Object: content}
	u.SetAPIVersion(apiVersion)
	u.SetKind(kind)
	return u
}
