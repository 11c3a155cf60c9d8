#!/bin/sh
# install.sh installs skiff, or another version of it, and runs it as a service:
#
#   curl -sfL https://…/install.sh | sh -              a server, from where releases are published
#   sh /media/usb/install.sh                           the same from a directory, without any network
#   … | SKIFF_URL=https://192.168.1.10:6443 SKIFF_TOKEN=K10… sh -      a node for that server
#   … | sh -s - server --node-label site=harbour       with arguments for skiff
#
# Nothing is installed that was not signed with the key below. Every change to
# the machine is written to /etc/skiff/host-changes first, from which `skiff
# uninstall` undoes it. To run the script again is safe, also after it was
# killed; with the same arguments it changes nothing and restarts nothing.
#
# SKIFF_*, HTTP_PROXY, HTTPS_PROXY and NO_PROXY are kept for the service.
# With SKIFF_URL the machine becomes an agent. Further variables:
#
#   INSTALL_SKIFF_EXEC           arguments for skiff, before those of the command line; the
#                                first may be the command (server, agent)
#   INSTALL_SKIFF_ARTIFACT_URL   where the release's files are: http(s)://, file:// or a directory;
#                                else the directory of this script, if they lie there. With a
#                                version or a channel: in a directory of the version's name
#   INSTALL_SKIFF_VERSION        this version
#   INSTALL_SKIFF_CHANNEL        the version that this channel names (stable)
#   INSTALL_SKIFF_CHANNEL_URL    where the channels are: files with a version in them
#   INSTALL_SKIFF_PUBLIC_KEY     key that the release is signed with: a minisign public key or its file
#   INSTALL_SKIFF_SKIP_DOWNLOAD  true: use the skiff that is there
#   INSTALL_SKIFF_SKIP_ENABLE    true: write the service, but neither enable nor start it
#   INSTALL_SKIFF_SKIP_START     true: do not start it now
#   INSTALL_SKIFF_FORCE_RESTART  true: restart it also if nothing has changed
#   INSTALL_SKIFF_SYMLINK        kubectl, crictl and ctr become links where absent;
#                                skip: never, force: also where there is another one
#   INSTALL_SKIFF_BIN_DIR        /usr/local/bin; /opt/bin if that is there and /usr is read-only
#   INSTALL_SKIFF_BIN_DIR_READ_ONLY  true: write nothing there, use the skiff that is there
#   INSTALL_SKIFF_SYSTEMD_DIR    /etc/systemd/system
#   INSTALL_SKIFF_NAME           the service's name is skiff-NAME; else skiff, or skiff-agent
#   INSTALL_SKIFF_TYPE           systemd's type of the service (notify)
#
# `install.sh verify FILE…` only checks FILE.minisig of each file.
#
# Read main at the end first.
set -eu
umask 022
LC_ALL=C
export LC_ALL

# `make release` fills these in. The script in git trusts no key and knows no place.
release_key=''
release_version=''
release_url=''

etc=/etc/skiff
wait_limit=300s

# --- talking -------------------------------------------------------------------
say() { printf 'skiff install: %s\n' "$*"; }
warn() { printf 'skiff install: %s\n' "$*" >&2; }
die() {
	warn "$*"
	exit 1
}
usage() {
	warn "$*"
	exit 2
}
have() { command -v "$1" >/dev/null 2>&1; }
is_true() {
	case $1 in
	true | yes | 1) return 0 ;;
	'' | false | no | 0) return 1 ;;
	*) usage "\"$1\" is neither true nor false" ;;
	esac
}

