package datacenter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/onsi/gomega"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/encoder"
	"github.com/siderolabs/talos/pkg/machinery/config/generate"
	"github.com/siderolabs/talos/pkg/machinery/config/generate/secrets"
	"github.com/siderolabs/talos/pkg/machinery/config/machine"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/dev/internal/chaos"
	"capstan.dev/capstan/dev/internal/workload"
)

var testCluster = types.NamespacedName{Namespace: "ns", Name: "c"}

func key(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "ns", Name: name}
}

// site is a running Datacenter with what tests ask of it.
type site struct {
	*Datacenter
	*gomega.WithT
	cloud  *workload.Cloud
	monkey *chaos.Monkey
	talos  func(machine.Type) []byte
}

func newSite(t *testing.T, clock clock.WithDelayedExecution, boot time.Duration) *site {
	t.Helper()
	cloud, err := workload.New(workload.Options{Log: logr.Discard()})
	if err != nil {
		t.Fatal(err)
	}
	monkey := chaos.New(chaos.Knobs{})
	d := New(Options{Boot: boot, Cloud: cloud, Chaos: monkey, Log: logr.Discard(), Clock: clock})
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	for _, start := range []func(context.Context) error{cloud.Start, d.Start} {
		go func() {
			if err := start(ctx); err != nil {
				t.Error(err)
			}
		}()
	}
	g := gomega.NewWithT(t)
	g.SetDefaultEventuallyTimeout(20 * time.Second)
	return &site{Datacenter: d, WithT: g, cloud: cloud, monkey: monkey, talos: talosConfigs(t)}
}

// newBundle makes keys, which takes a while.
var newBundle = sync.OnceValues(func() (*secrets.Bundle, error) {
	return secrets.NewBundle(secrets.NewFixedClock(time.Now()), config.TalosVersion1_12)
})

// talosConfigs makes machine configurations of one Talos cluster.
func talosConfigs(t *testing.T) func(machine.Type) []byte {
	t.Helper()
	bundle, err := newBundle()
	if err != nil {
		t.Fatal(err)
	}
	return talosConfigsWith(t, bundle)
}

func talosConfigsWith(t *testing.T, bundle *secrets.Bundle) func(machine.Type) []byte {
	t.Helper()
	input, err := generate.NewInput("c", "https://10.0.0.1:6443", "1.34.4",
		generate.WithSecretsBundle(bundle), generate.WithVersionContract(config.TalosVersion1_12))
	if err != nil {
		t.Fatal(err)
	}
	return func(kind machine.Type) []byte {
		c, err := input.Config(kind)
		if err != nil {
			t.Fatal(err)
		}
		out, err := c.EncodeBytes(encoder.WithComments(encoder.CommentsDisabled))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}

// run creates a machine and powers it on as soon as it is cloned.
func (s *site) run(name string, controlPlane bool, boot Boot) {
	s.Create(Spec{Key: key(name), Cluster: testCluster, Machine: "machine-" + name, ControlPlane: controlPlane, Addresses: []string{"10.0.0.9"}})
	s.Expect(s.PowerOn(key(name), boot)).To(gomega.Succeed())
}

func (s *site) phase(name string) func() Phase {
	return func() Phase {
		vm, _ := s.Get(key(name))
		return vm.Phase
	}
}

// nodes gives each Node with its Ready status.
func (s *site) nodes() map[string]string {
	list := &corev1.NodeList{}
	if err := s.cloud.Cluster(testCluster).Client().List(context.Background(), list); err != nil {
		return map[string]string{"error": err.Error()}
	}
	out := map[string]string{}
	for _, n := range list.Items {
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady {
				out[n.Name] = string(c.Status)
			}
		}
	}
	return out
}

func (s *site) members() string {
	var out []string
	for _, m := range s.Etcd(testCluster) {
		state := ""
		if m.Leader {
			state += "*"
		}
		if !m.Healthy {
			state += "!"
		}
		out = append(out, m.Hostname+state)
	}
	return strings.Join(out, " ")
}

func (s *site) up() bool { return s.APIServerUp(testCluster) }

