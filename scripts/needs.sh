#!/bin/sh
# needs.sh [ARCH|qemu]: install what building and testing skiff need on a Debian
# machine; with ARCH (arm64, amd64), what compiling for that architecture needs;
# with qemu, what running the result needs.
# What is there is left alone; on other machines, or without root, it only says
# what is missing. The Makefile runs it once (build/needs*.stamp).
set -eu
arch=${1-}

# package|a file or command that shows it is there
needs='gcc|cmd:gcc
libc6-dev|file:/usr/include/stdlib.h
git|cmd:git
file|cmd:file
binutils|cmd:readelf
libseccomp-dev|cc:-lseccomp
xz-utils|cmd:xz
zstd|cmd:zstd
busybox-static|static:/bin/busybox
debian-archive-keyring|file:/usr/share/keyrings/debian-archive-keyring.gpg
mariadb-server-core|file:/usr/sbin/mariadbd
curl|cmd:curl
wget|cmd:wget
gawk|cmd:gawk
mawk|cmd:mawk
shellcheck|cmd:shellcheck
postgresql|glob:/usr/lib/postgresql/*/bin/postgres'
triplet=
case $arch in
'') ;;
qemu)
	arch=
	needs='qemu-user-static|cmd:qemu-aarch64-static
qemu-system-arm|cmd:qemu-system-aarch64
busybox-static|static:/bin/busybox'
	;;
arm64) triplet=aarch64-linux-gnu ;;
amd64) triplet=x86_64-linux-gnu ;;
*)
	echo "needs: no compiler for $arch: want amd64, arm64, or qemu" >&2
	exit 2
	;;
esac
# libseccomp is the one library that is linked for the other architecture.
[ -z "$arch" ] || needs="gcc-$(echo $triplet | tr _ -)|cmd:$triplet-gcc
libc6-dev-$arch-cross|cross:-lc
libseccomp-dev:$arch|cross:-lseccomp"

present() {
	case $1 in
	cmd:*) command -v "${1#cmd:}" >/dev/null ;;
	file:*) [ -e "${1#file:}" ] ;;
	glob:*)
		# shellcheck disable=SC2086 # a pattern
		ls ${1#glob:} >/dev/null 2>&1
		;;
	static:*) [ -x "${1#static:}" ] && file -L "${1#static:}" 2>/dev/null | grep -q 'statically linked' ;;
	cross:*) echo 'int main(void){return 0;}' | $triplet-gcc -static -x c - "${1#cross:}" -o /dev/null 2>/dev/null ;;
	cc:*) echo 'int main(void){return 0;}' | gcc -static -x c - "${1#cc:}" -o /dev/null 2>/dev/null ;;
	esac
}

if ! command -v go >/dev/null; then
	echo "needs: go is missing; install the version go.mod names from https://go.dev/dl/" >&2
	exit 1
fi

missing=$(echo "$needs" | while IFS='|' read -r package sign; do
	present "$sign" || printf '%s ' "$package"
done)
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
	echo "needs: missing $missing(Debian's package names); install them and run make again" >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	echo "needs: missing $missing; run: sudo apt-get install $missing" >&2
	exit 1
fi
echo "needs: installing $missing" >&2
export DEBIAN_FRONTEND=noninteractive
# Debian installs libraries of a foreign architecture once dpkg knows of it.
[ -z "$arch" ] || dpkg --add-architecture "$arch"
apt-get -qq update
case $missing in
*postgresql*)
	# The tests start databases of their own. Debian's package would make one
	# for the machine, on the usual port, and start it at every boot: its own
	# setting says no while it is installed. MariaDB's -core has no service.
	dropin=/etc/postgresql-common/createcluster.d
	mkdir -p $dropin
	trap 'rm -f '$dropin'/skiff-needs.conf' EXIT
	echo 'create_main_cluster = false' >$dropin/skiff-needs.conf
	;;
esac
# shellcheck disable=SC2086 # a list of words
apt-get -qq install -y --no-install-recommends $missing >/dev/null
