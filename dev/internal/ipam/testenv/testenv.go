// Package testenv runs a real API server, with Cluster API's and the providers' CRDs and webhooks, and
// a manager, for the tests of provider simulators. Cluster API's controllers do not run: tests play them.
package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"runtime"
	"testing"

	"github.com/go-logr/logr"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	ipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/cluster-api/util"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
)

// Options for Start.
type Options struct {
	// AddToScheme are the kinds to know besides those of Kubernetes and Cluster API.
	AddToScheme []func(*apiruntime.Scheme) error
	// Webhooks are the configurations to install, as YAML.
	Webhooks [][]byte
	// Setup registers controllers and webhooks.
	Setup func(context.Context, ctrl.Manager) error
}

// Start runs everything until stop is called. The client reads from the API server, not from a cache.
func Start(opts Options) (_ client.Client, stop func() error, err error) {
	log.SetLogger(logr.Discard())
	scheme := apiruntime.NewScheme()
	for _, add := range append([]func(*apiruntime.Scheme) error{
		clientgoscheme.AddToScheme, clusterv1.AddToScheme, ipamv1.AddToScheme,
	}, opts.AddToScheme...) {
		if err := add(scheme); err != nil {
			return nil, nil, err
		}
	}
	_, self, _, _ := runtime.Caller(0)
	dev := filepath.Join(filepath.Dir(self), "..", "..", "..")
	env := &envtest.Environment{
		Scheme:                scheme,
		BinaryAssetsDirectory: filepath.Join(dev, "..", "bin"), // KUBEBUILDER_ASSETS goes before it
		CRDDirectoryPaths:     []string{filepath.Join(dev, "crds"), filepath.Join(clusterAPI(), "core", "config", "crd", "bases")},
		ErrorIfCRDPathMissing: true,
	}
	for i, yaml := range opts.Webhooks {
		if err := addWebhooks(&env.WebhookInstallOptions, fmt.Sprintf("provider-%d-", i), yaml); err != nil {
			return nil, nil, err
		}
	}
	config, err := env.Start()
	if err != nil {
		return nil, nil, fmt.Errorf("start the API server: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, env.Stop())
		}
	}()
	config.QPS, config.Burst = 1000, 2000

	hooks := env.WebhookInstallOptions
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:  scheme,
		Metrics: server.Options{BindAddress: "0"},
		Client: client.Options{Cache: &client.CacheOptions{
			DisableFor: []client.Object{&corev1.Secret{}, &corev1.ConfigMap{}}, Unstructured: true,
		}},
		WebhookServer: webhook.NewServer(webhook.Options{
			Host: hooks.LocalServingHost, Port: hooks.LocalServingPort, CertDir: hooks.LocalServingCertDir,
		}),
	})
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := opts.Setup(ctx, mgr); err != nil {
		cancel()
		return nil, nil, err
	}
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	mgr.GetCache().WaitForCacheSync(ctx)
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		cancel()
		return nil, nil, err
	}
	return c, func() error {
		cancel()
		return errors.Join(<-done, env.Stop())
	}, nil
}

// clusterAPI is the folder of the Cluster API module.
func clusterAPI() string {
	file, _ := runtime.FuncForPC(reflect.ValueOf(util.IsControlPlaneMachine).Pointer()).FileLine(0)
	return filepath.Join(filepath.Dir(file), "..")
}

// addWebhooks adds the configurations of a provider, all of which have the same names without a prefix.
func addWebhooks(options *envtest.WebhookInstallOptions, prefix string, yaml []byte) error {
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(yaml), 4096)
	for {
		u := &unstructured.Unstructured{}
		err := decoder.Decode(u)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		u.SetName(prefix + u.GetName())
		switch u.GetKind() {
		case "MutatingWebhookConfiguration":
			c := &admissionregistrationv1.MutatingWebhookConfiguration{}
			if err := apiruntime.DefaultUnstructuredConverter.FromUnstructured(u.Object, c); err != nil {
				return err
			}
			options.MutatingWebhooks = append(options.MutatingWebhooks, c)
		case "ValidatingWebhookConfiguration":
			c := &admissionregistrationv1.ValidatingWebhookConfiguration{}
			if err := apiruntime.DefaultUnstructuredConverter.FromUnstructured(u.Object, c); err != nil {
				return err
			}
			options.ValidatingWebhooks = append(options.ValidatingWebhooks, c)
		default:
			return fmt.Errorf("%q is no webhook configuration", u.GetKind())
		}
	}
}

// Namespace creates a namespace for the test. It stays: nobody runs who would finish its deletion.
func Namespace(t *testing.T, c client.Client) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	if err := c.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	return ns.Name
}
