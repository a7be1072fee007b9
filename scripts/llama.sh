#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Finds or builds the pinned llama.cpp and writes build/llama.env (LLAMA_CPP_SOURCE,
# LLAMA_CPP_BUILD). LLAMA_CPP=DIR in the environment names a source tree to use instead, built in
# DIR/build or in LLAMA_CPP_BUILD.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

targets=(llama-server llama-completion llama-perplexity llama-bench llama-quantize)
# Native and optimised, shared libraries (the plug-in must find the same ggml in the process), and
# nothing that would need the network or another package.
flags=(
  -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DGGML_NATIVE=ON
  -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF
  -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
  # The commit is the archive's, whatever repository the cache folder may lie in.
  -DGIT_EXE=OFF "-DLLAMA_BUILD_COMMIT=$LLAMA_COMMIT" -DLLAMA_BUILD_NUMBER=0
)

publish() {  # publish SOURCE BUILD
  [[ -f $1/ggml/src/ggml-backend-impl.h ]] || die "$1 is not a llama.cpp source tree" \
    "ggml/src/ggml-backend-impl.h is missing there; LLAMA_CPP must name the top of the tree"
  local target
  for target in "${targets[@]}"; do
    [[ -x $2/bin/$target ]] || die "$2/bin/$target is missing" \
      "build llama.cpp there with -DBUILD_SHARED_LIBS=ON (targets: ${targets[*]})," \
      "or name its build folder with LLAMA_CPP_BUILD"
  done
  [[ -e $2/bin/libllama.so ]] || die "$2/bin/libllama.so is missing" \
    "polarquant needs a llama.cpp built with -DBUILD_SHARED_LIBS=ON"
  mkdir -p "$ROOT/build"
  printf 'LLAMA_CPP_SOURCE=%q\nLLAMA_CPP_BUILD=%q\n' "$1" "$2" >"$ROOT/build/llama.env"
}

if [[ -n ${LLAMA_CPP:-} ]]; then
  source_dir=$(cd "$LLAMA_CPP" && pwd) || die "LLAMA_CPP=$LLAMA_CPP is not a folder"
  publish "$source_dir" "${LLAMA_CPP_BUILD:-$source_dir/build}"
  exit 0
fi

mkdir -p "$CACHE" || die "cannot create $CACHE" "set POLARQUANT_CACHE to a writable folder"
exec 9>"$CACHE/lock"
flock -n 9 || { note "another run is preparing llama.cpp, waiting for it"; flock 9; }

"$ROOT/scripts/packages.sh" build
source_dir=$CACHE/llama.cpp-$LLAMA_COMMIT
# A native build is good for this compiler and this processor only.
key=$(printf '%s\n' "${flags[@]}" "$(g++ --version | head -n 1)" \
  "$(grep -m 1 '^flags' /proc/cpuinfo || true)" | sha256sum | cut -c 1-12)
build_dir=$source_dir-build-$key

if [[ ! -f $source_dir/.unpacked ]]; then
  "$ROOT/scripts/fetch.sh" "$LLAMA_REQUIREMENT" "$LLAMA_ARCHIVE" "$LLAMA_SHA256"
  say "unpacking llama.cpp ($LLAMA_COMMIT)"
  rm -rf "$source_dir"
  mkdir -p "$source_dir"
  tar -xzf "$CACHE/downloads/$LLAMA_ARCHIVE" -C "$source_dir" --strip-components=3 \
    --no-same-owner --exclude='.git' "${LLAMA_ARCHIVE%.tar.gz}/vendor/llama.cpp"
  touch "$source_dir/.unpacked"
fi

if [[ ! -f $build_dir/.built ]]; then
  need_space "$CACHE" 500 "building llama.cpp"
  say "building llama.cpp ($LLAMA_COMMIT) once, about five minutes on two cores"
  logged llama-configure cmake -S "$source_dir" -B "$build_dir" -G Ninja "${flags[@]}"
  logged llama-build cmake --build "$build_dir" -j "$JOBS" --target "${targets[@]}"
  touch "$build_dir/.built"
fi
publish "$source_dir" "$build_dir"
