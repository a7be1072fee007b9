// SPDX-License-Identifier: Apache-2.0
#include "rope.h"

#include <cmath>
#include <numbers>
#include <vector>

#include "graph.h"

namespace polarquant::llama {
namespace {

// Each position refines what the one before it told: few enough steps that the phase a position
// adds is known to well within a turn.
constexpr int32_t kProbes[] = {1, 32, 1024, 32768};

}  // namespace

const ggml_tensor* RopeOfWrite(const ggml_tensor* set_rows) {
  const ggml_tensor* rows = set_rows->src[0];
  while (rows != nullptr && OpOf(rows) == Op::kView) rows = rows->src[0];
  return rows != nullptr && OpOf(rows) == Op::kRope ? rows : nullptr;
}

Rope PairingOf(const ggml_tensor* rope) {
  Rope found;
  found.dims = rope->op_params[1];
  found.pairing = rope->op_params[2] == GGML_ROPE_TYPE_NORMAL ? Rope::Pairing::kAdjacent
                                                              : Rope::Pairing::kHalves;
  return found;
}

void FindFrequencies(HostCompute& host, const ggml_tensor* node, Rope& rope, std::string& trouble) {
  const int mode = node->op_params[2];
  if (mode != GGML_ROPE_TYPE_NORMAL && mode != GGML_ROPE_TYPE_NEOX) {
    trouble = "RoPE of kind " + std::to_string(mode) + " has several positions a row";
    return;
  }
  const int64_t row_values = node->ne[0] * node->ne[1];
  const HostCompute::HeadView heads = {row_values, node->ne[0], 0};
  rope.frequencies.assign(static_cast<size_t>(rope.dims) / 2, 0.0);
  double lengths = 0.0;
  for (const int32_t position : kProbes) {
    std::vector<float> row(static_cast<size_t>(row_values), 0.0f);
    for (int i = 0; i < rope.dims / 2; ++i) row[static_cast<size_t>(rope.Pair(i).first)] = 1.0f;
    std::vector<int32_t> positions = {position};
    host.Rope(node, heads, positions, row.data());
    for (int i = 0; i < rope.dims / 2; ++i) {
      const auto [a, b] = rope.Pair(i);
      const auto x = static_cast<double>(row[static_cast<size_t>(a)]),
                 y = static_cast<double>(row[static_cast<size_t>(b)]);
      const double angle = std::atan2(y, x);
      lengths += std::hypot(x, y);
      double& frequency = rope.frequencies[static_cast<size_t>(i)];
      const double turns = std::round((frequency * position - angle) / (2.0 * std::numbers::pi));
      frequency = (angle + 2.0 * std::numbers::pi * turns) / position;
    }
  }
  const double magnitude =
      lengths / static_cast<double>(std::size(kProbes) * rope.frequencies.size());
  // What f32 arithmetic leaves of 1 is no magnitude.
  constexpr double kRounding = 1e-5;
  if (std::abs(magnitude - 1.0) > kRounding) rope.magnitude = magnitude;
}

}  // namespace polarquant::llama
