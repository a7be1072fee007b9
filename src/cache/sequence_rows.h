// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page. One role of a sequence cache: its rows in pages that forks share.
//
// A page is open (exact rows only), closed (codes, and exact copies of the sinks in it) or reopened
// (closed, then cut by a truncation and appended to: the rows since are exact until the page leaves
// the window again and they are patched in). Whoever writes to a page that has other owners copies
// it first. Closing is no such write: a page that several owners hold open is encoded by the first
// of them that needs it closed, and the others take what it made.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "cache/page_bits.h"
#include "cache/sparse_range.h"
#include "math/stepped_centre.h"
#include "polarquant/page.h"
#include "polarquant/sequence_cache.h"

namespace polarquant {

using PageFormats = std::vector<PageFormat>;  // one for all kv_heads, or one each

struct SequencePage {
  struct Free {
    void operator()(std::byte* bytes) const;
  };
  std::unique_ptr<std::byte[], Free> codes;    // [num_kv_heads][page_bytes], null while open
  std::shared_ptr<const PageFormats> formats;  // that made them
  std::unique_ptr<SparseRange> rows;  // f16 [slots of it][row values], null without exact rows
  PageBits exact;                     // slots with an exact copy

  std::mutex closing;                    // of what follows
  std::shared_ptr<SequencePage> closed;  // what another owner closed this open page to
};

class SequenceRows final : public PagedRows {
 public:
  SequenceRows(const Shape& shape, int sink_tokens, const KeyProfile* profile);

  // Without a profile, keys that need one can be kept and read exact; see SetProfile.
  void SetProfile(const KeyProfile& profile);

  void Append(const HostRows& rows, int64_t count, int num_threads);
  // Closes or patches the pages that end at or before token `boundary`.
  void Settle(int64_t boundary, int num_threads);
  bool HasUnsettled(int64_t boundary) const;
  void Truncate(int64_t length);
  // Drops the pages that end at or before `token`.
  void DropBefore(int64_t token);
  void Clear();
  void Read(int64_t first, int64_t count, float* rows, int64_t row_stride, int64_t head_stride,
            int num_threads) const;

  // Bytes of pages and formats already in `seen` are left out.
  MemoryUse Memory(int64_t first_token, std::set<const void*>* seen) const;

  const Shape& shape() const override { return shape_; }
  int64_t num_cells() const override { return end_ - FirstCell(); }
  const PageFormat& format(int kv_head) const override {
    return (*formats_)[formats_->size() == 1 ? 0 : static_cast<size_t>(kv_head)];
  }
  bool exact_only() const override { return exact_only_; }
  const SteppedCentre* centre(int kv_head) const override {
    return centres_->empty() ? nullptr : &(*centres_)[static_cast<size_t>(kv_head)];
  }
  PageView View(int64_t page, int kv_head) const override;
  void DecodeCells(int64_t page, int kv_head, float* rows) const override;
  void ReadRow(int64_t cell, float* row) const override;

  // The token that cell 0 is.
  int64_t FirstCell() const { return first_page_ * shape_.page_tokens; }

 private:
  friend struct SequenceFile;

  size_t row_values() const { return static_cast<size_t>(exact_row_stride()); }
  size_t codes_bytes() const {
    return format(0).page_bytes() * static_cast<size_t>(shape_.num_kv_heads);
  }
  uint16_t* ExactRow(const SequencePage& page, int slot) const {
    return reinterpret_cast<uint16_t*>(page.rows->data()) +
           static_cast<size_t>(slot) * row_values();
  }
  std::byte* Codes(const SequencePage& page, int kv_head) const {
    return page.codes.get() + static_cast<size_t>(kv_head) * format(0).page_bytes();
  }
  PageBits SinksOf(int64_t page) const;  // slots of a page, counted among those held
  std::unique_ptr<std::byte[], SequencePage::Free> NewCodes() const;
  // Memory for exact rows up to the last of `slots`, with those that are exact in `from`.
  std::unique_ptr<SparseRange> NewRows(const PageBits& slots, const SequencePage& from) const;
  SequencePage& Own(int64_t page);  // made this cache's alone, to write to
  std::shared_ptr<SequencePage> ClosedByOther(SequencePage& page) const;  // null: nobody did
  // One kv_head of a page from its exact rows: all of them, or the loose ones into codes that stay.
  // `page` is the number of the page among those held.
  void EncodeHead(int64_t page, const PageBits& sinks, int kv_head, SequencePage* to,
                  float* scratch) const;
  void PatchHead(int64_t page, const PageBits& loose, int kv_head, SequencePage* to,
                 float* scratch) const;
  // Slots that were never written are left alone.
  void DecodePage(int64_t page, int kv_head, float* rows) const;
  // rows [count][head_dim] of a page from `slot` on += sign * the stepped centre. A token's
  // position is its number.
  void AddCentre(int64_t page, int kv_head, int slot, int count, float sign, float* rows) const;

  Shape shape_;
  int sink_tokens_;
  bool exact_only_;
  std::shared_ptr<const PageFormats> formats_;
  std::shared_ptr<const std::vector<SteppedCentre>> centres_;  // of the kv_heads, or none
  std::vector<std::shared_ptr<SequencePage>> pages_;
  int64_t first_page_ = 0;  // number of the first page held, from the sequence's beginning
  int64_t end_ = 0;         // tokens, those dropped from the front included
  int64_t settled_ = 0;     // pages held that have nothing left to close or patch
};

}  // namespace polarquant
