// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: trellis1 ... trellis4. trellis.h says what the bits of a block mean.
// `states=` is the logarithm of their number and `code=` what they stand for: a table, or the
// computed code 1MAD of QTIP. The table of 256 states, the default, is trained; the others are
// shuffled quantiles of N(0, 1). More states are closer to what k bits can do and cost their
// number: ten times 2^L additions a value. A ring must hold two states, or its ends settle nearly
// all of it.
//
// A record is the f16 scales of the row's blocks, then the codes of all channels, k bits each
// (codecs/pack.h). The window of the last channels of a block goes on with the block's first bits.
//
// The encoder is Viterbi's algorithm, the row taken from its last channel to its first, so that a
// step shifts new bits in from below: state' = (state << k | bits) mod 2^L. To close the ring it
// runs twice: first over the row turned by half, with open ends. What that path does in the middle
// settles the L - k bits that the ends of the second run have in common.
#include "codecs/trellis.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "codecs/codecs.h"
#include "codecs/fit.h"
#include "codecs/pack.h"
#include "codecs/record.h"
#include "math/rotation.h"
#include "math/vector-inl.h"
#include "polarquant/error.h"

namespace polarquant {
namespace {

constexpr int kLanes = 4;
constexpr int kAny = -1;

template <int kBits>
class Viterbi {
 public:
  Viterbi(const Trellis& trellis, int size)
      : levels_(trellis.levels),
        num_states_(trellis.num_states()),
        num_prefixes_(num_states_ >> kBits),
        size_(size) {
    const size_t states = static_cast<size_t>(num_states_);
    costs_ = Buffer((static_cast<size_t>(size) + 1) * states);
    paths_ = costs_ + static_cast<size_t>(size) * states;
  }

  // x in the order of steps.
  void CloseRing(const float* x, uint16_t* states) {
    float turned[kMaxRotationBlock];
    const int half = size_ / 2;
    std::copy_n(x + half, half, turned);
    std::copy_n(x, half, turned + half);
    Run(turned, kAny, states);
    Run(x, states[half] >> kBits, states);
  }

 private:
  // A state is new bits below a prefix, or old bits above a suffix. Prefixes become suffixes.
  static constexpr int kBranches = 1 << kBits;

  // 128 KiB for 2^8 states and 128 channels, 32 MiB for 2^16.
  static float* Buffer(size_t needed) {
    thread_local std::vector<float> costs;
    if (costs.size() < needed) costs.resize(needed);
    return costs.data();
  }

  float* CostsAt(int step) { return costs_ + static_cast<int64_t>(step) * num_states_; }

  // The states of the cheapest path that begins with the prefix and ends with the same suffix.
  void Run(const float* x, int ends, uint16_t* states) {
    for (int s = 0; s < num_states_; ++s) {
      const bool open = ends == kAny || s >> kBits == ends;
      const float error = x[0] - levels_[s];
      CostsAt(0)[s] = open ? error * error : std::numeric_limits<float>::infinity();
    }
    for (int step = 1; step < size_; ++step) {
      ChoosePredecessors(CostsAt(step - 1));
      Extend(x[step], CostsAt(step));
    }
    const float* last = CostsAt(size_ - 1);
    int state = ends == kAny ? static_cast<int>(std::min_element(last, last + num_states_) - last)
                             : Predecessor(last, ends);
    for (int step = size_ - 1;; --step) {
      states[step] = static_cast<uint16_t>(state);
      if (step == 0) return;
      state = Predecessor(CostsAt(step - 1), state >> kBits);
    }
  }

  // The cheapest state with a suffix; the first of equals.
  int Predecessor(const float* costs, int suffix) const {
    int best = suffix;
    for (int state = suffix + num_prefixes_; state < num_states_; state += num_prefixes_) {
      if (costs[state] < costs[best]) best = state;
    }
    return best;
  }

  // paths_[p]: the cost of the cheapest state with suffix p, which is where prefix p comes from.
  void ChoosePredecessors(const float* costs) {
    float* paths = paths_;
    const int num_prefixes = num_prefixes_;
    for (int p = 0; p < num_prefixes; p += kLanes) {
      FloatQuad best, other;
      LoadVector(costs + p, &best);
      for (int branch = 1; branch < kBranches; ++branch) {
        LoadVector(costs + branch * num_prefixes + p, &other);
        best = other < best ? other : best;
      }
      StoreVector(best, paths + p);
    }
  }

