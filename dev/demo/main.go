// Command demo shows Capstan at work with nothing but this checkout: a real API
// server with the kinds of Cluster API, a Git repository with the sample fleet, and
// the agent that brings the one to the other.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"
)

const namespace = "capstan-system"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "demo: "+err.Error())
		stop()
		os.Exit(1)
	}
}

// demo is what is running.
type demo struct {
	root   string // of the checkout
	dir    string // holds everything the demo makes; removed at the end
	binary string
	env    *envtest.Environment
}

func run(ctx context.Context) (err error) {
	root, err := filepath.Abs(".")
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(root, "clusters")); err != nil {
		return fmt.Errorf("run the demo from the root of the checkout, with `make demo`: %w", err)
	}
	d := &demo{root: root, binary: filepath.Join(root, "bin", "capstan")}
	if d.dir, err = os.MkdirTemp("", "capstan-demo-"); err != nil {
		return err
	}
	defer func() {
		say("\nstopping; removing %s", d.dir)
		err = errors.Join(err, os.RemoveAll(d.dir))
	}()

	say("starting etcd and kube-apiserver")
	defer func() {
		if d.env != nil {
			err = errors.Join(err, d.env.Stop())
		}
	}()
	config, err := d.startControlPlane()
	if err != nil {
		return err
	}
	kubeconfig, err := d.writeKubeconfig(config)
	if err != nil {
		return err
	}
	say("putting clusters/ into a Git repository")
	repository, err := d.makeRepository(ctx)
	if err != nil {
		return err
	}
	say("starting the agent")
	stopAgent, err := d.startAgent(kubeconfig)
	if err != nil {
		return err
	}
	defer stopAgent()
	if err := d.createFleet(ctx, kubeconfig, repository); err != nil {
		return err
	}
	if err := d.awaitFirstSync(ctx, kubeconfig); err != nil {
		return err
	}
	d.explain(kubeconfig, repository)
	return d.watch(ctx, kubeconfig)
}

func say(format string, args ...any) { fmt.Printf("==> "+format+"\n", args...) }

// startControlPlane starts an API server that serves the kinds of Cluster API, of
// the Talos and Proxmox providers, and of Capstan.
func (d *demo) startControlPlane() (*rest.Config, error) {
	capi, err := exec.Command("go", "-C", filepath.Join(d.root, "dev"), "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/cluster-api").Output()
	if err != nil {
		return nil, fmt.Errorf("find the module of Cluster API: %w", err)
	}
	module := strings.TrimSpace(string(capi))
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		assets = filepath.Join(d.root, "bin")
	}
	d.env = &envtest.Environment{
		BinaryAssetsDirectory: assets,
		CRDs:                  []*apiextensionsv1.CustomResourceDefinition{},
		CRDDirectoryPaths: []string{
			filepath.Join(d.root, "charts", "capstan", "crds"),
			filepath.Join(d.root, "dev", "crds"),
			filepath.Join(module, "core", "config", "crd", "bases"),
			filepath.Join(module, "controlplane", "kubeadm", "config", "crd", "bases"),
			filepath.Join(module, "bootstrap", "kubeadm", "config", "crd", "bases"),
		},
		ErrorIfCRDPathMissing:    true,
		ControlPlaneStartTimeout: 2 * time.Minute,
		ControlPlaneStopTimeout:  30 * time.Second,
	}
	config, err := d.env.Start()
	if err != nil {
		return nil, fmt.Errorf("start the API server: %w", err)
	}
	return config, nil
}

// writeKubeconfig writes the way to the API server for the agent and for people.
func (d *demo) writeKubeconfig(config *rest.Config) (string, error) {
	path := filepath.Join(d.dir, "kubeconfig")
	kubeconfig := clientcmdapi.NewConfig()
	kubeconfig.Clusters["demo"] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthorityData: config.CAData}
	kubeconfig.AuthInfos["demo"] = &clientcmdapi.AuthInfo{ClientCertificateData: config.CertData, ClientKeyData: config.KeyData}
	kubeconfig.Contexts["demo"] = &clientcmdapi.Context{Cluster: "demo", AuthInfo: "demo", Namespace: namespace}
	kubeconfig.CurrentContext = "demo"
	return path, clientcmd.WriteToFile(*kubeconfig, path)
}

