# The helper executables that bin/skiff carries, each from the version that
# go.mod pins. They have flags of their own: see ../Makefile for skiff's.

PAYLOAD := $(BUILD)/payload
CNI_PLUGINS := main/bridge ipam/host-local main/loopback meta/portmap meta/bandwidth meta/firewall

PAYLOAD_FILES := $(addprefix $(PAYLOAD)/,runc containerd-shim-runc-v2 nft nft.d/nft pause announce $(notdir $(CNI_PLUGINS)) licenses/static/libc)

PAYLOAD_GO := $(GO_TARGET) GOFLAGS='-trimpath -buildvcs=false' CGO_CFLAGS='-O2' go build
CONTAINERD_PACKAGE := github.com/containerd/containerd/v2

# Freestanding: no C library, no start files, no padding to pages.
PAYLOAD_CC := $(CC_TARGET) -Os -static -nostdlib -ffreestanding -fno-pie -no-pie -s \
	-fno-stack-protector -fno-asynchronous-unwind-tables -Wall -Wextra -Werror \
	-Wl,--build-id=none,-z,noseparate-code,-z,noexecstack

.PHONY: payload
payload: $(PAYLOAD_FILES) ## Build the helper executables into build/payload.

# runc is the one with cgo: its nsenter is C, and so is libseccomp.
$(PAYLOAD)/runc: go.mod payload/payload.mk | $(NEEDS)
	CGO_ENABLED=1 $(PAYLOAD_GO) -tags seccomp,osusergo,netgo,runc_nocriu \
		-ldflags '-s -w -linkmode external -extldflags -static' -o $@ github.com/opencontainers/runc

# no_grpc: containerd speaks ttrpc to its shims; 6 MB less a shim.
$(PAYLOAD)/containerd-shim-runc-v2: go.mod payload/payload.mk
	CGO_ENABLED=0 $(PAYLOAD_GO) -tags no_grpc \
		-ldflags '-s -w -X $(CONTAINERD_PACKAGE)/version.Version=$(CONTAINERD_VERSION)' \
		-o $@ $(CONTAINERD_PACKAGE)/cmd/containerd-shim-runc-v2

define cni_rule
$(PAYLOAD)/$(notdir $(1)): go.mod payload/payload.mk
	CGO_ENABLED=0 $$(PAYLOAD_GO) \
		-ldflags '-s -w -X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=$$(CNI_VERSION)' \
		-o $$@ github.com/containernetworking/plugins/plugins/$(1)
endef
$(foreach plugin,$(CNI_PLUGINS),$(eval $(call cni_rule,$(plugin))))

$(PAYLOAD)/announce: $(filter-out %_test.go,$(wildcard payload/announce/*.go)) go.mod payload/payload.mk
	CGO_ENABLED=0 $(PAYLOAD_GO) -ldflags '-s -w' -o $@ ./payload/announce

$(PAYLOAD)/pause: payload/pause/pause.c payload/sys.h payload/payload.mk | $(NEEDS)
	@mkdir -p $(@D)
	$(PAYLOAD_CC) -o $@ $<

$(PAYLOAD)/nft: payload/nft/nft.c payload/sys.h payload/payload.mk | $(NEEDS)
	@mkdir -p $(@D)
	$(PAYLOAD_CC) -o $@ $<

$(PAYLOAD)/nft.d/nft: payload/nft/fetch.sh | $(NEEDS)
	payload/nft/fetch.sh $(@D) $(BUILD)/nft-work $(ARCH)
	@touch $@

# What of the C library and libseccomp lies in skiff and runc.
$(PAYLOAD)/licenses/static/libc: payload/static.sh | $(NEEDS) $(PAYLOAD)/nft.d/nft
	payload/static.sh $(@D) $(CC_TARGET)
