# `make help` lists what this file can do. Real files are targets, so nothing
# is built twice; payload/payload.mk builds what bin/skiff carries.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := build
MAKEFLAGS += --no-builtin-rules

# --- how skiff is compiled ---------------------------------------------------
# One set of flags for build, vet and test: any other compiles Kubernetes again.
TAGS := osusergo,netgo,sqlite_omit_load_extension,grpcnotrace
export GOFLAGS := -buildvcs=false -trimpath -tags=$(TAGS)
export CGO_CFLAGS := -O2 -DSQLITE_DQS=0 -DSQLITE_DEFAULT_MEMSTATUS=0 -DSQLITE_OMIT_SHARED_CACHE -DHAVE_FDATASYNC=1
export CGO_ENABLED := 1
export GOTOOLCHAIN ?= local

# --- for which machine ---------------------------------------------------------
# This machine's files lie in build and bin/skiff. Those for another one
# (ARCH=arm64), and those with Go's FIPS 140-3 module (FIPS=1), have directories
# of their own beside it: build/arm64 and bin/skiff-arm64.
HOST_ARCH := $(shell go env GOHOSTARCH)
ARCH ?= $(HOST_ARCH)
FIPS ?=
OTHER_ARCH := $(filter-out $(HOST_ARCH),$(ARCH))
VARIANT := $(OTHER_ARCH)$(if $(FIPS),$(if $(OTHER_ARCH),-)fips)
BUILD := build$(if $(VARIANT),/$(VARIANT))
SKIFF := bin/skiff$(if $(VARIANT),-$(VARIANT))
TRIPLET_amd64 := x86_64-linux-gnu
TRIPLET_arm64 := aarch64-linux-gnu
CC_TARGET := $(if $(OTHER_ARCH),$(TRIPLET_$(ARCH))-gcc,gcc)
# Goes in front of the go command where it compiles for the target.
GO_TARGET := $(if $(OTHER_ARCH),GOARCH=$(ARCH) CC=$(CC_TARGET)) $(if $(FIPS),GOFIPS140=certified)

# --- versions: from go.mod and git, never from the clock ----------------------
module_version = $(shell sed -n 's|^.*[[:space:]]$(1) \(v[^ ]*\).*|\1|p' go.mod | head -n 1)
KUBERNETES_VERSION := $(call module_version,k8s.io/kubernetes)
CONTAINERD_VERSION := $(call module_version,github.com/containerd/containerd/v2)
CNI_VERSION := $(call module_version,github.com/containernetworking/plugins)

COMMIT := $(shell git rev-parse HEAD 2>/dev/null)
COMMIT_DATE := $(shell TZ=UTC0 git log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ 2>/dev/null || echo 1970-01-01T00:00:00Z)
VERSION ?= $(shell git describe --tags --match 'v[0-9]*' 2>/dev/null || echo $(KUBERNETES_VERSION)+skiff1)
FULL_VERSION := $(VERSION)$(if $(FIPS),$(if $(findstring +,$(VERSION)),.,+)fips)

KUBERNETES_STAMP := gitVersion=$(KUBERNETES_VERSION)+skiff1 gitMajor=$(word 1,$(subst ., ,$(KUBERNETES_VERSION:v%=%))) \
	gitMinor=$(word 2,$(subst ., ,$(KUBERNETES_VERSION))) gitCommit=$(COMMIT) gitTreeState=clean buildDate=$(COMMIT_DATE)
LDFLAGS := -s -w -linkmode external -extldflags "-static -no-pie" \
	$(foreach p,k8s.io/component-base/version k8s.io/client-go/pkg/version,$(foreach s,$(KUBERNETES_STAMP),-X $(p).$(s))) \
	-X github.com/containerd/containerd/v2/version.Version=$(CONTAINERD_VERSION) \
	-X skiff/pkg/version.Version=$(FULL_VERSION) -X skiff/pkg/version.Commit=$(COMMIT) -X skiff/pkg/version.BuildDate=$(COMMIT_DATE)

# --- what an executable depends on --------------------------------------------
# Written only when it changes: a removed file or another commit must relink.
SOURCES := $(sort $(shell find cmd internal pkg manifests -type f ! -name '*_test.go' ! -path '*/testdata/*' ! -name '.*' 2>/dev/null))
NEEDS := build/needs.stamp $(if $(OTHER_ARCH),build/needs-$(ARCH).stamp)
$(shell mkdir -p $(BUILD); printf '%s\n' $(SOURCES) '$(FULL_VERSION) $(COMMIT)' | cmp -s - $(BUILD)/inputs || printf '%s\n' $(SOURCES) '$(FULL_VERSION) $(COMMIT)' > $(BUILD)/inputs)