// makeRepository commits the sample fleet.
func (d *demo) makeRepository(ctx context.Context) (string, error) {
	repository := filepath.Join(d.dir, "fleet")
	if err := os.CopyFS(filepath.Join(repository, "clusters"), os.DirFS(filepath.Join(d.root, "clusters"))); err != nil {
		return "", fmt.Errorf("copy clusters/: %w", err)
	}
	for _, args := range [][]string{
		{"init", "-q", "-b", "main"},
		{"config", "user.name", "demo"},
		{"config", "user.email", "demo@localhost"},
		{"config", "commit.gpgsign", "false"},
		{"add", "."},
		{"commit", "-q", "-m", "The sample fleet"},
	} {
		cmd := exec.CommandContext(ctx, "git", append([]string{"-C", repository}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("git %s: %w: %s", args[0], err, out)
		}
	}
	return repository, nil
}

// startAgent runs the agent in a process group of its own, so that Ctrl-C reaches
// the demo first and the agent is stopped in good order.
func (d *demo) startAgent(kubeconfig string) (stop func(), err error) {
	log, err := os.Create(filepath.Join(d.dir, "agent.log"))
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(d.binary, "run", "--kubeconfig", kubeconfig, "--allow-local", "--leader-elect=false",
		"--cache-dir", filepath.Join(d.dir, "cache"), "--metrics-address", "127.0.0.1:0", "--health-address", "0", "--log-format", "text")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the agent: %w", err)
	}
	return func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		_ = log.Close()
	}, nil
}

// createFleet creates the namespace and the Fleet, as a person would.
func (d *demo) createFleet(ctx context.Context, kubeconfig, repository string) error {
	fleet := map[string]any{
		"apiVersion": "capstan.dev/v1alpha1", "kind": "Fleet",
		"metadata": map[string]any{"name": "demo", "namespace": namespace},
		"spec":     map[string]any{"git": map[string]any{"url": repository, "interval": "2s"}},
	}
	content, err := yaml.Marshal(fleet)
	if err != nil {
		return err
	}
	say("creating this Fleet:\n\n%s", content)
	return d.apply(ctx, kubeconfig, fleet)
}

// awaitFirstSync waits until the whole sample fleet is applied.
func (d *demo) awaitFirstSync(ctx context.Context, kubeconfig string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		overlays, err := d.overlays(ctx, kubeconfig)
		if err == nil && len(overlays) > 0 {
			applied := 0
			for _, o := range overlays {
				if o.State == "Applied" {
					applied++
				}
			}
			if applied == len(overlays) {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			log, _ := os.ReadFile(filepath.Join(d.dir, "agent.log"))
			return fmt.Errorf("the sample fleet was not applied in time (%w); the agent says:\n%s", errors.Join(ctx.Err(), err), log)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// explain tells the person what to do.
func (d *demo) explain(kubeconfig, repository string) {
	fmt.Printf(`
The fleet is applied. No Cluster API controllers run here, so there are objects but
no machines. In a second terminal:

  export KUBECONFIG=%[1]s
  cd %[2]s

  # change a cluster and watch it arrive here, within a few seconds
  sed -i 's/replicas: 3/replicas: 5/' clusters/prod/*.yaml
  %[3]s diff clusters/prod
  git commit -qam "prod: 5 instead of 3"
  %[3]s status
  kubectl get machinedeployments,taloscontrolplanes -A

  # remove a cluster: nothing is deleted before you approve it
  git rm -rq clusters/dev && git commit -qm "dev: remove"
  %[3]s approve clusters/dev
  # (its Namespace stays Terminating: nothing here finishes the deletion of Namespaces)

The agent's log is %[4]s. Ctrl-C stops and removes everything.

`, kubeconfig, repository, d.binary, filepath.Join(d.dir, "agent.log"))
}

// watch shows the status until the person has seen enough.
func (d *demo) watch(ctx context.Context, kubeconfig string) error {
	cmd := exec.CommandContext(ctx, d.binary, "status", "--watch", "--kubeconfig", kubeconfig)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Through a pipe it prints one page below the other, and the explanation stays
	// readable.
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	_, _ = io.Copy(os.Stdout, out)
	err = cmd.Wait()
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the person has seen enough
	}
	return err
}
