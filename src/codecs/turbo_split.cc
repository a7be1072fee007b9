// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: turbo2.5 and turbo3.5, the fractional widths of TurboQuant (Zandieh et al.,
// arXiv 2504.19874, section 4.3): the loudest channels of a page get more bits than the others, and
// each of the two subsets is a turbo codec of its own, with its own rotation and scales. Rows come
// un-rotated, because a rotation of the whole row would leave no loud channels.
//
// The paper gives 32 of 128 channels 3 bits and the others 2 and calls it 2.5, which is 2.25. There
// are three ways to make sense of it, at head_dim 128, and `split=` chooses:
//
//   norms   the widths as written, one bit more for a quarter of the channels; the f16 scales of
//           the two subsets are the other 0.25 bits
//   wide    2.5 without the scales by two bits more for a quarter of the channels
//   half    2.5 without the scales by one bit more for half of the channels
//
// At other sizes the loud part is the largest multiple of 16 channels within its quarter or half,
// and at least 16, so that it can be rotated; the least head_dim is 32.
//
// The header of a page is d / 8 bytes, bit i of which is set if channel i is loud, by the sum of
// its squares over the page; of equals the first ones. A record is the f16 scales of the loud
// channels' rotation blocks, those of the others', then the packed codes of the loud channels, in
// ascending order, then those of the others (codecs/pack.h; turbo.cc says what a code is).
#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>

#include "codecs/codecs.h"
#include "codecs/loud_channels.h"
#include "codecs/pack.h"
#include "codecs/record.h"
#include "codecs/turbo-inl.h"
#include "codecs/turbo.h"
#include "math/rotation.h"
#include "polarquant/error.h"

namespace polarquant {
namespace {

constexpr int kStep = kMinHeadDim;  // of the sizes that rotations have
constexpr size_t kScaleBytes = 2;

enum Split { kNorms, kWide, kHalf };

// Channels that are rotated and coded together.
struct Subset {
  int first, size;  // in the order of the split
  const TurboBook* book;

  size_t scales_bytes() const { return kScaleBytes * RotationBlocks(size).size(); }
  size_t codes_bytes() const { return PackedBytes(size, book->bits); }
};

class TurboSplitCoder final : public Coder {
 public:
  TurboSplitCoder(int bits, Split split, ScaleRule rule, int head_dim)
      : rule_(rule), head_dim_(head_dim) {
    const int share = head_dim / (split == kHalf ? 2 : 4);
    const int num_loud = std::max(share / kStep * kStep, kStep);
    subsets_[0] = {0, num_loud, &TurboBookOf(split == kWide ? bits + 2 : bits + 1)};
    subsets_[1] = {num_loud, head_dim - num_loud, &TurboBookOf(bits)};
  }

  size_t record_bytes() const override {
    size_t bytes = 0;
    for (const Subset& subset : subsets_) bytes += subset.scales_bytes() + subset.codes_bytes();
    return bytes;
  }
  size_t header_bytes() const override { return PackedBytes(head_dim_, 1); }

  void Learn(const float* rows, int count, std::byte* header) const override {
    MarkLoudChannels(rows, count, head_dim_, subsets_[0].size, header);
  }

  void Encode(const std::byte* header, const float* row, std::byte* record) const override {
    const Order order = OrderOf(header);
    float split[kMaxHeadDim];
    for (int i = 0; i < head_dim_; ++i) split[i] = row[order.channels[i]];
    std::byte* codes = record + subsets_[0].scales_bytes() + subsets_[1].scales_bytes();
    for (const Subset& subset : subsets_) {
      EncodeSubset(subset, split + subset.first, record, codes);
      record += subset.scales_bytes();
      codes += subset.codes_bytes();
    }
  }

  void Decode(const std::byte* header, const std::byte* record, float* row) const override {
    const Order order = OrderOf(header);
    float split[kMaxHeadDim];
    const std::byte* codes = record + subsets_[0].scales_bytes() + subsets_[1].scales_bytes();
    for (const Subset& subset : subsets_) {
      DecodeSubset(subset, record, codes, split + subset.first);
      record += subset.scales_bytes();
      codes += subset.codes_bytes();
    }
    for (int i = 0; i < head_dim_; ++i) row[order.channels[i]] = split[i];
  }

 private:
  struct Order {
    int channels[kMaxHeadDim];  // the loud ones, then the others
  };

  Order OrderOf(const std::byte* header) const {
    uint8_t loud[kMaxHeadDim] = {};
    UnpackCodes(header, head_dim_, 1, loud);
    Order order;
    std::iota(order.channels, order.channels + head_dim_, 0);
    std::stable_partition(order.channels, order.channels + head_dim_,
                          [&](int channel) { return loud[channel] != 0; });
    return order;
  }

  void EncodeSubset(const Subset& subset, float* x, std::byte* scales, std::byte* packed) const {
    uint8_t codes[kMaxHeadDim] = {};
    Rotate(x, subset.size);
    for (const RotationBlock& block : RotationBlocks(subset.size)) {
      const uint16_t scale =
          EncodeTurboBlock(*subset.book, x + block.offset, block.size, rule_, codes + block.offset);
      std::memcpy(scales, &scale, sizeof scale);
      scales += sizeof scale;
    }
    PackCodes(codes, subset.size, subset.book->bits, packed);
  }

  static void DecodeSubset(const Subset& subset, const std::byte* scales, const std::byte* packed,
                           float* x) {
    uint8_t codes[kMaxHeadDim];
    UnpackCodes(packed, subset.size, subset.book->bits, codes);
    for (const RotationBlock& block : RotationBlocks(subset.size)) {
      const float step = LoadHalf(scales) * subset.book->unit;
      scales += kScaleBytes;
      for (int i = block.offset; i < block.offset + block.size; ++i) {
        x[i] = step * subset.book->centroids[codes[i]];
      }
    }
    Unrotate(x, subset.size);
  }

  ScaleRule rule_;
  int head_dim_;
  Subset subsets_[2];  // the loud channels, the others
};

template <int kBits>
std::unique_ptr<const Coder> Make(const Scheme& scheme, const RowShape& shape) {
  if (shape.head_dim < 2 * kStep) {
    throw Error(ErrorCode::kUnsupported,
                "codec " + scheme.codec + " splits a row of " + std::to_string(shape.head_dim) +
                    " channels: it needs " + std::to_string(2 * kStep) + "; use turbo" +
                    std::to_string(kBits) + " or turbo" + std::to_string(kBits + 1));
  }
  return std::make_unique<TurboSplitCoder>(kBits, static_cast<Split>(OptionOf(scheme, "split")),
                                           scheme.scale_rule, shape.head_dim);
}

}  // namespace

template <int kBits>
Codec TurboSplitCodec(std::string_view name, std::string_view summary) {
  return {.info = {.name = name,
                   .summary = summary,
                   .source = "TurboQuant (Zandieh et al. 2025), outlier channels apart",
                   .code_bits = kBits,
                   .keys = true,
                   .values = true,
                   .rotates = false,
                   .scale_rules = true,
                   .options = {{.name = "split",
                                .summary = "one bit more for the loudest quarter of the channels, "
                                           "two bits more for it, or one more for half of them",
                                .words = {"norms", "wide", "half"}}}},
          .make = Make<kBits>};
}

template Codec TurboSplitCodec<2>(std::string_view, std::string_view);
template Codec TurboSplitCodec<3>(std::string_view, std::string_view);

}  // namespace polarquant