# --- the signature -------------------------------------------------------------
# ed25519 verifies signatures (RFC 8032) in awk, because a machine that is to get
# skiff has nothing else for sure. docs/adr has why, and what this relies on.
ed25519() {
	# shellcheck disable=SC2016 # awk's dollars and quotes
	awk "$@" '
# Field elements modulo p = 2^255 - 19 lie in F, eleven limbs of 24 bits from a
# base index on. Limbs are signed and at most 2^23, so that sums of three go
# into a product without a carry and every column stays below 2^53, where
# doubles are exact. 2^264 is 9728 modulo p.
function carry(n,  k, q) {
	for (k = 0; k < n; k++) {
		q = (C[k] / W + ROUND) - ROUND # to the nearest whole number
		C[k] -= q * W
		C[k + 1] += q
	}
}
function mul(o, a, b,  k, a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10) {
	a0 = F[a + 0]; a1 = F[a + 1]; a2 = F[a + 2]; a3 = F[a + 3]; a4 = F[a + 4]; a5 = F[a + 5]; a6 = F[a + 6]; a7 = F[a + 7]; a8 = F[a + 8]; a9 = F[a + 9]; a10 = F[a + 10]
	b0 = F[b + 0]; b1 = F[b + 1]; b2 = F[b + 2]; b3 = F[b + 3]; b4 = F[b + 4]; b5 = F[b + 5]; b6 = F[b + 6]; b7 = F[b + 7]; b8 = F[b + 8]; b9 = F[b + 9]; b10 = F[b + 10]
	C[0] = a0*b0
	C[1] = a0*b1 + a1*b0
	C[2] = a0*b2 + a1*b1 + a2*b0
	C[3] = a0*b3 + a1*b2 + a2*b1 + a3*b0
	C[4] = a0*b4 + a1*b3 + a2*b2 + a3*b1 + a4*b0
	C[5] = a0*b5 + a1*b4 + a2*b3 + a3*b2 + a4*b1 + a5*b0
	C[6] = a0*b6 + a1*b5 + a2*b4 + a3*b3 + a4*b2 + a5*b1 + a6*b0
	C[7] = a0*b7 + a1*b6 + a2*b5 + a3*b4 + a4*b3 + a5*b2 + a6*b1 + a7*b0
	C[8] = a0*b8 + a1*b7 + a2*b6 + a3*b5 + a4*b4 + a5*b3 + a6*b2 + a7*b1 + a8*b0
	C[9] = a0*b9 + a1*b8 + a2*b7 + a3*b6 + a4*b5 + a5*b4 + a6*b3 + a7*b2 + a8*b1 + a9*b0
	C[10] = a0*b10 + a1*b9 + a2*b8 + a3*b7 + a4*b6 + a5*b5 + a6*b4 + a7*b3 + a8*b2 + a9*b1 + a10*b0
	C[11] = a1*b10 + a2*b9 + a3*b8 + a4*b7 + a5*b6 + a6*b5 + a7*b4 + a8*b3 + a9*b2 + a10*b1
	C[12] = a2*b10 + a3*b9 + a4*b8 + a5*b7 + a6*b6 + a7*b5 + a8*b4 + a9*b3 + a10*b2
	C[13] = a3*b10 + a4*b9 + a5*b8 + a6*b7 + a7*b6 + a8*b5 + a9*b4 + a10*b3
	C[14] = a4*b10 + a5*b9 + a6*b8 + a7*b7 + a8*b6 + a9*b5 + a10*b4
	C[15] = a5*b10 + a6*b9 + a7*b8 + a8*b7 + a9*b6 + a10*b5
	C[16] = a6*b10 + a7*b9 + a8*b8 + a9*b7 + a10*b6
	C[17] = a7*b10 + a8*b9 + a9*b8 + a10*b7
	C[18] = a8*b10 + a9*b9 + a10*b8
	C[19] = a9*b10 + a10*b9
	C[20] = a10*b10
	C[21] = 0
	carry(21)
	for (k = 0; k < 11; k++) C[k] += 9728 * C[k + 11]
	C[11] = 0
	carry(11)
	C[0] += 9728 * C[11]
	carry(1)
	for (k = 0; k < 11; k++) F[o + k] = C[k]
}
function sum(o, a, b,  k) { for (k = 0; k < 11; k++) F[o + k] = F[a + k] + F[b + k] }
function diff(o, a, b,  k) { for (k = 0; k < 11; k++) F[o + k] = F[a + k] - F[b + k] }
function copy(o, a,  k) { for (k = 0; k < 11; k++) F[o + k] = F[a + k] }
function squares(o, a, n) { for (mul(o, a, a); n > 1; n--) mul(o, o, o) }
# power sets o to a^(2^250 - 1) and a11 to a^11: the start of two exponents.
function power(o, a, a11,  t, u, v) {
	t = 900; u = 920; v = 940
	squares(t, a, 1); squares(u, t, 2); mul(u, u, a); mul(a11, u, t)
	squares(t, a11, 1); mul(u, u, t)      # 2^5 - 1
	squares(t, u, 5); mul(u, t, u)        # 2^10 - 1
	squares(t, u, 10); mul(v, t, u)       # 2^20 - 1
	squares(t, v, 20); mul(t, t, v)       # 2^40 - 1
	squares(t, t, 10); mul(u, t, u)       # 2^50 - 1
	squares(t, u, 50); mul(v, t, u)       # 2^100 - 1
	squares(t, v, 100); mul(t, t, v)      # 2^200 - 1
	squares(t, t, 50); mul(o, t, u)       # 2^250 - 1
}
function floor(x,  q) { q = int(x); return q > x ? q - 1 : q }
# freeze leaves the one form that is in [0, p).
function freeze(o, a,  k, q, n) {
	copy(o, a)
	for (n = 0; n < 4; n++) {
		# The last time round 19 is added, which only a number >= p carries out of
		# its 255 bits: then the rest is the number less p.
		if (n == 3) { copy(960, o); F[o] += 19 }
		for (k = 0; k < 10; k++) { q = floor(F[o + k] / W); F[o + k] -= q * W; F[o + k + 1] += q }
		q = floor(F[o + 10] / 32768); F[o + 10] -= q * 32768
		if (n < 3) F[o] += 19 * q
		else if (q == 0) copy(o, 960)
	}
}
function same(a, b,  k) {
	freeze(980, a); freeze(1000, b)
	for (k = 0; k < 11; k++) if (F[980 + k] != F[1000 + k]) return 0
	return 1
}
function byte(hex, i) { return (index(DIGITS, substr(hex, 2*i + 1, 1)) - 1) * 16 + index(DIGITS, substr(hex, 2*i + 2, 1)) - 1 }
# load reads 32 bytes, the lowest first, without the topmost bit; that is returned.
function load(o, hex,  k, top) {
	for (k = 0; k < 10; k++) F[o + k] = byte(hex, 3*k) + 256 * byte(hex, 3*k + 1) + 65536 * byte(hex, 3*k + 2)
	top = byte(hex, 31)
	F[o + 10] = byte(hex, 30) + 256 * (top % 128)
	return top >= 128
}
# A point is X, Y, Z, T at p, p + 11, p + 22, p + 33 with x = X/Z, y = Y/Z,
# xy = T/Z; one that is to be added is kept as Y - X, Y + X, 2dT, 2Z.
function cached(o, p) {
	diff(o, p + 11, p); sum(o + 11, p + 11, p); mul(o + 22, p + 33, D2); sum(o + 33, p + 22, p + 22)
}
function products(p, e, f, g, h) { mul(p, e, f); mul(p + 11, g, h); mul(p + 22, f, g); mul(p + 33, e, h) }
function plus(p, c,  a, b) {
	a = 800; b = 820
	diff(a, p + 11, p); mul(a, a, c); sum(b, p + 11, p); mul(b, b, c + 11)
	mul(840, p + 33, c + 22); mul(860, p + 22, c + 33)
	diff(p, b, a); diff(p + 11, 860, 840); sum(p + 22, 860, 840); sum(p + 33, b, a)
	copy(a, p); copy(b, p + 11); copy(840, p + 22); copy(860, p + 33)
	products(p, a, b, 840, 860)
}
function twice(p,  a, b, k) {
	a = 800; b = 820
	mul(a, p, p); mul(b, p + 11, p + 11); mul(840, p + 22, p + 22); mul(860, p, p + 11)
	sum(860, 860, 860)                                  # E = 2XY
	diff(p, b, a)                                        # G = B - A
	for (k = 0; k < 11; k++) { F[p + 11 + k] = F[p + k] - 2 * F[840 + k]; F[p + 22 + k] = -F[a + k] - F[b + k] } # F = G - 2ZZ, H = -A - B
	copy(a, p); copy(b, p + 11); copy(840, p + 22)
	products(p, 860, b, a, 840)
}
# minus decodes a point and leaves its negative; 0 if the bytes are no point.
function minus(p, hex,  sign, y2, u, v, x, t) {
	y2 = 700; u = 720; v = 740; x = 760; t = 780
	sign = load(p + 11, hex)
	mul(y2, p + 11, p + 11); diff(u, y2, ONE); mul(v, y2, D); sum(v, v, ONE)
	mul(t, v, v); mul(t, t, v); mul(x, t, u)            # u v^3
	mul(t, t, t); mul(t, t, v); mul(t, t, u)            # u v^7
	power(t, t, 1020); squares(t, t, 2)
	# (2^250 - 1) * 4 + 1 = (p - 5) / 8, so once more by u v^7.
	mul(1020, v, v); mul(1020, 1020, v); mul(1020, 1020, 1020); mul(1020, 1020, v); mul(1020, 1020, u)
	mul(t, t, 1020); mul(x, x, t)
	mul(t, x, x); mul(t, t, v)
	if (!same(t, u)) {
		diff(u, ZERO, u)
		if (!same(t, u)) return 0
		mul(x, x, ROOT)
	}
	freeze(p, x)
	if (F[p] % 2 == sign) diff(p, ZERO, p)
	copy(p + 22, ONE); mul(p + 33, p, p + 11)
	return 1
}
# reduce writes the bits of a number of n bytes, modulo the order of the group,
# and returns whether it was smaller than that before.
function reduce(bits, hex, n,  i, j, k, c, b, r, small) {
	for (k = 0; k < 11; k++) r[k] = 0
	small = 1
	for (i = n - 1; i >= 0; i--) for (j = 128; j >= 1; j /= 2) {
		c = int(byte(hex, i) / j) % 2
		for (k = 0; k < 11; k++) { r[k] = 2 * r[k] + c; c = r[k] >= W; if (c) r[k] -= W }
		for (k = 10; k > 0 && r[k] == F[ORDER + k]; k--) ;
		if (r[k] < F[ORDER + k]) continue
		small = 0
		c = 0
		for (k = 0; k < 11; k++) { r[k] -= F[ORDER + k] + c; c = r[k] < 0; if (c) r[k] += W }
	}
	for (k = 0; k < 11; k++) for (j = 0; j < 24; j++) { bits[24*k + j] = r[k] % 2; r[k] = int(r[k] / 2) }
	return small
}
function verify(key, sig, hash,  i, k, acc, sign, s, h) {
	W = 16777216; ROUND = 6755399441055744 # 2^24; 1.5 * 2^52, where doubles have no fractions
	ZERO = 0; ONE = 20; D = 40; D2 = 60; ROOT = 80; ORDER = 100
	for (i = 0; i < 40; i++) F[i] = i == ONE
	load(D, "a3785913ca4deb75abd841414d0a700098e879777940c78c73fe6f2bee6c0352"); sum(D2, D, D)
	load(ROOT, "b0a00e4a271beec478e42fad0618432fa7d7fb3d99004d2b0bdfc14f8024832b")
	load(ORDER, "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")
	if (!reduce(s, substr(sig, 65), 32)) return 0
	reduce(h, hash, 64)
	# The base point, the key negated, and the sum of both.
	load(200, "1ad5258f602d56c9b2a7259560c72c695cdcd6fd31e2a4c0fe536ecdd3366921")
	load(211, "5866666666666666666666666666666666666666666666666666666666666666")
	copy(222, ONE); mul(233, 200, 211); cached(300, 200)
	if (!minus(250, key)) return 0
	cached(350, 250); plus(250, 300); cached(400, 250)
	# What is left of [s]B - [h]A has to be the R of the signature.
	acc = 500
	copy(acc, ZERO); copy(acc + 11, ONE); copy(acc + 22, ONE); copy(acc + 33, ZERO)
	for (i = 252; i >= 0; i--) {
		twice(acc)
		k = s[i] + 2 * h[i]
		if (k) plus(acc, 250 + 50 * k)
	}
	power(600, acc + 22, 620); squares(600, 600, 5); mul(600, 600, 620) # 1/Z
	mul(640, acc, 600); mul(660, acc + 11, 600)
	freeze(640, 640); freeze(660, 660)
	sign = load(680, sig)
	for (i = 0; i < 11; i++) if (F[660 + i] != F[680 + i]) return 0
	return F[640] % 2 == sign
}

function hex(base64,  alphabet, i, n, bits, value, out) {
	alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	sub(/=+$/, "", base64)
	for (i = 1; i <= length(base64); i++) {
		n = index(alphabet, substr(base64, i, 1))
		if (!n) return ""
		value = value * 64 + n - 1; bits += 6
		if (bits >= 8) { bits -= 8; n = bits == 4 ? 16 : bits == 2 ? 4 : 1; out = out sprintf("%02x", int(value / n)); value %= n }
	}
	return out
}
# Without a hash: prints the key, the signature, and the bytes that are hashed
# before the file, for printf. With it: the exit code says whether all fits.
BEGIN {
	DIGITS = "0123456789abcdef"
	if (hash != "") exit !(length(hash) == 128 && verify(key, sig, hash))
	key = hex(key); sig = hex(sig)
	if (length(key) != 84 || substr(key, 1, 4) != "4564") { print "key"; exit }
	if (length(sig) != 148 || substr(sig, 1, 4) != "4564") { print "signature"; exit }
	if (substr(key, 5, 16) != substr(sig, 5, 16)) { print "other"; exit }
	key = substr(key, 21); sig = substr(sig, 21)
	first = substr(sig, 1, 64) key
	for (i = 0; i < 64; i++) bytes = bytes sprintf("\\%03o", byte(first, i))
	print key, sig, bytes
}'
}
sha() { # sha 256|512: of the standard input
	if have "sha$1sum"; then
		"sha$1sum"
	elif have shasum; then
		shasum -a "$1"
	elif have openssl; then
		openssl dgst "-sha$1" -r
	else
		die "no program for SHA-$1 here: install coreutils (sha$1sum) or openssl"
	fi | sed 's/[^0-9a-f].*//'
}

