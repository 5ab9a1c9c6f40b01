# Everything here works on a machine with only Go, git and make. The first run builds
# the parts of Kubernetes, etcd and, for tests, Gitea, Helm and Prometheus from their Go
# modules (about 8 minutes on two cores, 4 for Gitea, 4 for Helm and 3 for Prometheus) and keeps them in bin/.
# Set KUBEBUILDER_ASSETS to a folder with kube-apiserver and etcd to use those instead;
# what that folder lacks besides is built as well.

.POSIX:
.DELETE_ON_ERROR:
# go is parallel by itself; two of these at once only get into each other's way.
.NOTPARALLEL:

# The linker gets the version that -buildvcs would stamp, and -mod=vendor or a go.work
# above this folder would build something else than go.mod says.
override GOFLAGS := $(strip $(filter-out -mod=% -buildvcs%,$(GOFLAGS)) -buildvcs=false)
export GOFLAGS
export GOWORK = off

# Empty without git; the binary then says what Go knows.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)

# tools/*/go.mod are the only places that name the version of a tool.
pinned = $(shell sed -n 's,^[[:space:]]*$(2) \(v[^ ]*\).*,\1,p' tools/$(1)/go.mod)
KUBE_VERSION = $(call pinned,kubernetes,k8s.io/kubernetes)
ETCD_VERSION = $(call pinned,etcd,go.etcd.io/etcd/server/v3)
GITEA_VERSION = $(call pinned,gitea,code.gitea.io/gitea)
PROMETHEUS_VERSION = $(call pinned,prometheus,github.com/prometheus/prometheus)
CONTROLLER_GEN_VERSION = $(call pinned,controller-gen,sigs.k8s.io/controller-tools)
HELM_VERSION = $(call pinned,helm,helm.sh/helm/v4)
GOLANGCI_LINT_VERSION = $(call pinned,golangci-lint,github.com/golangci/golangci-lint/v2)

# Clients and servers parse each other's versions, so they are linked in.
kube_minor = $(word 2,$(subst ., ,$(KUBE_VERSION)))
kube_version_package = k8s.io/component-base/version
KUBE_LDFLAGS = $(strip -s -w -X $(kube_version_package).gitVersion=$(KUBE_VERSION) \
	-X $(kube_version_package).gitMajor=1 -X $(kube_version_package).gitMinor=$(kube_minor))

.PHONY: build
build: ## Build bin/capstan
	@mkdir -p bin
	go build -ldflags '-X main.version=$(VERSION)' -o bin/.capstan.tmp.$$$$ ./cmd/agent && mv bin/.capstan.tmp.$$$$ bin/capstan

.PHONY: demo
demo: assets build bin/capstan-demo ## Show Capstan at work: Cluster API with simulated machines, Git, agent; Ctrl-C ends it
	@exec bin/capstan-demo

.PHONY: demo-gitea
demo-gitea: assets build gitea bin/capstan-demo ## The same with a real Gitea: webhooks, commit statuses, a pull request
	@exec bin/capstan-demo -gitea

.PHONY: bin/capstan-demo
bin/capstan-demo:
	@echo "building the demo"
	@cd dev && go build -o ../bin/.capstan-demo.tmp.$$$$ ./demo && mv ../bin/.capstan-demo.tmp.$$$$ ../bin/capstan-demo

.PHONY: devcluster
devcluster: assets ## Build bin/devcluster, a Cluster API management cluster with simulated machines
	@cd dev && go build -o ../bin/.devcluster.tmp.$$$$ ./cmd/devcluster && mv ../bin/.devcluster.tmp.$$$$ ../bin/devcluster

.PHONY: test
test: assets gitea helm prometheus ## Vet and test everything; the race detector on what needs no API server and no Gitea
	@hack/test.sh

.PHONY: check
check: verify lint test-race ## All that a change must pass: verify, lint, and test with the race detector everywhere

.PHONY: test-race
test-race: assets gitea helm prometheus
	@hack/test.sh --race-all

.PHONY: bench
bench: assets gitea bench-devcluster ## Measure renders, a fleet of 500 overlays, webhooks, drift, 1,000 overlays at rest, and the local management cluster
	go test -run '^$$' -bench . -benchmem ./internal/render/
	CAPSTAN_BENCH=1 go test -count=1 -timeout 60m -v -run TestFleet ./internal/bench/
	CAPSTAN_BENCH=1 go test -count=1 -timeout 60m -v -run TestForge ./internal/bench/
	CAPSTAN_BENCH=1 go test -count=1 -timeout 60m -v -run TestDrift ./internal/bench/
	CAPSTAN_BENCH=1 go test -count=1 -timeout 90m -v -run TestRest ./internal/bench/
	cd dev && CAPSTAN_BENCH=1 go test -count=1 -timeout 60m -v -run TestBenchWebhook .

