#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything a change must pass: release build with unit and integration tests, the Python package
# and its tests, the sanitizer builds with their tests, formatting and clang-tidy. The order is cheap
# first.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"
start=$SECONDS

scripts/packages.sh build fetch test tools python
scripts/format.sh check
scripts/llama.sh
MODEL=$(scripts/model.sh)
export MODEL

scripts/build.sh release -DPQ_TESTS=ON "-DPQ_MODEL=$MODEL"
say "tests (release)"
ctest --preset release -j "$JOBS" --output-on-failure
scripts/python.sh

scripts/build.sh debug
say "tests (address and undefined behaviour sanitizers)"
ctest --preset debug -j "$JOBS" --output-on-failure

scripts/build.sh tsan
say "tests (thread sanitizer)"
ctest --preset tsan -j "$JOBS" --output-on-failure

scripts/tidy.sh
say "everything passed in $(((SECONDS - start) / 60)) minutes"
