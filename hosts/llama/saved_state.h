// SPDX-License-Identifier: Apache-2.0
// Rows as bytes: saving, loading, copying and decoding ranges of a cache tensor. Offsets are bytes
// from the tensor's start, in its f16 layout; ranges need not begin or end at a row. See buffer.h
// for what happens to rows that cannot be saved or loaded.
//
// Hold the cache's mutex.
#pragma once

#include <cstddef>
#include <span>

#include "kv_cache.h"

namespace polarquant::llama {

void SaveBytes(KvTensor& tensor, size_t offset, std::span<std::byte> out);
// Rows of zeros are forgotten rather than stored. A row split over several calls is kept until it
// is whole; the parts must arrive in order.
void LoadBytes(KvTensor& tensor, size_t offset, std::span<const std::byte> in);
// The rows as attention sees them, in f16.
void DecodeBytes(KvTensor& tensor, size_t offset, std::span<std::byte> out);
// Returns false if the ranges do not lie alike in their streams.
bool CopyRows(KvTensor& source, size_t source_offset, KvTensor& target, size_t target_offset,
              size_t bytes);

}  // namespace polarquant::llama