  void Extend(float x, float* costs) {
    const float *levels = levels_, *paths = paths_;
    const int num_states = num_states_;
    for (int s = 0; s < num_states; s += kLanes) {
      FloatQuad error;
      LoadVector(levels + s, &error);
      error = x - error;
      const float* path = paths + (s >> kBits);
      const FloatQuad before = kBits == 1 ? FloatQuad{path[0], path[0], path[1], path[1]}
                                          : FloatQuad{path[0], path[0], path[0], path[0]};
      StoreVector(before + error * error, costs + s);
    }
  }

  const float* levels_;
  int num_states_, num_prefixes_;
  int size_;
  float *costs_, *paths_;  // [size][num_states], [num_prefixes]
};

template <int kBits>
void EncodeRing(const Trellis& trellis, const float* x, int size, uint8_t* codes) {
  float reversed[kMaxRotationBlock];
  uint16_t states[kMaxRotationBlock] = {};
  std::reverse_copy(x, x + size, reversed);
  Viterbi<kBits>(trellis, size).CloseRing(reversed, states);
  for (int i = 0; i < size; ++i) {
    codes[i] = static_cast<uint8_t>(states[size - 1 - i] & ((1 << kBits) - 1));
  }
}

}  // namespace

void EncodeTrellis(const Trellis& trellis, const float* x, int size, uint8_t* codes) {
  using Encoder = void (*)(const Trellis&, const float*, int, uint8_t*);
  constexpr Encoder kEncoders[] = {EncodeRing<1>, EncodeRing<2>, EncodeRing<3>, EncodeRing<4>};
  kEncoders[trellis.bits - 1](trellis, x, size, codes);
}

void StatesOf(const Trellis& trellis, const uint8_t* codes, int size, uint16_t* states) {
  const unsigned mask = static_cast<unsigned>(trellis.num_states()) - 1u;
  unsigned window = 0;  // begins past the end: the first codes once more
  for (int t = size + trellis.state_bits / trellis.bits + 1; t-- > 0;) {
    window = (window << trellis.bits | codes[t % size]) & mask;
    if (t < size) states[t] = static_cast<uint16_t>(window);
  }
}

namespace {

// In deviations of the block, where the search of a step begins.
constexpr float kSteps[] = {0.9f, 1.0f, 1.1f};
constexpr int kStateBits[] = {8, 10, 12, 16};  // of the words of states=
enum Code { kTable, kComputed };

// What states stand for, and the unit that levels count in.
struct Levels {
  std::vector<float> of;
  float unit = 1.0f;
};

Levels MakeLevels(int bits, int state_bits, Code code) {
  Levels levels;
  if (code == kComputed) {
    for (uint32_t s = 0; s < uint32_t{1} << state_bits; ++s) levels.of.push_back(ComputedLevel(s));
  } else if (state_bits == kTrainedStateBits) {
    const TrellisTable& table = TrellisTableOf(bits);
    levels.of.assign(std::begin(table.levels), std::end(table.levels));
    levels.unit = table.unit;
  } else {
    SplitMix64 generator(static_cast<uint64_t>(state_bits));
    levels.of = ShuffledQuantiles(state_bits, generator);
  }
  return levels;
}

// Shared, for 2^16 of them are 256 KiB.
const Levels& LevelsOf(int bits, int state_bits, Code code) {
  static std::mutex mutex;
  static std::map<std::tuple<int, int, int>, Levels> all;
  const std::lock_guard lock(mutex);
  const bool trained = code == kTable && state_bits == kTrainedStateBits;
  Levels& levels = all[{trained ? bits : 0, state_bits, code}];
  if (levels.of.empty()) levels = MakeLevels(bits, state_bits, code);
  return levels;
}

class TrellisCoder final : public Coder {
 public:
  TrellisCoder(int bits, int state_bits, Code code, ScaleRule rule, int head_dim)
      : trellis_({bits, state_bits, LevelsOf(bits, state_bits, code).of.data()}),
        unit_(LevelsOf(bits, state_bits, code).unit),
        rule_(rule),
        head_dim_(head_dim) {}

  size_t record_bytes() const override {
    return ScaleBytes() + PackedBytes(head_dim_, trellis_.bits);
  }

