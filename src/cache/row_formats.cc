// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page: limits, and the page formats of the kv_heads.
#include "cache/row_formats.h"

#include <algorithm>
#include <span>
#include <string>

#include "polarquant/error.h"

namespace polarquant {

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

std::vector<PageFormat> FormatsOf(const PagedRows::Shape& shape, const KeyProfile* profile) {
  const Scheme& scheme = shape.scheme;
  std::vector<PageFormat> formats;
  const Normalisation& normalisation = scheme.normalisation;
  if (!normalisation.needs_profile()) {
    formats.emplace_back(scheme, shape.role, shape.head_dim, shape.page_tokens);
    return formats;
  }
  const auto head_dim = static_cast<size_t>(std::max(shape.head_dim, 0));
  if (profile != nullptr) profile->Check(shape.num_kv_heads, shape.head_dim);
  const auto lacks = [&](bool needed, std::vector<float> KeyProfile::*list) {
    return needed && (profile == nullptr || (profile->*list).empty());
  };
  const char* missing = lacks(normalisation.balance, &KeyProfile::balance)  ? "balanced"
                        : lacks(normalisation.dense, &KeyProfile::dense)    ? "mapped"
                        : lacks(normalisation.step != 0, &KeyProfile::mean) ? "centred"
                                                                            : nullptr;
  if (missing != nullptr) {
    throw Error(ErrorCode::kParameter,
                "scheme " + scheme.ToString() +
                    " needs the model's profile, which says how its keys are " + missing +
                    "; make one with `polarquant tune" + (normalisation.dense ? " --dense`" : "`"));
  }
  if (normalisation.step != 0 && profile->rope.dims > 0 && profile->rope.frequencies.empty()) {
    throw Error(ErrorCode::kParameter, "scheme " + scheme.ToString() +
                                           " needs the frequencies of RoPE, which the host did "
                                           "not say; use " +
                                           scheme.codec + ":balance:center");
  }
  for (size_t head = 0; head < static_cast<size_t>(shape.num_kv_heads); ++head) {
    const auto part = [&](std::span<const float> all, size_t size) {
      return all.empty() ? all : all.subspan(head * size, size);
    };
    const KeyMap map = {part(profile->balance, head_dim), part(profile->dense, head_dim * head_dim),
                        part(profile->dense_inverse, head_dim * head_dim)};
    formats.emplace_back(scheme, shape.role, shape.head_dim, shape.page_tokens, map);
  }
  return formats;
}

std::vector<SteppedCentre> CentresOf(const PagedRows::Shape& shape, const KeyProfile* profile) {
  std::vector<SteppedCentre> centres;
  const int step = shape.scheme.normalisation.step;
  if (step == 0 || profile == nullptr) return centres;
  const auto head_dim = static_cast<size_t>(shape.head_dim);
  const auto table = StepTable::Share(profile->rope, step);
  for (size_t head = 0; head < static_cast<size_t>(shape.num_kv_heads); ++head) {
    centres.emplace_back(table, std::span(profile->mean).subspan(head * head_dim, head_dim));
  }
  return centres;
}

}  // namespace polarquant
