package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
)

// A cluster is what status shows of a Cluster.
type cluster struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Phase     string `json:"phase"`
	// Available is the status of that condition.
	Available    string `json:"available"`
	ControlPlane counts `json:"controlPlane"`
	Workers      counts `json:"workers"`
}

// counts are of machines. Ready rather than available: the Talos control plane does not tell the latter.
type counts struct {
	Ready   int64 `json:"ready"`
	Desired int64 `json:"desired"`
}

func (c counts) String() string { return fmt.Sprintf("%d/%d", c.Ready, c.Desired) }

func listClusters(ctx context.Context, kubeconfig string) ([]cluster, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	c, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list, err := c.Resource(schema.GroupVersionResource{Group: "cluster.x-k8s.io", Version: "v1beta2", Resource: "clusters"}).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var out []cluster
	for _, o := range list.Items { // ordered by namespace and name, as the API server has them
		out = append(out, summarize(o))
	}
	return out, nil
}

func summarize(o unstructured.Unstructured) cluster {
	phase, _, _ := unstructured.NestedString(o.Object, "status", "phase")
	c := cluster{
		Namespace: o.GetNamespace(), Name: o.GetName(), Phase: phase, Available: "Unknown",
		ControlPlane: countsOf(o, "controlPlane"), Workers: countsOf(o, "workers"),
	}
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, condition := range conditions {
		if m, ok := condition.(map[string]any); ok && m["type"] == "Available" {
			c.Available, _ = m["status"].(string)
		}
	}
	return c
}

func countsOf(o unstructured.Unstructured, of string) (c counts) {
	c.Ready, _, _ = unstructured.NestedInt64(o.Object, "status", of, "readyReplicas")
	c.Desired, _, _ = unstructured.NestedInt64(o.Object, "status", of, "desiredReplicas")
	return c
}

func printClusters(out io.Writer, clusters []cluster, problem string) error {
	switch {
	case problem != "":
		_, err := fmt.Fprintln(out, "The Clusters can't be listed: "+problem)
		return err
	case len(clusters) == 0:
		_, err := fmt.Fprintln(out, "There are no Clusters.")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "CLUSTER\tPHASE\tAVAILABLE\tCONTROL PLANE\tWORKERS")
	for _, c := range clusters {
		fmt.Fprintf(w, "%s/%s\t%s\t%s\t%s\t%s\n", c.Namespace, c.Name, c.Phase, c.Available, c.ControlPlane, c.Workers)
	}
	return w.Flush()
}
