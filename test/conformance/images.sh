#!/bin/bash
# Make every image the conformance specs run, offline:
#   CONF=DIR MKIMAGE=PROGRAM images.sh  ->  DIR/images/ (an OCI layout and *.tar)
# QUICK=1 makes only what the quick specs of `make test` need.
#
# The specs name registry.k8s.io images, which cannot be fetched everywhere.
# Each is rebuilt under its upstream name from the same Go source (module
# proxy) and from Debian packages in place of Alpine's. MKIMAGE is the driver's
# "image" verb; build.sh must have run.
set -eu
: "${CONF:?directory to build in}" "${MKIMAGE:?the conformance driver}"
QUICK=${QUICK:-}
OUT=$CONF/images; W=$CONF/w; B=$CONF/bin
STAMP=$OUT/complete${QUICK:+-quick}
if [ -e "$OUT/complete" ] || [ -e "$STAMP" ]; then exit 0; fi
SRC=$(cd "$CONF/s" && go list -mod=mod -m -f '{{.Dir}}' k8s.io/kubernetes)
IMG=$SRC/test/images
rm -rf "$W/root" "$OUT"; mkdir -p "$W/debs" "$W/root" "$B" "$OUT"
export CGO_ENABLED=0 GOFLAGS="-trimpath -mod=mod" GOTOOLCHAIN=local

# The names and tags come from the e2e binary itself, so they cannot go stale.
REFS=$("$B/e2e.test" --list-images)
REFS=$(sort -V <<<"$REFS")
ref() { grep "/$1:" <<<"$REFS" | tail -1; }        # the newest tag of a name

# --- Go programs ------------------------------------------------------------
gomain() {      # gomain NAME MODULE@VERSION PACKAGE: a program from a module
  [ -x "$B/$1" ] && return
  mkdir -p "$W/go/$1"
  ( cd "$W/go/$1" && rm -f go.mod go.sum && go mod init "conf.local/$1" 2>/dev/null &&
    go get "$2" 2>"$W/go.log" && go build -ldflags '-s -w' -o "$B/$1" "$3" )
}
tagof() { ref "$1" | sed 's/.*://; s/-.*//'; }
if [ -z "$QUICK" ]; then
gomain etcd "go.etcd.io/etcd/server/v3@v$(tagof etcd)" go.etcd.io/etcd/server/v3
gomain sample-apiserver "k8s.io/sample-apiserver@v0.$(tagof sample-apiserver | cut -d. -f2-)" k8s.io/sample-apiserver
fi
cp "$(dirname "$0")/../../build/payload/pause" "$B/pause"   # skiff's own serves as well as upstream's

