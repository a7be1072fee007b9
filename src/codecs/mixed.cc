// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: mixed2, mixed2.5, mixed3 and mixed4. Channels are not alike, so bits go where
// they lower the error most: the channels of a page are sorted by variance into blocks of 16, and
// each block has 0 to 6 bits a channel, found by greedy reverse water-filling (Cover and Thomas,
// Elements of Information Theory, section 10.3.3, with the distortions of real quantisers).
// Channels of equal bits form a class, which is rotated by itself, so that its values look
// Gaussian, and coded by turbo's codebook of that width. A rotation of the whole row would undo all
// this: rows come bare.
//
// What counts is the error of logits: a block's noise times the energy of queries there. Balanced
// rows have both moments equal (polarquant/key_profile.h), so their noise is weighed by their own
// variance; the noise of others counts as it is.
//
// A page's header is the bits of each channel, 3 bits each, packed, then for the classes of 1 to 6
// bits their f16 deviation, the largest being 1. A record is one f16 scale, then the codes of the
// classes from 1 bit to 6, packed one after another (codecs/pack.h).
#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <vector>

#include "codecs/codecs.h"
#include "codecs/fit.h"
#include "codecs/pack.h"
#include "codecs/record.h"
#include "codecs/turbo.h"
#include "math/lloyd_max.h"
#include "math/rotation.h"

namespace polarquant {
namespace {

constexpr int kBlock = 16;  // channels that get bits together
constexpr int kMostBits = 6;
constexpr int kHeaderBits = 3;              // of a channel's width
constexpr float kLeastOfLargest = 0x1p-8f;  // of a class, the largest being 1
constexpr std::array<float, 5> kSteps = {0.84f, 0.92f, 1.0f, 1.08f, 1.16f};

// What b bits leave of a variance of 1.
const std::array<double, kMostBits + 1>& Distortions() {
  static const auto distortions = [] {
    std::array<double, kMostBits + 1> all = {1.0};
    for (int bits = 1; bits <= kMostBits; ++bits) {
      const LloydMax book = SolveLloydMax(bits);
      all[static_cast<size_t>(bits)] = GaussianDistortion(book.centroids, book.thresholds);
    }
    return all;
  }();
  return distortions;
}

// Channels of one width, in the order of a record: first by class, then by number.
struct Class {
  int bits, begin, size;
  float deviation;
};
struct Layout {
  std::array<int, kMaxHeadDim> channels;
  std::vector<Class> classes;  // of 1 bit and more
  int coded = 0;               // channels in them
};

class MixedCoder final : public Coder {
 public:
  MixedCoder(const Scheme& scheme, const RowShape& shape, int half_bits)
      : rule_(scheme.scale_rule),
        by_queries_(scheme.normalisation.balance || scheme.normalisation.dense),
        head_dim_(shape.head_dim),
        row_bits_(shape.head_dim * half_bits / 2) {}

  size_t record_bytes() const override { return sizeof(uint16_t) + PackedBytes(row_bits_, 1); }
  size_t header_bytes() const override {
    return PackedBytes(head_dim_, kHeaderBits) + kMostBits * sizeof(uint16_t);
  }

  void Learn(const float* rows, int count, std::byte* header) const override {
    const auto dim = static_cast<size_t>(head_dim_);
    std::vector<double> variances(dim);
    for (int r = 0; r < count; ++r, rows += dim) {
      for (size_t i = 0; i < dim; ++i) {
        variances[i] += static_cast<double>(rows[i]) * static_cast<double>(rows[i]);
      }
    }
    std::vector<size_t> order(dim);
    std::iota(order.begin(), order.end(), size_t{0});
    std::ranges::stable_sort(order, std::greater<>(), [&](size_t i) { return variances[i]; });
    std::vector<double> blocks(dim / kBlock);
    for (size_t i = 0; i < dim; ++i) blocks[i / kBlock] += variances[order[i]];

    const std::vector<uint8_t> bits = Allocate(blocks);
    std::vector<uint8_t> widths(dim);
    std::array<double, kMostBits + 1> energy = {}, members = {};
    for (size_t i = 0; i < dim; ++i) {
      const uint8_t width = widths[order[i]] = bits[i / kBlock];
      energy[width] += variances[order[i]];
      members[width] += 1.0;
    }
    PackCodes(widths.data(), head_dim_, kHeaderBits, header);
    header += PackedBytes(head_dim_, kHeaderBits);
    double largest = 0.0;
    for (size_t b = 1; b <= kMostBits; ++b) {
      if (members[b] > 0) largest = std::max(largest, energy[b] / members[b]);
    }
    for (size_t b = 1; b <= kMostBits; ++b, header += sizeof(uint16_t)) {
      const double share = largest > 0 && members[b] > 0 ? energy[b] / members[b] / largest : 1.0;
      StoreHalf(std::max(static_cast<float>(std::sqrt(share)), kLeastOfLargest), header);
    }
  }

