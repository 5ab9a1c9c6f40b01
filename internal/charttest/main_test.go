package charttest

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/internal/testenv"
)

var (
	// patience bounds every wait; only failures take as long.
	patience = 90 * time.Second

	env  *testenv.Env
	root string
	// binary is the agent as the Dockerfile builds it.
	binary string
	update = flag.Bool("update", false, "write the golden files of testdata")
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	flag.Parse()
	ctrl.SetLogger(logr.Discard())
	dir, err := os.MkdirTemp("", "capstan-charttest-")
	if err == nil {
		defer os.RemoveAll(dir)
		root, err = testenv.Root()
	}
	if err == nil {
		if _, err = os.Stat(filepath.Join(root, "bin", "helm")); err != nil {
			err = fmt.Errorf("no bin/helm: run `make helm` (%w)", err)
		}
	}
	if binary = os.Getenv(binaryVariable); binary != "" {
		patience = 20 * time.Second // a failure is what is waited for
	} else if err == nil {
		binary = filepath.Join(dir, "capstan")
		err = buildAsInDockerfile(binary)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return testenv.Run(m, &env)
}

// helm runs bin/helm with no configuration but its arguments, and returns its output.
func helm(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	return helmIn(t, root, args...)
}

func helmIn(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	home := t.TempDir()
	c := exec.CommandContext(t.Context(), filepath.Join(root, "bin", "helm"), args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(home, "none"), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("helm %s: %w\n%s%s", strings.Join(args, " "), err, errs.String(), out.String())
	}
	return out.String(), nil
}

func chart() string { return filepath.Join(root, "charts", "capstan") }

// render renders the chart for a release "capstan"; values are YAML.
func render(t *testing.T, namespace, values string, more ...string) []*unstructured.Unstructured {
	t.Helper()
	file := filepath.Join(t.TempDir(), "values.yaml")
	must(t, os.WriteFile(file, []byte(values), 0o600))
	out, err := helm(t, append([]string{"template", "capstan", chart(), "-n", namespace, "-f", file}, more...)...)
	must(t, err)
	return decode(t, out)
}

func decode(t *testing.T, manifests string) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	for d := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifests), 4096); ; {
		u := &unstructured.Unstructured{}
		err := d.Decode(&u.Object)
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		if len(u.Object) > 0 {
			all = append(all, u)
		}
	}
}

// pick returns the objects of a kind.
func pick(all []*unstructured.Unstructured, kinds ...string) []*unstructured.Unstructured {
	var some []*unstructured.Unstructured
	for _, u := range all {
		if slices.Contains(kinds, u.GetKind()) {
			some = append(some, u)
		}
	}
	return some
}

// apply applies objects as somebody who may do everything.
func apply(t *testing.T, objects []*unstructured.Unstructured, opts ...client.ApplyOption) {
	t.Helper()
	for _, u := range objects {
		err := env.Client().Apply(t.Context(), client.ApplyConfigurationFromUnstructured(u.DeepCopy()),
			append(opts, client.FieldOwner("test"), client.ForceOwnership)...)
		if err != nil {
			t.Errorf("apply %s %s: %v", u.GetKind(), client.ObjectKeyFromObject(u), err)
		}
	}
}

// namespaces makes Namespaces that may be there.
func namespaces(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		err := env.Client().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
}

// definitions installs CRDs of testdata and waits until they are served.
func definitions(t *testing.T, files ...string) {
	t.Helper()
	for _, file := range files {
		content, err := os.ReadFile(filepath.Join("testdata", "crds", file))
		must(t, err)
		crds := decode(t, string(content))
		apply(t, crds)
		for _, crd := range crds {
			eventually(t, crd.GetName()+" is established", func(ctx context.Context) string {
				live := crd.DeepCopy()
				if err := env.Client().Get(ctx, client.ObjectKeyFromObject(crd), live); err != nil {
					return err.Error()
				}
				conditions, _, _ := unstructured.NestedSlice(live.Object, "status", "conditions")
				for _, c := range conditions {
					if m, ok := c.(map[string]any); ok && m["type"] == "Established" && m["status"] == "True" {
						return ""
					}
				}
				return fmt.Sprint(conditions)
			})
		}
	}
}

// eventually waits until f returns "".
func eventually(t *testing.T, what string, f func(context.Context) string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		last := f(ctx)
		if last == "" {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not in %s: %s\n%s", patience, what, last)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// valueSets are the files of testdata/values.
func valueSets(t *testing.T) map[string]string {
	t.Helper()
	sets := map[string]string{}
	must(t, fs.WalkDir(os.DirFS("testdata/values"), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(filepath.Join("testdata", "values", path))
		sets[strings.TrimSuffix(path, ".yaml")] = string(content)
		return err
	}))
	return sets
}
