#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Configures and builds one preset of CMakePresets.json.
# Usage: scripts/build.sh PRESET [-DNAME=VALUE ...] [-- TARGET ...]
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
preset=$1
shift
options=() targets=()
while (($#)); do
  if [[ $1 == -- ]]; then
    shift
    targets=(--target "$@")
    break
  fi
  options+=("$1")
  shift
done
if command -v ccache >/dev/null; then options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
if [[ $preset != tsan ]]; then
  llama_paths
  options+=("-DLLAMA_CPP_SOURCE=$LLAMA_CPP_SOURCE" "-DLLAMA_CPP_BUILD=$LLAMA_CPP_BUILD")
fi
say "building polarquant ($preset)"
cd "$ROOT"
logged "configure-$preset" cmake --preset "$preset" ${options[@]+"${options[@]}"}
logged "build-$preset" cmake --build --preset "$preset" -j "$JOBS" ${targets[@]+"${targets[@]}"}
