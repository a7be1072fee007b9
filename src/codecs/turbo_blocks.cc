// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: turbo2_0, turbo3_0 and turbo4_0, byte for byte the blocks of 128 values of
// the llama.cpp fork llama-cpp-turboquant (ggml types 42, 43 and 44 with its default 4-bit mode),
// so that its figures can be compared with ours. The rotation belongs to the format and happens
// here; rows must come bare. As in the fork, a head is padded with zeros to a multiple of 128: a
// head_dim of 64 costs twice its bits and gains nothing, its codes repeat up to signs.
//
// A block of 128 values x of norm n = |x|:
//
//   rotate   y = 128^-1/2 diag(s2) H diag(s1) x / n, with the fork's fixed signs
//   codes    the number of thresholds <= y, in ascending order
//   norm     f16 of n / |c|, c the centroids of the codes: what is decoded has the norm n
//   turbo2   norm, 32 bytes of 2-bit codes packed (codecs/pack.h)
//   turbo3   norm, 32 bytes of the codes' low two bits, 16 bytes of their high bits
//   turbo4   norm, f16 0 (reserved), 64 bytes of 4-bit codes
//
// The 4-bit table is the fork's: too narrow for a rotated row, D = 0.018 where Lloyd-Max gives
// 0.0095. Use turbo4 for quality. Sums run in the order of the channels, as the fork's do.
#include <algorithm>
#include <array>
#include <cmath>

#include "codecs/codecs.h"
#include "codecs/pack.h"
#include "codecs/record.h"
#include "math/rotation.h"

