#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything a change must pass: release build with unit and integration tests, the Python package
# and its tests, the sanitizers on the rooms where memory and threads are dealt with, formatting,
# and clang-tidy over them. `all` runs the sanitizers on every test, fuzzing among them, and
# clang-tidy on every file: before a release, and whenever a day may be spent. Cheap first.
# Usage: scripts/test.sh [all]
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"
start=$SECONDS
whole=${1:-}
[[ -z $whole || $whole == all ]] || die "unknown word '$whole'" "scripts/test.sh takes none, or all"

# Where rows live and die, and who reads them meanwhile.
rooms=(src/page src/cache src/attention hosts/llama)
sanitized=(src/cache/cell_store_test src/cache/sequence_cache_test src/attention/attention_test)

minutes() { note "$(((SECONDS - start) / 60)) minutes so far"; }

scripts/packages.sh build fetch test tools python
scripts/format.sh check
scripts/llama.sh
MODEL=$(scripts/model.sh)
export MODEL

scripts/build.sh release -DPQ_TESTS=ON "-DPQ_MODEL=$MODEL"
say "tests (release)"
ctest --preset release -j "$JOBS" --output-on-failure
minutes
scripts/python.sh
minutes

# sanitize PRESET PROGRAM...: these programs only, or all tests.
sanitize() {
  local preset=$1
  shift
  if [[ $whole == all ]]; then
    scripts/build.sh "$preset" -DPQ_TESTS=ON
    say "tests ($preset)"
    ctest --preset "$preset" -j "$JOBS" --output-on-failure
  else
    scripts/build.sh "$preset" -DPQ_TESTS=ON -- "${@##*/}"
    say "tests ($preset): ${*##*/}"
    printf '%s\n' "${@/#/build/$preset/}" | xargs -P "$JOBS" -n 1 "$ROOT/scripts/quietly.sh"
  fi
  minutes
}
export UBSAN_OPTIONS=print_stacktrace=1
sanitize debug "${sanitized[@]}" src/page/page_test hosts/llama/plugin_test
unset UBSAN_OPTIONS
export OMP_TOOL_LIBRARIES=/usr/lib/llvm-14/lib/libarcher.so
export TSAN_OPTIONS=ignore_noninstrumented_modules=1
sanitize tsan "${sanitized[@]}"
unset OMP_TOOL_LIBRARIES TSAN_OPTIONS

if [[ $whole == all ]]; then
  scripts/tidy.sh
else
  mapfile -t files < <(find "${rooms[@]}" -name '*.cc' ! -name '*_test.cc' | sort)
  scripts/tidy.sh "${files[@]}"
fi
say "everything passed in $(((SECONDS - start) / 60)) minutes"
