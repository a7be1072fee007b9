// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: dual2 ... dual5, tiles with a scale for each channel and one for each token
// (KVarN, arXiv 2606.03458). The rotated rows of a page, x[t][c], are brought to variance 1 along
// both sides, x[t][c] = r[t] s[c] e[t][c], in 16 rounds, each first the tokens, then the channels.
// The original adds up logarithms; here each factor is taken anew from the rows over the other
// side's factors, which is the same without the rounding of log and exp, that no two libraries
// share. With d = head_dim there are two ways to code e:
//
//   codes=lloyd  (ours, the default) Lloyd-Max codes of N(0, 1), without zero points
//                header  f16 s[d], 2 d bytes
//                record  f16 r, then d codes: a turbo record of x / s as one block, scale rules too
//   codes=rtn    (as published) rounding to nearest with zero points
//     keys       header  for each channel f16 scale, f16 shift of x / r (codecs/affine.h), 4 d
//     bytes
//                record  f16 r, then d codes
//     values     header  f16 s[d], 2 d bytes
//                record  f16 scale, f16 shift of x / s, then d codes
//
// At 128 x 128 that is 0.25 and 0.375 bits a value more than the codes. Lloyd-Max codes are the
// default because their D is the least, on fewer bits (dual_test measures it). They have no zero
// point, so rows around a mean want `center`.
//
// A row alone finds its r from the header, so one can be patched in: r is the scale that fits best.
// For keys with codes=rtn this r may exceed that of the rounds and clip outliers, which halves D at
// 2 bits. Sums are in double, in the order of rows and channels.
#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "codecs/affine.h"
#include "codecs/codecs.h"
#include "codecs/fit.h"
#include "codecs/pack.h"
#include "codecs/record.h"
#include "codecs/turbo-inl.h"
#include "math/rotation.h"
#include "polarquant/error.h"

namespace polarquant {
namespace {

constexpr std::string_view kCodes = "codes";
enum Codes { kLloyd, kRtn };

constexpr int kRounds = 16;
// Of r and s: within what f16 holds to full precision. A side of zeros ends at the least one.
constexpr double kLeastFactor = 0x1p-14, kLargestFactor = 0x1p15;

// Root mean square. The original takes deviations from the mean, which vanish for a token whose
// values are all alike and would blow it up above all others.
class Deviation {
 public:
  void Add(double value) {
    square_ += value * value;
    ++count_;
  }
  double factor() const {
    return std::clamp(std::sqrt(square_ / count_), kLeastFactor, kLargestFactor);
  }

 private:
  double square_ = 0.0;
  int count_ = 0;
};

struct Factors {
  std::vector<double> row, channel;
};

Factors FactorsOf(const float* rows, int count, int head_dim) {
  Factors f = {std::vector<double>(static_cast<size_t>(count), 1.0),
               std::vector<double>(static_cast<size_t>(head_dim), 1.0)};
  for (int round = 0; round < kRounds && count > 0; ++round) {
    const float* row = rows;
    for (double& r : f.row) {
      Deviation along;
      for (const double s : f.channel) along.Add(static_cast<double>(*row++) / s);
      r = along.factor();
    }
    for (size_t c = 0; c < f.channel.size(); ++c) {
      Deviation along;
      const float* x = rows + c;
      for (const double r : f.row) {
        along.Add(static_cast<double>(*x) / r);
        x += head_dim;
      }
      f.channel[c] = along.factor();
    }
  }
  return f;
}

// Headers of one scale for each channel.
class ChannelScales : public Coder {
 public:
  ChannelScales(int bits, int head_dim) : bits_(bits), head_dim_(head_dim) {}
  size_t header_bytes() const override { return static_cast<size_t>(head_dim_) * sizeof(uint16_t); }
  void Learn(const float* rows, int count, std::byte* header) const override {
    for (const double s : FactorsOf(rows, count, head_dim_).channel) {
      StoreHalf(static_cast<float>(s), header);
      header += sizeof(uint16_t);
    }
  }

