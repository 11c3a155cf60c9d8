#!/bin/sh
# check.sh DIST VARIABLE=VALUE...: build the release a second time from a copy
# of the commit in another directory, with an empty build cache, and compare
# with DIST. CACHE=shared takes the usual build cache: minutes instead of an
# hour, and then only linking, packing, compressing and signing are compared.
set -eu
dist=$1
shift
[ -f "$dist/SHA256SUMS" ] || {
	echo "release-check: there is no $dist/SHA256SUMS; run make release first" >&2
	exit 1
}

# Neither as deep nor as long as the first.
work=$(mktemp -d "${TMPDIR:-/tmp}/skiff-release-check-XXXXXX")
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
git clone -q --no-hardlinks . "$work/a/second/copy"
git -C "$work/a/second/copy" checkout -q --detach "$(git rev-parse HEAD)"
[ "${CACHE-}" = shared ] || export GOCACHE="$work/cache"
env -u MAKEFLAGS -u MAKELEVEL make -s -C "$work/a/second/copy" release "$@" DIST=dist
if diff -u "$dist/SHA256SUMS" "$work/a/second/copy/dist/SHA256SUMS" &&
	cmp "$dist/SHA256SUMS.minisig" "$work/a/second/copy/dist/SHA256SUMS.minisig"; then
	echo "release-check: the second build has the same bytes"
	exit
fi
echo "release-check: the second build differs in the files above" >&2
exit 1
