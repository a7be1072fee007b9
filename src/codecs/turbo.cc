// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: turbo1 ... turbo8. A rotated row is close to Gaussian whatever the model
// wrote, so each value gets the nearest of 2^b Lloyd-Max levels of N(0, 1), and each rotation block
// one f16 scale in units of its standard deviation (Zandieh et al., TurboQuant 2025; Vargaftik et
// al., DRIVE 2021 and EDEN 2022 for the scales). EDEN at b bits is `turboB:scale=unbiased` and
// DRIVE is `turbo1:scale=unbiased`, so neither is a codec of its own; turbo_test holds the three
// scales to their published errors, on codes assigned as the papers assign them.
//
// A record is the scales of the row's blocks, then all codes packed (codecs/pack.h).
#include "codecs/turbo.h"

#include <array>
#include <cstring>
#include <vector>

#include "codecs/codecs.h"
#include "codecs/pack.h"
#include "codecs/turbo-inl.h"
#include "math/lloyd_max.h"
#include "math/rotation.h"

namespace polarquant {
namespace {

struct Book {
  std::vector<signed char> steps;
  std::vector<float> centroids, thresholds;
  TurboBook view;

  explicit Book(int bits) {
    float unit = 1.0f;
    if (bits <= kMaxInt8Bits) {
      Int8Codebook grid = SolveInt8Codebook(bits);
      steps = std::move(grid.steps);
      unit = grid.unit;
      centroids.assign(steps.begin(), steps.end());
    } else {
      for (const double c : SolveLloydMax(bits).centroids) {
        centroids.push_back(static_cast<float>(c));
      }
    }
    for (size_t i = 1; i < centroids.size(); ++i) {
      thresholds.push_back(0.5f * (centroids[i - 1] + centroids[i]));
    }
    view = {bits, centroids.data(), thresholds.data(), unit};
  }
};

template <int kBits>
const Book& BookOf() {
  static const Book book(kBits);
  return book;
}

int ScalesPerRow(int head_dim) { return static_cast<int>(RotationBlocks(head_dim).size()); }

size_t ScaleBytes(int head_dim) {
  return static_cast<size_t>(ScalesPerRow(head_dim)) * sizeof(uint16_t);
}

template <int kBits>
size_t RecordBytes(int head_dim) {
  return ScaleBytes(head_dim) + PackedBytes(head_dim, kBits);
}

template <int kBits>
void Encode(const float* row, int head_dim, ScaleRule rule, std::byte* record) {
  uint8_t codes[kMaxHeadDim] = {};
  std::byte* scales = record;
  for (const RotationBlock& block : RotationBlocks(head_dim)) {
    const uint16_t scale = EncodeTurboBlock(BookOf<kBits>().view, row + block.offset, block.size,
                                            rule, codes + block.offset);
    std::memcpy(scales, &scale, sizeof scale);
    scales += sizeof scale;
  }
  PackCodes(codes, head_dim, kBits, scales);
}

template <int kBits>
void Decode(const std::byte* record, int head_dim, float* row) {
  const TurboBook& book = BookOf<kBits>().view;
  uint8_t codes[kMaxHeadDim];
  UnpackCodes(record + ScaleBytes(head_dim), head_dim, kBits, codes);
  const std::byte* scales = record;
  for (const RotationBlock& block : RotationBlocks(head_dim)) {
    uint16_t scale = 0;
    std::memcpy(&scale, scales, sizeof scale);
    scales += sizeof scale;
    const float step = HalfToFloat(scale) * book.unit;
    for (int i = block.offset; i < block.offset + block.size; ++i) {
      row[i] = step * book.centroids[codes[i]];
    }
  }
}

}  // namespace

const TurboBook& TurboBookOf(int bits) {
  static const std::array<const TurboBook*, kMaxCodeBits> books = {
      &BookOf<1>().view, &BookOf<2>().view, &BookOf<3>().view, &BookOf<4>().view,
      &BookOf<5>().view, &BookOf<6>().view, &BookOf<7>().view, &BookOf<8>().view};
  return *books[static_cast<size_t>(bits - 1)];
}

template <int kBits>
Codec TurboCodec(std::string_view name, std::string_view summary) {
  constexpr bool kTiled = kBits >= 2 && kBits <= kMaxInt8Bits;
  return {
      .info = {.name = name,
               .summary = summary,
               .source =
                   "TurboQuant (Zandieh et al. 2025); scales of DRIVE and EDEN (Vargaftik et al.)",
               .code_bits = kBits,
               .keys = true,
               .values = true,
               .rotates = true,
               .scale_rules = true},
      .record_bytes = RecordBytes<kBits>,
      .encode = Encode<kBits>,
      .decode = Decode<kBits>,
      .layout = kTiled ? PageLayout::kTiles : PageLayout::kRecords,
      .scales_per_row = ScalesPerRow,
      .centroids = kTiled ? BookOf<kBits>().steps.data() : nullptr,
      .unit = BookOf<kBits>().view.unit};
}

template Codec TurboCodec<1>(std::string_view, std::string_view);
template Codec TurboCodec<2>(std::string_view, std::string_view);
template Codec TurboCodec<3>(std::string_view, std::string_view);
template Codec TurboCodec<4>(std::string_view, std::string_view);
template Codec TurboCodec<5>(std::string_view, std::string_view);
template Codec TurboCodec<6>(std::string_view, std::string_view);
template Codec TurboCodec<7>(std::string_view, std::string_view);
template Codec TurboCodec<8>(std::string_view, std::string_view);

}  // namespace polarquant