# check_signature FILE SIGNATURE: dies unless the key has signed the file.
check_signature() {
	signature=$(sed -n '2{s/[[:space:]]*$//;p;q;}' "$2")
	answer=$(ed25519 -v "key=$key" -v "sig=$signature")
	case $answer in
	key) die "the public key \"$key\" is none of minisign's" ;;
	signature) die "$2 is no signature of minisign's (legacy form, -l)" ;;
	other) die "$1 was signed with another key than \"$key\"" ;;
	esac
	# shellcheck disable=SC2086 # three words
	set -- "$1" $answer
	# shellcheck disable=SC2059 # the format is the bytes
	hash=$({ printf "$4" && cat "$1"; } | sha 512)
	ed25519 -v "key=$2" -v "sig=$3" -v "hash=$hash" ||
		die "the signature of $1 does not fit: the file or its signature was changed"
}

# find_key sets key: from the variable, else this script, else what an earlier
# installation trusts. A script with a new key does not replace the old one.
find_key() {
	trusted=
	if as_root test -f "$etc/release.pub"; then trusted=$(key_in "$etc/release.pub"); fi
	key=${INSTALL_SKIFF_PUBLIC_KEY-}
	if [ -n "$key" ] && [ -f "$key" ]; then key=$(key_in "$key"); fi
	[ -z "$key" ] || return 0
	key=${release_key:-$trusted}
	[ -n "$key" ] || die "this script carries no key that a release could be verified with: use the one of a release, or set INSTALL_SKIFF_PUBLIC_KEY to the key or its file"
	[ -z "$trusted" ] || [ "$trusted" = "$key" ] ||
		die "this script carries another key than the one this machine trusts ($etc/release.pub). If the change is meant, run it with INSTALL_SKIFF_PUBLIC_KEY=$key"
}
key_in() { as_root sed -n '/^RW/{s/[[:space:]]*$//;p;q;}' "$1"; }

