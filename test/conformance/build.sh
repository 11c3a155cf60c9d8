#!/bin/bash
# Build the upstream test programs, unchanged, from the Go module proxy:
#   CONF=DIR build.sh  ->  DIR/bin/{e2e.test,ginkgo,kubectl,agnhost,nnp,consumer,consume-cpu}
# They are built as packages of a module with our own go.mod's versions, so
# that what `make` has compiled is not compiled again (90 s instead of 8 min).
set -eu
: "${CONF:?directory to build in}"
REPO=$(cd "$(dirname "$0")/../.." && pwd)
K=k8s.io/kubernetes
V=$(sed -n "s#^\s*$K v##p" "$REPO/go.mod")
if [ -x "$CONF/bin/e2e.test" ] && [ "$(cat "$CONF/version" 2>/dev/null)" = "$V" ]; then exit 0; fi
export GOTOOLCHAIN=local
mkdir -p "$CONF/bin" "$CONF/s"; cd "$CONF/s"
sed -e 's/^module .*/module conf.local\/e2e/' -e '/^tool (/,/^)/d' -e '/^tool /d' -e '/^ignore /d' "$REPO/go.mod" > go.mod
cp "$REPO/go.sum" go.sum
# What only the tests need comes in the versions upstream has tested with.
upstream=$(go mod download -json "$K@v$V" | sed -n 's/.*"GoMod": "\(.*\)",/\1/p')
pin() { sed -n "s#^\s*\($1\) \(v[^ ]*\).*#\1@\2#p" "$upstream" | head -n 1; }
go get -t "$K/test/e2e@v$V" "$K/test/images/agnhost@v$V" "$K/test/images/resource-consumer@v$V" "$K/test/images/resource-consumer/consume-cpu@v$V" \
  "$(pin github.com/onsi/ginkgo/v2)" "$(pin github.com/onsi/gomega)"

LD="-s -w"; for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do LD="$LD -X $p.gitVersion=v$V"; done
# -vet=off: vet refuses packages outside the main module's tests.
go test -c -vet=off -ldflags "$LD" -o "$CONF/bin/e2e.test" $K/test/e2e
go build -ldflags "$LD" -o "$CONF/bin/" github.com/onsi/ginkgo/v2/ginkgo $K/cmd/kubectl $K/test/images/agnhost
go build -ldflags '-s -w' -o "$CONF/bin/nnp" $K/test/images/nonewprivs
go build -ldflags '-s -w' -o "$CONF/bin/consumer" $K/test/images/resource-consumer
go build -ldflags '-s -w' -o "$CONF/bin/" $K/test/images/resource-consumer/consume-cpu
echo "$V" > "$CONF/version"
