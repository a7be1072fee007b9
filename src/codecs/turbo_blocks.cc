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
// The 4-bit table is the fork's: too narrow for a rotated row, D = 0.018. `table=lloyd` has the
// Lloyd-Max quantiser of a channel of a random unit vector of 128 in the same layout, D = 0.0092;
// the fork cannot read that. Sums run in the order of the channels, as the fork's do.
#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <vector>

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

constexpr int kMaxLevels = 8;

// A block's layout and the positive half of its table, for rows of norm 1; the negative half
// mirrors it.
struct Book {
  int bits;
  size_t head_bytes;  // before the codes
  std::array<float, kMaxLevels> centroids;
  std::array<float, kMaxLevels - 1> thresholds;

  int half() const { return 1 << (bits - 1); }
  size_t block_bytes() const { return head_bytes + PackedBytes(kBlock, bits); }

  float CentroidOf(int code) const {
    const int level = code >= half() ? code - half() : half() - 1 - code;
    const float magnitude = centroids[static_cast<size_t>(level)];
    return code >= half() ? magnitude : -magnitude;
  }

  uint8_t CodeOf(float y) const {
    int code = y >= 0.0f ? 1 : 0;
    for (size_t i = 0; i + 1 < static_cast<size_t>(half()); ++i) {
      code += (y >= thresholds[i] ? 1 : 0) + (y >= -thresholds[i] ? 1 : 0);
    }
    return static_cast<uint8_t>(code);
  }
};

constexpr Book kFork2 = {2, 2, {0.039994f, 0.133462f}, {0.086728f}};
constexpr Book kFork3 = {
    3, 2, {0.021460f, 0.065717f, 0.117832f, 0.190685f}, {0.043589f, 0.091775f, 0.154259f}};
constexpr Book kFork4 = {
    4,
    4,
    {0.006938f, 0.020989f, 0.035597f, 0.051262f, 0.068756f, 0.089527f, 0.117195f, 0.173926f},
    {0.013963f, 0.028293f, 0.043430f, 0.060009f, 0.079142f, 0.103361f, 0.145560f}};
// Thresholds are midway.
constexpr Book kLloyd4 = {
    4,
    4,
    {0.011302f, 0.034152f, 0.057772f, 0.082828f, 0.110288f, 0.141805f, 0.180836f, 0.237664f},
    {0.022727f, 0.045962f, 0.070300f, 0.096558f, 0.1260465f, 0.1613205f, 0.20925f}};

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

class TurboBlockCoder final : public Coder {
 public:
  TurboBlockCoder(const Book& book, int head_dim) : book_(book), head_dim_(head_dim) {}

  size_t record_bytes() const override {
    return static_cast<size_t>((head_dim_ + kBlock - 1) / kBlock) * book_.block_bytes();
  }

  void Encode(const std::byte*, const float* row, std::byte* record) const override {
    for (int i = 0; i < head_dim_; i += kBlock, record += book_.block_bytes()) {
      float x[kBlock] = {};
      std::copy_n(row + i, std::min(kBlock, head_dim_ - i), x);
      EncodeBlock(x, record);
    }
  }

  void Decode(const std::byte*, const std::byte* record, float* row) const override {
    for (int i = 0; i < head_dim_; i += kBlock, record += book_.block_bytes()) {
      float x[kBlock];
      DecodeBlock(record, x);
      std::copy_n(x, std::min(kBlock, head_dim_ - i), row + i);
    }
  }

 private:
  void EncodeBlock(float* x, std::byte* block) const {
    float norm2 = 0.0f;
    for (int i = 0; i < kBlock; ++i) norm2 += x[i] * x[i];
    const float norm = std::sqrt(norm2);
    const float inverse = norm > kSmallestNorm ? 1.0f / norm : 0.0f;
    for (int i = 0; i < kBlock; ++i) x[i] *= inverse;
    Transform(kBefore, kAfter, x);
    uint8_t codes[kBlock];
    float decoded2 = 0.0f;
    for (int i = 0; i < kBlock; ++i) {
      codes[i] = book_.CodeOf(x[i]);
      const float centroid = book_.CentroidOf(codes[i]);
      decoded2 += centroid * centroid;
    }
    std::fill_n(block, book_.head_bytes, std::byte{0});
    StoreHalf(norm / std::sqrt(decoded2), block);  // no table has a centroid 0
    PackBlock(codes, book_.bits, block + book_.head_bytes);
  }

  void DecodeBlock(const std::byte* block, float* x) const {
    const float norm = LoadHalf(block);
    uint8_t codes[kBlock];
    UnpackBlock(block + book_.head_bytes, book_.bits, codes);
    for (int i = 0; i < kBlock; ++i) x[i] = book_.CentroidOf(codes[i]) * norm;
    Transform(kAfter, kBefore, x);
  }

  const Book& book_;
  int head_dim_;
};

template <int kBits>
std::unique_ptr<const Coder> Make(const Scheme& scheme, const RowShape& shape) {
  const Book* book = kBits == 2 ? &kFork2 : kBits == 3 ? &kFork3 : &kFork4;
  if (kBits == 4 && OptionOf(scheme, "table") == 1) book = &kLloyd4;
  return std::make_unique<TurboBlockCoder>(*book, shape.head_dim);
}

}  // namespace

template <int kBits>
Codec TurboBlockCodec(std::string_view name, std::string_view summary) {
  std::vector<CodecOption> options;
  if (kBits == 4) {
    options = {{.name = "table",
                .summary = "of centroids: the fork's, or one without its fault, that the fork "
                           "cannot read",
                .words = {"fork", "lloyd"}}};
  }
  return {
      .info = {.name = name,
               .summary = summary,
               .source = "llama-cpp-turboquant, block_turbo2_0, block_turbo3_0 and block_turbo4_0",
               .code_bits = kBits,
               .keys = true,
               .values = true,
               .rotates = false,
               .scale_rules = false,
               .options = options},
      .make = Make<kBits>};
}

template Codec TurboBlockCodec<2>(std::string_view, std::string_view);
template Codec TurboBlockCodec<3>(std::string_view, std::string_view);
template Codec TurboBlockCodec<4>(std::string_view, std::string_view);

}  // namespace polarquant