# --- the release's files ---------------------------------------------------------
# download URL FILE KILOBYTES: bounded, tried three times.
download() {
	tries=0
	while :; do
		tries=$((tries + 1))
		# ulimit counts half kilobytes; bash as sh counts whole ones.
		if (ulimit -f $(($3 * 2)) && transfer "$1" "$2"); then return 0; fi
		[ "$tries" -lt 3 ] || die "download $1: no success in $tries tries; $(free "$work")"
		warn "download $1: once more"
		sleep $((tries * 2))
	done
}
transfer() {
	if have curl; then
		curl -fsSL --connect-timeout 15 --speed-limit 512 --speed-time 60 -o "$2" "$1"
	else
		wget -q -T 60 -O "$2" "$1"
	fi
}
free() { printf '%s has %s MB free' "$1" "$(df -Pk "$1" 2>/dev/null | awk 'NR == 2 { print int($4 / 1024) }')"; }

# get FROM FILE KILOBYTES: a file of the release, from wherever it is.
get() {
	case $1 in
	http://* | https://*) download "$1" "$2" "$3" ;;
	*)
		[ -f "$1" ] || die "there is no $1: is the release complete?"
		cp "$1" "$2" || die "copy $1 to $2: $(free "$work")"
		;;
	esac
}

# find_place sets place, and version if one is asked for. source is where other
# versions are, too.
find_place() {
	version=${INSTALL_SKIFF_VERSION-}
	place=${INSTALL_SKIFF_ARTIFACT_URL-}
	case $0 in
	*/*) here=$(cd "$(dirname "$0")" && pwd) ;;
	*) here=$(pwd) ;;
	esac
	if [ -z "$place" ] && [ -f "$0" ] && [ -f "$here/SHA256SUMS" ]; then place=$here; fi
	if [ -z "$place" ]; then
		place=$release_url
		[ -n "$place" ] || die "no place to install from: set INSTALL_SKIFF_ARTIFACT_URL to a directory with a release's files, or to the address of a server that has them"
		[ -n "$version" ] || [ -n "${INSTALL_SKIFF_CHANNEL-}" ] || version=$release_version
		: "${INSTALL_SKIFF_CHANNEL:=stable}"
	fi
	place=${place%/}
	case $place in
	http://* | https://*)
		have curl || have wget || die "neither curl nor wget is here: install one, or install from a directory (INSTALL_SKIFF_ARTIFACT_URL)"
		;;
	file://*) place=${place#file://} ;;
	/*) ;;
	*://*) usage "INSTALL_SKIFF_ARTIFACT_URL=$place: want http://, https://, file:// or a directory" ;;
	*) place=$(pwd)/$place ;;
	esac
	source=$place
	if [ -z "$version" ] && [ -n "${INSTALL_SKIFF_CHANNEL-}" ]; then read_channel; fi
	case $version in
	'') ;;
	*[!0-9A-Za-z.+_-]*) usage "\"$version\" is no version of skiff" ;;
	*)
		case $place in
		http*) place=$place/$(printf %s "$version" | sed 's/+/%2B/g') ;;
		*) if [ -d "$place/$version" ]; then place=$place/$version; fi ;;
		esac
		;;
	esac
}

read_channel() {
	channels=${INSTALL_SKIFF_CHANNEL_URL:-$place/channels}
	case $INSTALL_SKIFF_CHANNEL in
	*/* | .*) usage "\"$INSTALL_SKIFF_CHANNEL\" is no name of a channel" ;;
	esac
	channels=${channels%/}
	get "${channels#file://}/$INSTALL_SKIFF_CHANNEL" "$work/channel" 64
	version=$(sed -n '1{s/[[:space:]]*$//;p;}' "$work/channel")
	[ -n "$version" ] || die "the channel $channels/$INSTALL_SKIFF_CHANNEL names no version"
}

# sum NAME: the SHA-256 that the release has for a file, or nothing.
sum() { awk -v "name=$1" '$2 == name || $2 == "*" name { print $1; exit }' "$work/SHA256SUMS"; }

# read_sums fetches the list of the release's files, verified.
read_sums() {
	get "$place/SHA256SUMS" "$work/SHA256SUMS" 1024
	get "$place/SHA256SUMS.minisig" "$work/SHA256SUMS.minisig" 64
	check_signature "$work/SHA256SUMS" "$work/SHA256SUMS.minisig"
	signed=$(sed -n "s/^[0-9a-f]* [ *]skiff-\(.*\)-linux-$arch\.skiff\$/\1/p" "$work/SHA256SUMS")
	[ -n "$signed" ] || die "the release in $place has nothing for $arch"
	[ -z "$version" ] || [ "$version" = "$signed" ] ||
		die "the release in $place is $signed, not $version"
	version=$signed
}

