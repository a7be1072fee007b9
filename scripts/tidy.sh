#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# clang-tidy over the sources of the release build, warnings are errors (.clang-tidy has the list).
# Tests are left out unless named: the macros of GoogleTest take it minutes a file.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"
"$ROOT/scripts/packages.sh" tools
database=build/release
[[ -f $database/compile_commands.json ]] || die "$database/compile_commands.json is missing" \
  "build first: make build"
say "clang-tidy"
mapfile -t files < <(python3 - "$database/compile_commands.json" "$ROOT" <<'PYTHON'
import json, sys
entries, root = json.load(open(sys.argv[1])), sys.argv[2]
rooms = tuple(f"{root}/{room}/" for room in ("src", "hosts", "bench", "tests"))
files = {e["file"] for e in entries if e["file"].startswith(rooms)}
print("\n".join(sorted(f for f in files if not f.endswith("_test.cc"))))
PYTHON
)
# Files given as arguments limit the run to them.
if (($#)); then mapfile -t files < <(realpath "$@"); fi
printf '%s\n' "${files[@]}" | xargs -P "$JOBS" -n 1 clang-tidy-14 --quiet -p "$database" \
  --extra-arg=-Wno-unknown-warning-option --warnings-as-errors='*' 2> >(grep -v -E 'warnings? (generated|treated)|^Suppressed|^Use -header' >&2)
note "${#files[@]} files are clean"
