// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page: what the cell store and the sequence cache share: limits, and the page formats of
// the kv_heads.
#pragma once

#include <cstdint>
#include <vector>

#include "math/stepped_centre.h"
#include "polarquant/key_profile.h"
#include "polarquant/page.h"
#include "polarquant/paged_rows.h"

namespace polarquant {

// Below this many values a second thread costs more than it brings.
inline constexpr size_t kValuesPerThread = 16384;

// Throws Error(kParameter) unless low <= value <= high.
void CheckValue(const char* name, int64_t value, int64_t low, int64_t high);
void CheckLimits(int num_kv_heads, int window_tokens, int sink_tokens);

// Whether the exact f16 rows are the scheme's own format, so that nothing is ever encoded.
bool KeepsExactRows(const Scheme& scheme);

// One for all kv_heads, or one each where the scheme needs a profile. Throws Error(kParameter) if
// the profile does not say what the scheme needs; kUnsupported as PageFormat does.
std::vector<PageFormat> FormatsOf(const PagedRows::Shape& shape, const KeyProfile* profile);

// The stepped centres of the kv_heads; none where the scheme subtracts none, or without a profile.
std::vector<SteppedCentre> CentresOf(const PagedRows::Shape& shape, const KeyProfile* profile);

}  // namespace polarquant
