# What is published: `make release` writes it to dist (with FIPS=1, dist-fips).
# scripts/release signs, and makes the upgrade files; scripts/dist does what else
# gzip, xz and make cannot. The same commit gives the same bytes, and `make
# release-check` makes sure of that.

DIST ?= dist$(if $(FIPS),-fips)
RELEASE_ARCHES ?= amd64 arm64
# Who has this file can make what skiff's machines install: keep it elsewhere.
RELEASE_KEY ?= build/release/skiff.key
RELEASE_FILE := $(DIST)/skiff-linux-$(ARCH)
SIGN := build/tools/release
DIST_TOOL := build/tools/dist
RELEASE_FLAGS = -skiff $(SKIFF) -version $(FULL_VERSION) -commit $(COMMIT) -created $(COMMIT_DATE)
# What a download may have, in bytes.
RELEASE_MOST := 83886080
release_skiff = bin/skiff$(addprefix -,$(filter-out $(HOST_ARCH),$(1)))$(if $(FIPS),-fips)
comma := ,
empty :=
commas = $(subst $(empty) $(empty),$(comma),$(1))

.PHONY: release
release: $(DIST_TOOL) $(SIGN) $(RELEASE_KEY) ## Build what is published, signed by RELEASE_KEY, into dist; FIPS=1 for that variant.
	@[ -n "$(DIRTY)" ] || git diff --quiet HEAD || { echo 'release: the tree differs from commit $(COMMIT), whose name the files would carry: commit first, or say DIRTY=1' >&2; exit 1; }
	rm -rf $(DIST)
	mkdir -p $(DIST)
	$(SIGN) public -key $(RELEASE_KEY) > $(DIST)/release.pub
	for arch in $(RELEASE_ARCHES); do $(MAKE) --no-print-directory release-arch ARCH=$$arch; done
	$(DIST_TOOL) installer -install scripts/install.sh -pub $(DIST)/release.pub -version $(FULL_VERSION) -out $(DIST)/install.sh
	$(DIST_TOOL) sums -dir $(DIST) \
		-skiff $(call commas,$(foreach a,$(RELEASE_ARCHES),$(call release_skiff,$(a)))) -names $(call commas,$(RELEASE_ARCHES:%=skiff-linux-%))
	$(SIGN) sign -key $(RELEASE_KEY) $(DIST)/SHA256SUMS
	@ls -l $(DIST)

# One architecture's files. xz cuts into blocks, so that two processors can work
# at it; how many there are must not show in the bytes.
.PHONY: release-arch
release-arch: $(SKIFF) $(DIST_TOOL) $(SIGN)
	gzip -9nc $(SKIFF) > $(RELEASE_FILE).gz
	xz -9 -T2 --block-size=96MiB -c $(SKIFF) > $(RELEASE_FILE).xz
	@for file in $(RELEASE_FILE).gz $(RELEASE_FILE).xz; do \
		[ $$(stat -c %s $$file) -le $(RELEASE_MOST) ] || { echo "release: $$file has $$(stat -c %s $$file) bytes, more than $(RELEASE_MOST)" >&2; exit 1; }; done
	$(DIST_TOOL) sbom $(RELEASE_FLAGS) -modcache $$(go env GOMODCACHE) -out $(RELEASE_FILE).spdx.json
	$(SIGN) pack -key $(RELEASE_KEY) -version $(FULL_VERSION) -commit $(COMMIT) -o $(DIST)/skiff-$(FULL_VERSION)-linux-$(ARCH).skiff $(SKIFF)
	$(DIST_TOOL) image $(RELEASE_FLAGS) -out $(DIST)/skiff-image-$(ARCH).tar

.PHONY: image
image: $(SKIFF) $(DIST_TOOL) ## Build the container image as an archive, dist/skiff-image-ARCH.tar.
	mkdir -p $(DIST)
	$(DIST_TOOL) image $(RELEASE_FLAGS) -out $(DIST)/skiff-image-$(ARCH).tar

.PHONY: release-check
release-check: ## Build dist again, elsewhere and with an empty cache, and compare (slow: compiles Kubernetes).
	scripts/dist/check.sh $(DIST) RELEASE_KEY=$(abspath $(RELEASE_KEY)) VERSION=$(VERSION) FIPS=$(FIPS) RELEASE_ARCHES='$(RELEASE_ARCHES)'

# Without one a pair is made, for this machine's use: what it signs, only the
# installer made with it installs.
build/release/skiff.key: | $(SIGN)
	$(SIGN) keygen $@
	@echo 'release: made the key $@; RELEASE_KEY=FILE signs with another' >&2

# For this machine, whatever is released.
RELEASE_SOURCES := $(wildcard scripts/release/*.go scripts/dist/*.go scripts/dist/image/*.go pkg/release/*.go pkg/inventory/*.go pkg/payload/*.go)
$(SIGN) $(DIST_TOOL): $(RELEASE_SOURCES) go.mod
	CGO_ENABLED=0 go build -o $@ ./scripts/$(@F)