 protected:
  void Divide(const std::byte* header, const float* row, float* e) const {
    for (int c = 0; c < head_dim_; ++c) e[c] = row[c] / LoadHalf(header + 2 * c);
  }
  void Multiply(const std::byte* header, float* row) const {
    for (int c = 0; c < head_dim_; ++c) row[c] *= LoadHalf(header + 2 * c);
  }

  int bits_, head_dim_;
};

class DualLloyd final : public ChannelScales {
 public:
  DualLloyd(int bits, int head_dim, ScaleRule rule)
      : ChannelScales(bits, head_dim), book_(TurboBookOf(bits)), rule_(rule) {}
  size_t record_bytes() const override { return sizeof(uint16_t) + PackedBytes(head_dim_, bits_); }

  void Encode(const std::byte* header, const float* row, std::byte* record) const override {
    alignas(64) float e[kMaxHeadDim];
    uint8_t codes[kMaxHeadDim];
    Divide(header, row, e);
    const uint16_t scale = EncodeTurboBlock(book_, e, head_dim_, rule_, codes);
    std::memcpy(record, &scale, sizeof scale);
    PackCodes(codes, head_dim_, bits_, record + sizeof scale);
  }

  void Decode(const std::byte* header, const std::byte* record, float* row) const override {
    uint8_t codes[kMaxHeadDim];
    const float step = LoadHalf(record) * book_.unit;
    UnpackCodes(record + sizeof(uint16_t), head_dim_, bits_, codes);
    for (int c = 0; c < head_dim_; ++c) row[c] = step * book_.centroids[codes[c]];
    Multiply(header, row);
  }

 private:
  const TurboBook& book_;
  ScaleRule rule_;
};

class DualRtnValues final : public ChannelScales {
 public:
  DualRtnValues(int bits, int head_dim)
      : ChannelScales(bits, head_dim),
        rows_(MakeAffineRows(bits, head_dim, head_dim, AffineFit::kMinMax)) {}
  size_t record_bytes() const override { return rows_->record_bytes(); }

  void Encode(const std::byte* header, const float* row, std::byte* record) const override {
    float e[kMaxHeadDim];
    Divide(header, row, e);
    rows_->Encode(nullptr, e, record);
  }
  void Decode(const std::byte* header, const std::byte* record, float* row) const override {
    rows_->Decode(nullptr, record, row);
    Multiply(header, row);
  }

 private:
  std::unique_ptr<const Coder> rows_;
};

class DualRtnKeys final : public Coder {
 public:
  DualRtnKeys(int bits, int head_dim) : bits_(bits), head_dim_(head_dim) {}
  size_t record_bytes() const override { return sizeof(uint16_t) + PackedBytes(head_dim_, bits_); }
  size_t header_bytes() const override { return static_cast<size_t>(head_dim_) * kAffineBytes; }

  void Learn(const float* rows, int count, std::byte* header) const override {
    const Factors f = FactorsOf(rows, count, head_dim_);
    for (int c = 0; c < head_dim_; ++c, header += kAffineBytes) {
      double low = 0.0, high = 0.0;
      for (int t = 0; t < count; ++t) {
        const double x =
            static_cast<double>(rows[t * head_dim_ + c]) / f.row[static_cast<size_t>(t)];
        low = t == 0 ? x : std::min(low, x);
        high = t == 0 ? x : std::max(high, x);
      }
      StoreAffine(static_cast<float>(low), static_cast<float>(high), bits_, header);
    }
  }

