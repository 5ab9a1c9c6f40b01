#!/bin/sh
# Writes deep copies and CRDs from the types in api/. bin/controller-gen must exist.
set -eu

cd "$(dirname "$0")/.."
crds=charts/capstan/files/crds
tmp=$(mktemp -d bin/.crds.tmp.XXXXXX)
trap 'rm -rf "$tmp"' EXIT

bin/controller-gen object paths=./api/...
bin/controller-gen crd paths=./api/... output:crd:dir="$tmp"
# A kind that is gone takes its CRD with it.
mkdir -p "$crds"
rm -f "$crds"/*.yaml
cp "$tmp"/*.yaml "$crds"/
