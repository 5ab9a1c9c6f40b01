package render

import (
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"capstan.dev/capstan/internal/tree"
	"golang.org/x/sync/errgroup"
)

// fleetFiles is a repository of n overlays with 10 objects each: a base of 10 files,
// and four files by overlay with a prefix and two strategic merge patches.
func fleetFiles(n int) map[string]string {
	files := map[string]string{}
	var resources []string
	add := func(name, content string) {
		files["base/"+name+".yaml"] = content
		resources = append(resources, name+".yaml")
	}
	object := func(apiVersion, kind, name, spec string) string {
		return fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata:\n  name: %s\n%s", apiVersion, kind, name, spec)
	}
	add("cluster", object("cluster.x-k8s.io/v1beta2", "Cluster", "c", `spec:
  clusterNetwork:
    pods: {cidrBlocks: [10.244.0.0/16]}
    services: {cidrBlocks: [10.96.0.0/12]}
  infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxCluster, name: c}
  controlPlaneRef: {apiGroup: controlplane.cluster.x-k8s.io, kind: TalosControlPlane, name: cp}
`))
	add("infra", object("infrastructure.cluster.x-k8s.io/v1alpha2", "ProxmoxCluster", "c", `spec:
  allowedNodes: [pve1, pve2, pve3]
  controlPlaneEndpoint: {host: 10.0.0.10, port: 6443}
  dnsServers: [10.0.0.1]
  ipv4Config: {addresses: [10.0.0.20-10.0.0.60], gateway: 10.0.0.1, prefix: 24}
`))
	add("cp", object("controlplane.cluster.x-k8s.io/v1alpha3", "TalosControlPlane", "cp", `spec:
  replicas: 3
  version: v1.34.1
  infrastructureTemplate: {apiVersion: infrastructure.cluster.x-k8s.io/v1alpha2, kind: ProxmoxMachineTemplate, name: cp}
  controlPlaneConfig:
    controlplane:
      generateType: controlplane
      talosVersion: v1.11
      strategicPatches:
      - |
        cluster:
          network: {cni: {name: none}}
          proxy: {disabled: true}
`))
	for _, m := range []string{"cp", "worker"} {
		add("machine-"+m, object("infrastructure.cluster.x-k8s.io/v1alpha2", "ProxmoxMachineTemplate", m, `spec:
  template:
    spec:
      sourceNode: pve1
      templateID: 100
      numSockets: 1
      numCores: 4
      memoryMiB: 8192
      disks: {bootVolume: {disk: scsi0, sizeGb: 40}}
      network: {networkDevices: [{name: net0, bridge: vmbr0, model: virtio}]}
`))
	}
	add("config", object("bootstrap.cluster.x-k8s.io/v1alpha3", "TalosConfigTemplate", "worker", "spec: {template: {spec: {generateType: worker, talosVersion: v1.11}}}\n"))
	add("md", object("cluster.x-k8s.io/v1beta2", "MachineDeployment", "md", `spec:
  clusterName: c
  replicas: 3
  selector: {matchLabels: {cluster.x-k8s.io/cluster-name: c}}
  template:
    metadata: {labels: {cluster.x-k8s.io/cluster-name: c}}
    spec:
      clusterName: c
      version: v1.34.1
      bootstrap: {configRef: {apiGroup: bootstrap.cluster.x-k8s.io, kind: TalosConfigTemplate, name: worker}}
      infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: ProxmoxMachineTemplate, name: worker}
`))
	add("mhc", object("cluster.x-k8s.io/v1beta2", "MachineHealthCheck", "mhc", "spec: {clusterName: c, selector: {matchLabels: {cluster.x-k8s.io/cluster-name: c}}}\n"))
	add("cm", object("v1", "ConfigMap", "cni", "data:\n  cilium.yaml: |\n"+strings.Repeat("    # a line of some seventy characters, as manifests have them often ..\n", 100)))
	files["base/kustomization.yaml"] = "resources: [" + strings.Join(resources, ", ") + "]\n"
	for i := range n {
		dir := fmt.Sprintf("clusters/c%04d/", i)
		files[dir+"kustomization.yaml"] = fmt.Sprintf(`namePrefix: c%04d-
namespace: c%04d
resources: [namespace.yaml, ../../base]
patches: [{path: size.yaml}, {path: address.yaml}]
`, i, i)
		files[dir+"namespace.yaml"] = fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: c%04d}\n", i)
		files[dir+"size.yaml"] = fmt.Sprintf("apiVersion: cluster.x-k8s.io/v1beta2\nkind: MachineDeployment\nmetadata: {name: md}\nspec: {replicas: %d}\n", i%7)
		files[dir+"address.yaml"] = fmt.Sprintf("apiVersion: infrastructure.cluster.x-k8s.io/v1alpha2\nkind: ProxmoxCluster\nmetadata: {name: c}\nspec:\n  controlPlaneEndpoint: {host: 10.%d.%d.10}\n", i/256, i%256)
	}
	return files
}

// BenchmarkRender renders all overlays of a fleet, as many at a time as there are
// cores, and keeps all results, as a change of a shared base does at worst.
func BenchmarkRender(b *testing.B) {
	for _, n := range []int{500, 1000} {
		b.Run(fmt.Sprintf("overlays=%d", n), func(b *testing.B) {
			t := tree.FromMap(fleetFiles(n))
			overlays, _, err := Discover(DiscoverInput{Tree: t})
			if err != nil || len(overlays) != n {
				b.Fatal(err, len(overlays))
			}
			Prime()
			runtime.GC()
			var peak atomic.Uint64
			stop := sampleHeap(&peak)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				results := make([]*Result, n)
				var g errgroup.Group
				g.SetLimit(runtime.GOMAXPROCS(0))
				for i, o := range overlays {
					g.Go(func() (err error) {
						results[i], err = Render(b.Context(), Input{Tree: t, Path: o.Path})
						return err
					})
				}
				if err := g.Wait(); err != nil {
					b.Fatal(err)
				}
				runtime.KeepAlive(results)
			}
			b.StopTimer()
			stop()
			b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "overlays/s")
			b.ReportMetric(float64(peak.Load())/(1<<20), "peak-MiB")
		})
	}
}

// sampleHeap notes the largest memory the runtime holds, every 10 ms.
func sampleHeap(peak *atomic.Uint64) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			if held := m.Sys - m.HeapReleased; held > peak.Load() {
				peak.Store(held)
			}
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	}()
	return func() { close(done); <-ended }
}

// BenchmarkUnchanged compares closures, which is all that an unaffected overlay costs.
func BenchmarkUnchanged(b *testing.B) {
	t := tree.FromMap(fleetFiles(1))
	r, err := Render(b.Context(), Input{Tree: t, Path: "clusters/c0000"})
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for range b.N {
		if same, err := r.Closure.Unchanged(t); err != nil || !same {
			b.Fatal(same, err)
		}
	}
}