# --- the machine -----------------------------------------------------------------
as_root() {
	if [ -n "$sudo" ]; then sudo -- "$@"; else "$@"; fi
}

look_at_machine() {
	[ "$(uname -s)" = Linux ] || die "skiff runs on Linux, this is $(uname -s)"
	case $(uname -m) in
	x86_64 | amd64) arch=amd64 ;;
	aarch64 | arm64) arch=arm64 ;;
	arm*) die "skiff needs a 64-bit system, this one is $(uname -m): a Raspberry Pi 3 or later can run the 64-bit Raspberry Pi OS" ;;
	*) die "there is no skiff for $(uname -m), only for x86_64 (amd64) and aarch64 (arm64)" ;;
	esac
	for tool in awk sed grep df xargs; do
		have "$tool" || die "$tool is missing on this machine"
	done
	sudo=
	if [ "$(id -u)" != 0 ]; then
		have sudo || die "run this as root: it installs a service, and there is no sudo here"
		sudo=sudo
	fi
	# What runs now counts more than what is installed.
	if [ -d /run/systemd/system ]; then
		init=systemd
	elif [ -d /run/openrc ]; then
		init=openrc
	elif have systemctl; then
		init=systemd
	elif [ -x /sbin/openrc-run ]; then
		init=openrc
	else
		init=
	fi
}

# check_words dies for a variable that does not make sense, before anything is done.
check_words() {
	for word in "${INSTALL_SKIFF_BIN_DIR_READ_ONLY-}" "${INSTALL_SKIFF_FORCE_RESTART-}" "${INSTALL_SKIFF_SKIP_ENABLE-}" "${INSTALL_SKIFF_SKIP_START-}"; do
		is_true "$word" || true
	done
	case ${INSTALL_SKIFF_SKIP_DOWNLOAD-} in
	binary | selinux) ;; # K3s' words: all but a package for SELinux, and that
	*) is_true "${INSTALL_SKIFF_SKIP_DOWNLOAD-}" || true ;;
	esac
	case ${INSTALL_SKIFF_SYMLINK-} in
	'' | skip | force) ;;
	*) usage "INSTALL_SKIFF_SYMLINK=$INSTALL_SKIFF_SYMLINK: want skip or force" ;;
	esac
}

# find_bin_dir sets bin, a directory in which skiff can be replaced.
find_bin_dir() {
	bin=${INSTALL_SKIFF_BIN_DIR:-/usr/local/bin}
	keep=no
	case ${INSTALL_SKIFF_SKIP_DOWNLOAD-} in
	'' | selinux | false | no | 0) ;;
	*) keep=yes ;;
	esac
	if is_true "${INSTALL_SKIFF_BIN_DIR_READ_ONLY-}"; then keep=yes; fi
	[ "$keep" = no ] || return 0
	if writable "$bin"; then return 0; fi
	if [ -z "${INSTALL_SKIFF_BIN_DIR-}" ] && [ -d /opt/bin ] && writable /opt/bin; then
		say "$bin cannot be written to; skiff goes to /opt/bin"
		bin=/opt/bin
		return 0
	fi
	die "$bin cannot be written to (a read-only file system?): set INSTALL_SKIFF_BIN_DIR to a directory that can, as /opt/bin, or put skiff there and set INSTALL_SKIFF_SKIP_DOWNLOAD=true"
}
writable() {
	if [ ! -d "$1" ]; then
		(make_dir "$1") 2>/dev/null || return 1
	fi
	as_root test -w "$1"
}

# --- the service's settings ------------------------------------------------------
# quoted WORD…: the words for a shell to read again.
quoted() {
	space=
	for word; do
		printf "%s'%s'" "$space" "$(printf %s "$word" | sed "s/'/'\\\\''/g")"
		space=' '
	done
}
# unit_words WORD…: the words for systemd, which knows other quotes than a shell.
unit_words() {
	for word; do
		case $word in
		'' | *[!0-9A-Za-z/.,:=_+@-]*)
			printf ' "%s"' "$(printf %s "$word" | sed 's/[\\"]/\\&/g; s/%/%%/g; s/\$/$$/g')"
			;;
		*) printf ' %s' "$word" ;;
		esac
	done
}

# find_command sets command (server or agent), arguments (quoted), name and data.
find_command() {
	words=
	if [ -n "${INSTALL_SKIFF_EXEC-}" ]; then
		words=$(printf '%s\n' "$INSTALL_SKIFF_EXEC" | xargs -n 1 printf '%s\n') ||
			usage "INSTALL_SKIFF_EXEC: its quotes do not match: $INSTALL_SKIFF_EXEC"
		words=$(printf '%s\n' "$words" | sed "s/'/'\\\\''/g; s/.*/'&'/" | tr '\n' ' ')
	fi
	eval "set -- $words $(quoted "$@")"
	case ${1-} in
	server | agent)
		command=$1
		shift
		;;
	-* | '')
		command=server
		if [ -n "${SKIFF_URL-}" ]; then
			command=agent
			[ -n "${SKIFF_TOKEN-}${SKIFF_TOKEN_FILE-}" ] || as_root grep -qs '^token' "$etc/config.yaml" ||
				usage "SKIFF_URL makes this machine an agent, which needs a token: set SKIFF_TOKEN to what the server has in /var/lib/skiff/server/agent-token"
		fi
		;;
	*) usage "unknown command \"$1\": want server or agent, with their options" ;;
	esac
	case ${SKIFF_URL-} in
	'' | https://*) ;;
	*) usage "SKIFF_URL=$SKIFF_URL: want https://, as https://192.168.1.10:6443" ;;
	esac
	name=skiff
	if [ "$command" = agent ]; then name=skiff-agent; fi
	if [ -n "${INSTALL_SKIFF_NAME-}" ]; then
		case $INSTALL_SKIFF_NAME in
		*[!0-9A-Za-z_.-]*) usage "INSTALL_SKIFF_NAME=$INSTALL_SKIFF_NAME: want letters, digits, - . and _" ;;
		esac
		name=skiff-$INSTALL_SKIFF_NAME
	fi
	arguments=$(quoted "$@")
	unit_arguments=$(unit_words "$@")
	data=$(as_root sed -n 's/^data-dir:[[:space:]]*["'\'']\{0,1\}\([^"'\''#]*[^"'\''#[:space:]]\).*/\1/p' "$etc/config.yaml" 2>/dev/null) || true
	data=${SKIFF_DATA_DIR:-${data:-/var/lib/skiff}}
	before=
	for word; do
		case $before in --data-dir | -d) data=$word ;; esac
		case $word in --data-dir=*) data=${word#*=} ;; esac
		before=$word
	done
	case $data in
	*[!0-9A-Za-z/.,_+@-]* | [!/]*) usage "data directory \"$data\": want an absolute path of letters, digits and / . , _ + @ -" ;;
	esac
}

