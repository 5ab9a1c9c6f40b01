package main

import (
	"slices"
	"testing"
)

func TestResting(t *testing.T) {
	const mib = 1 << 20
	var r resting
	var total uint64
	var got []int
	for period, allocated := range []uint64{500 * mib, 100 * mib, mib, mib, 2 * mib, 300 * mib, mib, mib, 0} {
		total += allocated
		if r.comes(total) {
			got = append(got, period)
		}
	}
	if want := []int{2, 6}; !slices.Equal(got, want) {
		t.Errorf("rests begin at %d, want %d", got, want)
	}
}
