// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: e8-2 and e8-3, eight values at a time to the nearest point of the lattice E8
// inside a box (the lattice quantiser of nexusquant). e8-2 has coordinates up to +-2, e8-3 up to
// +-4. `lattice=strict` has the parity rule of Conway and Sloane's decoder; `lattice=nexus` is
// nexusquant's relaxed one, which half-integer points of an odd sum pass too. Two faults of its
// code are not reproduced, because they only add error: the parity of integer points is mended at
// the coordinate where that costs least, not most, and clipping leaves no point outside of the
// codebook.
//
// The box is counted, not entropy coded: 5^8/2 + 4^8/2 points fit in 18 bits, 9^8/2 + 8^8/2 in 25,
// which is 2.25 and 3.125 bits a value at any offset in the row. All half-integer points make that
// 5^8/2 + 4^8 in 18 bits and 9^8/2 + 8^8 in 26. The number of a point:
//
//   integer        digits x_i + bound in base 2 bound + 1, x_0 lowest. The base is odd, so a number
//                  is even exactly if its digits' sum is: half of it counts the points
//   half-integer   after all integer ones: digits u_i = x_i + bound - 1/2 of 2 or 3 bits, u_0
//                  lowest; the last one without its lowest bit if the sum of digits is even by rule
//
// A record is the f16 scales of the row's blocks, then the numbers of all groups of eight, packed
// (codecs/pack.h); a value is scale * coordinate. The encoder tries the scale of the published
// pipeline, largest magnitude / bound, which never clips, and smaller ones that sometimes do: on
// Gaussian rows these are far better. A block whose scale is 0 has the numbers 0.
#include "codecs/e8.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "codecs/codecs.h"
#include "codecs/fit.h"
#include "codecs/pack.h"
#include "codecs/record.h"
#include "math/rotation.h"

namespace polarquant {

float NearestInCoset(const float* x, float offset, float bound, bool even, float* point) {
  float distance = 0.0f, least_cost = std::numeric_limits<float>::infinity();
  float second_of_least = 0.0f;
  int least = 0, sum = 0;
  for (int i = 0; i < kE8Dim; ++i) {
    const float inside = std::min(std::max(x[i], -bound), bound) - offset + 0.5f;
    int floor = static_cast<int>(inside);
    if (static_cast<float>(floor) > inside) --floor;
    sum += floor;
    const float first = static_cast<float>(floor) + offset;
    float second = x[i] >= first ? first + 1.0f : first - 1.0f;
    if (second > bound) second = first - 1.0f;
    if (second < -bound) second = first + 1.0f;
    const float error = (x[i] - first) * (x[i] - first);
    const float cost = (x[i] - second) * (x[i] - second) - error;
    point[i] = first;
    distance += error;
    if (cost < least_cost) {
      least_cost = cost;
      least = i;
      second_of_least = second;
    }
  }
  // Eight offsets of 1/2 add up to 4, which is even.
  if (!even || sum % 2 == 0) return distance;
  point[least] = second_of_least;
  return distance + least_cost;
}

void NearestE8(E8Lattice lattice, const float* x, float bound, float* point) {
  float half[kE8Dim];
  const float whole_distance = NearestInCoset(x, 0.0f, bound, true, point);
  const float half_distance =
      NearestInCoset(x, 0.5f, bound - 0.5f, lattice == E8Lattice::kStrict, half);
  if (half_distance < whole_distance) std::memcpy(point, half, sizeof half);
}

namespace {

// The points in the box [-kBound, kBound]^8, numbered.
template <int kBound, E8Lattice kLattice>
struct Box {
  static constexpr bool kStrict = kLattice == E8Lattice::kStrict;
  static constexpr uint32_t kBase = 2 * kBound + 1;
  static constexpr int kHalfBits = kBound == 2 ? 2 : 3;  // of a digit of a half-integer point
  static_assert(2 * kBound == 1 << kHalfBits);
  static constexpr int kWordBits = kBound == 2 ? 18 : kStrict ? 25 : 26;

  static constexpr uint32_t Power(uint32_t base, int exponent) {
    return exponent == 0 ? 1 : base * Power(base, exponent - 1);
  }
  static constexpr uint32_t kNumIntegers = (Power(kBase, kE8Dim) + 1) / 2;
  static constexpr uint32_t kNumHalves = 1u << (kE8Dim * kHalfBits - (kStrict ? 1 : 0));
  static_assert(kNumIntegers + kNumHalves <= 1u << kWordBits);

  static uint32_t NumberOf(const float* point) {
    uint32_t number = 0;
    if (point[0] == std::floor(point[0])) {
      for (int i = kE8Dim - 1; i >= 0; --i) {
        number = number * kBase + static_cast<uint32_t>(static_cast<int>(point[i]) + kBound);
      }
      return number / 2;
    }
    for (int i = 0; i < kE8Dim; ++i) {
      uint32_t digit = static_cast<uint32_t>(point[i] + (kBound - 0.5f));
      if (kStrict && i == kE8Dim - 1) digit >>= 1;
      number |= digit << (i * kHalfBits);
    }
    return kNumIntegers + number;
  }