# environment: what the service is to have, in a form that systemd and a shell
# read alike.
environment() {
	# shellcheck disable=SC2016 # awk's dollars
	awk 'BEGIN {
		for (name in ENVIRON) {
			if (name !~ /^SKIFF_[A-Z0-9_]*$/ && toupper(name) !~ /^(NO|HTTP|HTTPS)_PROXY$/) continue
			value = ENVIRON[name]
			if (value ~ /\n/) { print name > "/dev/stderr"; exit 1 }
			gsub(/[\\"$`]/, "\\\\&", value)
			print name "=\"" value "\"" | "sort"
		}
	}'
}

# --- changing the machine --------------------------------------------------------
# journal KIND VALUE: for `skiff uninstall`, before the change is made.
journal() {
	if [ "$1 $2" != "dir $etc" ] && [ ! -d "$etc" ]; then
		as_root mkdir -p "$etc"
		journal dir "$etc"
	fi
	line=$(printf '%s\t%s' "$1" "$2")
	# What a loss of power has cut off is no line, and must not become part of one.
	if [ -n "$(as_root tail -c 1 "$etc/host-changes" 2>/dev/null)" ]; then
		printf '\t\t\t\n' | as_root tee -a "$etc/host-changes" >/dev/null
	fi
	if as_root grep -qsxF -- "$line" "$etc/host-changes"; then return 0; fi
	printf '%s\n' "$line" | as_root tee -a "$etc/host-changes" >/dev/null
	durable "$etc/host-changes"
}
durable() { as_root sync "$1" 2>/dev/null || as_root sync; }

# pending remembers that the service must be restarted, also for a later run if
# this one is killed. A reboot does it as well, and clears /run.
pending() {
	restart=yes
	[ -z "$init" ] || as_root touch "/run/$name.install-pending"
}

make_dir() {
	if [ -d "$1" ]; then return 0; fi
	make_dir "${1%/*}"
	journal dir "$1"
	as_root mkdir "$1"
}

# put MODE FILE TEXT [KIND]: writes a file, whole or not at all. KIND is what the
# journal calls it. The service is restarted for it unless that is "quiet".
put() {
	if as_root test -f "$2" && [ "$(as_root cat "$2")" = "$3" ]; then
		as_root chmod "$1" "$2"
		return 0
	fi
	make_dir "${2%/*}"
	case ${4-file} in
	quiet) journal file "$2" ;;
	*)
		journal "${4-file}" "$2"
		pending
		;;
	esac
	new=$2.skiff-new
	as_root rm -f "$new"
	if ! { printf '%s\n' "$3" | (umask 077 && as_root tee "$new") >/dev/null &&
		as_root chmod "$1" "$new" && durable "$new" && as_root mv -f "$new" "$2"; }; then
		die "write $2: $(free "$(dirname "$2")"), or its file system is read-only"
	fi
}

# install_binary makes skiff the release's. What is there already is compared by
# its hash, so that nothing is downloaded for nothing.
install_binary() {
	if [ "$keep" = yes ]; then
		[ -x "$bin/skiff" ] || die "there is no $bin/skiff, and it is not to be downloaded"
		version=$("$bin/skiff" --version | awk 'NR == 1 { print $2 }')
		return 0
	fi
	read_sums
	whole=$(sum "skiff-linux-$arch")
	if [ -n "$whole" ] && [ -x "$bin/skiff" ] && [ "$(sha 256 <"$bin/skiff")" = "$whole" ]; then
		say "$bin/skiff is $version already"
		return 0
	fi
	file=skiff-linux-$arch.gz unpack='gzip -dc'
	if have xz && [ -n "$(sum "skiff-linux-$arch.xz")" ]; then
		case $place in
		http*) file=skiff-linux-$arch.xz ;;
		*) if [ -f "$place/skiff-linux-$arch.xz" ]; then file=skiff-linux-$arch.xz; fi ;;
		esac
	fi
	if [ "$file" = "skiff-linux-$arch.xz" ]; then unpack='xz -dc'; fi
	have "${unpack%% *}" || die "neither xz nor gzip is here: install one of them"
	want=$(sum "$file")
	[ -n "$want" ] || die "the release in $place has no $file"
	say "getting skiff $version for $arch from $place"
	packed=$place/$file
	case $place-$whole in
	/*-?*) [ -f "$packed" ] || die "there is no $packed: is the release complete?" ;;
	*)
		# What is on a stick is not copied first: what is unpacked is compared, too.
		packed=$work/$file
		get "$place/$file" "$packed" 262144
		;;
	esac
	[ "$(sha 256 <"$packed")" = "$want" ] ||
		die "$place/$file is not what was signed: its SHA-256 differs from the one in SHA256SUMS"
	replace_binary
}
replace_binary() {
	new=$bin/.skiff-install.$$
	$unpack "$packed" | as_root tee "$new" >/dev/null || die "write $new: $(free "$bin"), skiff needs about 220 MB"
	rm -f "${work:?}/$file"
	if [ -n "$whole" ]; then
		[ "$(as_root cat "$new" | sha 256)" = "$whole" ] || die "write $new: not whole; $(free "$bin"), skiff needs about 220 MB"
	fi
	as_root chmod 755 "$new"
	code=0
	as_root "$new" --version >"$work/version" 2>&1 || code=$?
	case $code in
	0) ;;
	126) die "$bin does not allow programs to be run (mounted noexec?): set INSTALL_SKIFF_BIN_DIR to a directory that does" ;;
	*) die "skiff $version does not run on this machine (exit code $code): $(cat "$work/version")" ;;
	esac
	if as_root cmp -s "$new" "$bin/skiff"; then
		as_root rm -f "$new"
		return 0
	fi
	journal file "$bin/skiff"
	pending
	durable "$new"
	as_root mv -f "$new" "$bin/skiff"
	say "installed $bin/skiff, version $version"
}

# link_tools makes skiff answer to the names of the tools it has in it.
link_tools() {
	[ "${INSTALL_SKIFF_SYMLINK-}" != skip ] || return 0
	[ "$keep" = no ] || writable "$bin" || return 0
	for tool in kubectl crictl ctr; do
		if [ "$(readlink "$bin/$tool" 2>/dev/null)" = skiff ]; then continue; fi
		if [ -e "$bin/$tool" ] && [ ! -L "$bin/$tool" ]; then
			warn "$bin/$tool is another program and stays; ours is: skiff $tool"
			continue
		fi
		if have "$tool" && [ "${INSTALL_SKIFF_SYMLINK-}" != force ]; then
			say "$(command -v "$tool") stays; ours is: skiff $tool"
			continue
		fi
		journal link "$bin/$tool"
		as_root ln -sfn skiff "$bin/$tool"
	done
}

# copy_images takes what lies in images/ beside the release to where skiff
# imports it from. These are yours, and no part of what is signed.
copy_images() {
	[ "$keep" = no ] || return 0
	case $place in http*) return 0 ;; esac
	for image in "$place"/images/*; do
		[ -f "$image" ] || continue
		target=$data/agent/images/${image##*/}
		if as_root cmp -s "$image" "$target"; then continue; fi
		say "copying ${image##*/} to $data/agent/images"
		as_root mkdir -p "$data/agent/images"
		if ! { as_root cp "$image" "$data/agent/images/.skiff-install.$$" &&
			as_root mv -f "$data/agent/images/.skiff-install.$$" "$target"; }; then
			die "copy $image to $target: $(free "$data")"
		fi
	done
}

