// Package monitortest runs a real Prometheus for tests, and tests with it what the chart brings for people who watch
// Capstan: the alerts, their runbooks, and the dashboard.
package monitortest
