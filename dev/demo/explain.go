package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
)

var explanation = template.Must(template.New("").Parse(`
The fleet is applied, and Cluster API makes its machines.
{{- with .Gitea}} In a browser:

  {{.Page}}
      the repository; sign in as {{.User}} with the password {{.Password}}. Its pages lack their scripts here,
      so what opens a form or a menu may not work
  {{.Page}}/commits/branch/main
      commits with their statuses: the mark beside each, which leads on to the agent's status page
  {{.Page}}/pulls/{{.Pull}}
      the pull request, with its plan
  {{.Status}}
      the agent's status page

{{else}} {{end -}}
In a second terminal:

  export KUBECONFIG={{.Kubeconfig}}
  cd {{.Repository}}
{{- with .Gitea}}   # or in a folder of your own: git clone {{.Clone}}

  # merge the pull request: staging gets its workers, and the commit its statuses
  curl -sS -u {{.User}}:{{.Password}} -H Content-Type:application/json -d '{"Do": "merge"}' {{.API}}/pulls/{{.Pull}}/merge
  git pull -q
  curl -sS -u {{.User}}:{{.Password}} {{.API}}/commits/main/status

  # open another one
  git switch -qc larger && sed -i 's/replicas: 3/replicas: 5/' clusters/prod/cluster.yaml
  git commit -qam "prod: larger" && git push -q -u origin larger && git switch -q main
  curl -sS -u {{.User}}:{{.Password}} -H Content-Type:application/json -d '{"title": "prod: larger", "head": "larger", "base": "main"}' {{.API}}/pulls
{{else}}

  # more workers; commit, and see below what happens
  sed -i 's/replicas: 2/replicas: 4/' clusters/staging/cluster.yaml
  {{.Capstan}} diff clusters/staging
  git commit -qam "staging: 4 workers"
  {{.Kubectl}} get machines -n staging-talos
{{end}}
  # another Kubernetes version: all machines are replaced, one by one, the control plane's first
  sed -i 's/v1.34.4/v1.35.4/' clusters/prod/cluster.yaml
  git commit -qam "prod: Kubernetes 1.35"{{.Push}}

  # how far it is, down to the machines; the second one is for scripts and ends when all of them are there
  {{.Capstan}} status clusters/prod
  {{.Capstan}} status clusters/prod --wait --timeout 10m

  # more memory for a worker: templates are immutable, so it gets a new one
  sed -i 's/workers-v1/workers-v2/; s/memoryMiB: 4096/memoryMiB: 8192/' clusters/dev/machines-workers.yaml
  git commit -qam "dev: larger worker"{{.Push}}

  # a cluster from within
  {{.Kubectl}} get secret -n dev-talos dev-talos-kubeconfig -o jsonpath='{.data.value}' | base64 -d > ../dev.kubeconfig
  {{.Kubectl}} get nodes --kubeconfig ../dev.kubeconfig

  # remove a cluster: nothing is deleted before you approve it, then its machines, objects and Namespace go
  git rm -rq clusters/dev && git commit -qm "dev: remove"{{.Push}}
  {{.Capstan}} approve clusters/dev

The logs are {{.Logs}}. Ctrl-C stops and removes everything.

`))

// explain tells the person what to do.
func (d *demo) explain() error {
	values := map[string]any{
		"Kubeconfig": quote(d.kubeconfig), "Repository": quote(d.repository), "Capstan": quote(d.capstan),
		"Kubectl": quote(d.kubectl()), "Logs": filepath.Join(d.dir, "*.log"), "Push": "", "Gitea": nil,
	}
	d.host.explain(values)
	return explanation.Execute(d.out, values)
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