namespace polarquant {
namespace {

constexpr int kBlock = 128;
constexpr float kInverseRoot = 0.08838834764831845f;  // 128^-1/2
constexpr float kSmallestNorm = 1e-10f;

// Bit i % 8 of byte i / 8 is set where channel i changes sign.
using SignBits = std::array<uint8_t, kBlock / 8>;
constexpr SignBits kBefore = {0x59, 0x03, 0x6a, 0xe4, 0x49, 0x59, 0xf8, 0x42,
                              0xbb, 0x3b, 0xc6, 0xa4, 0xa9, 0x50, 0xf2, 0x49};
constexpr SignBits kAfter = {0x90, 0xee, 0xac, 0x16, 0xdc, 0x8f, 0x62, 0x3f,
                             0x7a, 0x35, 0xa5, 0xb7, 0x62, 0x65, 0xa5, 0xbe};

// The positive halves of the tables, for rows of norm 1; the negative halves mirror them.
template <int kBits>
struct Book;
template <>
struct Book<2> {
  static constexpr std::array<float, 2> kCentroids = {0.039994f, 0.133462f};
  static constexpr std::array<float, 1> kThresholds = {0.086728f};
};
template <>
struct Book<3> {
  static constexpr std::array<float, 4> kCentroids = {0.021460f, 0.065717f, 0.117832f, 0.190685f};
  static constexpr std::array<float, 3> kThresholds = {0.043589f, 0.091775f, 0.154259f};
};
template <>
struct Book<4> {
  static constexpr std::array<float, 8> kCentroids = {0.006938f, 0.020989f, 0.035597f, 0.051262f,
                                                      0.068756f, 0.089527f, 0.117195f, 0.173926f};
  static constexpr std::array<float, 7> kThresholds = {0.013963f, 0.028293f, 0.043430f, 0.060009f,
                                                       0.079142f, 0.103361f, 0.145560f};
};

template <int kBits>
float CentroidOf(int code) {
  constexpr int kHalf = 1 << (kBits - 1);
  const int level = code >= kHalf ? code - kHalf : kHalf - 1 - code;
  const float magnitude = Book<kBits>::kCentroids[static_cast<size_t>(level)];
  return code >= kHalf ? magnitude : -magnitude;
}

template <int kBits>
uint8_t CodeOf(float y) {
  int code = y >= 0.0f ? 1 : 0;
  for (const float t : Book<kBits>::kThresholds) code += (y >= t ? 1 : 0) + (y >= -t ? 1 : 0);
  return static_cast<uint8_t>(code);
}

void FlipSigns(const SignBits& bits, float* x) {
  for (int i = 0; i < kBlock; ++i) {
    if ((bits[static_cast<size_t>(i / 8)] >> (i % 8) & 1) != 0) x[i] = -x[i];
  }
}

// 128^-1/2 diag(last) H diag(first) x.
void Transform(const SignBits& first, const SignBits& last, float* x) {
  FlipSigns(first, x);
  Hadamard(x, kBlock);
  for (int i = 0; i < kBlock; ++i) x[i] *= kInverseRoot;
  FlipSigns(last, x);
}

template <int kBits>
constexpr size_t kHeadBytes = kBits == 4 ? 4 : 2;
template <int kBits>
constexpr size_t kBlockBytes = kHeadBytes<kBits> + PackedBytes(kBlock, kBits);

void PackBlock(const uint8_t* codes, int bits, std::byte* packed) {
  if (bits != 3) return PackCodes(codes, kBlock, bits, packed);
  uint8_t low[kBlock], high[kBlock];
  for (int i = 0; i < kBlock; ++i) {
    low[i] = codes[i] & 3;
    high[i] = static_cast<uint8_t>(codes[i] >> 2);
  }
  PackCodes(low, kBlock, 2, packed);
  PackCodes(high, kBlock, 1, packed + PackedBytes(kBlock, 2));
}

void UnpackBlock(const std::byte* packed, int bits, uint8_t* codes) {
  if (bits != 3) return UnpackCodes(packed, kBlock, bits, codes);
  uint8_t high[kBlock];
  UnpackCodes(packed, kBlock, 2, codes);
  UnpackCodes(packed + PackedBytes(kBlock, 2), kBlock, 1, high);
  for (int i = 0; i < kBlock; ++i) codes[i] = static_cast<uint8_t>(codes[i] | high[i] << 2);
}

template <int kBits>
void EncodeBlock(float* x, std::byte* block) {
  float norm2 = 0.0f;
  for (int i = 0; i < kBlock; ++i) norm2 += x[i] * x[i];
  const float norm = std::sqrt(norm2);
  const float inverse = norm > kSmallestNorm ? 1.0f / norm : 0.0f;
  for (int i = 0; i < kBlock; ++i) x[i] *= inverse;
  Transform(kBefore, kAfter, x);
  uint8_t codes[kBlock];
  float decoded2 = 0.0f;
  for (int i = 0; i < kBlock; ++i) {
    codes[i] = CodeOf<kBits>(x[i]);
    const float centroid = CentroidOf<kBits>(codes[i]);
    decoded2 += centroid * centroid;
  }
  std::fill_n(block, kHeadBytes<kBits>, std::byte{0});
  StoreHalf(norm / std::sqrt(decoded2), block);  // no table has a centroid 0
  PackBlock(codes, kBits, block + kHeadBytes<kBits>);
}

template <int kBits>
void DecodeBlock(const std::byte* block, float* x) {
  const float norm = LoadHalf(block);
  uint8_t codes[kBlock];
  UnpackBlock(block + kHeadBytes<kBits>, kBits, codes);
  for (int i = 0; i < kBlock; ++i) x[i] = CentroidOf<kBits>(codes[i]) * norm;
  Transform(kAfter, kBefore, x);
}

template <int kBits>
size_t RecordBytes(int head_dim) {
  return static_cast<size_t>((head_dim + kBlock - 1) / kBlock) * kBlockBytes<kBits>;
}

template <int kBits>
void Encode(const float* row, int head_dim, ScaleRule, std::byte* record) {
  for (int i = 0; i < head_dim; i += kBlock, record += kBlockBytes<kBits>) {
    float x[kBlock] = {};
    std::copy_n(row + i, std::min(kBlock, head_dim - i), x);
    EncodeBlock<kBits>(x, record);
  }
}

template <int kBits>
void Decode(const std::byte* record, int head_dim, float* row) {
  for (int i = 0; i < head_dim; i += kBlock, record += kBlockBytes<kBits>) {
    float x[kBlock];
    DecodeBlock<kBits>(record, x);
    std::copy_n(x, std::min(kBlock, head_dim - i), row + i);
  }
}

}  // namespace

template <int kBits>
Codec TurboBlockCodec(std::string_view name, std::string_view summary) {
  return {
      .info = {.name = name,
               .summary = summary,
               .source = "llama-cpp-turboquant, block_turbo2_0, block_turbo3_0 and block_turbo4_0",
               .code_bits = kBits,
               .keys = true,
               .values = true,
               .rotates = false,
               .scale_rules = false},
      .record_bytes = RecordBytes<kBits>,
      .encode = Encode<kBits>,
      .decode = Decode<kBits>};
}

template Codec TurboBlockCodec<2>(std::string_view, std::string_view);
template Codec TurboBlockCodec<3>(std::string_view, std::string_view);
template Codec TurboBlockCodec<4>(std::string_view, std::string_view);

}  // namespace polarquant