# --- the service -----------------------------------------------------------------
# one_role dies where the other kind of node is installed: a script that is run
# again without SKIFF_URL must not make a server of an agent.
one_role() {
	[ -z "${INSTALL_SKIFF_NAME-}" ] || return 0
	other=skiff-agent
	if [ "$command" = agent ]; then other=skiff; fi
	if [ -e "$systemd_dir/$other.service" ] || [ -e "/etc/init.d/$other" ]; then
		die "the service $other is installed here, and one machine is either a server or an agent: give the same SKIFF_URL and SKIFF_TOKEN as before, or run skiff uninstall first"
	fi
}

systemd_unit() {
	cat <<UNIT
# Written by skiff's install.sh: it comes back when that is run again. Settings
# belong into $etc/config.yaml, changes to this file into
# $systemd_dir/$name.service.d/.
[Unit]
Description=Skiff Kubernetes ($command)
# No network is waited for: skiff starts without one and sees it come.
After=network.target
StartLimitIntervalSec=0

[Service]
Type=${INSTALL_SKIFF_TYPE:-notify}
EnvironmentFile=-/etc/default/%N
EnvironmentFile=-$systemd_dir/%N.service.env
# While an upgrade is on trial this counts its starts, and takes it back.
ExecStartPre=-/bin/sh -c 'if [ -x $data/upgrade/guard ]; then exec $data/upgrade/guard; fi'
ExecStart=$bin/skiff $command$unit_arguments
# Pods live on when skiff stops or restarts, and end in order with the machine.
ExecStopPost=-/bin/sh -c 'if [ "\$\$(systemctl is-system-running)" = stopping ]; then exec $bin/skiff stop --drain --grace-period 30s; fi'
# A slow machine may take long, and skiff itself reports what it waits for.
TimeoutStartSec=infinity
TimeoutStopSec=60s
Restart=always
RestartSec=2s
# Only skiff's own process is ended, and its part of the cgroup tree is left alone.
KillMode=process
Delegate=yes
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity

[Install]
WantedBy=multi-user.target
UNIT
}

openrc_script() {
	cat <<SCRIPT
#!/sbin/openrc-run
# Written by skiff's install.sh: it comes back when that is run again. Settings
# belong into $etc/config.yaml.
description="Skiff Kubernetes ($command)"
supervisor=supervise-daemon
command=$bin/skiff
command_args=$(quoted "$command${arguments:+ $arguments}")
output_log=/var/log/$name.log
error_log=/var/log/$name.log
respawn_delay=2
respawn_max=0
retry=SIGTERM/20/SIGKILL/5
rc_ulimit='-n 1048576'

set -o allexport
if [ -f $etc/$name.env ]; then . $etc/$name.env; fi
set +o allexport

# No network is needed: skiff starts without one and sees it come.
depend() {
	want cgroups
	use dns logger
	after net firewall
}

start_pre() {
	# While an upgrade is on trial this counts its starts, and takes it back.
	if [ -x $data/upgrade/guard ]; then $data/upgrade/guard; fi
	return 0
}

# Pods live on when skiff stops or restarts, and end in order with the machine.
stop_post() {
	if [ "\${RC_GOINGDOWN-}" = YES ]; then $bin/skiff stop --drain --grace-period 30s; fi
	return 0
}
SCRIPT
}

write_service() {
	settings=$(environment) || die "a variable for skiff has more than one line"
	case $init in
	systemd)
		put 600 "$systemd_dir/$name.service.env" "$settings"
		put 644 "$systemd_dir/$name.service" "$(systemd_unit)" unit
		;;
	openrc)
		put 600 "$etc/$name.env" "$settings"
		journal files "/var/log/$name.log*"
		put 755 "/etc/init.d/$name" "$(openrc_script)" unit
		if [ -d /etc/logrotate.d ]; then
			put 644 "/etc/logrotate.d/$name" "/var/log/$name.log {
	missingok
	notifempty
	copytruncate
	size 10M
	rotate 3
}" quiet
		fi
		;;
	*) if [ -n "$settings" ]; then put 600 "$etc/$name.env" "$settings"; fi ;;
	esac
}

