// Package capstan holds no code: it is where the tests that guard the repository as
// a whole live. imports_test.go says which package may import what, guards_test.go
// checks the rest. The program is in cmd/agent.
package capstan
