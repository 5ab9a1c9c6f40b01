package main

import (
	"slices"
	"testing"
)

func TestHolding(t *testing.T) {
	const mib = 1 << 20
	var h holding
	var total uint64
	var got []int
	for period, p := range []struct{ allocated, held uint64 }{
		{500, 300}, {100, 310}, // busy
		{1, 310}, {1, 130}, {3, 130}, // quiet, once
		{10, 140}, {1, 140}, {10, 150}, {1, 150}, // what little there is can stay
		{10, 170}, {1, 170}, // until it adds up
		{300, 250}, {20, 250}, {0, 250},
	} {
		total += p.allocated * mib
		if h.release(total, p.held*mib) {
			got = append(got, period)
			h.kept = 120 * mib
		}
	}
	if want := []int{2, 10, 13}; !slices.Equal(got, want) {
		t.Errorf("memory is given back in periods %d, want %d", got, want)
	}
}

func TestMemoryUse(t *testing.T) {
	before, _ := memoryUse()
	kept := make([]byte, 8<<20)
	allocated, held := memoryUse()
	if allocated-before < uint64(len(kept)) || held < uint64(len(kept)) {
		t.Errorf("allocated %d after %d, held %d, with %d more", allocated, before, held, len(kept))
	}
}
