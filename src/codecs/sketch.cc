// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: Gaussian rows of sketches (codecs/sketch.h), drawn when they are first asked
// for.
#include "codecs/sketch.h"

#include <map>
#include <mutex>
#include <numbers>
#include <utility>
#include <vector>

#include "math/random.h"

namespace polarquant {

const float* GaussianSketch(int head_dim, int sketch) {
  static std::mutex mutex;
  static std::map<std::pair<int, int>, std::vector<float>> sketches;
  const std::lock_guard lock(mutex);
  std::vector<float>& rows = sketches[{head_dim, sketch}];
  if (rows.empty()) {
    const std::vector<float>& normal = FineNormalQuantiles();
    rows.resize(static_cast<size_t>(head_dim) * static_cast<size_t>(head_dim));
    SplitMix64 generator(RotationState(kSketchSeed, head_dim));
    generator.Skip(static_cast<uint64_t>(sketch) * rows.size());
    for (float& value : rows) value = normal[generator.Next() >> 48];
  }
  return rows.data();
}

void GaussianSketchBits(const float* x, int head_dim, int sketch, uint8_t* bits) {
  const float* s = GaussianSketch(head_dim, sketch);
  for (int i = 0; i < head_dim; ++i, s += head_dim) {
    double dot = 0.0;
    for (int k = 0; k < head_dim; ++k) dot += static_cast<double>(s[k]) * x[k];
    bits[i] = dot > 0.0 ? 1 : 0;
  }
}

void GaussianSketchedRow(const uint8_t* bits, int head_dim, int sketch, float* row) {
  const float* s = GaussianSketch(head_dim, sketch);
  std::fill_n(row, head_dim, 0.0f);
  for (int i = 0; i < head_dim; ++i, s += head_dim) {
    for (int k = 0; k < head_dim; ++k) row[k] += bits[i] != 0 ? s[k] : -s[k];
  }
  const float magnitude =
      static_cast<float>(std::sqrt(std::numbers::pi / (2.0 * static_cast<double>(head_dim))));
  for (int k = 0; k < head_dim; ++k) row[k] *= magnitude;
}

}  // namespace polarquant
