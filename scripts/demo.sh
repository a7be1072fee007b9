#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# `make demo`: prepares everything, then hands over to demo.py.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"
scripts/packages.sh build
scripts/llama.sh
MODEL=$(scripts/model.sh)
options=()
[[ -f build/release/CMakeCache.txt ]] || options=(-DPQ_TESTS=OFF)
scripts/build.sh release ${options[@]+"${options[@]}"} -- polarquant ggml-polarquant
llama_paths
exec python3 scripts/demo.py --model "$MODEL" --llama "$LLAMA_CPP_BUILD/bin" \
  --build "$ROOT/build/release" --text "$ROOT/testdata/essay.txt" --json "$ROOT/build/demo.json"
