// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: trellis1 ... trellis4. trellis.h says what the bits of a block mean.
//
// A record is the f16 scales of the row's blocks, then the codes of all channels, k bits each
// (codecs/pack.h). The window of the last channels of a block goes on with the block's first bits.
//
// The encoder is Viterbi's algorithm, the row taken from its last channel to its first, so that a
// step shifts new bits in from below: state' = (state << k | bits) mod 256. To close the ring it
// runs twice: first over the row turned by half, with open ends. What that path does in the middle
// settles the 8 - k bits that the ends of the second run have in common.
#include "codecs/trellis.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "codecs/codecs.h"
#include "codecs/fit.h"
#include "codecs/pack.h"
#include "codecs/record.h"
#include "math/rotation.h"
#include "math/vector-inl.h"

namespace polarquant {
namespace {

constexpr int kLanes = 4;
constexpr int kAny = -1;

template <int kBits>
class Viterbi {
 public:
  Viterbi(const float* levels, int size)
      : levels_(levels), size_(size), costs_(Buffer(size)), paths_{} {}

  // x in the order of steps.
  void CloseRing(const float* x, uint8_t* states) {
    float turned[kMaxRotationBlock];
    const int half = size_ / 2;
    std::copy_n(x + half, half, turned);
    std::copy_n(x, half, turned + half);
    Run(turned, kAny, states);
    Run(x, states[half] >> kBits, states);
  }

 private:
  // A state is new bits below a prefix, or old bits above a suffix. Prefixes become suffixes.
  static constexpr int kPrefixes = kTrellisStates >> kBits;
  static constexpr int kBranches = 1 << kBits;

  static float* Buffer(int size) {
    thread_local std::vector<float> costs;
    const size_t needed = static_cast<size_t>(size) * kTrellisStates;
    if (costs.size() < needed) costs.resize(needed);
    return costs.data();
  }

  float* CostsAt(int step) { return costs_ + step * kTrellisStates; }

  // The states of the cheapest path that begins with the prefix and ends with the same suffix.
  void Run(const float* x, int ends, uint8_t* states) {
    for (int s = 0; s < kTrellisStates; ++s) {
      const bool open = ends == kAny || s >> kBits == ends;
      const float error = x[0] - levels_[s];
      CostsAt(0)[s] = open ? error * error : std::numeric_limits<float>::infinity();
    }
    for (int step = 1; step < size_; ++step) {
      ChoosePredecessors(CostsAt(step - 1));
      Extend(x[step], CostsAt(step));
    }
    const float* last = CostsAt(size_ - 1);
    int state = ends == kAny
                    ? static_cast<int>(std::min_element(last, last + kTrellisStates) - last)
                    : Predecessor(last, ends);
    for (int step = size_ - 1;; --step) {
      states[step] = static_cast<uint8_t>(state);
      if (step == 0) return;
      state = Predecessor(CostsAt(step - 1), state >> kBits);
    }
  }

  // The cheapest state with a suffix; the first of equals.
  static int Predecessor(const float* costs, int suffix) {
    int best = suffix;
    for (int state = suffix + kPrefixes; state < kTrellisStates; state += kPrefixes) {
      if (costs[state] < costs[best]) best = state;
    }
    return best;
  }

  // paths_[p]: the cost of the cheapest state with suffix p, which is where prefix p comes from.
  void ChoosePredecessors(const float* costs) {
    for (int p = 0; p < kPrefixes; p += kLanes) {
      FloatQuad best, other;
      LoadVector(costs + p, &best);
      for (int branch = 1; branch < kBranches; ++branch) {
        LoadVector(costs + branch * kPrefixes + p, &other);
        best = other < best ? other : best;
      }
      StoreVector(best, paths_ + p);
    }
  }

  void Extend(float x, float* costs) {
    for (int s = 0; s < kTrellisStates; s += kLanes) {
      FloatQuad error;
      LoadVector(levels_ + s, &error);
      error = x - error;
      const float* path = paths_ + (s >> kBits);
      const FloatQuad before = kBits == 1 ? FloatQuad{path[0], path[0], path[1], path[1]}
                                          : FloatQuad{path[0], path[0], path[0], path[0]};
      StoreVector(before + error * error, costs + s);
    }
  }