.PHONY: build
build: $(SKIFF) ## Build bin/skiff, one static executable (the default).

include payload/payload.mk
$(SKIFF): $(BUILD)/skiff build/pack $(PAYLOAD_FILES)
	@mkdir -p $(@D)
	build/pack $(BUILD)/skiff $(PAYLOAD) $@

$(BUILD)/skiff: $(SOURCES) $(BUILD)/inputs go.mod go.sum Makefile | $(NEEDS)
	@touch $(BUILD)/started
	$(GO_TARGET) go build -ldflags '$(LDFLAGS)' -o $@ ./cmd/skiff
	@touch -r $(BUILD)/started $@ # as old as what it was made from: an edit during the build is newer

build/pack: payload/pack/main.go $(wildcard pkg/payload/*.go) go.mod
	CGO_ENABLED=0 go build -o $@ ./payload/pack

build/needs.stamp: scripts/needs.sh
	@scripts/needs.sh
	@mkdir -p $(@D) && touch $@

build/needs-%.stamp: scripts/needs.sh
	@scripts/needs.sh $*
	@mkdir -p $(@D) && touch $@

.PHONY: run
run: bin/skiff ## Build, then run a server in the foreground (root).
	exec bin/skiff server

# --- tests ----------------------------------------------------------------------
TEST_TIMEOUT := 60m
E2E := ./test/e2e/...
UNIT = $$(go list ./... | grep -v '^skiff/test/')

.PHONY: test
test: bin/skiff build/tools/openrc ## Everything CI runs: vet, unit tests, e2e and fuzzing (root).
	go vet ./...
	$(MAKE) fuzz
	go test -count 1 -timeout $(TEST_TIMEOUT) -p 1 ./...

# Debian's OpenRC, unpacked and not installed: hosts of test/e2e boot it.
build/tools/openrc:
	rm -rf $@.new && mkdir -p $@.new
	cd $@.new && apt-get download -q openrc libeinfo1 librc1 && for d in *.deb; do dpkg-deb -x $$d . && rm $$d; done
	mv $@.new $@

# What strangers can send to a server: one minute each.
FUZZ := pkg/token:FuzzParse pkg/join:FuzzRequest pkg/join:FuzzHandlers pkg/tunnel:FuzzTarget pkg/tunnel:FuzzAnswer pkg/tunnel:FuzzExit
FUZZTIME ?= 60
# What a disk may hold. (FuzzReplay of the same is not here: for that all of Kubernetes' clients would be compiled once more.)
FUZZDISK := pkg/agent/offline/journal:FuzzOpen
FUZZDISKTIME ?= 20

.PHONY: fuzz
fuzz: | $(NEEDS) ## Fuzz what strangers can send to a server, FUZZTIME=60 seconds each, and what is read from disks.
	scripts/fuzz.sh $(FUZZTIME) $(FUZZ)
	scripts/fuzz.sh $(FUZZDISKTIME) $(FUZZDISK)

.PHONY: unit
unit: | $(NEEDS) ## The tests beside the code.
	go test $(UNIT)

.PHONY: e2e
e2e: bin/skiff build/tools/openrc ## The scenarios of test/e2e, RUN=regexp for some (root).
	go test -count 1 -v -timeout $(TEST_TIMEOUT) -run '$(RUN)' $(E2E)

.PHONY: vmtest
vmtest: bin/skiff ## Debian in a virtual machine, power cuts; RUN=regexp (root, slow).
	SKIFF_VM=1 go test -count 1 -v -timeout $(TEST_TIMEOUT) -run '$(RUN)' ./test/vm

.PHONY: arm64-test
arm64-test: ## The executable for arm64 under qemu, RUN=regexp (root, very slow).
	@scripts/needs.sh qemu
	$(MAKE) ARCH=arm64 build
	SKIFF_ARM64=1 go test -count 1 -v -timeout 2h -run '$(RUN)' ./test/arm64

.PHONY: soak
soak: bin/skiff | $(NEEDS) ## The datastore's tests, and others, in their long form; RUN=regexp for some (root, slow).
	SKIFF_SOAK=1 go test -count 1 -v -timeout 6h -p 1 -run '$(RUN)' ./test/datastore/... ./pkg/datastore/repair
	SKIFF_SOAK=1 go test -count 1 -v -timeout 6h -run '$(if $(RUN),$(RUN),^(TestReaddress|TestTunnel.*|TestContainer)$$)' $(E2E)
	SKIFF_SOAK=1 go test -count 1 -v -timeout 1h -run '$(if $(RUN),$(RUN),^TestLeaks$$)' ./pkg/tunnel

.PHONY: conformance
conformance: bin/skiff ## Upstream's conformance specs, FOCUS=regexp for some (root).
	FOCUS='$(FOCUS)' test/conformance/run.sh

.PHONY: gateway-conformance
gateway-conformance: bin/skiff ## The Gateway API's conformance suite, report into docs/conformance (root).
	SKIFF_GATEWAY=all SKIFF_GATEWAY_REPORT=$(CURDIR)/docs/conformance/gateway-api.yaml go test -count 1 -v -timeout $(TEST_TIMEOUT) ./test/gateway

.PHONY: bench
bench: bin/skiff ## Measure start time, memory, CPU and writes; prints JSON (root).
	go run ./test/bench

.PHONY: bench-ingress
bench-ingress: bin/skiff build/tools/nginx ## The ingress beside Debian's nginx: requests and p99 on the same backend (root).
	go run ./test/bench -rounds 1 -node=false -policies 0 $(BENCH)

# Debian's package, unpacked and not installed: it would take port 80 of this machine.
build/tools/nginx:
	mkdir -p build/tools
	if [ -x /usr/sbin/nginx ]; then ln -sf /usr/sbin/nginx $@; else \
		cd build/tools && apt-get download nginx && dpkg-deb -x nginx_*.deb nginx-root && ln -sf nginx-root/usr/sbin/nginx nginx; fi

.PHONY: bench-datastore
bench-datastore: build/tools/etcd | $(NEEDS) ## Compare etcd, kine and our datastore; BENCH='-rounds 1' etc.
	go build -o build/tools/datastore-serve ./test/bench/datastore/serve
	go run ./test/bench/datastore $(BENCH)

.PHONY: bench-stores
bench-stores: bin/skiff build/tools/etcd ## make bench, with the API also on etcd and on kine (root).
	go build -o build/tools/datastore-serve ./test/bench/datastore/serve
	go run ./test/bench -stores etcd,kine $(BENCH)

build/tools/etcd: tools.mod tools.sum
	GOFLAGS=-trimpath CGO_ENABLED=0 go build -modfile=tools.mod -o $@ go.etcd.io/etcd/server/v3

# --- checks and generated files ---------------------------------------------------
.PHONY: lint
lint: build/tools/golangci-lint | $(NEEDS) ## Run golangci-lint with our rules.
	build/tools/golangci-lint run --timeout 30m

.PHONY: fmt
fmt: build/tools/golangci-lint ## Format the Go files as lint wants them.
	build/tools/golangci-lint fmt

build/tools/golangci-lint: tools.mod tools.sum
	GOFLAGS=-trimpath CGO_ENABLED=0 go build -modfile=tools.mod -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: generate
generate: bin/skiff ## Rewrite docs/reference: settings, commands, the manual page, findings.
	@mkdir -p docs/reference
	bin/skiff generate-docs flags > build/flags.md
	bin/skiff generate-docs commands > build/commands.md
	bin/skiff generate-docs man > build/skiff.1
	bin/skiff generate-docs doctor > build/doctor.md
	mv build/flags.md build/commands.md build/skiff.1 build/doctor.md docs/reference/

.PHONY: release-size
release-size: bin/skiff ## Print the size of bin/skiff, raw and as downloaded.
	@printf '%-28s %12d bytes\n' 'bin/skiff' "$$(stat -c %s bin/skiff)" 'without payload' "$$(stat -c %s build/skiff)"
	@printf '%-28s %12d bytes\n' 'bin/skiff, xz -6' "$$(xz -6 -T0 -c bin/skiff | wc -c)"

include scripts/dist/release.mk

.PHONY: gateway-api
gateway-api: ## Make the Gateway API's definitions from the module again.
	go run ./scripts/gatewayapi "$$(go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)" manifests/gateway-api.yaml pkg/agent/ingress/gateway/definitions.json

.PHONY: print-env
print-env: ## Print the flags every go command here uses, for a shell to eval.
	@printf 'export %s\n' "GOFLAGS='$(GOFLAGS)'" "CGO_CFLAGS='$(CGO_CFLAGS)'" "CGO_ENABLED=$(CGO_ENABLED)"

.PHONY: clean
clean: ## Remove bin and build; Go's cache stays.
	rm -rf bin build dist dist-fips

.PHONY: help
help: ## List the targets.
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16 | sort
