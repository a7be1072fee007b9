// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: turboprod2 ... turboprod4, TurboQuant's quantiser for inner products (Zandieh
// et al., arXiv 2504.19874, algorithm 2): b - 1 bits of Lloyd-Max codes under the row's own norm,
// and one bit of QJL (codecs/sketch.h) for what they leave. Logits are unbiased. At the same size
// `turboN:scale=unbiased` is unbiased too and leaves less (arXiv 2604.18555); this is the original.
//
// A record is, for each rotation block, the f16 root mean square s of the block; then for each the
// f16 root mean square g of the residual over s; then the codes of b - 1 bits, packed
// (codecs/pack.h); then the bits of sketch 0 of the residual, rotated once more (math/rotation.h):
// what codes leave depends on them channel by channel, and one transform alone would keep a bias of
// 0.3 / d of the product. With the unit and the centroids of
// turbo's codebook of b - 1 bits a value is s * (unit * centroid[code] + g * sketched), sketched
// un-rotated. A block with s = 0 has g = 0, the codes of zeros and bits 0.
#include <algorithm>
#include <cmath>

#include "codecs/codecs.h"
#include "codecs/pack.h"
#include "codecs/record.h"
#include "codecs/sketch.h"
#include "codecs/turbo-inl.h"
#include "codecs/turbo.h"
#include "math/rotation.h"

namespace polarquant {
namespace {

constexpr size_t kScaleBytes = 2;

size_t ScalesBytes(int head_dim) { return kScaleBytes * RotationBlocks(head_dim).size(); }

template <int kBits>
size_t RecordBytes(int head_dim) {
  return 2 * ScalesBytes(head_dim) + PackedBytes(head_dim, kBits - 1) + PackedBytes(head_dim, 1);
}

float RootMeanSquare(const float* x, int size) {
  return std::sqrt(SquaredNorm(x, size) / static_cast<float>(size));
}

template <int kBits>
void Encode(const float* row, int head_dim, ScaleRule, std::byte* record) {
  const TurboBook& book = TurboBookOf(kBits - 1);
  uint8_t codes[kMaxHeadDim] = {}, bits[kMaxHeadDim] = {};
  float residual[kMaxHeadDim] = {};
  std::byte *scales = record, *gains = record + ScalesBytes(head_dim);
  for (const RotationBlock& block : RotationBlocks(head_dim)) {
    const float* x = row + block.offset;
    float* r = residual + block.offset;
    uint8_t* c = codes + block.offset;
    const float scale = StoreHalf(RootMeanSquare(x, block.size), scales);
    float gain = 0.0f;
    if (scale > 0.0f) {
      const float step = scale * book.unit;
      AssignCodes<kBits - 1>(book, x, block.size, step, c);
      for (int i = 0; i < block.size; ++i) r[i] = x[i] - step * book.centroids[c[i]];
      gain = RootMeanSquare(r, block.size) / scale;
    } else {
      std::fill_n(c, block.size, static_cast<uint8_t>(1 << (kBits - 2)));
    }
    StoreHalf(gain, gains);
    scales += kScaleBytes;
    gains += kScaleBytes;
  }
  Rotate(residual, head_dim);
  SketchBits(residual, head_dim, 0, bits);
  PackCodes(codes, head_dim, kBits - 1, gains);
  PackCodes(bits, head_dim, 1, gains + PackedBytes(head_dim, kBits - 1));
}

template <int kBits>
void Decode(const std::byte* record, int head_dim, float* row) {
  const TurboBook& book = TurboBookOf(kBits - 1);
  uint8_t codes[kMaxHeadDim], bits[kMaxHeadDim];
  const std::byte *scales = record, *gains = record + ScalesBytes(head_dim);
  const std::byte* packed = gains + ScalesBytes(head_dim);
  UnpackCodes(packed, head_dim, kBits - 1, codes);
  UnpackCodes(packed + PackedBytes(head_dim, kBits - 1), head_dim, 1, bits);
  SketchedRow(bits, head_dim, 0, row);
  Unrotate(row, head_dim);
  for (const RotationBlock& block : RotationBlocks(head_dim)) {
    const float scale = LoadHalf(scales), gain = LoadHalf(gains);
    for (int i = block.offset; i < block.offset + block.size; ++i) {
      row[i] = scale * (book.unit * book.centroids[codes[i]] + gain * row[i]);
    }
    scales += kScaleBytes;
    gains += kScaleBytes;
  }
}

}  // namespace

template <int kBits>
Codec TurboProdCodec(std::string_view name, std::string_view summary) {
  return {
      .info = {.name = name,
               .summary = summary,
               .source = "TurboQuant (Zandieh et al. 2025), algorithm 2; QJL with orthogonal rows",
               .code_bits = kBits,
               .keys = true,
               .values = true,
               .rotates = true,
               .scale_rules = false},
      .record_bytes = RecordBytes<kBits>,
      .encode = Encode<kBits>,
      .decode = Decode<kBits>};
}

template Codec TurboProdCodec<2>(std::string_view, std::string_view);
template Codec TurboProdCodec<3>(std::string_view, std::string_view);
template Codec TurboProdCodec<4>(std::string_view, std::string_view);

}  // namespace polarquant
