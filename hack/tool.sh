#!/bin/sh
# Builds a tool that tools/MODULE/go.mod pins into bin/NAME, unless the one there was
# built from the same pins with the same flags. What it was built from is the name of
# the stamp bin/.NAME-<hash>: content decides and not times, so a bin/ that is put into
# a fresh checkout is used and a changed pin is not missed.
#
# usage: hack/tool.sh MODULE NAME PACKAGE VERSION LDFLAGS TIME [TAGS]
set -eu

module=tools/$1 name=$2 package=$3 version=$4 ldflags=$5 time=$6 tags=${7-}
cd "$(dirname "$0")/.."

hash=$({
	printf '%s\n' "$(go env GOOS GOARCH)" "$package" "$ldflags" ${tags:+"$tags"}
	# go.mod and go.sum, and what a replace in go.mod puts below them.
	find "$module" -type f | LC_ALL=C sort | xargs cat
} | git hash-object --stdin)
stamp=bin/.$name-$(printf %.16s "$hash")
if [ -x "bin/$name" ] && [ -e "$stamp" ]; then
	exit 0
fi

echo "building $name ${version#v} from its Go module; once, $time on two cores"
mkdir -p bin
tmp=bin/.$name.tmp.$$
ticker=
trap 'rm -f "$tmp"; [ -z "$ticker" ] || kill "$ticker" 2>/dev/null || :' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
# The sleep has its own outputs: one that outlives this script must not keep a pipe open.
(s=0; while sleep 30 >/dev/null 2>&1; do s=$((s + 30)); echo "  still building $name (${s}s)"; done) &
ticker=$!

go build -C "$module" -tags "$tags" -ldflags "$ldflags" -o "../../$tmp" "$package"

# The stamp goes first and comes last: at no time does one stand beside another binary.
rm -f "bin/.$name-"*
mv "$tmp" "bin/$name"
: >"$stamp"
echo "built bin/$name"
