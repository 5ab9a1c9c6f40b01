package dev

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// One management cluster without delays serves all tests: each has its own namespaces, of names that it chooses, so
// none runs twice in a process: instead of -count, run go test again.
var (
	mgmt    *Cluster
	admin   client.Client
	capstan string // the product's binary, which renders the sample fleet
	// auditLog has what agents with accounts of their own have sent.
	auditLog string
)

var keepLog = flag.String("log", "", "file for the log of the management cluster")

func TestMain(m *testing.M) {
	// Tests wait for machines more than they work.
	_ = flag.Set("test.parallel", "6")
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (_ int, err error) {
	dir, err := os.MkdirTemp("", "devcluster-test-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	capstan = filepath.Join(dir, "capstan")
	if out, err := exec.Command("go", "-C", "..", "build", "-buildvcs=false", "-o", capstan, "./cmd/agent").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build capstan: %w: %s", err, out)
	}
	auditLog = filepath.Join(dir, "audit.log")
	log := logr.Discard()
	if *keepLog != "" {
		f, err := os.Create(*keepLog)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		log = logr.FromSlogHandler(slog.NewTextHandler(f, nil))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	// Rarely a controller of a MachineDeployment whose MachineSet has just gone misses an edit, and looks again
	// with the next resync only. The original's is later than any test waits.
	options := Options{Dir: filepath.Join(dir, "state"), BinDirs: binDirs(), Audit: auditLog, Resync: time.Minute, Log: log}
	if mgmt, err = Start(ctx, options); err != nil {
		return 0, err
	}
	defer func() {
		if stopErr := mgmt.Stop(); err == nil {
			err = stopErr
		}
	}()
	scheme, err := newScheme()
	if err != nil {
		return 0, err
	}
	if admin, err = client.New(mgmt.RESTConfig(), client.Options{Scheme: scheme}); err != nil {
		return 0, err
	}
	if err := applyShared(ctx); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// applyShared applies what the clusters of the sample fleet share.
func applyShared(ctx context.Context) error {
	out, err := exec.Command(capstan, "render", filepath.Join("..", "clusters", "shared")).Output()
	if err != nil {
		return fmt.Errorf("capstan render clusters/shared: %w", err)
	}
	objects, err := decode(string(out))
	if err != nil {
		return err
	}
	for _, o := range objects {
		if err := admin.Create(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// binDirs are where the binaries may be.
func binDirs() []string {
	dirs := []string{filepath.Join("..", "bin")}
	if assets := os.Getenv("KUBEBUILDER_ASSETS"); assets != "" {
		dirs = append([]string{assets}, dirs...)
	}
	return dirs
}

// env is one cluster of the sample fleet in namespaces of a test's own.
type env struct {
	*testing.T
	*gomega.WithT
	ctx       context.Context
	name      string // the prefix of all names: dev, staging, prod or what a test calls it
	namespace string
	objects   []*unstructured.Unstructured
	// kubeconfig is that of the management cluster.
	kubeconfig string
}

// sample renders an overlay of the sample fleet with every prefix replaced by name, creates the
// credentials, and applies it.
func sample(t *testing.T, overlay, name string) *env {
	t.Helper()
	e := newEnv(t, name)
	e.objects = render(t, filepath.Join("..", "clusters", overlay), overlay, name)
	e.createCredentials()
	e.apply(e.objects...)
	return e
}

func newEnv(t *testing.T, name string) *env {
	e := &env{T: t, WithT: gomega.NewWithT(t), ctx: t.Context(), name: name, namespace: name + "-talos", kubeconfig: mgmt.Kubeconfig()}
	e.SetDefaultEventuallyTimeout(4 * time.Minute) // on a busy machine
	e.SetDefaultEventuallyPollingInterval(200 * time.Millisecond)
	return e
}

// render renders an overlay with the product's own command, and renames the cluster.
func render(t *testing.T, path, overlay, name string) []*unstructured.Unstructured {
	t.Helper()
	cmd := exec.Command(capstan, "render", path)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("capstan render %s: %v\n%s", path, err, stderr.String())
	}
	return parse(t, strings.ReplaceAll(string(out), overlay+"-", name+"-"))
}

func decode(manifests string) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	decoder := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(manifests), 4096)
	for {
		o := &unstructured.Unstructured{}
		if err := decoder.Decode(&o.Object); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return nil, err
		}
		if len(o.Object) > 0 {
			out = append(out, o)
		}
	}
}

// createCredentials does what the README of the sample fleet asks of a person.
func (e *env) createCredentials() {
	e.Helper()
	for _, o := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: e.namespace}},
		&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: "proxmox-credentials", Namespace: e.namespace},
			StringData: map[string]string{"url": "https://pve.example.internal:8006/", "token": "capi@pve!capi", "secret": "s", "insecure": "false"},
		},
	} {
		if err := admin.Create(e.ctx, o); err != nil && !apierrors.IsAlreadyExists(err) {
			e.Fatal(err)
		}
	}
}

