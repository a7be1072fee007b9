// SPDX-License-Identifier: Apache-2.0
// Host: C. What is behind the handles.
#pragma once

#include <memory>

#include "polarquant/cell_store.h"
#include "polarquant/key_profile.h"
#include "polarquant/page.h"
#include "polarquant/polarquant.h"
#include "polarquant/sequence_cache.h"

struct pq_page_format {
  polarquant::PageFormat format;
};

struct pq_cell_store {
  explicit pq_cell_store(const polarquant::CellStore::Config& config) : store(config) {}
  polarquant::CellStore store;
};

struct pq_sequence_cache {
  polarquant::SequenceCache cache;
};

struct pq_saved_sequences {
  polarquant::SavedSequences saved;
};

namespace polarquant::c {

// The caller's profile of num_kv_heads heads, copied and checked; null for null.
std::shared_ptr<const KeyProfile> ProfileOf(const pq_key_profile* given, int32_t num_kv_heads,
                                            int32_t head_dim);
Rope RopeOf(pq_rope_pairing pairing, int32_t dims);

pq_memory_use MemoryUseOf(const MemoryUse& memory);

}  // namespace polarquant::c
