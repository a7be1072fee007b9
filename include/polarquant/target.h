// SPDX-License-Identifier: Apache-2.0
// Who computes. A target codes rows (stages 1 to 4, at a cache) and attends to them (stages 6 and
// 7, at an Executor). All targets of one machine write the same codes, so what one coded any other
// reads.
#pragma once

#include <span>
#include <string_view>

namespace polarquant {

struct Kernels;  // kernels/kernels.h: its verbs

struct Target {
  const char* name;  // "avx512", "avx2" or "scalar"
  const Kernels* kernels;
};

// Those that this build and this machine run, best first; the last is "scalar", plain loops. They
// live as long as the process. Thread-safe, like the functions below.
std::span<const Target> Targets();
// Throws Error(kParameter), naming those there are, if there is none of this name.
const Target& TargetNamed(std::string_view name);
// Where none is asked for: the best, or the one that the environment variable POLARQUANT_ISA named
// when this was first called; throws as TargetNamed does.
const Target& DefaultTarget();

}  // namespace polarquant