// apply applies objects on the server side, as Capstan does.
func (e *env) apply(objects ...*unstructured.Unstructured) {
	e.Helper()
	for _, o := range objects {
		if err := e.tryApply(o); err != nil {
			e.Fatalf("apply %s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
}

func (e *env) tryApply(o *unstructured.Unstructured) error {
	return admin.Apply(e.ctx, client.ApplyConfigurationFromUnstructured(o.DeepCopy()), client.FieldOwner("capstan"), client.ForceOwnership)
}

// object is the one rendered object of a kind whose name ends so.
func (e *env) object(kind, suffix string) *unstructured.Unstructured {
	e.Helper()
	for _, o := range e.objects {
		if o.GetKind() == kind && strings.HasSuffix(o.GetName(), suffix) {
			return o
		}
	}
	e.Fatalf("the overlay has no %s …%s", kind, suffix)
	return nil
}

func (e *env) key(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: e.namespace, Name: name}
}

// cluster reads the Cluster.
func (e *env) cluster() *clusterv1.Cluster {
	c := &clusterv1.Cluster{}
	if err := admin.Get(e.ctx, e.key(e.namespace), c); err != nil {
		return nil
	}
	return c
}

// available says why the Cluster is not Available; empty if it is.
func (e *env) available() string {
	c := e.cluster()
	if c == nil {
		return "no Cluster"
	}
	condition := meta.FindStatusCondition(c.Status.Conditions, clusterv1.AvailableCondition)
	if condition == nil {
		return "no Available condition"
	}
	if condition.Status != metav1.ConditionTrue || condition.ObservedGeneration != c.Generation {
		return condition.Message
	}
	return ""
}

// awaitAvailable fails the test with the reason if it takes too long, and with where everything is.
func (e *env) awaitAvailable() {
	e.Helper()
	e.Eventually(e.available).Should(gomega.BeEmpty(), e.dump)
}

// awaitOwned waits until MachineHealthChecks are owned, and so go with the Cluster. Their
// controller looks at each once in 15 s and needs two looks to say whose it is: a Cluster that
// is paused or deleted before then leaves its behind.
func (e *env) awaitOwned() {
	e.Helper()
	e.Eventually(func() (without []string, err error) {
		var checks clusterv1.MachineHealthCheckList
		err = admin.List(e.ctx, &checks, client.InNamespace(e.namespace))
		for _, c := range checks.Items {
			if len(c.OwnerReferences) == 0 {
				without = append(without, c.Name)
			}
		}
		return without, err
	}).Should(gomega.BeEmpty())
}

// machines lists the Machines of the cluster.
func (e *env) machines(labels ...string) []clusterv1.Machine {
	opts := []client.ListOption{client.InNamespace(e.namespace)}
	for _, l := range labels {
		opts = append(opts, client.HasLabels{l})
	}
	list := &clusterv1.MachineList{}
	if err := admin.List(e.ctx, list, opts...); err != nil {
		e.Fatal(err)
	}
	return list.Items
}

func parse(t *testing.T, manifests string) []*unstructured.Unstructured {
	t.Helper()
	objects, err := decode(manifests)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}