.PHONY: soak
soak: assets gitea ## Run the tests of dev/ that take too long for every day: a fleet's day left alone, all edits
	cd dev && CAPSTAN_SOAK=1 go test -count=1 -timeout 120m -v -run '^Test(Soak|Convergence)' .

.PHONY: record-metrics
record-metrics: assets gitea prometheus ## Record what the agent's /metrics says, for the test of the dashboard
	cd dev && go test -count=1 -run '^TestAlerts$$' . -record-metrics ../internal/monitortest/testdata/metrics.txtar

.PHONY: bench-devcluster
bench-devcluster: assets ## Measure the local management cluster alone: the sample fleet, and 100 clusters
	cd dev && CAPSTAN_BENCH=1 go test -count=1 -timeout 60m -v -run 'TestBench(Fleet|Hundred)' .

.PHONY: generate
generate: controller-gen ## Write deep copies and CRDs from the types in api/
	@hack/generate.sh

.PHONY: verify
verify: controller-gen ## Fail if something generated, formatted or tidied is out of date
	@hack/verify.sh

.PHONY: lint
lint: golangci-lint ## Run golangci-lint
	bin/golangci-lint run ./...
	cd dev && ../bin/golangci-lint run ./...

.PHONY: envtest
envtest: ## Build kube-apiserver and etcd into bin/, unless KUBEBUILDER_ASSETS has them
	@if [ -n "$$KUBEBUILDER_ASSETS" ]; then \
		echo "using kube-apiserver and etcd of KUBEBUILDER_ASSETS=$$KUBEBUILDER_ASSETS"; \
		hack/assets.sh kube-apiserver etcd; \
	else \
		hack/tool.sh kubernetes kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver '$(KUBE_VERSION)' '$(KUBE_LDFLAGS)' 'about 4 minutes' && \
		hack/tool.sh etcd etcd go.etcd.io/etcd/server/v3 '$(ETCD_VERSION)' '-s -w' 'about a minute'; \
	fi

# What dev/ needs. The usual KUBEBUILDER_ASSETS has kubectl and no kube-controller-manager.
.PHONY: assets
assets: envtest
	@hack/assets.sh kube-controller-manager 2>/dev/null || \
		hack/tool.sh kubernetes kube-controller-manager k8s.io/kubernetes/cmd/kube-controller-manager '$(KUBE_VERSION)' '$(KUBE_LDFLAGS)' 'about 2 minutes'
	@hack/assets.sh kubectl 2>/dev/null || \
		hack/tool.sh kubernetes kubectl k8s.io/kubernetes/cmd/kubectl '$(KUBE_VERSION)' '$(KUBE_LDFLAGS)' 'about a minute'

# Clients ask Gitea for its version; without one it is "development".
.PHONY: gitea
gitea: ## Build a real Gitea into bin/, for tests and the demo
	@hack/tool.sh gitea gitea code.gitea.io/gitea '$(GITEA_VERSION)' \
		'-s -w -X main.Version=$(GITEA_VERSION:v%=%) -X main.Tags=sqlite' 'about 4 minutes' sqlite

# Without what finds targets in clouds, the larger part of it.
.PHONY: prometheus
prometheus: ## Build Prometheus and promtool into bin/, for tests of alerts and of the dashboard
	@hack/tool.sh prometheus prometheus github.com/prometheus/prometheus/cmd/prometheus '$(PROMETHEUS_VERSION)' '-s -w' 'about 2 minutes' remove_all_sd
	@hack/tool.sh prometheus promtool github.com/prometheus/prometheus/cmd/promtool '$(PROMETHEUS_VERSION)' '-s -w' 'about a minute' remove_all_sd

.PHONY: helm
helm: ## Build helm into bin/, for the tests of the chart
	@hack/tool.sh helm helm helm.sh/helm/v4/cmd/helm '$(HELM_VERSION)' \
		'-s -w -X helm.sh/helm/v4/internal/version.version=$(HELM_VERSION)' 'about 4 minutes'

.PHONY: controller-gen
controller-gen:
	@hack/tool.sh controller-gen controller-gen sigs.k8s.io/controller-tools/cmd/controller-gen '$(CONTROLLER_GEN_VERSION)' '-s -w' 'about half a minute'

.PHONY: golangci-lint
golangci-lint:
	@hack/tool.sh golangci-lint golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint '$(GOLANGCI_LINT_VERSION)' '-s -w' 'about 4 minutes'

.PHONY: clean
clean: ## Remove what was built from this repository; keep the tools
	rm -rf bin/capstan bin/capstan-demo bin/devcluster bin/.*.tmp.*

.PHONY: distclean
distclean: ## Remove bin/, tools included
	rm -rf bin

.PHONY: help
help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' Makefile
