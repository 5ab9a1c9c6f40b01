package dev

import (
	"testing"

	"github.com/onsi/gomega"
)

// The sample fleet comes up: every cluster Available with all its machines.
func TestSampleFleet(t *testing.T) {
	for overlay, machines := range map[string]int{"dev": 2, "staging": 5, "prod": 6} {
		t.Run(overlay, func(t *testing.T) {
			t.Parallel()
			e := sample(t, overlay, overlay)
			e.awaitAvailable()
			e.Expect(e.machines()).To(gomega.HaveLen(machines))
		})
	}
}