  const float* levels_;
  int size_;
  float* costs_;  // [size_][kTrellisStates]
  float paths_[kPrefixes];
};

template <int kBits>
void EncodeRing(const float* levels, const float* x, int size, uint8_t* codes) {
  float reversed[kMaxRotationBlock];
  uint8_t states[kMaxRotationBlock];
  std::reverse_copy(x, x + size, reversed);
  Viterbi<kBits>(levels, size).CloseRing(reversed, states);
  for (int i = 0; i < size; ++i) {
    codes[i] = static_cast<uint8_t>(states[size - 1 - i] & ((1 << kBits) - 1));
  }
}

}  // namespace

void EncodeTrellis(int bits, const float* levels, const float* x, int size, uint8_t* codes) {
  using Encoder = void (*)(const float*, const float*, int, uint8_t*);
  constexpr Encoder kEncoders[] = {EncodeRing<1>, EncodeRing<2>, EncodeRing<3>, EncodeRing<4>};
  kEncoders[bits - 1](levels, x, size, codes);
}

void StatesOf(int bits, const uint8_t* codes, int size, uint8_t* states) {
  unsigned window = 0;  // begins past the end: the first codes once more
  for (int t = size + kTrellisStateBits / bits + 1; t-- > 0;) {
    window = (window << bits | codes[t % size]) & (kTrellisStates - 1);
    if (t < size) states[t] = static_cast<uint8_t>(window);
  }
}

namespace {

// In deviations of the block, where the search of a step begins.
constexpr float kSteps[] = {0.9f, 1.0f, 1.1f};

template <int kBits>
struct Levels {
  float of[kTrellisStates];
  Levels() { std::copy_n(TrellisTableOf(kBits).levels, kTrellisStates, of); }
};

template <int kBits>
const float* LevelsOf() {
  static const Levels<kBits> levels;
  return levels.of;
}

template <int kBits>
uint16_t EncodeBlock(const float* x, int size, uint8_t* codes) {
  const float* levels = LevelsOf<kBits>();
  const double deviation = DeviationOf(x, size);
  const double unit = TrellisTableOf(kBits).unit;
  uint16_t scale = 0;
  if (deviation >= kSmallestDeviation) {
    float steps[std::size(kSteps)], points[kMaxRotationBlock];
    for (size_t i = 0; i < std::size(steps); ++i) {
      steps[i] = static_cast<float>(deviation * unit) * kSteps[i];
    }
    const auto assign = [&](float step, float* out) {
      const float inverse = 1.0f / step;
      float in_units[kMaxRotationBlock];
      uint8_t states[kMaxRotationBlock];
      for (int i = 0; i < size; ++i) in_units[i] = x[i] * inverse;
      EncodeRing<kBits>(levels, in_units, size, codes);
      StatesOf(kBits, codes, size, states);
      for (int i = 0; i < size; ++i) out[i] = levels[states[i]];
    };
    scale = ScaleToHalf(SearchStep(x, size, steps, points, assign).scale() / unit);
  }
  if (scale == 0) std::fill_n(codes, size, uint8_t{0});
  return scale;
}

size_t ScaleBytes(int head_dim) { return RotationBlocks(head_dim).size() * sizeof(uint16_t); }

template <int kBits>
size_t RecordBytes(int head_dim) {
  return ScaleBytes(head_dim) + PackedBytes(head_dim, kBits);
}

template <int kBits>
void Encode(const float* row, int head_dim, ScaleRule, std::byte* record) {
  uint8_t codes[kMaxHeadDim] = {};
  std::byte* scales = record;
  for (const RotationBlock& block : RotationBlocks(head_dim)) {
    const uint16_t scale = EncodeBlock<kBits>(row + block.offset, block.size, codes + block.offset);
    std::memcpy(scales, &scale, sizeof scale);
    scales += sizeof scale;
  }
  PackCodes(codes, head_dim, kBits, scales);
}

template <int kBits>
void Decode(const std::byte* record, int head_dim, float* row) {
  const float* levels = LevelsOf<kBits>();
  uint8_t codes[kMaxHeadDim], states[kMaxRotationBlock];
  UnpackCodes(record + ScaleBytes(head_dim), head_dim, kBits, codes);
  const std::byte* scales = record;
  for (const RotationBlock& block : RotationBlocks(head_dim)) {
    const float step = LoadHalf(scales) * TrellisTableOf(kBits).unit;
    scales += sizeof(uint16_t);
    StatesOf(kBits, codes + block.offset, block.size, states);
    for (int i = 0; i < block.size; ++i) row[block.offset + i] = step * levels[states[i]];
  }
}

}  // namespace

template <int kBits>
Codec TrellisCodec(std::string_view name, std::string_view summary) {
  return {.info = {.name = name,
                   .summary = summary,
                   .source = "bitshift trellis of QTIP (Tseng et al. 2024)",
                   .code_bits = kBits,
                   .keys = true,
                   .values = true,
                   .rotates = true,
                   .scale_rules = false},
          .record_bytes = RecordBytes<kBits>,
          .encode = Encode<kBits>,
          .decode = Decode<kBits>};
}

template Codec TrellisCodec<1>(std::string_view, std::string_view);
template Codec TrellisCodec<2>(std::string_view, std::string_view);
template Codec TrellisCodec<3>(std::string_view, std::string_view);
template Codec TrellisCodec<4>(std::string_view, std::string_view);

}  // namespace polarquant
