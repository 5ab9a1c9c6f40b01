// Package charttest tests what is shipped: the Helm chart and the Dockerfile, with the real
// helm, the agent as the Dockerfile builds it, and a real API server. It has no code of its
// own.
package charttest