  void Encode(const std::byte*, const float* row, std::byte* scales) const override {
    uint8_t codes[kMaxHeadDim] = {};
    std::byte* packed = scales + ScaleBytes();
    for (const RotationBlock& block : RotationBlocks(head_dim_)) {
      const uint16_t scale = EncodeBlock(row + block.offset, block.size, codes + block.offset);
      std::memcpy(scales, &scale, sizeof scale);
      scales += sizeof scale;
    }
    PackCodes(codes, head_dim_, trellis_.bits, packed);
  }

  void Decode(const std::byte*, const std::byte* scales, float* row) const override {
    uint8_t codes[kMaxHeadDim];
    uint16_t states[kMaxRotationBlock] = {};
    UnpackCodes(scales + ScaleBytes(), head_dim_, trellis_.bits, codes);
    for (const RotationBlock& block : RotationBlocks(head_dim_)) {
      const float step = LoadHalf(scales) * unit_;
      scales += sizeof(uint16_t);
      StatesOf(trellis_, codes + block.offset, block.size, states);
      for (int i = 0; i < block.size; ++i) {
        row[block.offset + i] = step * trellis_.levels[states[i]];
      }
    }
  }

 private:
  size_t ScaleBytes() const { return RotationBlocks(head_dim_).size() * sizeof(uint16_t); }

  uint16_t EncodeBlock(const float* x, int size, uint8_t* codes) const {
    const double deviation = DeviationOf(x, size);
    const double unit = unit_;
    uint16_t scale = 0;
    if (deviation >= kSmallestDeviation) {
      float steps[std::size(kSteps)], points[kMaxRotationBlock];
      for (size_t i = 0; i < std::size(steps); ++i) {
        steps[i] = static_cast<float>(deviation * unit) * kSteps[i];
      }
      const auto assign = [&](float step, float* out) {
        const float inverse = 1.0f / step;
        float in_units[kMaxRotationBlock];
        uint16_t states[kMaxRotationBlock] = {};
        for (int i = 0; i < size; ++i) in_units[i] = x[i] * inverse;
        EncodeTrellis(trellis_, in_units, size, codes);
        StatesOf(trellis_, codes, size, states);
        for (int i = 0; i < size; ++i) out[i] = trellis_.levels[states[i]];
      };
      const Fit fit = SearchStep(x, size, steps, points, assign);
      scale = ScaleToHalf(ScaleOf(rule_, fit, FitOf(x, x, size).energy) / unit);
    }
    if (scale == 0) std::fill_n(codes, size, uint8_t{0});
    return scale;
  }

  Trellis trellis_;
  float unit_;
  ScaleRule rule_;
  int head_dim_;
};

template <int kBits>
std::unique_ptr<const Coder> Make(const Scheme& scheme, const RowShape& shape) {
  const int state_bits = kStateBits[OptionOf(scheme, "states")];
  const int smallest = RotationBlocks(shape.head_dim).back().size;
  if (smallest * kBits < 2 * state_bits) {
    throw Error(ErrorCode::kUnsupported,
                scheme.codec + ": states=" + std::to_string(state_bits) + " needs rings of " +
                    std::to_string(2 * state_bits) + " bits, and head_dim " +
                    std::to_string(shape.head_dim) + " has a block of " +
                    std::to_string(smallest * kBits) + "; choose fewer states or more bits");
  }
  return std::make_unique<TrellisCoder>(kBits, state_bits,
                                        static_cast<Code>(OptionOf(scheme, "code")),
                                        scheme.scale_rule, shape.head_dim);
}

}  // namespace

template <int kBits>
Codec TrellisCodec(std::string_view name, std::string_view summary) {
  return {
      .info = {.name = name,
               .summary = summary,
               .source = "bitshift trellis of QTIP (Tseng et al. 2024)",
               .code_bits = kBits,
               .keys = true,
               .values = true,
               .rotates = true,
               .scale_rules = true,
               .options = {{.name = "states",
                            .summary = "logarithm of the number of states; each doubles the work",
                            .words = {"8", "10", "12", "16"}},
                           {.name = "code",
                            .summary = "what states stand for: a table (trained for 2^8 states, "
                                       "else quantiles), or QTIP's 1MAD",
                            .words = {"table", "computed"}}}},
      .make = Make<kBits>};
}

template Codec TrellisCodec<1>(std::string_view, std::string_view);
template Codec TrellisCodec<2>(std::string_view, std::string_view);
template Codec TrellisCodec<3>(std::string_view, std::string_view);
template Codec TrellisCodec<4>(std::string_view, std::string_view);

}  // namespace polarquant
