package testenv_test

import (
	"context"
	"os"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"capstan.dev/capstan/internal/testenv"
)

var env *testenv.Env

func TestMain(m *testing.M) { os.Exit(testenv.Run(m, &env)) }

// Requests are counted per user and completely, dry-runs told apart.
func TestRequests(t *testing.T) {
	ctx := context.Background()
	ns := env.Namespace(t)
	user := "counted-" + ns
	c, err := kubernetes.NewForConfig(env.Config(user))
	if err != nil {
		t.Fatal(err)
	}
	mark := env.Mark(t)
	for i := range 50 {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "c-"}}
		opts := metav1.CreateOptions{}
		if i%2 == 0 {
			opts.DryRun = []string{metav1.DryRunAll}
		}
		if _, err := c.CoreV1().ConfigMaps(ns).Create(ctx, cm, opts); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.CoreV1().ConfigMaps(ns).List(ctx, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	all := env.Requests(t, user, mark)
	if got, want := len(all), 51; got != want {
		t.Errorf("%d requests, want %d", got, want)
	}
	if got, want := len(testenv.Counted(all)), 50; got != want {
		t.Errorf("%d requests count, want %d", got, want)
	}
	if got, want := len(testenv.Writes(all)), 25; got != want {
		t.Errorf("%d writes, want %d", got, want)
	}
}

// What was written is there after a restart, at the same address.
func TestRestart(t *testing.T) {
	ctx := context.Background()
	ns := env.Namespace(t)
	c, err := kubernetes.NewForConfig(env.Config("restart"))
	if err != nil {
		t.Fatal(err)
	}
	env.StopAPIServer(t)
	if _, err := c.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{}); err == nil {
		t.Fatal("the API server answers after it was stopped")
	}
	env.StartAPIServer(t)
	if _, err := c.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{}); err != nil {
		t.Fatalf("after the restart: %v", err)
	}
}
