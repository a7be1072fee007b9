// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page. Exact rows: f32 in, f16 kept, f32 out.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"
#include "polarquant/target.h"

namespace polarquant {

// NaN becomes 0, infinities and overflow +-65504.
inline void FloatsToHalves(const float* floats, size_t count, uint16_t* halves) {
  DefaultTarget().kernels->float_to_half(floats, static_cast<int64_t>(count), halves);
}

inline void HalvesToFloats(const uint16_t* halves, size_t count, float* floats) {
  DefaultTarget().kernels->half_to_float(halves, static_cast<int64_t>(count), floats);
}

}  // namespace polarquant