# --- Debian packages, unpacked but never installed ---------------------------
# debs DIR PKG...: unpack the packages and the libraries they need into DIR.
debs() {
  local dir=$1 p want=(); shift; mkdir -p "$dir"
  local keep="^(lib.*|zlib1g|$(IFS='|'; echo "$*"))$"
  for p in $(apt-cache depends --recurse --no-{recommends,suggests,conflicts,breaks,replaces,enhances} "$@" |
             grep -E "$keep" | grep -vE '^lib(pam|systemd|elogind|udev|debconf|perl|debian-installer|newt|slang)' | sort -u); do
    want+=("${p%:*}")
  done
  # drop virtual packages, then fetch what is missing in one go
  want=($(apt-cache show --no-all-versions "${want[@]}" 2>/dev/null | sed -n 's/^Package: //p' | sort -u))
  (cd "$W/debs"; miss=(); for p in "${want[@]}"; do compgen -G "${p}_*.deb" >/dev/null || miss+=("$p"); done
   [ ${#miss[@]} = 0 ] || apt-get download -qq "${miss[@]}" 2>/dev/null)
  for p in "${want[@]}"; do
    dpkg-deb --fsys-tarfile "$W/debs/${p}"_*.deb | tar -x -C "$dir" --exclude='./usr/share/doc' \
      --exclude='./usr/share/man' --exclude='./usr/share/locale' --exclude='./usr/share/lintian' \
      --exclude='./usr/share/bash-completion' --exclude='./usr/lib/systemd' --exclude='./lib/systemd'
  done
}

apt-cache show bind9-dnsutils >/dev/null 2>&1 || apt-get -qq update

# --- root file systems --------------------------------------------------------
R=$W/root
# busybox: the base of every other image.  Debian's own packages patch ash (it drops
# variables named like "data-1") and dash and bash word errors differently, and specs
# check both; so build the very version upstream uses from Debian's source archive.
BB_BIN=$B/busybox
if [ -n "$QUICK" ]; then BB_BIN=/bin/busybox; fi
[ -x "$BB_BIN" ] || ( mkdir -p "$W/src/lists/partial"; cd "$W/src"
  # the machine's own Debian mirror, asked for sources of the release that has this busybox
  uri=$(sed -n 's/^URIs: *//p; s/^deb \(\[.*\] \)\?\([a-z]*:[^ ]*\) .*/\2/p' /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | head -n 1)
  echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri trixie main" > s.list
  apt="apt-get -qq -o Dir::Etc::sourcelist=$W/src/s.list -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists=$W/src/lists -o APT::Sandbox::User=root"
  $apt update; $apt source --download-only busybox
  rm -rf bb; mkdir bb; tar -xjf busybox_*.orig.tar.bz2 -C bb --strip-components=1; cd bb
  make -s defconfig >/dev/null 2>&1 </dev/null; sed -i 's/.*CONFIG_STATIC[ =].*/CONFIG_STATIC=y/' .config
  make -s -j"$(nproc)" busybox >../bb.log 2>&1; cp busybox "$B/busybox" )
mkdir -p "$R"/bb/{bin,etc,root,home,proc,sys,dev,run,tmp,var/log,usr/{bin,sbin,local/bin},sbin}
chmod 1777 "$R/bb/tmp"; cp "$BB_BIN" "$R/bb/bin/"
for a in $("$BB_BIN" --list); do
  # rpm, dpkg and init stand-ins would only confuse
  case $a in busybox|dpkg*|rpm*|init|linuxrc) ;; *) ln -s busybox "$R/bb/bin/$a";; esac
done
ln -s ../../bin/env "$R/bb/usr/bin/env"
cat > "$R/bb/etc/passwd" <<'T'
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
T
cat > "$R/bb/etc/group" <<'T'
root:x:0:
daemon:x:1:
bin:x:2:
www-data:x:33:
nogroup:x:65534:
T
echo 'hosts: files dns' > "$R/bb/etc/nsswitch.conf"

# tools: what the Alpine and Debian bases of agnhost and glibc-dns-testing offer
debs "$R/tools" libc6 libc-bin bind9-dnsutils bind9-libs curl netcat-openbsd iproute2 iperf bash util-linux
rm -rf "$R"/tools/{etc/ld.so.conf,var,usr/share/{zoneinfo,info,perl*,bug,gcc},usr/lib/python3}
ln -sf /bin/nc.openbsd "$R/tools/usr/bin/nc"
# Debian's busybox, which the quick specs use, runs its own applets before it looks
# into PATH: its shell would never find that nc.
if [ -n "$QUICK" ]; then ln -sf bash "$R/tools/bin/sh"; fi
# GNU login/su/mount need PAM and blkid; the busybox applets do
rm -f "$R"/tools/bin/{su,login,mount,umount} "$R"/tools/sbin/{mkfs*,fsck*,swap*,sulogin,agetty,getty}

# agnhost: files its Dockerfile adds
mkdir -p "$R"/ag/{uploads,etc,usr/local/bin,var/registry}
cp "$B/agnhost" "$IMG"/agnhost/porter/localhost.{crt,key} "$R/ag/"; ln -s agnhost "$R/ag/agnhost-2"
{ cat "$R/bb/etc/passwd"; echo 'user-defined-in-image:x:1000:1000::/home:/bin/sh'; } > "$R/ag/etc/passwd"
{ cat "$R/bb/etc/group"; echo 'user-defined-in-image:x:1000:'
  echo 'group-defined-in-image:x:50000:user-defined-in-image'; } > "$R/ag/etc/group"
# The Image Volume spec reads this file and looks for the name of upstream's base.
cat > "$R/ag/etc/os-release" <<'T'
ID=conf-standin
PRETTY_NAME="Busybox and Debian packages, standing in for Alpine Linux"
T
for n in kitten nautilus; do mkdir "$R/$n"; cp "$IMG/$n"/html/* "$R/$n/"; done

if [ -z "$QUICK" ]; then
debs "$R/nginx" nginx nginx-common libc6
rm -rf "$R/nginx/usr/share/perl5"; mkdir -p "$R"/nginx/{run,usr/share/nginx/html,var/log/nginx,var/lib/nginx/{body,proxy,fastcgi,uwsgi,scgi}}
cp "$R"/nginx/var/www/html/* "$R/nginx/usr/share/nginx/html/" 2>/dev/null || true
[ -f "$R/nginx/usr/share/nginx/html/index.html" ] || echo '<h1>Welcome to nginx!</h1>' > "$R/nginx/usr/share/nginx/html/index.html"
ln -sf /dev/stdout "$R/nginx/var/log/nginx/access.log"; ln -sf /dev/stderr "$R/nginx/var/log/nginx/error.log"
cat > "$R/nginx/etc/nginx/nginx.conf" <<'T'
user www-data;
worker_processes 1;
pid /run/nginx.pid;
events { worker_connections 256; }
http {
  include mime.types;
  access_log /dev/stdout;
  server { listen 80; listen [::]:80; root /usr/share/nginx/html; index index.html; }
}
T

# resource-consumer: what the autoscaling specs load a node with
debs "$R/consumer" stress libc6
cp "$B/consumer" "$B/consume-cpu" "$R/consumer/"
fi

mkdir -p "$R"/pause "$R"/etcd/usr/local/bin "$R"/sample "$R"/nnp/usr/local/bin
cp "$B/pause" "$R/pause/"
if [ -z "$QUICK" ]; then cp "$B/etcd" "$R/etcd/usr/local/bin/"; cp "$B/sample-apiserver" "$R/sample/"; fi
cp "$B/nnp" "$R/nnp/usr/local/bin/"; chmod 4755 "$R/nnp/usr/local/bin/nnp"

# --- images -------------------------------------------------------------------
img() { "$MKIMAGE" image "$OUT" "$@"; }
img "$(ref pause)"   --layer "$R/pause" --entrypoint '["/pause"]' --user 65535:65535
for r in $(grep '/busybox:' <<<"$REFS"); do img "$r" --layer "$R/bb" --cmd '["sh"]'; done
BB=$(ref busybox)
img "$(ref nonroot)"    --base "$BB" --user 1234
img "$(ref nonewprivs)" --base "$BB" --layer "$R/nnp" --cmd '["nnp"]'
if [ -z "$QUICK" ]; then
img "$(ref etcd)"       --base "$BB" --layer "$R/etcd" --cmd '["/usr/local/bin/etcd"]'
img "$(ref sample-apiserver)"  --base "$BB" --layer "$R/sample" --entrypoint '["/sample-apiserver"]'
for r in $(grep '/nginx:' <<<"$REFS"); do
  img "$r" --base "$BB" --layer "$R/nginx" --entrypoint '[]' --cmd '["nginx","-g","daemon off;"]'
done
img "$(ref resource-consumer)" --base "$BB" --layer "$R/consumer" --entrypoint '["/consumer"]'
fi
img "$(ref glibc-dns-testing)" --base "$BB" --layer "$R/tools" --cmd '["bash"]'
for r in $(grep '/e2e-test-images/agnhost:' <<<"$REFS"); do      # the current one and its predecessor
  img "$r" --base "$BB" --layer "$R/tools" --layer "$R/ag" --entrypoint '["/agnhost"]' --cmd '["pause"]'
done
AG=$(grep '/e2e-test-images/agnhost:' <<<"$REFS" | tail -1)
for n in kitten nautilus; do img "$(ref $n)" --base "$AG" --layer "$R/$n" --cmd '["test-webserver"]'; done
touch "$STAMP"
