// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page: slots of page memory and their counts.
#include "cache/page_pool.h"

#include <algorithm>
#include <bit>
#include <string>

#include "polarquant/error.h"

namespace polarquant {

PagePool::PagePool(size_t slot_bytes, bool padded)
    : slot_bytes_(padded ? SparseRange::RoundUp(slot_bytes) : slot_bytes), grows_(true) {}

PagePool::PagePool(size_t slot_bytes, int64_t num_slots, size_t bytes, std::byte* adopted)
    : slot_bytes_(slot_bytes), grows_(false), num_chunks_(1), num_slots_(num_slots) {
  chunks_[0] = std::make_unique<Chunk>(bytes, num_slots, adopted);
}

PagePool::Place PagePool::PlaceOf(int32_t slot) const {
  const auto number = static_cast<size_t>(slot);
  if (!grows_) return {0, number};
  const auto chunk =
      static_cast<size_t>(std::max<size_t>(std::bit_width(number / kFirstChunk + 1), 1) - 1);
  return {chunk, number - kFirstChunk * ((size_t{1} << chunk) - 1)};
}

int32_t PagePool::Take() {
  const std::scoped_lock lock(mutex_);
  if (free_.empty() && next_ == num_slots_ && grows_ && num_chunks_ < kMaxChunks) {
    const int64_t slots = kFirstChunk << num_chunks_;
    chunks_[num_chunks_] =
        std::make_unique<Chunk>(static_cast<size_t>(slots) * slot_bytes_, slots, nullptr);
    ++num_chunks_;
    num_slots_ += slots;
    free_.reserve(static_cast<size_t>(num_slots_));  // so that Give does not throw
  }
  if (free_.empty() && next_ == num_slots_) {
    throw Error(ErrorCode::kCapacity, "all " + std::to_string(num_slots_) +
                                          " page slots are taken; use fewer or shorter sequences");
  }
  int32_t slot = 0;
  if (free_.empty()) {
    slot = static_cast<int32_t>(next_++);
  } else {
    slot = free_.back();
    free_.pop_back();
  }
  Count(slot).store(1, std::memory_order_relaxed);
  return slot;
}

void PagePool::Claim(int32_t slot) { Count(slot).store(1, std::memory_order_relaxed); }

void PagePool::Share(int32_t slot) { Count(slot).fetch_add(1, std::memory_order_relaxed); }

bool PagePool::Give(int32_t slot) {
  // Release and acquire: what other owners did with the slot comes before its next life.
  if (Count(slot).fetch_sub(1, std::memory_order_acq_rel) > 1) return false;
  const std::scoped_lock lock(mutex_);
  const Place place = PlaceOf(slot);
  Chunk& chunk = *chunks_[place.chunk];
  const size_t os = SparseRange::OsPageBytes();
  const size_t begin = place.index * slot_bytes_;
  const size_t end = std::min(begin + slot_bytes_, chunk.memory.bytes());
  size_t first = begin / os, last = (end + os - 1) / os;  // and neighbours may need the outer two
  if (first < last && AnyUsed(chunk, first * os, (first + 1) * os)) ++first;
  if (first < last && AnyUsed(chunk, (last - 1) * os, last * os)) --last;
  chunk.memory.Release(first, last);
  if (grows_) free_.push_back(slot);
  return true;
}

bool PagePool::AnyUsed(const Chunk& chunk, size_t begin, size_t end) const {
  for (size_t slot = begin / slot_bytes_; slot * slot_bytes_ < end && slot < chunk.counts.size();
       ++slot) {
    if (chunk.counts[slot].load(std::memory_order_relaxed) > 0) return true;
  }
  return false;
}

void PagePool::Release(int32_t slot, size_t begin, size_t end) {
  const Place place = PlaceOf(slot);
  const size_t os = SparseRange::OsPageBytes();
  const size_t offset = place.index * slot_bytes_;
  SparseRange& memory = chunks_[place.chunk]->memory;
  const size_t first = (offset + begin + os - 1) / os;
  const size_t last = std::min(offset + end, memory.bytes()) / os;
  memory.Release(first, last);
}

}  // namespace polarquant
