#!/bin/sh
# Fails unless KUBEBUILDER_ASSETS names a folder that the tests can use.
set -eu

case $KUBEBUILDER_ASSETS in
/*) ;;
*)
	echo "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS must be an absolute path: tests run in their packages' folders" >&2
	exit 1
	;;
esac
for name in kube-apiserver etcd; do
	if [ ! -x "$KUBEBUILDER_ASSETS/$name" ]; then
		echo "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS has no $name; unset it to build one" >&2
		exit 1
	fi
done
