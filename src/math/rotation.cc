// SPDX-License-Identifier: Apache-2.0
// Stage 2/7 rotate: plans (blocks, signs, Paley matrices) and the portable transform.
#include "math/rotation.h"

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "math/random.h"
#include "math/rotation-inl.h"
#include "polarquant/codec.h"
#include "polarquant/error.h"

namespace polarquant {
namespace {

constexpr int kPlanStep = kMinHeadDim;
constexpr int kNumPlans = kMaxHeadDim / kPlanStep;

// 12, 20 or 1 if a block of this size exists, else 0.
int OrderOfBlock(int size) {
  for (const int order : {1, 12, 20}) {
    const int width = size / order;
    const bool power_of_two = size % order == 0 && (width & (width - 1)) == 0;
    if (power_of_two && size >= kMinHeadDim && size <= kMaxRotationBlock) return order;
  }
  return 0;
}

struct Plans {
  std::array<std::vector<RotationBlock>, kNumPlans> blocks;
  std::array<std::vector<float>, kNumPlans> factors;
  std::array<RotationPlan, kNumPlans> plans;

  explicit Plans(uint64_t seed) {
    for (size_t p = 0; p < kNumPlans; ++p) {
      const int head_dim = static_cast<int>(p + 1) * kPlanStep;
      for (int offset = 0; offset < head_dim;) {
        int size = head_dim - offset;
        while (OrderOfBlock(size) == 0) size -= kPlanStep;
        blocks[p].push_back({offset, size, OrderOfBlock(size)});
        offset += size;
      }
      SplitMix64 generator(RotationState(seed, head_dim));
      uint64_t bits = 0;
      for (int i = 0; i < head_dim; ++i) {
        if (i % 64 == 0) bits = generator.Next();
        factors[p].push_back(((bits >> (i % 64)) & 1) != 0 ? -1.0f : 1.0f);
      }
      for (const RotationBlock& block : blocks[p]) {
        const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(block.size)));
        float* factor = factors[p].data() + block.offset;
        for (int i = 0; i < block.size; ++i) factor[i] *= scale;
      }
      plans[p] = {head_dim, blocks[p], factors[p].data()};
    }
  }

  const RotationPlan& Of(int head_dim) const {
    CheckHeadDim(head_dim);
    return plans[static_cast<size_t>(head_dim / kPlanStep - 1)];
  }
};

struct Paley {
  std::vector<float> plain, transposed;

  // I + S with S skew: S[0][j] = 1, S[i][0] = -1, S[i][j] = chi(i - j), chi the quadratic character
  // modulo the prime order - 1, which is 3 modulo 4.
  explicit Paley(int order) : plain(static_cast<size_t>(order) * order), transposed(plain.size()) {
    const int prime = order - 1;
    std::vector<bool> square(static_cast<size_t>(prime), false);
    for (int a = 1; a < prime; ++a) square[static_cast<size_t>(a * a % prime)] = true;
    for (int row = 0; row < order; ++row) {
      for (int column = 0; column < order; ++column) {
        const int difference = (row - column + prime) % prime;
        const bool positive =
            row == column || row == 0 || (column != 0 && square[static_cast<size_t>(difference)]);
        const float sign = positive ? 1.0f : -1.0f;
        plain.data()[row * order + column] = sign;
        transposed.data()[column * order + row] = sign;
      }
    }
  }
};

}  // namespace

void CheckHeadDim(int head_dim) {
  if (head_dim >= kMinHeadDim && head_dim <= kMaxHeadDim && head_dim % kPlanStep == 0) return;
  throw Error(ErrorCode::kUnsupported,
              "head_dim " + std::to_string(head_dim) +
                  " is not supported: it must be a multiple of " + std::to_string(kPlanStep) +
                  " from " + std::to_string(kMinHeadDim) + " to " + std::to_string(kMaxHeadDim) +
                  "; keep this cache in 16 bit");
}

const RotationPlan& RotationPlanOf(int head_dim) {
  static const Plans plans(kRotationSeed);
  return plans.Of(head_dim);
}

const RotationPlan& SketchPlanOf(int head_dim, int sketch) {
  static const std::array<Plans, kMaxSketches> plans = {
      Plans(kSketchSeed), Plans(kSketchSeed + 1), Plans(kSketchSeed + 2), Plans(kSketchSeed + 3)};
  return plans[static_cast<size_t>(sketch)].Of(head_dim);
}

std::span<const RotationBlock> RotationBlocks(int head_dim) {
  return RotationPlanOf(head_dim).blocks;
}

const float* PaleyMatrix(int order, Transposed transposed) {
  static const Paley paley12(12), paley20(20);
  const Paley& paley = order == 12 ? paley12 : paley20;
  return transposed == Transposed::kYes ? paley.transposed.data() : paley.plain.data();
}

void Hadamard(float* x, int size) { HadamardPieces(x, size, size); }

void Rotate(float* row, int head_dim) { Rotate(RotationPlanOf(head_dim), row); }

void Unrotate(float* row, int head_dim) { Unrotate(RotationPlanOf(head_dim), row); }

void Rotate(const RotationPlan& plan, float* row) { RotateRow(plan, row); }

void Unrotate(const RotationPlan& plan, float* row) { UnrotateRow(plan, row); }

}  // namespace polarquant
