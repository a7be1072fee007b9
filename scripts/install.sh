#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# `make install PREFIX=DIR`: the command, the plug-in, the library and its headers.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"
prefix=${1:?usage: scripts/install.sh PREFIX}
[[ $prefix == /* ]] || prefix=$PWD/$prefix
mkdir -p "$prefix" 2>/dev/null && [[ -w $prefix ]] || die "cannot write to $prefix" \
  "choose another PREFIX, or run as a user who may write there"
scripts/packages.sh build
scripts/llama.sh
options=()
[[ -f build/release/CMakeCache.txt ]] || options=(-DPQ_TESTS=OFF)
scripts/build.sh release ${options[@]+"${options[@]}"}
say "installing to $prefix"
logged install cmake --install build/release --prefix "$prefix"
"$prefix/bin/polarquant" schemes >/dev/null
note "try: $prefix/bin/polarquant doctor"