// A Talos cluster in its whole life: nothing happens before somebody says bootstrap, then everyone joins;
// without a quorum nothing answers.
func TestTalosCluster(t *testing.T) {
	s := newSite(t, clock.RealClock{}, 0)
	boot := Boot{UserData: s.talos(machine.TypeControlPlane), ProviderIDInMetadata: true}
	s.run("cp-0", true, boot)
	s.run("cp-1", true, boot)
	s.run("w-0", false, Boot{UserData: s.talos(machine.TypeWorker), ProviderIDInMetadata: true})
	s.Eventually(s.phase("cp-0")).Should(gomega.Equal(Running))
	s.Eventually(s.phase("w-0")).Should(gomega.Equal(Running))
	if s.up() || s.members() != "" {
		t.Fatalf("etcd runs unasked: members %q, API server up: %v", s.members(), s.up())
	}
	if err := s.Bootstrap(key("w-0")); err == nil {
		t.Error("a worker can be bootstrapped")
	}
	s.Expect(s.Bootstrap(key("cp-0"))).To(gomega.Succeed())
	s.Eventually(s.members).Should(gomega.Equal("cp-0* cp-1"))
	s.Eventually(s.nodes).Should(gomega.Equal(map[string]string{"cp-0": "True", "cp-1": "True", "w-0": "True"}))
	s.Expect(s.Bootstrap(key("cp-1"))).To(gomega.Succeed(), "twice is once")
	if got := s.members(); got != "cp-0* cp-1" {
		t.Errorf("members after a second bootstrap: %s", got)
	}

	s.run("cp-2", true, boot)
	s.Eventually(s.members).Should(gomega.Equal("cp-0* cp-1 cp-2"))
	// One of three gone without leaving: two are enough. Its Node says so.
	s.Delete(key("cp-0"))
	s.Eventually(s.nodes).Should(gomega.HaveKeyWithValue("cp-0", "Unknown"))
	s.Expect(s.up()).To(gomega.BeTrue())
	s.Expect(s.members()).To(gomega.Equal("cp-0! cp-1* cp-2"))
	s.Expect(s.RemoveMember(testCluster, s.Etcd(testCluster)[0].ID)).To(gomega.Succeed())
	s.Expect(s.members()).To(gomega.Equal("cp-1* cp-2"))
	// One of two is not, and without a quorum nobody can be removed either.
	s.Delete(key("cp-1"))
	s.Eventually(s.up).Should(gomega.BeFalse())
	s.Expect(s.RemoveMember(testCluster, s.Etcd(testCluster)[0].ID)).To(gomega.MatchError(errNoQuorum))
	s.Expect(s.Leave(key("cp-2"))).To(gomega.MatchError(errNoQuorum))
	s.Delete(key("cp-2"))
	s.Delete(key("w-0"))
	s.RemoveCluster(testCluster)
	s.Expect(s.List()).To(gomega.BeEmpty())
	s.Expect(s.Etcd(testCluster)).To(gomega.BeEmpty())
}

// A cluster of a name that another one had starts from nothing, whatever the other has left.
func TestClusterMadeAgain(t *testing.T) {
	s := newSite(t, clock.RealClock{}, 0)
	s.run("cp-0", true, Boot{UserData: s.talos(machine.TypeControlPlane)})
	s.Eventually(func() error { return s.Bootstrap(key("cp-0")) }).Should(gomega.Succeed())
	s.Eventually(s.nodes).Should(gomega.HaveKeyWithValue("cp-0", "True"))
	s.RemoveCluster(testCluster)
	s.Expect(s.List()).To(gomega.BeEmpty())

	other, err := secrets.NewBundle(secrets.NewFixedClock(time.Now()), config.TalosVersion1_12)
	s.Expect(err).NotTo(gomega.HaveOccurred())
	s.run("cp-1", true, Boot{UserData: talosConfigsWith(t, other)(machine.TypeControlPlane)})
	s.Eventually(s.phase("cp-1")).Should(gomega.Equal(Running))
	s.Expect(s.members()).To(gomega.BeEmpty())
	s.Expect(s.Bootstrap(key("cp-1"))).To(gomega.Succeed())
	s.Eventually(s.nodes).Should(gomega.Equal(map[string]string{"cp-1": "True"}))
}

