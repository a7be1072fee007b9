// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: turbo2s8, turbo3s8 and turbo4s8, turbo with row scales of 8 bits instead of
// 16: a ratio to the largest scale of the page, in thirty-seconds of an octave. That adds 0.00004
// to D ((2^(1/64) - 1)^2 / 3) and saves 0.125 bits a value at head_dim 64.
//
// A page's header is one f16 for each rotation block, the largest scale of the page. A record is
// one byte for each block, then turbo's codes. Byte 0 is a scale of 0; byte n stands for the
// largest times 2^((n - 223) / 32), which leaves an octave for rows that are patched in later.
#include <algorithm>
#include <cmath>
#include <vector>

#include "codecs/codecs.h"
#include "codecs/pack.h"
#include "codecs/record.h"
#include "math/rotation.h"

namespace polarquant {
namespace {

constexpr int kTop = 223;        // the byte of the largest scale
constexpr double kSteps = 32.0;  // an octave
constexpr int kLargestByte = 255;

uint8_t ByteOf(float scale, float largest) {
  if (!(scale > 0.0f) || !(largest > 0.0f)) return 0;
  const double octaves = std::log2(static_cast<double>(scale) / static_cast<double>(largest));
  return static_cast<uint8_t>(
      std::clamp<double>(std::round(kTop + kSteps * octaves), 1, kLargestByte));
}

float ScaleOf(uint8_t byte, float largest) {
  if (byte == 0) return 0.0f;
  return static_cast<float>(static_cast<double>(largest) * std::exp2((byte - kTop) / kSteps));
}

template <int kBits>
class ByteScaleCoder final : public Coder {
 public:
  ByteScaleCoder(const Scheme& scheme, const RowShape& shape)
      : turbo_(TurboCodec<kBits>("", "")), rule_(scheme.scale_rule), head_dim_(shape.head_dim) {}

  size_t record_bytes() const override { return num_blocks() + PackedBytes(head_dim_, kBits); }
  size_t header_bytes() const override { return num_blocks() * sizeof(uint16_t); }

  void Learn(const float* rows, int count, std::byte* header) const override {
    std::vector<float> largest(num_blocks());
    std::vector<std::byte> record(turbo_.record_bytes(head_dim_));
    for (int r = 0; r < count; ++r, rows += head_dim_) {
      turbo_.encode(rows, head_dim_, rule_, record.data());
      for (size_t b = 0; b < largest.size(); ++b) {
        largest[b] = std::max(largest[b], LoadHalf(record.data() + b * sizeof(uint16_t)));
      }
    }
    for (size_t b = 0; b < largest.size(); ++b) {
      // A page of zeros says nothing of the rows that may come.
      StoreHalf(largest[b] > 0.0f ? largest[b] : 1.0f, header + b * sizeof(uint16_t));
    }
  }

  void Encode(const std::byte* header, const float* row, std::byte* record) const override {
    std::vector<std::byte> whole(turbo_.record_bytes(head_dim_));
    turbo_.encode(row, head_dim_, rule_, whole.data());
    for (size_t b = 0; b < num_blocks(); ++b) {
      const size_t at = b * sizeof(uint16_t);
      *record++ = std::byte{ByteOf(LoadHalf(whole.data() + at), LoadHalf(header + at))};
    }
    std::copy(whole.begin() + static_cast<ptrdiff_t>(header_bytes()), whole.end(), record);
  }

  void Decode(const std::byte* header, const std::byte* record, float* row) const override {
    std::vector<std::byte> whole(turbo_.record_bytes(head_dim_));
    for (size_t b = 0; b < num_blocks(); ++b) {
      const size_t at = b * sizeof(uint16_t);
      StoreHalf(ScaleOf(std::to_integer<uint8_t>(record[b]), LoadHalf(header + at)),
                whole.data() + at);
    }
    std::copy(record + num_blocks(), record + record_bytes(),
              whole.begin() + static_cast<ptrdiff_t>(header_bytes()));
    turbo_.decode(whole.data(), head_dim_, row);
  }

 private:
  size_t num_blocks() const { return RotationBlocks(head_dim_).size(); }

  Codec turbo_;
  ScaleRule rule_;
  int head_dim_;
};

}  // namespace

template <int kBits>
Codec ByteScaleCodec(std::string_view name, std::string_view summary) {
  return {.info = {.name = name,
                   .summary = summary,
                   .source = "turbo with scales as ratios to the page's largest",
                   .code_bits = kBits,
                   .keys = true,
                   .values = true,
                   .rotates = true,
                   .scale_rules = true},
          .make = [](const Scheme& scheme, const RowShape& shape) -> std::unique_ptr<const Coder> {
            return std::make_unique<ByteScaleCoder<kBits>>(scheme, shape);
          }};
}

template Codec ByteScaleCodec<2>(std::string_view, std::string_view);
template Codec ByteScaleCodec<3>(std::string_view, std::string_view);
template Codec ByteScaleCodec<4>(std::string_view, std::string_view);

}  // namespace polarquant
