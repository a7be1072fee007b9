// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: qjl, qjl2 and qjl4, the sketched keys of QJL (Zandieh et al., arXiv
// 2406.03482, section 3; restated in arXiv 2504.19874, section 2.2) with 1, 2 or 4 * head_dim
// sketch rows. At head_dim 128 the paper's code takes 256, and 512 in the first layers. Logits are
// unbiased; for the vectors themselves, and so for values, turbo1 and turbo2 are better.
//
// `rows=` are orthogonal, or Gaussian as in the paper (codecs/sketch.h), which leave nearly three
// times the variance.
//
// `outliers=` keeps the loudest channels of a page apart (the paper's section 4.2): they are
// sketched on their own, with the rows of sketch 0, and what a sketch says of channels of the other
// kind is known to be noise and dropped. Channels are those of the row before its rotation; both
// parts are sketched as a row without outliers would be, so rotated unless `rotate=none`.
//
// A record is an f16 root mean square for each rotation block, then one bit for each sketch row:
// those of sketch 0 in the order of its rows, then those of sketch 1, ... A block whose scale is 0
// has bits 0. Gaussian rows have one scale for the whole row. With outliers all this is about the
// other channels, and the scales and the d bits of the outliers follow; the header is d / 8 bytes,
// the outliers of the page (codecs/loud_channels.h). At head_dim 128 `qjl2:outliers=8` takes 3.26
// bits a value: 2 + 1 of sketches, 0.25 of scales, 0.01 of header.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "codecs/codecs.h"
#include "codecs/loud_channels.h"
#include "codecs/pack.h"
#include "codecs/record.h"
#include "codecs/sketch.h"
#include "math/lane_sum-inl.h"
#include "math/rotation.h"
#include "polarquant/error.h"

namespace polarquant {
namespace {

constexpr size_t kScaleBytes = 2;
constexpr int kMaxOutliers = 64;

class QjlCoder final : public Coder {
 public:
  QjlCoder(int sketches, int outliers, bool gaussian, bool rotated, int head_dim)
      : sketches_(sketches),
        outliers_(outliers),
        gaussian_(gaussian),
        rotated_(rotated),
        head_dim_(head_dim) {
    const std::span<const RotationBlock> blocks = RotationBlocks(head_dim);
    parts_.assign(blocks.begin(), blocks.end());
    if (gaussian_) parts_ = {{0, head_dim, 1}};
  }

  size_t record_bytes() const override {
    return SketchedBytes(sketches_) + (outliers_ > 0 ? SketchedBytes(1) : 0);
  }
  size_t header_bytes() const override { return outliers_ > 0 ? PackedBytes(head_dim_, 1) : 0; }

  void Learn(const float* rows, int count, std::byte* header) const override {
    if (outliers_ == 0) return;
    std::vector<float> bare(rows, rows + static_cast<size_t>(count) * head_dim_);
    for (int r = 0; rotated_ && r < count; ++r) Unrotate(&bare[r * Dim()], head_dim_);
    MarkLoudChannels(bare.data(), count, head_dim_, outliers_, header);
  }

  void Encode(const std::byte* header, const float* row, std::byte* record) const override {
    if (outliers_ == 0) return Sketch(row, sketches_, record);
    uint8_t loud[kMaxHeadDim] = {};
    float bare[kMaxHeadDim], part[kMaxHeadDim];
    UnpackCodes(header, head_dim_, 1, loud);
    std::copy_n(row, head_dim_, bare);
    if (rotated_) Unrotate(bare, head_dim_);
    for (const int kind : {0, 1}) {
      for (int i = 0; i < head_dim_; ++i) part[i] = loud[i] == kind ? bare[i] : 0.0f;
      if (rotated_) Rotate(part, head_dim_);
      Sketch(part, kind == 0 ? sketches_ : 1, record);
      record += SketchedBytes(sketches_);
    }
  }

  void Decode(const std::byte* header, const std::byte* record, float* row) const override {
    if (outliers_ == 0) return Reconstruct(record, sketches_, row);
    uint8_t loud[kMaxHeadDim] = {};
    float part[kMaxHeadDim];
    UnpackCodes(header, head_dim_, 1, loud);
    for (const int kind : {0, 1}) {
      Reconstruct(record, kind == 0 ? sketches_ : 1, part);
      if (rotated_) Unrotate(part, head_dim_);
      for (int i = 0; i < head_dim_; ++i) row[i] = loud[i] == kind ? part[i] : row[i];
      record += SketchedBytes(sketches_);
    }
    if (rotated_) Rotate(row, head_dim_);
  }