  void Encode(const std::byte* header, const float* row, std::byte* record) const override {
    std::array<Affine, kMaxHeadDim> grids;
    for (int c = 0; c < head_dim_; ++c) {
      grids[static_cast<size_t>(c)] = LoadAffine(header + static_cast<size_t>(c) * kAffineBytes);
    }
    uint8_t codes[kMaxHeadDim];
    float points[kMaxHeadDim];
    const auto assign = [&](float r, float* to) {
      for (int c = 0; c < head_dim_; ++c) {
        const Affine& grid = grids[static_cast<size_t>(c)];
        codes[c] = grid.CodeOf(row[c] / r, bits_);
        to[c] = grid.ValueOf(codes[c]);
      }
    };
    const float guess = GuessOf(grids.data(), row);
    constexpr float kSteps[] = {1.0f, 0.76f, 0.84f, 0.92f, 1.08f, 1.16f};
    std::array<float, std::size(kSteps)> steps;
    for (size_t i = 0; i < steps.size(); ++i) steps[i] = guess * kSteps[i];
    const Fit fit = SearchStep(row, head_dim_, steps, points, assign);
    const uint16_t scale = ScaleToHalf(std::max(fit.scale(), 0.0));
    std::memcpy(record, &scale, sizeof scale);
    PackCodes(codes, head_dim_, bits_, record + sizeof scale);
  }

  void Decode(const std::byte* header, const std::byte* record, float* row) const override {
    uint8_t codes[kMaxHeadDim];
    const float r = LoadHalf(record);
    UnpackCodes(record + sizeof(uint16_t), head_dim_, bits_, codes);
    for (int c = 0; c < head_dim_; ++c, header += kAffineBytes) {
      row[c] = r * LoadAffine(header).ValueOf(codes[c]);
    }
  }

 private:
  // An r to begin the search with: the root of the row's energy over what the grids expect of a row
  // with r = 1, channels weighed by 1 / extent. Grids hold the 128 or so tokens they were learnt
  // from, whose extent is about five deviations.
  float GuessOf(const Affine* grids, const float* row) const {
    constexpr double kExtent = 5.2;
    const double top = (1 << bits_) - 1;
    double energy = 0.0, expected = 0.0;
    for (int c = 0; c < head_dim_; ++c) {
      const double extent = top * static_cast<double>(grids[c].scale);
      if (extent == 0.0) continue;
      const double x = static_cast<double>(row[c]) / extent;
      const double middle = 0.5 - static_cast<double>(grids[c].shift) / extent;
      energy += x * x;
      expected += middle * middle + 1.0 / (kExtent * kExtent);
    }
    if (!(energy > 0.0)) return 1.0f;
    return static_cast<float>(
        std::clamp(std::sqrt(energy / expected), kLeastFactor * kLeastFactor, kLargestFactor));
  }

  int bits_, head_dim_;
};

template <int kBits>
std::unique_ptr<const Coder> Make(const Scheme& scheme, const RowShape& shape) {
  if (OptionOf(scheme, kCodes) == kLloyd) {
    return std::make_unique<DualLloyd>(kBits, shape.head_dim, scheme.scale_rule);
  }
  if (scheme.scale_rule != Scheme().scale_rule) {
    throw Error(ErrorCode::kUnsupported,
                "codec " + scheme.codec + ": scale= is for codes=lloyd; leave out one of the two");
  }
  if (shape.role == Role::kValue) return std::make_unique<DualRtnValues>(kBits, shape.head_dim);
  return std::make_unique<DualRtnKeys>(kBits, shape.head_dim);
}

}  // namespace

template <int kBits>
Codec DualCodec(std::string_view name, std::string_view summary) {
  return {.info = {.name = name,
                   .summary = summary,
                   .source = "KVarN (arXiv 2606.03458)",
                   .code_bits = kBits,
                   .keys = true,
                   .values = true,
                   .rotates = true,
                   .scale_rules = true,
                   .options = {{.name = kCodes,
                                .summary = "Lloyd-Max codes, or rounding to nearest as published",
                                .words = {"lloyd", "rtn"}}}},
          .make = Make<kBits>};
}

template Codec DualCodec<2>(std::string_view, std::string_view);
template Codec DualCodec<3>(std::string_view, std::string_view);
template Codec DualCodec<4>(std::string_view, std::string_view);
template Codec DualCodec<5>(std::string_view, std::string_view);

}  // namespace polarquant
