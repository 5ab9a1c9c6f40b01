#!/bin/sh
# Fails unless KUBEBUILDER_ASSETS names a folder that has the programs.
#
# usage: hack/assets.sh NAME...
set -eu

case ${KUBEBUILDER_ASSETS-} in
/*) ;;
*)
	echo "KUBEBUILDER_ASSETS=${KUBEBUILDER_ASSETS-} must be an absolute path: tests run in their packages' folders" >&2
	exit 1
	;;
esac
for name; do
	if [ ! -x "$KUBEBUILDER_ASSETS/$name" ]; then
		echo "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS has no $name; unset it to build one" >&2
		exit 1
	fi
done
