// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page. The inside of the sequence cache, which its file reads and writes.
#pragma once

#include <cstdint>

#include "cache/sequence_rows.h"
#include "polarquant/sequence_cache.h"

namespace polarquant {

struct SequenceCache::Impl {
  explicit Impl(const Config& checked);

  // Pages that end here or before have left the window.
  int64_t Boundary() const { return length - config.window_tokens; }
  bool NeedsProfile() const;  // and has none yet

  Config config;
  SequenceRows keys, values;
  int64_t length = 0;
  int64_t first_token = 0;
};

}  // namespace polarquant
