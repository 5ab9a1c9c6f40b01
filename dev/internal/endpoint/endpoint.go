// Package endpoint makes the kubeconfig Secrets of workload clusters work on this machine: the control
// plane endpoint they name is an address in a network that exists nowhere. Whoever writes one, the
// simulated Talos provider or the real kubeadm one, writes what it would write anywhere; admission leads
// it to the workload API servers on loopback.
package endpoint

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"gomodules.xyz/jsonpatch/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/secret"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"capstan.dev/capstan/dev/internal/workload"
)

// Webhooks is the manifest of the webhook.
//
//go:embed webhooks.yaml
var Webhooks []byte

const path = "/mutate-v1-secret-kubeconfig"

// Setup registers the webhook. address is host:port of the workload API servers.
func Setup(mgr ctrl.Manager, address string) {
	mgr.GetWebhookServer().Register(path, &webhook.Admission{Handler: handler{address}})
}

type handler struct{ address string }

func (h handler) Handle(_ context.Context, req admission.Request) admission.Response {
	s := &corev1.Secret{}
	if err := json.Unmarshal(req.Object.Raw, s); err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	s.Namespace = req.Namespace
	led, err := leadSecret(s, h.address)
	if err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	if led == nil {
		return admission.Allowed("")
	}
	// Only this one value is patched: the rest stays as it was sent, unknown fields included.
	return admission.Patched("", jsonpatch.NewOperation("replace", "/data/"+secret.KubeconfigDataName, base64.StdEncoding.EncodeToString(led)))
}

// Renew leads the kubeconfigs that are there from an earlier start to address, should that have been another.
func Renew(ctx context.Context, c client.Client, address string) error {
	secrets := &corev1.SecretList{}
	if err := c.List(ctx, secrets, client.HasLabels{clusterv1.ClusterNameLabel}); err != nil {
		return fmt.Errorf("kubeconfigs of workload clusters: %w", err)
	}
	for i := range secrets.Items {
		s := &secrets.Items[i]
		led, err := leadSecret(s, address)
		if err != nil {
			return err
		}
		if led == nil {
			continue
		}
		before := s.DeepCopy()
		s.Data[secret.KubeconfigDataName] = led
		if err := c.Patch(ctx, s, client.MergeFrom(before)); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("lead Secret %s to %s: %w", client.ObjectKeyFromObject(s), address, err)
		}
	}
	return nil
}

// leadSecret returns the kubeconfig that a Secret should have; nil if it is none of a kubeconfig or leads there.
func leadSecret(s *corev1.Secret, address string) ([]byte, error) {
	cluster := s.Labels[clusterv1.ClusterNameLabel]
	data := s.Data[secret.KubeconfigDataName]
	if cluster == "" || s.Name != secret.Name(cluster, secret.Kubeconfig) || len(data) == 0 {
		return nil, nil
	}
	led, err := lead(data, address, types.NamespacedName{Namespace: s.Namespace, Name: cluster})
	if err != nil || bytes.Equal(led, data) {
		return nil, err
	}
	return led, nil
}

// lead points all clusters of a kubeconfig to the API server of the workload cluster.
func lead(kubeconfig []byte, address string, cluster types.NamespacedName) ([]byte, error) {
	config, err := clientcmd.Load(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig of cluster %s: %w", cluster, err)
	}
	changed := false
	for _, c := range config.Clusters {
		server := "https://" + address
		if c.Server == server && c.TLSServerName == workload.ServerName(cluster) {
			continue
		}
		if !strings.HasPrefix(c.Server, "https://") {
			return nil, fmt.Errorf("kubeconfig of cluster %s: server %q is not https", cluster, c.Server)
		}
		c.Server, c.TLSServerName, changed = server, workload.ServerName(cluster), true
	}
	if !changed {
		return kubeconfig, nil
	}
	return clientcmd.Write(*config)
}
