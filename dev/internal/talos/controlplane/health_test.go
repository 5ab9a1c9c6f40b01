package controlplane

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"capstan.dev/capstan/dev/internal/talos/api"
)

// What keeps a control plane from being bootstrapped is the message of its condition: the original's words.
func TestBootstrapWaits(t *testing.T) {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c-talosconfig"}}
	without := &clusterv1.Machine{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "without"}}
	for name, tt := range map[string]struct {
		objects  []client.Object
		machines []*clusterv1.Machine
		want     string
	}{
		"no replica":     {[]client.Object{secret}, nil, "at least one machine should be provided"},
		"no secrets yet": {nil, []*clusterv1.Machine{without}, `secrets "c-talosconfig" not found`},
		"no address yet": {[]client.Object{secret}, []*clusterv1.Machine{without}, `no addresses were found for node "without"`},
	} {
		t.Run(name, func(t *testing.T) {
			r := &reconciler{Client: fake.NewClientBuilder().WithObjects(tt.objects...).Build()}
			s := &scope{
				cluster:  &clusterv1.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}},
				tcp:      &api.TalosControlPlane{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp"}},
				machines: tt.machines,
			}
			if err := r.bootstrap(t.Context(), s); err == nil || err.Error() != tt.want {
				t.Errorf("%v, want %s", err, tt.want)
			}
		})
	}
}
