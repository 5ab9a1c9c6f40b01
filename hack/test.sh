#!/bin/sh
# Vets and tests every package. kube-apiserver and etcd must be in bin/ or in
# KUBEBUILDER_ASSETS, kube-controller-manager and kubectl in either, gitea in bin/.
#
# usage: hack/test.sh [--race-all]
#
# The race detector runs on packages that need no API server and no Gitea, with
# --race-all on all.
set -u

cd "$(dirname "$0")/.." || exit
race_all=
[ "${1-}" != --race-all ] || race_all=yes
timeout=20m
trap 'exit 130' INT

failed=
step() { # step NAME COMMAND...
	echo
	echo "== $1"
	name=$1
	shift
	"$@" || failed="$failed
  $name"
}

# The race detector needs cgo, so a C compiler with its headers.
# shellcheck disable=SC2046 # CC may hold flags.
race=-race
if [ "$(go env CGO_ENABLED)" != 1 ] ||
	! echo '#include <stdlib.h>' | $(go env CC) -x c -fsyntax-only - 2>/dev/null; then
	race=
	echo "No working C compiler or cgo is off: the tests run without the race detector."
	[ -z "$race_all" ] || {
		echo "The race detector was asked for everywhere: install gcc." >&2
		exit 1
	}
fi

# A package needs an API server or Gitea if its tests import the package that starts one.
module=$(go list -m) || exit
packages=$(go list -f '{{.ImportPath}} {{join .TestImports " "}} {{join .XTestImports " "}}' ./...) || exit
server=$(echo "$packages" | awk -v env="$module/internal/testenv" -v gitea="$module/internal/giteatest" '{
	for (i = 1; i <= NF; i++) if ($i == env || $i == gitea) { print $1; next }
}')
pure=$(echo "$packages" | awk -v env="$module/internal/testenv" -v gitea="$module/internal/giteatest" -v root="$module" '{
	for (i = 1; i <= NF; i++) if ($i == env || $i == gitea) next
	if ($1 != root) print $1
}')

step "go vet" go vet ./...
# Never from the cache: what they look at is not what Go knows they read.
step "guards of the repository" go test -count=1 .
# shellcheck disable=SC2086 # lists of words
step "packages that need no API server and no Gitea${race:+, with the race detector}" \
	go test $race -timeout $timeout $pure
# Each starts servers of its own; more than two at once need more memory than they
# save time.
# shellcheck disable=SC2086 # lists of words
step "packages that need an API server or Gitea${race_all:+, with the race detector}" \
	go test ${race_all:+-race} -p 2 -timeout $timeout $server
step "dev: go vet" go -C dev vet ./...
step "dev: packages" go test -C dev ${race_all:+-race} -timeout $timeout ./...

echo
if [ -n "$failed" ]; then
	echo "FAIL:$failed"
	exit 1
fi
[ -n "$race" ] || without=" without the race detector"
echo "PASS: everything${without-}"
