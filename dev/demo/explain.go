package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
)

var explanation = template.Must(template.New("").Parse(`
The fleet is applied, and Cluster API makes its machines. In a second terminal:

  export KUBECONFIG={{.Kubeconfig}}
  cd {{.Repository}}

  # more workers; commit, and see below what happens
  sed -i 's/replicas: 2/replicas: 4/' clusters/staging/cluster.yaml
  {{.Capstan}} diff clusters/staging
  git commit -qam "staging: 4 workers"
  {{.Kubectl}} get machines -n staging-talos

  # another Kubernetes version: all machines are replaced, one by one, the control plane's first
  sed -i 's/v1.34.4/v1.35.4/' clusters/prod/cluster.yaml
  git commit -qam "prod: Kubernetes 1.35"

  # more memory for a worker: templates are immutable, so it gets a new one
  sed -i 's/workers-v1/workers-v2/; s/memoryMiB: 4096/memoryMiB: 8192/' clusters/dev/machines-workers.yaml
  git commit -qam "dev: larger worker"

  # a cluster from within
  {{.Kubectl}} get secret -n dev-talos dev-talos-kubeconfig -o jsonpath='{.data.value}' | base64 -d > ../dev.kubeconfig
  {{.Kubectl}} get nodes --kubeconfig ../dev.kubeconfig

  # remove a cluster: nothing is deleted before you approve it, then its machines, objects and Namespace go
  git rm -rq clusters/dev && git commit -qm "dev: remove"
  {{.Capstan}} approve clusters/dev

The logs are {{.Logs}}. Ctrl-C stops and removes everything.

`))

// explain tells the person what to do.
func (d *demo) explain() error {
	return explanation.Execute(os.Stdout, map[string]string{
		"Kubeconfig": quote(d.kubeconfig), "Repository": quote(d.repository), "Capstan": quote(d.capstan),
		"Kubectl": quote(d.kubectl()), "Logs": d.agentLog() + " and " + d.clusterLog(),
	})
}

// kubectl is what to type for kubectl.
func (d *demo) kubectl() string {
	if _, err := exec.LookPath("kubectl"); err == nil {
		return "kubectl"
	}
	for _, dir := range d.binDirs() {
		if path, err := exec.LookPath(filepath.Join(dir, "kubectl")); err == nil {
			return path
		}
	}
	return "kubectl"
}

// quote makes a path one word for a shell.
func quote(path string) string {
	if !strings.ContainsAny(path, " \t'\"\\$&|;<>()*?[]`!~#") {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}
