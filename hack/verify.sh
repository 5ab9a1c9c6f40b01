#!/bin/sh
# Fails, with a diff, if something generated is not what generating makes of this
# working tree, or if code is not formatted or a go.mod not tidy. Generated files are
# corrected on the way. bin/controller-gen must exist.
set -u

cd "$(dirname "$0")/.." || exit
failed=
fail() {
	echo "verify: $*" >&2
	failed=yes
}

echo "== generated files"
before=$(mktemp -d bin/.verify.tmp.XXXXXX) || exit
trap 'rm -rf "$before"' EXIT
cp -R api charts/capstan/files/crds "$before" || exit
hack/generate.sh || exit
diff -ru "$before/api" api && diff -ru "$before/crds" charts/capstan/files/crds ||
	fail "generated files were out of date; they are right now: commit them"

echo "== gofmt"
unformatted=$("$(go env GOROOT)/bin/gofmt" -l .) || fail "gofmt failed"
[ -z "$unformatted" ] || fail "not formatted; run gofmt -w on:
$unformatted"

for mod in go.mod dev/go.mod tools/*/go.mod tools/*/*/go.mod; do
	dir=$(dirname "$mod")
	echo "== go mod tidy in $dir"
	go -C "$dir" mod tidy -diff || fail "$mod is not tidy: run go mod tidy in $dir"
done

[ -z "$failed" ] || exit 1
echo "verify: all up to date"
