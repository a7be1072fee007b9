#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Formats every C++ file, or with `check` only says which ones are not formatted.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"
"$ROOT/scripts/packages.sh" tools
mode=(-i)
[[ ${1:-} == check ]] && mode=(--dry-run --Werror)
find include src hosts bench tests examples -name '*.h' -o -name '*.cc' -o -name '*.c' |
  sort | xargs clang-format-14 "${mode[@]}"
