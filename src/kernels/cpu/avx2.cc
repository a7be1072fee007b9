// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend: the kernels for AVX2 with FMA and F16C (Haswell, Zen and later).
#include "kernels/cpu/simd_avx2-inl.h"
// The kernels are written in the words of the Simd above.
#include "kernels/cpu/table-inl.h"
#include "kernels/targets.h"

namespace polarquant {

const Kernels& Avx2Kernels() { return kTable; }

}  // namespace polarquant