# service VERB: enabled, enable, active, stop or start.
service() {
	case $init-$1 in
	systemd-enabled) systemctl is-enabled -q "$name" 2>/dev/null ;;
	systemd-enable) as_root systemctl -q enable "$name" ;;
	systemd-active) systemctl is-active -q "$name" ;;
	systemd-stop) as_root systemctl stop "$name" ;;
	systemd-start) as_root systemctl start --no-block "$name" ;;
	openrc-enabled) [ -e "/etc/runlevels/default/$name" ] ;;
	openrc-enable) as_root rc-update -q add "$name" default ;;
	openrc-active) as_root rc-service -q "$name" status >/dev/null 2>&1 ;;
	openrc-stop) as_root rc-service "$name" stop ;;
	openrc-start) as_root rc-service "$name" start ;;
	esac
}

start_service() {
	if [ -z "$init" ]; then
		say "neither systemd nor OpenRC is here. Run skiff by hand as root, or let your init run it:"
		by_hand="$bin/skiff $command${arguments:+ $arguments}"
		if [ -n "$settings" ]; then by_hand="set -a; . $etc/$name.env; set +a; $by_hand"; fi
		printf '    %s\n' "$by_hand"
		exit 0
	fi
	if is_true "${INSTALL_SKIFF_SKIP_ENABLE-}"; then
		say "the service $name is written, but neither enabled nor started"
		exit 0
	fi
	if [ "$init" = systemd ] && [ -d /run/systemd/system ] && [ "$restart" = yes ]; then as_root systemctl daemon-reload; fi
	if ! service enabled; then
		service enable || die "enable the service $name: see above"
	fi
	if is_true "${INSTALL_SKIFF_SKIP_START-}"; then
		say "the service $name is enabled, and was not started"
		exit 0
	fi
	if ! service active; then
		say "starting $name"
	elif [ "$restart" = yes ] || is_true "${INSTALL_SKIFF_FORCE_RESTART-}"; then
		say "restarting $name; pods go on"
		service stop || die "stop the service $name: see above"
	else
		say "nothing has changed, $name runs on"
	fi
	service active || service start || die "start the service $name: see above"
	as_root rm -f "/run/$name.install-pending"
	say "waiting until it is ready, at most $wait_limit"
	if ! as_root "$bin/skiff" status --wait "$wait_limit" >"$work/status" 2>&1; then
		cat "$work/status" >&2
		case $init in
		systemd) as_root journalctl -u "$name" -n 20 --no-pager -o cat >&2 ;;
		openrc) as_root tail -n 20 "/var/log/$name.log" >&2 ;;
		esac
		die "skiff is installed, and not ready yet; the service goes on trying. See: skiff status"
	fi
}

say_what_next() {
	kubectl=kubectl
	if [ "$(readlink "$bin/kubectl" 2>/dev/null)" != skiff ]; then kubectl='skiff kubectl'; fi
	say "skiff $version is ready."
	if [ "$command" = server ]; then
		cat <<NEXT

  look around       $kubectl get nodes        (as root; the access is $etc/skiff.yaml)
  how it is         skiff status
  add a machine     SKIFF_URL=https://$(address):6443 SKIFF_TOKEN=\$(cat $data/server/agent-token), then this script there
  settings          $etc/config.yaml, then: $(restart_command)
  your images       archives in $data/agent/images
  remove it         skiff uninstall
NEXT
	else
		cat <<NEXT

  how it is         skiff status
  settings          $etc/config.yaml, then: $(restart_command)
  remove it         skiff uninstall
NEXT
	fi
}
restart_command() {
	if [ "$init" = openrc ]; then echo "rc-service $name restart"; else echo "systemctl restart $name"; fi
}
address() { as_root "$bin/skiff" kubectl get --raw /api/v1/nodes 2>/dev/null | awk 'match($0, /"InternalIP","address":"[^"]*"/) { print substr($0, RSTART + 24, RLENGTH - 25); exit }'; }

# --- the whole -------------------------------------------------------------------
# clean_up removes what this run, or one that was killed, has put aside.
clean_up() {
	rm -rf "${work:-/nonexistent}"
	if [ -n "${bin-}" ]; then as_root rm -f "$bin/.skiff-install.$$"; fi
}
remove_leftovers() {
	for left in "${TMPDIR:-/var/tmp}"/skiff-install.* /tmp/skiff-install.* "$bin"/.skiff-install.*; do
		if [ -e "$left" ] && ! as_root kill -0 "${left##*.}" 2>/dev/null; then as_root rm -rf "$left"; fi
	done
}

verify_only() {
	sudo=
	[ $# -gt 0 ] || usage "verify: which file?"
	find_key
	for file; do
		for part in "$file" "$file.minisig"; do
			[ -r "$part" ] || die "verify $file: there is no $part"
		done
		check_signature "$file" "$file.minisig"
		say "$file is signed with $key"
	done
}

main() {
	if [ "${1-}" = verify ]; then
		shift
		verify_only "$@"
		return 0
	fi
	check_words
	look_at_machine
	find_command "$@"
	systemd_dir=${INSTALL_SKIFF_SYSTEMD_DIR:-/etc/systemd/system}
	one_role
	find_bin_dir
	remove_leftovers
	trap clean_up EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	# /tmp may be in memory, of which a small machine has little.
	for work in "${TMPDIR:-/var/tmp}/skiff-install.$$" "/tmp/skiff-install.$$"; do
		if (umask 077 && mkdir "$work") 2>/dev/null; then break; fi
	done
	[ -d "$work" ] || die "neither /var/tmp nor /tmp can be written to: set TMPDIR to a directory that can"
	restart=no
	if [ -e "/run/$name.install-pending" ]; then restart=yes; fi
	if [ "$keep" = no ]; then
		find_key
		find_place
	fi
	install_binary
	if [ -n "${key-}" ]; then
		put 644 "$etc/release.pub" "untrusted comment: releases of skiff must be signed with this key
$key" quiet
	fi
	# `skiff upgrade VERSION` looks there.
	if [ -n "${source-}" ]; then put 644 "$etc/release.url" "$source" quiet; fi
	copy_images
	link_tools
	write_service
	start_service
	say_what_next
}

# On the last line, so that a script that was cut off on its way does nothing.
main "$@" </dev/null
