// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: kivi2 and kivi4 (Liu et al., KIVI 2024). Keys have loud channels, values have
// none, so keys get a grid for each channel and values one for each token, both on bare rows
// (codecs/affine.h). With d = head_dim and g = group (32, 64 or 128):
//
//   keys    header of g consecutive tokens: for each channel f16 scale, f16 shift, 4 d bytes
//           record: d codes packed (codecs/pack.h)
//   values  record: for each g channels (the last group may be shorter) f16 scale, f16 shift, then
//           the codes: int2 and int4 with groups of another size
//
// 32 / g bits a value more than the codes. A key that is patched into a group is clamped to the
// ends of its channels.
#include <string>

#include "codecs/affine.h"
#include "codecs/codecs.h"
#include "codecs/pack.h"
#include "math/rotation.h"
#include "polarquant/error.h"

namespace polarquant {
namespace {

constexpr std::string_view kGroupOption = "group";
constexpr int kLeastGroup = 32;  // word 0 of the option; each further word doubles it

class KiviKeys final : public Coder {
 public:
  KiviKeys(int bits, int head_dim, int group) : bits_(bits), head_dim_(head_dim), group_(group) {}

  size_t record_bytes() const override { return PackedBytes(head_dim_, bits_); }
  size_t header_bytes() const override { return static_cast<size_t>(head_dim_) * kAffineBytes; }
  int group_tokens() const override { return group_; }

  void Learn(const float* rows, int count, std::byte* header) const override {
    for (int c = 0; c < head_dim_; ++c, header += kAffineBytes) {
      float low = count > 0 ? rows[c] : 0.0f, high = low;
      for (int r = 1; r < count; ++r) {
        low = std::min(low, rows[r * head_dim_ + c]);
        high = std::max(high, rows[r * head_dim_ + c]);
      }
      StoreAffine(low, high, bits_, header);
    }
  }

  void Encode(const std::byte* header, const float* row, std::byte* record) const override {
    uint8_t codes[kMaxHeadDim];
    for (int c = 0; c < head_dim_; ++c, header += kAffineBytes) {
      codes[c] = LoadAffine(header).CodeOf(row[c], bits_);
    }
    PackCodes(codes, head_dim_, bits_, record);
  }

  void Decode(const std::byte* header, const std::byte* record, float* row) const override {
    uint8_t codes[kMaxHeadDim];
    UnpackCodes(record, head_dim_, bits_, codes);
    for (int c = 0; c < head_dim_; ++c, header += kAffineBytes) {
      row[c] = LoadAffine(header).ValueOf(codes[c]);
    }
  }

 private:
  int bits_, head_dim_, group_;
};

template <int kBits>
std::unique_ptr<const Coder> Make(const Scheme& scheme, const RowShape& shape) {
  const int group = kLeastGroup << OptionOf(scheme, kGroupOption);
  if (shape.role == Role::kValue) {
    return MakeAffineRows(kBits, shape.head_dim, group, AffineFit::kMinMax);
  }
  if (group > shape.page_tokens) {
    throw Error(ErrorCode::kUnsupported, "codec " + scheme.codec + ": groups of " +
                                             std::to_string(group) + " keys do not fit pages of " +
                                             std::to_string(shape.page_tokens) +
                                             " tokens; choose a smaller group or a larger page");
  }
  return std::make_unique<KiviKeys>(kBits, shape.head_dim, group);
}

}  // namespace

template <int kBits>
Codec KiviCodec(std::string_view name, std::string_view summary) {
  return {.info = {.name = name,
                   .summary = summary,
                   .source = "KIVI (Liu et al. 2024)",
                   .code_bits = kBits,
                   .keys = true,
                   .values = true,
                   .rotates = false,
                   .scale_rules = false,
                   .normalises = false,  // a channel's grid moves with its mean and its size
                   .options = {{.name = kGroupOption,
                                .summary = "tokens (keys) or channels (values) that share a grid",
                                .words = {"32", "64", "128"}}}},
          .make = Make<kBits>};
}

template Codec KiviCodec<2>(std::string_view, std::string_view);
template Codec KiviCodec<4>(std::string_view, std::string_view);

}  // namespace polarquant
