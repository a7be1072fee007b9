// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: qjl, qjl2 and qjl4, the sketched keys of QJL (Zandieh et al., arXiv
// 2406.03482, section 3; restated in arXiv 2504.19874, section 2.2) with 1, 2 or 4 * head_dim
// sketch rows. At head_dim 128 the paper's code takes 256, and 512 in the first layers. Logits are
// unbiased; for the vectors themselves, and so for values, turbo1 and turbo2 are better.
//
// A record is an f16 root mean square for each rotation block, then one bit for each sketch row:
// those of sketch 0 in the order of its rows, then those of sketch 1, ... (codecs/sketch.h). A
// block whose scale is 0 has bits 0.
#include <cmath>

#include "codecs/codecs.h"
#include "codecs/pack.h"
#include "codecs/record.h"
#include "codecs/sketch.h"
#include "math/lane_sum-inl.h"
#include "math/rotation.h"

namespace polarquant {
namespace {

constexpr size_t kScaleBytes = 2;

size_t ScalesBytes(int head_dim) { return kScaleBytes * RotationBlocks(head_dim).size(); }

template <int kSketches>
size_t RecordBytes(int head_dim) {
  return ScalesBytes(head_dim) + kSketches * PackedBytes(head_dim, 1);
}

template <int kSketches>
void Encode(const float* row, int head_dim, ScaleRule, std::byte* record) {
  uint8_t bits[kMaxHeadDim] = {};
  std::byte* packed = record + ScalesBytes(head_dim);
  for (int sketch = 0; sketch < kSketches; ++sketch, packed += PackedBytes(head_dim, 1)) {
    SketchBits(row, head_dim, sketch, bits);
    std::byte* scales = record;
    for (const RotationBlock& block : RotationBlocks(head_dim)) {
      const float norm2 = SquaredNorm(row + block.offset, block.size);
      const float scale = StoreHalf(std::sqrt(norm2 / static_cast<float>(block.size)), scales);
      if (scale == 0.0f) std::fill_n(bits + block.offset, block.size, uint8_t{0});
      scales += kScaleBytes;
    }
    PackCodes(bits, head_dim, 1, packed);
  }
}

template <int kSketches>
void Decode(const std::byte* record, int head_dim, float* row) {
  uint8_t bits[kMaxHeadDim];
  float sketched[kMaxHeadDim];
  const std::byte* packed = record + ScalesBytes(head_dim);
  std::fill_n(row, head_dim, 0.0f);
  for (int sketch = 0; sketch < kSketches; ++sketch, packed += PackedBytes(head_dim, 1)) {
    UnpackCodes(packed, head_dim, 1, bits);
    SketchedRow(bits, head_dim, sketch, sketched);
    for (int i = 0; i < head_dim; ++i) row[i] += sketched[i];
  }
  for (const RotationBlock& block : RotationBlocks(head_dim)) {
    const float scale = LoadHalf(record) / static_cast<float>(kSketches);
    for (int i = block.offset; i < block.offset + block.size; ++i) row[i] *= scale;
    record += kScaleBytes;
  }
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
                   .scale_rules = false},
          .record_bytes = RecordBytes<kSketches>,
          .encode = Encode<kSketches>,
          .decode = Decode<kSketches>};
}

template Codec QjlCodec<1>(std::string_view, std::string_view);
template Codec QjlCodec<2>(std::string_view, std::string_view);
template Codec QjlCodec<4>(std::string_view, std::string_view);

}  // namespace polarquant
