// Package bench measures the agent on a real API server and a real Git server:
// time, requests counted at the API server, CPU and memory. It has tests only, run
// by `make bench`; docs/benchmarks.md holds the figures.
package bench
