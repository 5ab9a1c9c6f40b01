package main

import (
	"fmt"
	"io"
	"runtime/debug"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
)

// version is set at link time.
var version = ""

// app is what all commands share.
type app struct {
	in       io.Reader
	out, err io.Writer

	kubeconfig, context, namespace string
}

func newRootCommand(in io.Reader, out, errOut io.Writer) *cobra.Command {
	a := &app{in: in, out: out, err: errOut}
	root := &cobra.Command{
		Use:   "capstan",
		Short: "GitOps for Cluster API: a push changes clusters, and nothing else does",
		Long: `Capstan applies a Git repository of Kustomize overlays, one per workload cluster,
to a Cluster API management cluster.

render works with no cluster; all other commands use the current kubeconfig.`,
		SilenceUsage: true, SilenceErrors: true,
		Version: versionText(),
	}
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	flags := root.PersistentFlags()
	flags.StringVar(&a.kubeconfig, "kubeconfig", "", "path to a kubeconfig; default: $KUBECONFIG, then ~/.kube/config, then the Pod's own account")
	flags.StringVar(&a.context, "context", "", "context of the kubeconfig to use")
	flags.StringVarP(&a.namespace, "namespace", "n", "", "namespace of the Fleets; default: that of the context")
	root.AddCommand(newRunCommand(a), newRenderCommand(a), newDiffCommand(a), newStatusCommand(a), newDriftCommand(a),
		newReconcileCommand(a), newSuspendCommand(a, true), newSuspendCommand(a, false), newApproveCommand(a),
		newSandboxCommand(a))
	return root
}

func versionText() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// connect returns the configuration of the management cluster and the namespace to
// work in.
func (a *app) connect() (*rest.Config, string, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = a.kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: a.context})
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, "", fmt.Errorf("find the management cluster: %w", err)
	}
	config.UserAgent = "capstan/" + versionText()
	config.QPS = -1 // the API server's own priorities bound us
	namespace := a.namespace
	if namespace == "" {
		if namespace, _, err = loader.Namespace(); err != nil {
			return nil, "", fmt.Errorf("find the namespace: %w", err)
		}
	}
	return config, namespace, nil
}

// newScheme knows the kinds of Kubernetes and of Capstan.
func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	utilruntime.Must(scheme.AddToScheme(s))
	utilruntime.Must(v1alpha1.AddToScheme(s))
	return s
}

// client returns a client of the management cluster that reads without a cache.
func (a *app) client() (client.Client, *rest.Config, string, error) {
	config, namespace, err := a.connect()
	if err != nil {
		return nil, nil, "", err
	}
	c, err := client.New(config, client.Options{Scheme: newScheme()})
	if err != nil {
		return nil, nil, "", fmt.Errorf("reach the management cluster: %w", err)
	}
	return c, config, namespace, nil
}
