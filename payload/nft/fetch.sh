#!/bin/sh
# fetch.sh OUT WORK ARCH: put Debian's nft for that architecture, and all it
# loads, into OUT (nft.d), and the packages' copyright files into OUT/../licenses.
#
# The packages come from one fixed release through a private apt state, so the
# release and the sources of the building machine do not matter; apt verifies
# Debian's signatures. Nothing is installed. See payload/README.md for why nft
# is not linked statically from source.
set -eu
out=$1 work=$2 arch=$3
suite=trixie
key=/usr/share/keyrings/debian-archive-keyring.gpg
packages="nftables libnftables1 libnftnl11 libmnl0 libjansson4 libgmp10
	libxtables12 libedit2 libtinfo6 libbsd0 libmd0 libc6"

say() { echo "payload/nft: $*" >&2; }

command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null && [ -f "$key" ] || {
	say "needs a Debian machine with apt-get, dpkg-deb and $key"
	exit 1
}

# The machine's own mirror, for machines that reach only that one.
mirror=$(sed -n 's/^URIs: *//p; s/^deb \(\[.*\] \)\?\([a-z]*:[^ ]*\) .*/\2/p' \
	/etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | head -n 1)

rm -rf "$out" "$work"
mkdir -p "$work/lists/partial" "$work/debs/partial" "$work/root" "$work/licenses" "$out"
work=$(cd "$work" && pwd)
echo "deb [signed-by=$key] ${mirror:-http://deb.debian.org/debian} $suite main" >"$work/sources.list"
apt() {
	apt-get -qq -o Acquire::Retries=3 -o APT::Sandbox::User=root \
		-o APT::Architecture="$arch" -o APT::Architectures="$arch" \
		-o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
		-o Dir::Etc::preferencesparts=/dev/null -o Dir::State::lists="$work/lists" \
		-o Dir::State::status=/dev/null -o Dir::Cache="$work" "$@"
}
apt update
# shellcheck disable=SC2086 # a list of words
(cd "$work/debs" && apt download $packages)

for deb in "$work"/debs/*.deb; do
	dpkg-deb -x "$deb" "$work/root"
	name=$(dpkg-deb -f "$deb" Package)
	{
		dpkg-deb -f "$deb" Package Version Source
		echo
		cat "$work/root/usr/share/doc/$name/copyright"
	} >"$work/licenses/$name"
done

# lib SONAME...: copy libraries under the names the loader asks for.
find_one() { find "$work/root" -name "$1" -not -path '*/gconv/*' | head -n 1; }
take() {
	for name; do
		file=$(find_one "$name")
		[ -n "$file" ] || { say "no $name in Debian $suite's packages"; exit 1; }
		cp -L "$file" "$out/$name"
	done
}
cp "$work/root/usr/sbin/nft" "$out/nft"
queue="nft"
while [ -n "$queue" ]; do
	next=
	for object in $queue; do
		for need in $(readelf -d "$out/$object" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'); do
			[ -f "$out/$need" ] || { take "$need"; next="$next $need"; }
		done
	done
	queue=$next
done
cp -L "$(find_one 'ld-linux-*.so.*')" "$out/ld.so"
rm -f "$out"/ld-linux-*
chmod 0755 "$out"/*

mkdir -p "$out/../licenses"
cp "$work"/licenses/* "$out/../licenses/"
rm -rf "$work"
