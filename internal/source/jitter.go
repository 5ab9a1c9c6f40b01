package source

import "time"

// Jitter spreads an interval over ±fraction of itself, so that many Fleets don't
// poll in step. A fraction outside 0…1 is brought into it. random returns
// numbers in [0,1), as rand.Float64 does.
func Jitter(interval time.Duration, fraction float64, random func() float64) time.Duration {
	fraction = min(max(fraction, 0), 1)
	return interval + time.Duration(float64(interval)*fraction*(2*random()-1))
}