// A machine takes over the Node of one that had its name: the end of the first is not told of the second.
func TestNodeTakenOver(t *testing.T) {
	s := newSite(t, clock.RealClock{}, 0)
	s.run("cp-0", true, Boot{UserData: s.talos(machine.TypeControlPlane)})
	s.Eventually(func() error { return s.Bootstrap(key("cp-0")) }).Should(gomega.Succeed())
	s.run("w-0", false, Boot{UserData: s.talos(machine.TypeWorker)})
	s.Eventually(s.nodes).Should(gomega.HaveKeyWithValue("w-0", "True"))
	for _, gone := range []bool{true, false} { // the API server has been told of the end of the first, or not
		s.Delete(key("w-0"))
		if gone {
			s.Eventually(s.nodes).Should(gomega.HaveKeyWithValue("w-0", "Unknown"))
		}
		s.run("w-0", false, Boot{UserData: s.talos(machine.TypeWorker)})
		vm, _ := s.Get(key("w-0"))
		s.Eventually(func() string {
			node := &corev1.Node{}
			if err := s.cloud.Cluster(testCluster).Client().Get(context.Background(), client.ObjectKey{Name: "w-0"}, node); err != nil {
				return err.Error()
			}
			return node.Status.NodeInfo.SystemUUID
		}).Should(gomega.Equal(vm.UUID))
		s.run(fmt.Sprintf("later-%v", gone), false, Boot{UserData: s.talos(machine.TypeWorker)}) // something else happens
		s.Eventually(s.nodes).Should(gomega.HaveKey(fmt.Sprintf("later-%v", gone)))
		s.Expect(s.nodes()).To(gomega.HaveKeyWithValue("w-0", "True"))
	}
}

// A kubelet whose Node the API server does not take tries again, although nothing else happens.
func TestRegistersAgain(t *testing.T) {
	cloud, err := workload.New(workload.Options{Log: logr.Discard()})
	if err != nil {
		t.Fatal(err)
	}
	fake := clocktesting.NewFakeClock(time.Now())
	// Without its loop: the test says when a cluster is worked out.
	d := New(Options{Cloud: cloud, Chaos: chaos.New(chaos.Knobs{}), Log: logr.Discard(), Clock: fake})
	s := &site{Datacenter: d, WithT: gomega.NewWithT(t), cloud: cloud}
	s.run("cp-0", true, Boot{UserData: talosConfigs(t)(machine.TypeControlPlane)})
	d.settle(t.Context(), testCluster)
	s.Expect(d.Bootstrap(key("cp-0"))).To(gomega.Succeed())
	d.settleNodes(t.Context(), d.clusters[testCluster], refusing{cloud.Cluster(testCluster).Client()})
	s.Expect(s.nodes()).To(gomega.BeEmpty())

	due := func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.dirty[testCluster]
	}
	d.mu.Lock()
	clear(d.dirty)
	d.mu.Unlock()
	fake.Step(time.Second)
	s.Eventually(due).Should(gomega.BeTrue())
	d.settle(t.Context(), testCluster)
	s.Expect(s.nodes()).To(gomega.Equal(map[string]string{"cp-0": "True"}))
}

// refusing creates nothing.
type refusing struct{ client.Client }

func (refusing) Create(context.Context, client.Object, ...client.CreateOption) error {
	return apierrors.NewInternalError(errors.New("try later"))
}

// The first machine of the old type init makes the cluster by itself.
func TestTalosInit(t *testing.T) {
	s := newSite(t, clock.RealClock{}, 0)
	s.run("cp-1", true, Boot{UserData: s.talos(machine.TypeControlPlane)})
	s.run("cp-0", true, Boot{UserData: s.talos(machine.TypeInit)})
	s.Eventually(s.members).Should(gomega.Equal("cp-0* cp-1"))
	s.Eventually(s.nodes).Should(gomega.HaveLen(2))
}

