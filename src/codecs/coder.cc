// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: codecs with everything decided (codecs/codec.h).
#include <string>

#include "codecs/codec.h"
#include "polarquant/error.h"

namespace polarquant {
namespace {

// A codec of plain functions.
class RowCoder final : public Coder {
 public:
  RowCoder(const Codec& codec, ScaleRule rule, int head_dim)
      : codec_(codec), rule_(rule), head_dim_(head_dim) {}
  size_t record_bytes() const override { return codec_.record_bytes(head_dim_); }
  void Encode(const std::byte*, const float* row, std::byte* record) const override {
    codec_.encode(row, head_dim_, rule_, record);
  }
  void Decode(const std::byte*, const std::byte* record, float* row) const override {
    codec_.decode(record, head_dim_, row);
  }

 private:
  const Codec& codec_;
  ScaleRule rule_;
  int head_dim_;
};

}  // namespace

void Coder::Learn(const float*, int, std::byte*) const {}

std::unique_ptr<const Coder> MakeCoder(const Scheme& scheme, const RowShape& shape) {
  const Codec& codec = FindCodec(scheme.codec);
  if (codec.make != nullptr) return codec.make(scheme, shape);
  return std::make_unique<RowCoder>(codec, scheme.scale_rule, shape.head_dim);
}

std::string ValuesOf(const CodecOption& option) {
  if (option.words.empty()) {
    return std::to_string(option.least) + ".." + std::to_string(option.most);
  }
  std::string text;
  for (const std::string_view word : option.words) {
    if (!text.empty()) text += '|';
    text += word;
  }
  return text;
}

std::string SpellingOf(const CodecOption& option, int value) {
  const auto index = static_cast<size_t>(value);
  return index < option.words.size() ? std::string(option.words[index]) : std::to_string(value);
}

int OptionOf(const Scheme& scheme, std::string_view name) {
  const auto set = scheme.options.find(std::string(name));
  if (set != scheme.options.end()) return set->second;
  for (const CodecOption& option : FindCodec(scheme.codec).info.options) {
    if (option.name == name) return option.usual;
  }
  throw Error(ErrorCode::kFormat,
              "codec " + scheme.codec + " has no option \"" + std::string(name) + "\"");
}

}  // namespace polarquant
