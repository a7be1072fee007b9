// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend: the kernels for AVX-512 with VNNI and VBMI (Ice Lake, Zen 4 and later).
#include "kernels/cpu/simd_avx512-inl.h"
// The kernels are written in the words of the Simd above.
#include "kernels/cpu/table-inl.h"
#include "kernels/targets.h"

namespace polarquant {

const Kernels& Avx512Kernels() { return kTable; }

}  // namespace polarquant
