#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# clang-tidy over the sources of the release build, warnings are errors (.clang-tidy has the list).
# Tests are left out unless named: the macros of GoogleTest take it minutes a file.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"
"$ROOT/scripts/packages.sh" tools
database=build/release
python_database=build/python/tree  # scripts/python.sh makes it
[[ -f $database/compile_commands.json ]] || die "$database/compile_commands.json is missing" \
  "build first: make build"
say "clang-tidy"
# sources_of DATABASE ROOM...
sources_of() {
  python3 - "$1/compile_commands.json" "${@:2}" <<'PYTHON'
import json, sys
entries, rooms = json.load(open(sys.argv[1])), tuple(f"{room}/" for room in sys.argv[2:])
files = {e["file"] for e in entries if e["file"].startswith(rooms)}
print("\n".join(sorted(f for f in files if not f.endswith("_test.cc"))))
PYTHON
}
# check DATABASE FILE...
check() {
  printf '%s\n' "${@:2}" | xargs -P "$JOBS" -n 1 clang-tidy-14 --quiet -p "$1" \
    --extra-arg=-Wno-unknown-warning-option --warnings-as-errors='*' \
    2> >(grep -v -E 'warnings? (generated|treated)|^Suppressed|^Use -header' >&2)
}
mapfile -t files < <(sources_of "$database" "$ROOT"/{src,hosts,bench,tests})
python_files=()
if [[ -f $python_database/compile_commands.json ]]; then
  mapfile -t python_files < <(sources_of "$python_database" "$ROOT/hosts/python")
fi
# Files given as arguments limit the run to them.
if (($#)); then
  mapfile -t files < <(realpath "$@" | grep -v "^$ROOT/hosts/python/" || true)
  mapfile -t python_files < <(realpath "$@" | grep "^$ROOT/hosts/python/" || true)
fi
if ((${#files[@]})); then check "$database" "${files[@]}"; fi
if ((${#python_files[@]})); then check "$python_database" "${python_files[@]}"; fi
note "$((${#files[@]} + ${#python_files[@]})) files are clean"
