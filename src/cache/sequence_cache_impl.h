// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page. The inside of the sequence cache, which its file reads and writes.
#pragma once

#include <cstdint>

#include "cache/page_store.h"
#include "polarquant/sequence_cache.h"

namespace polarquant {

struct SequenceCache::Impl {
  explicit Impl(const Config& checked);

  int64_t FirstCell() const { return first_page * config.page_tokens; }  // the token cell 0 is
  bool NeedsProfile() const { return !keys.ready(); }
  void Retire(PageStore* rows, int64_t from, int64_t boundary) const;  // tokens

  Config config;
  PageStore keys, values;
  int64_t length = 0;
  int64_t first_token = 0;
  int64_t first_page = 0;  // held, from the sequence's beginning
  int64_t retired = 0;     // tokens before this one have left the window
};

}  // namespace polarquant
