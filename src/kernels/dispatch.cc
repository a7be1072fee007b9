// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend: the targets, and which one runs where none is asked for.
#ifdef PQ_X86_KERNELS
#include <cpuid.h>
#endif

#include <cstdlib>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/targets.h"
#include "polarquant/error.h"
#include "polarquant/target.h"

namespace polarquant {
namespace {

#ifdef PQ_X86_KERNELS
// __builtin_cpu_supports also asks whether the system saves the registers; clang 14 has no word for
// F16C there.
bool RunsAvx2() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

bool RunsAvx512() {
  return RunsAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
}
#endif

std::vector<Target> Usable() {
  std::vector<Target> targets;
  const auto add = [&](const Kernels& kernels) { targets.push_back({kernels.target, &kernels}); };
#ifdef PQ_X86_KERNELS
  if (RunsAvx512()) add(Avx512Kernels());
  if (RunsAvx2()) add(Avx2Kernels());
#endif
  add(ScalarKernels());
  return targets;
}

// Null if there is none.
const Target* Find(std::string_view name) {
  for (const Target& target : Targets()) {
    if (target.name == name) return &target;
  }
  return nullptr;
}

[[noreturn]] void ThrowUnknown(const std::string& asked, const std::string& instead) {
  std::string usable;
  for (const Target& target : Targets()) {
    usable += (usable.empty() ? "" : ", ") + std::string(target.name);
  }
  throw Error(ErrorCode::kParameter,
              asked + " cannot be used: this build and CPU run " + usable + "; " + instead);
}

const Target& Choose() {
  const char* forced = std::getenv("POLARQUANT_ISA");
  if (forced == nullptr) return Targets().front();
  if (const Target* target = Find(forced)) return *target;
  ThrowUnknown("POLARQUANT_ISA=\"" + std::string(forced) + "\"",
               "unset it to take the best of them");
}

}  // namespace

std::span<const Target> Targets() {
  static const std::vector<Target> targets = Usable();
  return targets;
}

const Target& TargetNamed(std::string_view name) {
  if (const Target* target = Find(name)) return *target;
  ThrowUnknown("target \"" + std::string(name) + "\"", "name one of them");
}

const Target& DefaultTarget() {
  static const Target& target = Choose();
  return target;
}

}  // namespace polarquant
