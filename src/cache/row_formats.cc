// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page: limits, how the rows of the kv_heads are coded, and exact rows.
#include "cache/row_formats.h"

#include <algorithm>
#include <span>
#include <string>

#include "cache/half_rows.h"
#include "math/rotation.h"
#include "polarquant/error.h"
#include "util/half.h"

namespace polarquant {
namespace {

constexpr int kSpellingBits = 32;  // 24 of the position, 8 of its check

int BitsAValue(int64_t row_values) { return row_values >= kSpellingBits ? 1 : 2; }

uint32_t Spelling(int32_t position) {
  const auto bits = static_cast<uint32_t>(position);
  return bits | ((bits * 0x9e3779b1u >> 24 ^ 0x5au) & 0xffu) << 24;
}

[[noreturn]] void ThrowUnknown(const Scheme& scheme) {
  const Normalisation& normalisation = scheme.normalisation;
  throw Error(ErrorCode::kParameter,
              "scheme " + scheme.ToString() +
                  " needs the model's profile, which says how its keys are " +
                  (normalisation.dense      ? "mapped"
                   : normalisation.step > 0 ? "centred"
                                            : "balanced") +
                  "; make one with `polarquant tune" + (normalisation.dense ? " --dense`" : "`"));
}

void CheckKnown(const Scheme& scheme, const KeyProfile& profile) {
  const Normalisation& normalisation = scheme.normalisation;
  if ((normalisation.balance && profile.balance.empty()) ||
      (normalisation.step > 0 && profile.mean.empty()) ||
      (normalisation.dense && profile.dense.empty())) {
    ThrowUnknown(scheme);
  }
  if (normalisation.step == 0 || profile.rope.dims == 0 || !profile.rope.frequencies.empty())
    return;
  throw Error(ErrorCode::kParameter,
              "scheme " + scheme.ToString() +
                  " needs the frequencies of RoPE, which the host did not say; use " +
                  scheme.codec + ":balance");
}

}  // namespace

MemoryUse& MemoryUse::operator+=(const MemoryUse& other) {
  exact_bytes += other.exact_bytes;
  code_bytes += other.code_bytes;
  header_bytes += other.header_bytes;
  bookkeeping_bytes += other.bookkeeping_bytes;
  filled_cells += other.filled_cells;
  exact_cells += other.exact_cells;
  f16_bytes += other.f16_bytes;
  return *this;
}

int TeamFor(int num_threads, int64_t jobs, int64_t values) {
  const int64_t useful = 1 + values / static_cast<int64_t>(kValuesPerThread);
  return static_cast<int>(std::clamp<int64_t>(std::min(jobs, useful), 1, std::max(num_threads, 1)));
}

void CheckValue(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return;
  throw Error(ErrorCode::kParameter, std::string(name) + " is " + std::to_string(value) +
                                         "; it must be between " + std::to_string(low) + " and " +
                                         std::to_string(high));
}

void CheckLimits(int num_kv_heads, int window_tokens, int sink_tokens) {
  CheckValue("num_kv_heads", num_kv_heads, 1, 65536);
  CheckValue("window_tokens", window_tokens, 0, 65536);
  CheckValue("sink_tokens", sink_tokens, 0, 1024);
}

bool KeepsExactRows(const Scheme& scheme) {
  return scheme.codec == "f16" && !scheme.normalisation.any() && !scheme.rotate;
}

RowFormats::RowFormats(const PagedRows::Shape& shape, std::shared_ptr<const KeyProfile> given)
    : profile(std::move(given)) {
  const Scheme& scheme = shape.scheme;
  if (!scheme.normalisation.needs_profile()) profile.reset();
  if (profile != nullptr) {
    profile->Check(shape.num_kv_heads, shape.head_dim);
    CheckKnown(scheme, *profile);
  }
  const Target& target = shape.target != nullptr ? *shape.target : DefaultTarget();
  ready = profile != nullptr || !scheme.normalisation.needs_profile();
  if (profile == nullptr) {
    formats.emplace_back(scheme, shape.role, shape.head_dim, shape.page_tokens, KeyMap(), target);
    return;
  }
  const auto head_dim = static_cast<size_t>(shape.head_dim);
  const auto table = scheme.normalisation.step > 0
                         ? StepTable::Share(profile->rope, scheme.normalisation.step)
                         : nullptr;
  for (size_t head = 0; head < static_cast<size_t>(shape.num_kv_heads); ++head) {
    const auto part = [&](std::span<const float> all, size_t size) {
      return all.empty() ? all : all.subspan(head * size, size);
    };
    const KeyMap map = {part(profile->balance, head_dim), part(profile->dense, head_dim * head_dim),
                        part(profile->dense_inverse, head_dim * head_dim)};
    formats.emplace_back(scheme, shape.role, shape.head_dim, shape.page_tokens, map, target);
    if (table != nullptr) centres.emplace_back(table, part(profile->mean, head_dim));
  }
}

size_t RowFormats::bytes() const {
  size_t bytes = sizeof(*this);
  for (const PageFormat& format : formats) bytes += format.map_bytes();
  for (const SteppedCentre& centre : centres) bytes += centre.bytes();
  return bytes;
}

void SpellPosition(int32_t position, int64_t row_values, int64_t begin, int64_t count,
                   uint16_t* values) {
  const int width = BitsAValue(row_values);
  const auto mask = static_cast<uint32_t>((1 << width) - 1);
  const uint32_t bits = Spelling(position);
  for (int64_t i = begin; i < std::min<int64_t>(begin + count, kSpellingBits / width); ++i) {
    uint16_t& value = values[i - begin];
    value = static_cast<uint16_t>((value & ~mask) | (bits >> (i * width) & mask));
  }
}

int32_t SpeltPosition(const uint16_t* row, int64_t row_values) {
  const int width = BitsAValue(row_values);
  const auto mask = static_cast<uint32_t>((1 << width) - 1);
  uint32_t bits = 0;
  for (int i = 0; i < kSpellingBits / width; ++i) bits |= (row[i] & mask) << (i * width);
  const auto position = static_cast<int32_t>(bits & kMaxPosition);
  return Spelling(position) == bits ? position : -1;
}

void StoreExact(const HostRows& from, int64_t row, int kv_head, int head_dim, int64_t row_values,
                int32_t position, uint16_t* to) {
  const int64_t at = row * from.row_stride + kv_head * from.head_stride;
  const auto count = static_cast<size_t>(head_dim);
  if (from.type == NumberType::kF32) {
    FloatsToHalves(static_cast<const float*>(from.data) + at, count, to);
  } else {
    float floats[kMaxHeadDim];
    const uint16_t* halves = static_cast<const uint16_t*>(from.data) + at;
    if (from.type == NumberType::kF16) {
      HalvesToFloats(halves, count, floats);
    } else {
      for (size_t i = 0; i < count; ++i) floats[i] = Bfloat16ToFloat(halves[i]);
    }
    FloatsToHalves(floats, count, to);
  }
  if (position >= 0) SpellPosition(position, row_values, int64_t{kv_head} * head_dim, head_dim, to);
}

}  // namespace polarquant
