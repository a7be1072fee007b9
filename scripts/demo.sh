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
# The command keeps its expanded weights under XDG_CACHE_HOME/polarquant.
[[ $(basename "$CACHE") == polarquant ]] && XDG_CACHE_HOME=$(dirname "$CACHE") || XDG_CACHE_HOME=$CACHE
export XDG_CACHE_HOME
exec python3 scripts/demo.py --model "$MODEL" --llama "$LLAMA_CPP_BUILD/bin" --cache "$CACHE" \
  --build "$ROOT/build/release" --text "$ROOT/testdata/essay.txt" --json "$ROOT/build/demo.json"