 private:
  size_t Dim() const { return static_cast<size_t>(head_dim_); }
  size_t ScalesBytes() const { return kScaleBytes * parts_.size(); }
  size_t SketchedBytes(int sketches) const {
    return ScalesBytes() + static_cast<size_t>(sketches) * PackedBytes(head_dim_, 1);
  }

  void Sketch(const float* x, int sketches, std::byte* scales) const {
    std::byte* packed = scales + ScalesBytes();
    float rms[kMaxHeadDim / kMinHeadDim] = {};
    for (size_t p = 0; p < parts_.size(); ++p) {
      const float norm2 = SquaredNorm(x + parts_[p].offset, parts_[p].size);
      rms[p] = StoreHalf(std::sqrt(norm2 / static_cast<float>(parts_[p].size)),
                         scales + p * kScaleBytes);
    }
    for (int sketch = 0; sketch < sketches; ++sketch, packed += PackedBytes(head_dim_, 1)) {
      uint8_t bits[kMaxHeadDim];
      (gaussian_ ? GaussianSketchBits : SketchBits)(x, head_dim_, sketch, bits);
      for (size_t p = 0; p < parts_.size(); ++p) {
        if (rms[p] == 0.0f) std::fill_n(bits + parts_[p].offset, parts_[p].size, uint8_t{0});
      }
      PackCodes(bits, head_dim_, 1, packed);
    }
  }

  void Reconstruct(const std::byte* scales, int sketches, float* x) const {
    const std::byte* packed = scales + ScalesBytes();
    std::fill_n(x, head_dim_, 0.0f);
    for (int sketch = 0; sketch < sketches; ++sketch, packed += PackedBytes(head_dim_, 1)) {
      uint8_t bits[kMaxHeadDim];
      float sketched[kMaxHeadDim];
      UnpackCodes(packed, head_dim_, 1, bits);
      (gaussian_ ? GaussianSketchedRow : SketchedRow)(bits, head_dim_, sketch, sketched);
      for (int i = 0; i < head_dim_; ++i) x[i] += sketched[i];
    }
    for (const RotationBlock& part : parts_) {
      const float scale = LoadHalf(scales) / static_cast<float>(sketches);
      for (int i = part.offset; i < part.offset + part.size; ++i) x[i] *= scale;
      scales += kScaleBytes;
    }
  }

  int sketches_, outliers_;
  bool gaussian_, rotated_;
  int head_dim_;
  std::vector<RotationBlock> parts_;  // that have a scale each
};

template <int kSketches>
std::unique_ptr<const Coder> Make(const Scheme& scheme, const RowShape& shape) {
  const int outliers = OptionOf(scheme, "outliers");
  if (outliers >= shape.head_dim) {
    throw Error(ErrorCode::kUnsupported, scheme.codec + ": outliers=" + std::to_string(outliers) +
                                             " of " + std::to_string(shape.head_dim) +
                                             " channels leave none to sketch: the most is " +
                                             std::to_string(shape.head_dim - 1) +
                                             ", and a few are enough");
  }
  return std::make_unique<QjlCoder>(kSketches, outliers, OptionOf(scheme, "rows") == 1,
                                    scheme.rotate, shape.head_dim);
}

}  // namespace

template <int kSketches>
Codec QjlCodec(std::string_view name, std::string_view summary) {
  static_assert(kSketches <= kMaxSketches);
  return {.info = {.name = name,
                   .summary = summary,
                   .source = "QJL (Zandieh et al. 2024), with orthogonal rows",
                   .code_bits = kSketches,
                   .keys = true,
                   .values = false,
                   .rotates = true,
                   .scale_rules = false,
                   .options = {{.name = "rows",
                                .summary = "of a sketch: orthogonal, or the paper's Gaussian ones",
                                .words = {"orthogonal", "gaussian"}},
                               {.name = "outliers",
                                .summary = "loudest channels of a page, sketched on their own",
                                .least = 0,
                                .most = kMaxOutliers,
                                .usual = 0}}},
          .make = Make<kSketches>};
}

template Codec QjlCodec<1>(std::string_view, std::string_view);
template Codec QjlCodec<2>(std::string_view, std::string_view);
template Codec QjlCodec<4>(std::string_view, std::string_view);

}  // namespace polarquant
