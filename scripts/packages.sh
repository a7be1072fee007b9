#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing of the Debian packages that a set of steps needs.
# Usage: scripts/packages.sh SET...   with the sets: build, fetch, test, tools, python
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

header() { echo '#include <'"$1"'>' | g++ -std=c++20 -x c++ -fsyntax-only - 2>/dev/null; }
python_venv() { python3 -c 'import ensurepip, venv' 2>/dev/null; }
python_header() { test -e "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"; }
program() { command -v "$1" >/dev/null; }

# package | how to see that it is there
build_set='
g++                | program g++
cmake              | program cmake
ninja-build        | program ninja
make               | program make
python3            | program python3
libcli11-dev       | header CLI/CLI.hpp
nlohmann-json3-dev | header nlohmann/json.hpp
libfmt-dev         | header fmt/core.h
libxxhash-dev      | header xxhash.h
libeigen3-dev      | test -e /usr/include/eigen3/Eigen/Dense
libzstd-dev        | header zstd.h'
fetch_set='
python3            | program python3
python3-pip        | python3 -m pip --version
ca-certificates    | test -e /etc/ssl/certs/ca-certificates.crt'
test_set='
libgtest-dev       | header gtest/gtest.h
pkg-config         | program pkg-config'
python_set='
python3-venv       | python_venv
python3-dev        | python_header'
tools_set='
clang-14           | program clang++-14
libclang-rt-14-dev | test -e /usr/lib/llvm-14/lib/clang/14.0.6/lib/linux/libclang_rt.tsan-x86_64.a
libomp-14-dev      | test -e /usr/lib/llvm-14/lib/libarcher.so
clang-tidy-14      | program clang-tidy-14
clang-format-14    | program clang-format-14'

missing=()
for set in "$@"; do
  list=${set}_set
  [[ -n ${!list:-} ]] || die "unknown package set '$set'" "known: build, fetch, test, tools, python"
  while IFS='|' read -r package probe; do
    package=${package// /}
    [[ -n $package ]] || continue
    # shellcheck disable=SC2086
    $probe >/dev/null 2>&1 || missing+=("$package")
  done <<<"${!list}"
done
((${#missing[@]} == 0)) && exit 0

say "missing packages: ${missing[*]}"
program apt-get || die "this system has no apt-get" \
  "install what provides these Debian packages by other means, then run again: ${missing[*]}"
[[ $(id -u) == 0 ]] || die "installing packages needs root" \
  "run once: sudo apt-get install ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# Without a fresh list the packages may still be there.
(logged apt-update apt-get update) || note 'apt-get update failed, going on'
(logged apt-install apt-get install -y --no-install-recommends "${missing[@]}") ||
  die "apt-get cannot install ${missing[*]}" \
    "see above; without a network, install them by other means and run again"
