// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: int2 and int4, the affine groups of quanto's quantised cache in transformers
// (axis 0: groups of 64 neighbouring channels of one row). A head_dim that is no multiple of 64 has
// a shorter last group. A record is an f16 scale and an f16 shift for each group (codecs/affine.h),
// then all codes packed (codecs/pack.h).
//
// fit=hqq keeps the scale and looks for a better shift (Badri and Shaji, Half-Quadratic
// Quantization 2023): what rounding leaves is split into a few outliers, by a shrinking step, and
// the rest, whose mean the shift then takes away; the same bytes. The norm that counts outliers
// has the exponent 11/16 instead of 0.7, because square roots are alike on every compiler.
#include <limits>

#include "codecs/affine.h"
#include "codecs/codecs.h"
#include "codecs/pack.h"
#include "math/rotation.h"

namespace polarquant {
namespace {

constexpr int kGroup = 64;
constexpr std::string_view kFit = "fit";

// |error| less |error|^(11/16 - 1) / beta, if something is left.
double Shrunk(double error, double beta) {
  const double magnitude = std::fabs(error);
  if (magnitude == 0.0) return 0.0;
  const double root4 = std::sqrt(std::sqrt(magnitude));
  const double root16 = std::sqrt(std::sqrt(root4));
  const double left = std::max(magnitude - 1.0 / (root4 * root16 * beta), 0.0);
  return error < 0.0 ? -left : left;
}

// The shift with the least mean |error| among those of the iteration, which stops when it no longer
// falls.
float HqqShift(const float* x, int size, int bits, Affine grid) {
  constexpr int kIterations = 20;
  double beta = 10.0, least = std::numeric_limits<double>::infinity();
  float best = grid.shift;
  for (int i = 0; i < kIterations && grid.scale > 0.0f; ++i, beta *= 1.01) {
    double error = 0.0, shift = 0.0;
    for (int c = 0; c < size; ++c) {
      const uint8_t code = grid.CodeOf(x[c], bits);
      const double off = static_cast<double>(x[c]) - static_cast<double>(grid.ValueOf(code));
      error += std::fabs(off);
      shift +=
          code * static_cast<double>(grid.scale) - (static_cast<double>(x[c]) - Shrunk(off, beta));
    }
    if (!(error < least)) break;
    least = error;
    best = grid.shift;
    grid.shift = static_cast<float>(shift / size);
  }
  return best;
}

class AffineRows final : public Coder {
 public:
  AffineRows(int bits, int head_dim, int group, AffineFit fit)
      : bits_(bits), head_dim_(head_dim), group_(group), fit_(fit) {}

  size_t record_bytes() const override { return head_bytes() + PackedBytes(head_dim_, bits_); }

  void Encode(const std::byte*, const float* row, std::byte* record) const override {
    uint8_t codes[kMaxHeadDim];
    std::byte* head = record;
    for (int begin = 0; begin < head_dim_; begin += group_, head += kAffineBytes) {
      const int end = std::min(begin + group_, head_dim_);
      const auto [low, high] = std::minmax_element(row + begin, row + end);
      Affine grid = StoreAffine(*low, *high, bits_, head);
      if (fit_ == AffineFit::kHqq) {
        grid.shift = StoreHalf(HqqShift(row + begin, end - begin, bits_, grid), head + 2);
      }
      for (int i = begin; i < end; ++i) codes[i] = grid.CodeOf(row[i], bits_);
    }
    PackCodes(codes, head_dim_, bits_, head);
  }

  void Decode(const std::byte*, const std::byte* record, float* row) const override {
    uint8_t codes[kMaxHeadDim];
    UnpackCodes(record + head_bytes(), head_dim_, bits_, codes);
    for (int begin = 0; begin < head_dim_; begin += group_, record += kAffineBytes) {
      const Affine grid = LoadAffine(record);
      for (int i = begin; i < std::min(begin + group_, head_dim_); ++i) {
        row[i] = grid.ValueOf(codes[i]);
      }
    }
  }

 private:
  size_t head_bytes() const {
    return static_cast<size_t>((head_dim_ + group_ - 1) / group_) * kAffineBytes;
  }

  int bits_, head_dim_, group_;
  AffineFit fit_;
};

template <int kBits>
std::unique_ptr<const Coder> Make(const Scheme& scheme, const RowShape& shape) {
  return MakeAffineRows(kBits, shape.head_dim, kGroup,
                        static_cast<AffineFit>(OptionOf(scheme, kFit)));
}

}  // namespace

std::unique_ptr<const Coder> MakeAffineRows(int bits, int head_dim, int group, AffineFit fit) {
  return std::make_unique<AffineRows>(bits, head_dim, group, fit);
}

template <int kBits>
Codec IntGroupCodec(std::string_view name, std::string_view summary) {
  return {.info = {.name = name,
                   .summary = summary,
                   .source = "optimum-quanto, the quantised cache of transformers; fit=hqq: HQQ "
                             "(Badri and Shaji 2023)",
                   .code_bits = kBits,
                   .keys = true,
                   .values = true,
                   .rotates = false,
                   .scale_rules = false,
                   .options = {{.name = kFit,
                                .summary = "how the shift of a group is found",
                                .words = {"minmax", "hqq"}}}},
          .make = Make<kBits>};
}

template Codec IntGroupCodec<2>(std::string_view, std::string_view);
template Codec IntGroupCodec<4>(std::string_view, std::string_view);

}  // namespace polarquant