// A member that has left does not come back by itself, and its Node, once deleted, neither.
func TestLeave(t *testing.T) {
	s := newSite(t, clock.RealClock{}, 0)
	boot := Boot{UserData: s.talos(machine.TypeControlPlane)}
	s.run("cp-0", true, boot)
	s.Eventually(func() error { return s.Bootstrap(key("cp-0")) }).Should(gomega.Succeed())
	s.run("cp-1", true, boot)
	s.Eventually(s.members).Should(gomega.Equal("cp-0* cp-1"))
	s.Eventually(s.nodes).Should(gomega.HaveLen(2))

	s.Expect(s.Leave(key("cp-0"))).To(gomega.Succeed())
	s.Expect(s.Leave(key("cp-0"))).To(gomega.MatchError(errNoMember))
	api := s.cloud.Cluster(testCluster).Client()
	s.Expect(api.Delete(context.Background(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "cp-0"}})).To(gomega.Succeed())
	s.run("cp-2", true, boot) // something else happens
	s.Eventually(s.members).Should(gomega.Equal("cp-1* cp-2"))
	s.Eventually(s.nodes).Should(gomega.Equal(map[string]string{"cp-1": "True", "cp-2": "True"}))
	s.Expect(s.MoveLeader(testCluster, s.Etcd(testCluster)[1].ID)).To(gomega.Succeed())
	s.Expect(s.members()).To(gomega.Equal("cp-1 cp-2*"))
	s.Expect(s.MoveLeader(testCluster, 99)).To(gomega.MatchError(errNoMember))
}

// A machine that was given the secrets of another cluster runs, but joins neither etcd nor the API server.
func TestStrangeSecrets(t *testing.T) {
	s := newSite(t, clock.RealClock{}, 0)
	s.run("cp-0", true, Boot{UserData: s.talos(machine.TypeControlPlane)})
	s.Eventually(func() error { return s.Bootstrap(key("cp-0")) }).Should(gomega.Succeed())
	s.Eventually(s.up).Should(gomega.BeTrue())

	other, err := secrets.NewBundle(secrets.NewFixedClock(time.Now()), config.TalosVersion1_12)
	s.Expect(err).NotTo(gomega.HaveOccurred())
	strange := talosConfigsWith(t, other)
	s.run("cp-1", true, Boot{UserData: strange(machine.TypeControlPlane)})
	s.run("w-0", false, Boot{UserData: strange(machine.TypeWorker)})
	s.run("w-1", false, Boot{UserData: s.talos(machine.TypeWorker)})
	s.Eventually(s.nodes).Should(gomega.HaveKeyWithValue("w-1", "True"))
	for _, name := range []string{"cp-1", "w-0"} {
		s.Eventually(func() string { vm, _ := s.Get(key(name)); return string(vm.Phase) + ": " + vm.Problem }).
			Should(gomega.Equal("Running: its machine configuration has another certificate authority than the cluster"))
	}
	s.Expect(s.members()).To(gomega.Equal("cp-0*"))
	s.Expect(s.nodes()).To(gomega.HaveLen(2))
}

// kubeadm init makes a cluster by itself once its authority is known, and kubeadm join waits for it.
func TestKubeadm(t *testing.T) {
	s := newSite(t, clock.RealClock{}, 0)
	s.run("cp-1", true, Boot{UserData: []byte("#cloud-config\nruncmd: [kubeadm join]"), KubernetesVersion: "v1.35.1"})
	s.run("cp-0", true, Boot{UserData: []byte("## template: jinja\n#cloud-config\nruncmd: [kubeadm init --config /run/kubeadm/kubeadm.yaml] # provider-id"), KubernetesVersion: "v1.35.1"})
	s.Eventually(s.members).Should(gomega.Equal("cp-0* cp-1"))
	s.Expect(s.up()).To(gomega.BeFalse(), "without an authority")
	bundle, err := newBundle()
	s.Expect(err).NotTo(gomega.HaveOccurred())
	s.Expect(s.SetAuthority(testCluster, []byte("no"), nil)).To(gomega.MatchError(gomega.ContainSubstring("ns/c")))
	s.Expect(s.SetAuthority(testCluster, bundle.Certs.K8s.Crt, bundle.Certs.K8s.Key)).To(gomega.Succeed())
	s.Eventually(s.nodes).Should(gomega.HaveLen(2))
	node := &corev1.Node{}
	s.Expect(s.cloud.Cluster(testCluster).Client().Get(context.Background(), client.ObjectKey{Name: "cp-0"}, node)).To(gomega.Succeed())
	vm, _ := s.Get(key("cp-0"))
	got := []string{node.Spec.ProviderID, node.Status.NodeInfo.KubeletVersion, node.Status.Addresses[1].Address}
	if diff := cmp.Diff([]string{"proxmox://" + vm.UUID, "v1.35.1", "10.0.0.9"}, got); diff != "" {
		t.Error(diff)
	}
}

