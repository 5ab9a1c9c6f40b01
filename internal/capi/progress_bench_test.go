package capi

import "testing"

func BenchmarkProgress(b *testing.B) {
	for _, name := range []string{"talos-converged", "kubeadm-rolling"} {
		b.Run(name, func(b *testing.B) {
			f := fixtureNamed(b, name)
			for _, u := range f.objects() {
				Trim(u)
			}
			for b.Loop() {
				Progress(f.ProgressInput)
			}
		})
	}
}
