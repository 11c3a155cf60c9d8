#!/bin/sh
# What `make conformance` runs: build the driver, then hand over to it.
# FOCUS is a regexp over spec names; other arguments are the driver's flags.
set -eu
cd "$(dirname "$0")/../.."
mkdir -p build/conformance
go build -o build/conformance/driver ./test/conformance
exec build/conformance/driver -agents 1 -focus "${FOCUS:-}" "$@"
