// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: zscore2 ... zscore5, the "PolarQuant" cache once proposed for transformers
// (pull request 45364): the channels of a page are z-scored, which balances them and takes their
// mean away, then mixed by a Hadamard matrix and quantised as N(0, 1) without any row scale. With P
// the least power of two that holds head_dim, d:
//
//   header  bf16 mu[d], bf16 sigma[d]: mean and standard deviation of each channel, 4 d bytes
//   z       (x - mu) / sigma, zeros from d to P; 0 for a constant channel, whose sigma is 0
//   y       P^-1/2 H z, Sylvester's H without signs; with pad=scaled times (P/d)^1/2
//   record  the codes of all P values of y, nearest Lloyd-Max centroids, packed (codecs/pack.h)
//
// The mean is gone, so no sign sequence is needed to spread it. Padding leaves y a variance of d/P
// where the codebook expects 1; the pull request lives with that, pad=scaled mends it. Either way
// head_dim 80 pays for 128 codes: turbo's blocks are the better way.
//
// Differences, on purpose: a page keeps its statistics, where the original gives old rows new ones
// whenever its window fills and so quantises them again and again; and statistics are those of one
// head, where it pools all heads of a call, which saves 4 d bytes a page and spoils the balance
// (zscore_test measures it).
#include <algorithm>
#include <cmath>

#include "codecs/codecs.h"
#include "codecs/pack.h"
#include "codecs/record.h"
#include "codecs/turbo.h"
#include "math/rotation.h"
#include "polarquant/page.h"

namespace polarquant {
namespace {

// |z| of a row of the page is below sqrt(kMaxPageTokens). Rows patched in later may lie anywhere;
// they are clamped, so that one channel does not drown the others.
constexpr float kLargestZ = 16.0f;
static_assert(kLargestZ * kLargestZ >= kMaxPageTokens);

constexpr std::string_view kPad = "pad";
enum Pad { kPlain, kScaled };

int PowerOfTwoFrom(int size) {
  int power = kMinHeadDim;
  while (power < size) power *= 2;
  return power;
}

class ZScore final : public Coder {
 public:
  ZScore(const TurboBook& book, int head_dim, Pad pad)
      : book_(book),
        head_dim_(head_dim),
        padded_(PowerOfTwoFrom(head_dim)),
        gain_(1.0f / std::sqrt(static_cast<float>(pad == kScaled ? head_dim : padded_))) {}

  size_t record_bytes() const override { return PackedBytes(padded_, book_.bits); }
  size_t header_bytes() const override { return 2 * half_header(); }

  // The deviation is taken from the mean as stored, so that what rounding does to a large mean
  // counts as deviation and z stays of order 1. Sums run from the first row to the last.
  void Learn(const float* rows, int count, std::byte* header) const override {
    for (int c = 0; c < head_dim_; ++c) {
      double sum = 0.0, square = 0.0;
      for (int r = 0; r < count; ++r) sum += static_cast<double>(rows[r * head_dim_ + c]);
      const double mean = count > 0 ? sum / count : 0.0;
      const float mu = StoreBfloat16(static_cast<float>(mean), MuAt(header, c));
      for (int r = 0; r < count; ++r) {
        const double x = static_cast<double>(rows[r * head_dim_ + c]) - static_cast<double>(mu);
        square += x * x;
      }
      const double sigma = count > 0 ? std::sqrt(square / count) : 1.0;
      StoreBfloat16(static_cast<float>(sigma), MuAt(header, c) + half_header());
    }
  }

  void Encode(const std::byte* header, const float* row, std::byte* record) const override {
    float y[kMaxHeadDim] = {};
    for (int c = 0; c < head_dim_; ++c) {
      const float sigma = Sigma(header, c);
      if (sigma == 0.0f) continue;
      y[c] = std::clamp((row[c] - Mu(header, c)) / sigma, -kLargestZ, kLargestZ);
    }
    Hadamard(y, padded_);
    const float* thresholds = book_.thresholds;
    const float* end = thresholds + (1 << book_.bits) - 1;
    uint8_t codes[kMaxHeadDim];
    for (int i = 0; i < padded_; ++i) {
      codes[i] = static_cast<uint8_t>(std::upper_bound(thresholds, end, y[i] * gain_ / book_.unit) -
                                      thresholds);
    }
    PackCodes(codes, padded_, book_.bits, record);
  }

  void Decode(const std::byte* header, const std::byte* record, float* row) const override {
    uint8_t codes[kMaxHeadDim];
    float z[kMaxHeadDim];
    UnpackCodes(record, padded_, book_.bits, codes);
    for (int i = 0; i < padded_; ++i) z[i] = book_.centroids[codes[i]];
    Hadamard(z, padded_);
    const float inverse_gain = book_.unit / (static_cast<float>(padded_) * gain_);
    for (int c = 0; c < head_dim_; ++c) {
      row[c] = Mu(header, c) + Sigma(header, c) * (z[c] * inverse_gain);
    }
  }

 private:
  size_t half_header() const { return static_cast<size_t>(head_dim_) * sizeof(uint16_t); }
  static std::byte* MuAt(std::byte* header, int c) { return header + 2 * c; }
  static float Mu(const std::byte* header, int c) { return LoadBfloat16(header + 2 * c); }
  float Sigma(const std::byte* header, int c) const {
    return LoadBfloat16(header + half_header() + 2 * c);
  }

  const TurboBook& book_;
  int head_dim_, padded_;
  float gain_;  // of H: P^-1/2, or d^-1/2
};

template <int kBits>
std::unique_ptr<const Coder> Make(const Scheme& scheme, const RowShape& shape) {
  return std::make_unique<ZScore>(TurboBookOf(kBits), shape.head_dim,
                                  static_cast<Pad>(OptionOf(scheme, kPad)));
}

}  // namespace

template <int kBits>
Codec ZScoreCodec(std::string_view name, std::string_view summary) {
  return {.info = {.name = name,
                   .summary = summary,
                   .source = "PolarQuant, pull request 45364 of transformers",
                   .code_bits = kBits,
                   .keys = true,
                   .values = true,
                   .rotates = false,
                   .scale_rules = false,
                   .normalises = false,
                   .options = {{.name = kPad,
                                .summary = "whether padded rows are scaled to variance 1",
                                .usual = kPlain,
                                .words = {"plain", "scaled"}}}},
          .make = Make<kBits>};
}

template Codec ZScoreCodec<2>(std::string_view, std::string_view);
template Codec ZScoreCodec<3>(std::string_view, std::string_view);
template Codec ZScoreCodec<4>(std::string_view, std::string_view);
template Codec ZScoreCodec<5>(std::string_view, std::string_view);

}  // namespace polarquant