// Time passes: cloning takes a quarter of a boot, and nothing is skipped.
func TestBootTakesTime(t *testing.T) {
	fake := clocktesting.NewFakeClock(time.Unix(0, 0))
	s := newSite(t, fake, 8*time.Second)
	s.Create(Spec{Key: key("w"), Cluster: testCluster, Machine: "m"})
	if err := s.PowerOn(key("w"), Boot{}); err == nil || !strings.Contains(err.Error(), "cloned") {
		t.Errorf("powering on during the clone: %v", err)
	}
	step := func(d time.Duration, want Phase) {
		t.Helper()
		fake.Step(d)
		s.Eventually(s.phase("w")).Should(gomega.Equal(want))
	}
	step(2*time.Second-1, Cloning)
	step(1, Stopped)
	s.Expect(s.PowerOn(key("w"), Boot{UserData: s.talos(machine.TypeWorker)})).To(gomega.Succeed())
	step(8*time.Second-1, Booting)
	s.Expect(s.Bootstrap(key("w"))).NotTo(gomega.Succeed())
	step(1, Running)

	// A timer of a machine that was deleted does not touch its successor of the same name.
	s.Delete(key("w"))
	s.Create(Spec{Key: key("w"), Cluster: testCluster, Machine: "m"})
	s.Delete(key("w"))
	fake.Step(time.Second)
	s.Create(Spec{Key: key("w"), Cluster: testCluster, Machine: "m"})
	step(time.Second, Cloning)
	step(time.Second, Stopped)
	if err := s.PowerOn(key("nobody"), Boot{}); err == nil {
		t.Error("a machine that does not exist was powered on")
	}
}

// Ignition says the same as cloud-init, in data URLs.
func TestIgnition(t *testing.T) {
	for name, tt := range map[string]struct {
		data              string
		inits, providerID bool
	}{
		"init": {`{"storage":{"files":[{"path":"/etc/kubeadm.sh","contents":{"source":"data:,kubeadm%20init%20--config%20%2Fetc%2Fkubeadm.yml"}}]}}`, true, false},
		"join": {`{"storage":{"files":[{"contents":{"source":"data:,kubeadm%20join"}},{"contents":{"source":"data:,name%3A%20provider-id"}}]}}`, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(Spec{}, Boot{UserData: []byte(tt.data)})
			if g.kind != kubeadm || g.problem != "" || g.initsCluster != tt.inits || g.providerID != tt.providerID {
				t.Errorf("got %+v", g)
			}
		})
	}
}

// What a real machine chokes on keeps the simulated one from booting, and says why.
func TestGuestProblems(t *testing.T) {
	configs := talosConfigs(t)
	for name, tt := range map[string]struct {
		data         []byte
		controlPlane bool
		want         string
	}{
		"no YAML":          {[]byte("\x00"), false, "refuses its machine configuration"},
		"unknown key":      {append(configs(machine.TypeWorker), "\nsurprise: true\n"...), false, "surprise"},
		"invalid":          {bytes.Replace(configs(machine.TypeWorker), []byte("https://10.0.0.1:6443"), []byte(`""`), 1), false, "endpoint"},
		"wrong role":       {configs(machine.TypeWorker), true, "type is worker"},
		"nothing to boot":  {nil, false, "refuses its machine configuration"},
		"control plane ok": {configs(machine.TypeControlPlane), true, ""},
		"worker ok":        {configs(machine.TypeWorker), false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := newGuest(Spec{ControlPlane: tt.controlPlane}, Boot{UserData: tt.data}).problem
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("problem %q, want %q", got, tt.want)
			}
		})
	}
}

