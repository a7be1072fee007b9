// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page. The one owner of page memory: slots of equal size, each counted by how many page
// tables name it. A table is integers: a fork copies them and shares the slots, and whoever is
// about to write to a slot that others share takes one of its own.
//
// Memory is virtual and zero-filled; what was never written is not resident, and what nobody needs
// goes back to the system in whole OS pages. It is the pool's own, or adopted from a host that laid
// it out itself (a cache tensor, the block pool of an engine): then slot s is at s * slot_bytes of
// it, and the host's numbers are used with Claim.
//
// Thread-safe, except that a slot's bytes belong to whoever holds it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "util/sparse_range.h"

namespace polarquant {

class PagePool {
 public:
  // Grows without an end, a chunk at a time; slots are padded to whole OS pages if `padded`.
  explicit PagePool(size_t slot_bytes, bool padded);
  // `num_slots` side by side, the last perhaps cut short at `bytes`, in memory of its own or in
  // `adopted` (see SparseRange).
  PagePool(size_t slot_bytes, int64_t num_slots, size_t bytes, std::byte* adopted);
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  size_t slot_bytes() const { return slot_bytes_; }  // from one slot to the next
  std::byte* At(int32_t slot) const {
    const Place place = PlaceOf(slot);
    return chunks_[place.chunk]->memory.data() + place.index * slot_bytes_;
  }

  int32_t Take();            // a free slot, counted once
  void Claim(int32_t slot);  // this one, which must be free
  void Share(int32_t slot);  // counted once more
  // Counted once less; returns whether it is free now and its memory went back.
  bool Give(int32_t slot);
  bool IsShared(int32_t slot) const { return Count(slot).load(std::memory_order_acquire) > 1; }

  // Hands back the whole OS pages within bytes [begin, end) of a slot.
  void Release(int32_t slot, size_t begin, size_t end);

 private:
  struct Chunk {
    Chunk(size_t bytes, int64_t slots, std::byte* adopted)
        : memory(bytes, adopted), counts(static_cast<size_t>(slots)) {}
    SparseRange memory;
    std::vector<std::atomic<int32_t>> counts;
  };
  struct Place {
    size_t chunk, index;
  };
  static constexpr int64_t kFirstChunk = 16;  // slots; each chunk is twice the one before
  static constexpr size_t kMaxChunks = 27;    // so that every slot has a number of 31 bits

  Place PlaceOf(int32_t slot) const;
  std::atomic<int32_t>& Count(int32_t slot) const {
    const Place place = PlaceOf(slot);
    return chunks_[place.chunk]->counts[place.index];
  }
  // Whether any slot that overlaps bytes [begin, end) of a chunk is in use.
  bool AnyUsed(const Chunk& chunk, size_t begin, size_t end) const;

  size_t slot_bytes_;
  bool grows_;
  std::unique_ptr<Chunk> chunks_[kMaxChunks];  // never move, so that At needs no lock
  std::mutex mutex_;                           // of what follows, and of chunks that come
  size_t num_chunks_ = 0;
  int64_t num_slots_ = 0;
  std::vector<int32_t> free_;  // slots given back
  int64_t next_ = 0;           // slots from here on were never taken
};

}  // namespace polarquant
