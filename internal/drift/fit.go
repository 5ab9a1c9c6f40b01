package drift

import (
	"encoding/json"

	"capstan.dev/capstan/api/v1alpha1"
)

// What a status has room for. etcd refuses an object of more than 1.5 MiB, and a status
// that can't be written would stop the overlay, so what drift says of it takes what the
// rest leaves, and no more than a quarter: an inventory of 2,000 objects may come to take
// most of it.
const (
	maxDrift        = 50 // objects
	maxStatus       = 1_400_000
	driftRoom       = maxStatus / 4
	correctionsRoom = maxStatus / 10
)

// Fit puts into a status as many of the drifted objects, from the first on, as it has room
// for, and returns the rest. The last of the corrections go if they take too much.
func Fit(status *v1alpha1.ClusterOverlayStatus, all []v1alpha1.DriftedObject) (rest []v1alpha1.DriftedObject) {
	if len(status.Corrections) > 0 {
		status.Corrections = status.Corrections[:fitting(status.Corrections, correctionsRoom)]
	}
	status.Drift, status.DriftedObjects = nil, int32(len(all)) //nolint:gosec // at most 2,000
	if len(all) == 0 {
		return nil
	}
	n := fitting(all[:min(len(all), maxDrift)], min(maxStatus-size(status), driftRoom))
	status.Drift = all[:n:n]
	return all[n:]
}

// fitting is how many elements of a list, from the first on, take at most so many bytes.
func fitting[T any](list []T, room int) int {
	for i := range list {
		if room -= size(list[i]) + len(","); room < 0 {
			return i
		}
	}
	return len(list)
}

// size is how many bytes the API server stores of a value.
func size(value any) int {
	text, err := json.Marshal(value)
	if err != nil {
		return maxStatus // it holds nothing but texts
	}
	return len(text)
}