  void Encode(const std::byte* header, const float* row, std::byte* record) const override {
    const Layout layout = LayoutOf(header);
    float x[kMaxHeadDim] = {}, points[kMaxHeadDim];
    uint8_t codes[kMaxHeadDim] = {};
    double expected = 0.0;  // of a row of deviation 1
    for (const Class& of : layout.classes) {
      for (int i = of.begin; i < of.begin + of.size; ++i) x[i] = row[layout.channels[i]];
      Rotate(x + of.begin, of.size);
      expected += of.size * static_cast<double>(of.deviation) * static_cast<double>(of.deviation);
    }
    const double energy = FitOf(x, x, layout.coded).energy;
    const auto deviation = expected > 0.0 ? static_cast<float>(std::sqrt(energy / expected)) : 0.0f;
    Fit fit;
    if (static_cast<double>(deviation) >= kSmallestDeviation) {
      std::array<float, kSteps.size()> steps;
      for (size_t i = 0; i < steps.size(); ++i) steps[i] = kSteps[i] * deviation;
      fit = SearchStep(x, layout.coded, steps, points,
                       [&](float step, float* out) { Assign(layout, x, step, codes, out); });
    }
    const float scale = StoreHalf(static_cast<float>(ScaleOf(rule_, fit, energy)), record);
    if (scale == 0.0f) std::fill_n(codes, head_dim_, uint8_t{0});
    record += sizeof(uint16_t);
    std::fill_n(record, PackedBytes(row_bits_, 1), std::byte{0});
    for (const Class& of : layout.classes) {
      PackCodes(codes + of.begin, of.size, of.bits, record);
      record += PackedBytes(of.size, of.bits);
    }
  }

  void Decode(const std::byte* header, const std::byte* record, float* row) const override {
    const Layout layout = LayoutOf(header);
    const float scale = LoadHalf(record);
    record += sizeof(uint16_t);
    std::fill_n(row, head_dim_, 0.0f);
    for (const Class& of : layout.classes) {
      uint8_t codes[kMaxHeadDim];
      float x[kMaxHeadDim];
      UnpackCodes(record, of.size, of.bits, codes);
      record += PackedBytes(of.size, of.bits);
      const TurboBook& book = TurboBookOf(of.bits);
      const float unit = scale * of.deviation * book.unit;
      for (int i = 0; i < of.size; ++i) x[i] = unit * book.centroids[codes[i]];
      Unrotate(x, of.size);
      for (int i = 0; i < of.size; ++i) row[layout.channels[of.begin + i]] = x[i];
    }
  }

 private:
  // Bits a channel of each block: one more, again and again, where it lowers the error most; where
  // nothing is known, to the block that has fewest.
  std::vector<uint8_t> Allocate(const std::vector<double>& variances) const {
    std::vector<uint8_t> bits(variances.size());
    const auto gain = [&](size_t block) {
      const size_t b = bits[block];
      const double weight = by_queries_ ? variances[block] : 1.0;
      return weight * variances[block] * (Distortions()[b] - Distortions()[b + 1]);
    };
    for (int left = row_bits_ / kBlock; left > 0; --left) {
      size_t best = variances.size();
      for (size_t block = 0; block < variances.size(); ++block) {
        if (bits[block] == kMostBits) continue;
        if (best == variances.size() || gain(block) > gain(best) ||
            (gain(block) == gain(best) && bits[block] < bits[best])) {
          best = block;
        }
      }
      ++bits[best];
    }
    return bits;
  }

  // A header that no writer makes stands for rows of zeros.
  Layout LayoutOf(const std::byte* header) const {
    Layout layout;
    int bits_left = row_bits_;
    uint8_t widths[kMaxHeadDim];
    UnpackCodes(header, head_dim_, kHeaderBits, widths);
    header += PackedBytes(head_dim_, kHeaderBits);
    for (int bits = 1; bits <= kMostBits; ++bits, header += sizeof(uint16_t)) {
      const int begin = layout.coded;
      for (int i = 0; i < head_dim_; ++i) {
        if (widths[i] == bits) layout.channels[static_cast<size_t>(layout.coded++)] = i;
      }
      const int size = layout.coded - begin;
      bits_left -= size * bits;
      if (size % kBlock != 0 || bits_left < 0) return {};
      if (size > 0) layout.classes.push_back({bits, begin, size, LoadHalf(header)});
    }
    return layout;
  }

  static void Assign(const Layout& layout, const float* x, float step, uint8_t* codes,
                     float* points) {
    for (const Class& of : layout.classes) {
      const TurboBook& book = TurboBookOf(of.bits);
      const float unit = of.deviation * book.unit;
      const float* end = book.thresholds + (1 << of.bits) - 1;
      for (int i = of.begin; i < of.begin + of.size; ++i) {
        const float* above = std::upper_bound(book.thresholds, end, x[i] / (step * unit));
        codes[i] = static_cast<uint8_t>(above - book.thresholds);
        points[i] = unit * book.centroids[codes[i]];
      }
    }
  }

  ScaleRule rule_;
  bool by_queries_;
  int head_dim_;
  int row_bits_;  // of all codes of a record
};

}  // namespace

template <int kHalfBits>
Codec MixedCodec(std::string_view name, std::string_view summary) {
  return {.info = {.name = name,
                   .summary = summary,
                   .source = "reverse water-filling over blocks of 16 channels, by page",
                   .code_bits = kHalfBits / 2,
                   .keys = true,
                   .values = true,
                   .rotates = false,
                   .scale_rules = true},
          .make = [](const Scheme& scheme, const RowShape& shape) -> std::unique_ptr<const Coder> {
            return std::make_unique<MixedCoder>(scheme, shape, kHalfBits);
          }};
}

template Codec MixedCodec<4>(std::string_view, std::string_view);
template Codec MixedCodec<5>(std::string_view, std::string_view);
template Codec MixedCodec<6>(std::string_view, std::string_view);
template Codec MixedCodec<8>(std::string_view, std::string_view);

}  // namespace polarquant