// The provider id reaches a Talos node by one of two ways, or not at all.
func TestProviderID(t *testing.T) {
	configs := talosConfigs(t)
	plain := configs(machine.TypeWorker)
	external := bytes.Replace(plain, []byte("\ncluster:\n"), []byte("\ncluster:\n    externalCloudProvider:\n        enabled: true\n"), 1)
	byHand := bytes.Replace(plain, []byte("    kubelet:\n"), []byte("    kubelet:\n        extraArgs:\n            cloud-provider: external\n"), 1)
	flag := bytes.Replace(plain, []byte("    kubelet:\n"), []byte("    kubelet:\n        extraArgs:\n            provider-id: x\n"), 1)
	for name, tt := range map[string]struct {
		data     []byte
		metadata bool
		want     bool
	}{
		"metadata that nobody reads":    {plain, true, false},
		"cloud provider, no metadata":   {external, false, false},
		"cloud provider reads metadata": {external, true, true},
		"cloud provider set by hand":    {byHand, true, true},
		"flag":                          {flag, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(Spec{}, Boot{UserData: tt.data, ProviderIDInMetadata: tt.metadata})
			if g.problem != "" || g.providerID != tt.want {
				t.Errorf("provider id: %v, want %v (problem %q)", g.providerID, tt.want, g.problem)
			}
		})
	}
}

// Chaos strikes as many machines as asked, and ends when the knob is turned back.
func TestChaos(t *testing.T) {
	s := newSite(t, clock.RealClock{}, 0)
	s.run("cp-0", true, Boot{UserData: s.talos(machine.TypeControlPlane)})
	s.Eventually(func() error { return s.Bootstrap(key("cp-0")) }).Should(gomega.Succeed())
	s.Eventually(s.nodes).Should(gomega.HaveLen(1))

	knobs := chaos.Knobs{}
	for _, setting := range []string{"never-boots=ns/machine-w-*", "node-unhealthy=ns/machine-cp-0"} {
		s.Expect(knobs.Parse(setting)).To(gomega.Succeed())
	}
	s.monkey.Set(knobs)
	for i := range 3 {
		s.run(fmt.Sprintf("w-%d", i), false, Boot{UserData: s.talos(machine.TypeWorker)})
	}
	s.Eventually(s.nodes).Should(gomega.HaveLen(3), "two workers and the control plane")
	s.Eventually(s.nodes).Should(gomega.HaveKeyWithValue("cp-0", "False"))
	stuck := 0
	for _, vm := range s.List() {
		if vm.Problem != "" {
			stuck++
			s.Expect(vm.Phase).To(gomega.Equal(Booting))
		}
	}
	s.Expect(stuck).To(gomega.Equal(1))
	s.monkey.Set(chaos.Knobs{})
	s.Eventually(s.nodes).Should(gomega.Equal(map[string]string{"cp-0": "True", "w-0": "True", "w-1": "True", "w-2": "True"}))
}

// After a restart of the simulator what ran runs again, without being told to bootstrap.
func TestRestart(t *testing.T) {
	s := newSite(t, clock.RealClock{}, time.Hour)
	for _, name := range []string{"cp-0", "cp-1"} {
		vm := s.Create(Spec{Key: key(name), Cluster: testCluster, ControlPlane: true, ID: 107, UUID: "u-" + name})
		s.Expect(vm.ID).To(gomega.Equal(int64(107)))
		s.Expect(s.PowerOn(key(name), Boot{UserData: s.talos(machine.TypeControlPlane), Running: true})).To(gomega.Succeed())
	}
	s.Eventually(s.members).Should(gomega.Equal("cp-0* cp-1"))
	s.Eventually(s.nodes).Should(gomega.HaveLen(2))
}