  // Any number gives some eight coordinates of the box: those past the last point count as halves.
  static void PointOf(uint32_t number, float* point) {
    if (number < kNumIntegers) {
      number *= 2;
      for (int i = 0; i < kE8Dim; ++i, number /= kBase) {
        point[i] = static_cast<float>(static_cast<int>(number % kBase) - kBound);
      }
      return;
    }
    number = (number - kNumIntegers) % kNumHalves;
    uint32_t parity = 0;
    for (int i = 0; i < kE8Dim; ++i) {
      uint32_t digit = (number >> (i * kHalfBits)) & ((1u << kHalfBits) - 1u);
      if (kStrict && i == kE8Dim - 1) digit = 2 * digit + parity;
      parity ^= digit & 1u;
      point[i] = static_cast<float>(digit) - (kBound - 0.5f);
    }
  }
};

// In deviations of the block; where the search of a step begins.
template <int kBound>
constexpr float kSteps[] = {0.8f, 0.9f, 1.0f, 1.1f, 1.2f};
template <>
constexpr float kSteps<4>[] = {0.46f, 0.52f, 0.58f, 0.64f, 0.7f};

template <int kBound, E8Lattice kLattice>
class E8Coder final : public Coder {
 public:
  E8Coder(ScaleRule rule, int head_dim) : rule_(rule), head_dim_(head_dim) {}

  size_t record_bytes() const override {
    return ScaleBytes() + PackedBytes(head_dim_ / kE8Dim, Points::kWordBits);
  }

  void Encode(const std::byte*, const float* row, std::byte* scales) const override {
    uint32_t numbers[kMaxHeadDim / kE8Dim] = {};
    std::byte* packed = scales + ScaleBytes();
    for (const RotationBlock& block : RotationBlocks(head_dim_)) {
      const uint16_t scale =
          EncodeBlock(row + block.offset, block.size, numbers + block.offset / kE8Dim);
      std::memcpy(scales, &scale, sizeof scale);
      scales += sizeof scale;
    }
    PackCodes(numbers, head_dim_ / kE8Dim, Points::kWordBits, packed);
  }

  void Decode(const std::byte*, const std::byte* scales, float* row) const override {
    uint32_t numbers[kMaxHeadDim / kE8Dim];
    UnpackCodes(scales + ScaleBytes(), head_dim_ / kE8Dim, Points::kWordBits, numbers);
    for (const RotationBlock& block : RotationBlocks(head_dim_)) {
      const float scale = LoadHalf(scales);
      scales += sizeof(uint16_t);
      for (int i = block.offset; i < block.offset + block.size; i += kE8Dim) {
        Points::PointOf(numbers[i / kE8Dim], row + i);
        for (int k = 0; k < kE8Dim; ++k) row[i + k] *= scale;
      }
    }
  }

 private:
  using Points = Box<kBound, kLattice>;

  size_t ScaleBytes() const { return RotationBlocks(head_dim_).size() * sizeof(uint16_t); }

  uint16_t EncodeBlock(const float* x, int size, uint32_t* numbers) const {
    const double deviation = DeviationOf(x, size);
    uint16_t scale = 0;
    if (deviation >= kSmallestDeviation) {
      float steps[std::size(kSteps<kBound>) + 1] = {};  // the first one clips nothing
      for (int i = 0; i < size; ++i) steps[0] = std::max(steps[0], std::fabs(x[i]));
      steps[0] /= kBound;
      for (size_t i = 1; i < std::size(steps); ++i) {
        steps[i] = static_cast<float>(deviation) * kSteps<kBound>[i - 1];
      }
      float points[kMaxRotationBlock];
      const auto assign = [&](float step, float* out) {
        const float inverse = 1.0f / step;
        for (int i = 0; i < size; i += kE8Dim) {
          float group[kE8Dim];
          for (int k = 0; k < kE8Dim; ++k) group[k] = x[i + k] * inverse;
          NearestE8(kLattice, group, kBound, out + i);
        }
      };
      const Fit fit = SearchStep(x, size, steps, points, assign);
      scale = ScaleToHalf(ScaleOf(rule_, fit, FitOf(x, x, size).energy));
      for (int i = 0; i < size; i += kE8Dim) {
        numbers[i / kE8Dim] = Points::NumberOf(points + i);
      }
    }
    if (scale == 0) std::fill_n(numbers, size / kE8Dim, 0u);
    return scale;
  }

  ScaleRule rule_;
  int head_dim_;
};

template <int kBound>
std::unique_ptr<const Coder> Make(const Scheme& scheme, const RowShape& shape) {
  if (OptionOf(scheme, "lattice") == static_cast<int>(E8Lattice::kStrict)) {
    return std::make_unique<E8Coder<kBound, E8Lattice::kStrict>>(scheme.scale_rule, shape.head_dim);
  }
  return std::make_unique<E8Coder<kBound, E8Lattice::kNexus>>(scheme.scale_rule, shape.head_dim);
}

}  // namespace

template <int kBits>
Codec E8Codec(std::string_view name, std::string_view summary) {
  return {.info = {.name = name,
                   .summary = summary,
                   .source = "E8 of nexusquant, decoded strictly as by Conway and Sloane",
                   .code_bits = kBits,
                   .keys = true,
                   .values = true,
                   .rotates = true,
                   .scale_rules = true,
                   .options = {{.name = "lattice",
                                .summary = "E8, or with half-integer points of any sum, as "
                                           "nexusquant has it",
                                .words = {"strict", "nexus"}}}},
          .make = Make<1 << (kBits - 1)>};
}

template Codec E8Codec<2>(std::string_view, std::string_view);
template Codec E8Codec<3>(std::string_view, std::string_view);

}  // namespace polarquant
