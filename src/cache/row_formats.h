// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page: what the cell store and the sequence cache share: limits, how rows of each
// kv_head are coded, and what an exact row is.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "math/stepped_centre.h"
#include "polarquant/key_profile.h"
#include "polarquant/page.h"
#include "polarquant/paged_rows.h"
#include "polarquant/rows.h"

namespace polarquant {

// Below this many values a second thread costs more than it brings.
inline constexpr size_t kValuesPerThread = 16384;

// Threads for `jobs` independent pieces of work on `values` values in all.
int TeamFor(int num_threads, int64_t jobs, int64_t values);

// Throws Error(kParameter) unless low <= value <= high.
void CheckValue(const char* name, int64_t value, int64_t low, int64_t high);
void CheckLimits(int num_kv_heads, int window_tokens, int sink_tokens);

// Whether the exact f16 rows are the scheme's own format, so that nothing is ever encoded.
bool KeepsExactRows(const Scheme& scheme);

// How the rows of a layer's kv_heads are coded. Sizes are the same for all.
struct RowFormats {
  // Throws Error(kParameter) if the profile does not say what the scheme needs; kUnsupported as
  // PageFormat does. Without a profile where one is needed, sizes are known and nothing is coded.
  RowFormats(const PagedRows::Shape& shape, std::shared_ptr<const KeyProfile> profile);

  bool ready = true;
  std::vector<PageFormat> formats;     // one for all kv_heads, or one each
  std::vector<SteppedCentre> centres;  // none, or one each
  std::shared_ptr<const KeyProfile> profile;

  const PageFormat& Of(int kv_head) const {
    return formats[formats.size() == 1 ? 0 : static_cast<size_t>(kv_head)];
  }
  const SteppedCentre* CentreOf(int kv_head) const {
    return centres.empty() ? nullptr : &centres[static_cast<size_t>(kv_head)];
  }
  size_t bytes() const;
};

// Positions of rows: below 2^24.
inline constexpr int32_t kMaxPosition = (1 << 24) - 1;

// kv_head `kv_head` of an exact row, from a host's: rounded to f16 (NaN to 0, infinities and
// overflow to +-65504), and the row's position, with a check, in the lowest mantissa bits of its
// first values: a bit in each of 32, or two in each of 16 where a row has no more. That is the
// error of a rounding, in a few values, and lets a row be moved without a word about where it was.
// A negative position is not spelt.
void StoreExact(const HostRows& from, int64_t row, int kv_head, int head_dim, int64_t row_values,
                int32_t position, uint16_t* to);
// Into values [begin, begin + count) of a row, which `values` are.
void SpellPosition(int32_t position, int64_t row_values, int64_t begin, int64_t count,
                   uint16_t* values);
// Negative if the row spells none, as rows of other caches do.
int32_t SpeltPosition(const uint16_t* row, int64_t row_values);

}  // namespace polarquant
