// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend: which instruction set's kernels run.
#ifdef PQ_X86_KERNELS
#include <cpuid.h>
#endif

#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels/kernels.h"
#include "kernels/targets.h"
#include "polarquant/error.h"

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

struct Target {
  const char* name;
  bool (*runs)();
  const Kernels& (*table)();
};

// Best first.
constexpr Target kTargets[] = {
#ifdef PQ_X86_KERNELS
    {"avx512", RunsAvx512, Avx512Kernels},
    {"avx2", RunsAvx2, Avx2Kernels},
#endif
    {"scalar", [] { return true; }, ScalarKernels},
};

const Kernels& Choose() {
  const char* forced = std::getenv("POLARQUANT_ISA");
  const std::string wanted = forced != nullptr ? forced : "";
  std::string usable;
  for (const Target& target : kTargets) {
    if (!target.runs()) continue;
    if (forced == nullptr || wanted == target.name) return target.table();
    usable += usable.empty() ? "" : ", ";
    usable += target.name;
  }
  throw Error(ErrorCode::kParameter, "POLARQUANT_ISA=\"" + wanted +
                                         "\" cannot be used: this build and CPU run " + usable +
                                         "; unset it to take the best of them");
}

}  // namespace

const Kernels& ActiveKernels() {
  static const Kernels& active = Choose();
  return active;
}

const Kernels* KernelsOf(const char* name) {
  for (const Target& target : kTargets) {
    if (std::strcmp(target.name, name) == 0) return target.runs() ? &target.table() : nullptr;
  }
  return nullptr;
}

}  // namespace polarquant
