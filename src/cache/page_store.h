// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page. The keys or the values of one layer: a page table over two pools, one of codes
// and one of exact rows (f16). The cell store and the sequence cache are policies over this: which
// row goes where, and when its exact copy may go.
//
//   page_store.cc   write, retire, forget, read; the table and its slots
//   page_close.cc   codecs with statistics of a page: rows wait exact until it closes
//   page_rows.cc    rows as bytes (saved rows), copied between stores, changed where they lie
//
// Rows that stand alone (a scheme without a page header) are coded when they are written, and the
// newest and first ones lie exact beside their codes, which attention prefers. An exact copy goes
// when its row is retired. Nothing closes, nothing is coded twice, and every edit is right because
// a row's bytes depend on the row, its position and the profile alone. Where a profile is needed
// and not known yet, rows are exact only, and coded when it comes.
//
// Exact rows spell their position in the lowest mantissa bits of their first values
// (row_formats.h): so a saved row knows where it was, and the window can follow positions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include "cache/page_entry.h"
#include "cache/page_pool.h"
#include "cache/row_formats.h"
#include "polarquant/paged_rows.h"
#include "polarquant/rows.h"
#include "util/os_pages.h"

namespace polarquant {

class PageStore final : public PagedRows {
 public:
  // For sequences: pools that grow and forks share.
  PageStore(const Shape& shape, int sink_tokens, std::shared_ptr<const KeyProfile> profile);
  // For cells: page p has slot p of both pools; exact rows lie in `exact_memory` if it is given, as
  // the host lays out its own cache.
  PageStore(const Shape& shape, int sink_tokens, std::shared_ptr<const KeyProfile> profile,
            int64_t num_cells, std::byte* exact_memory);
  PageStore(const PageStore& other);  // shares every slot
  PageStore& operator=(const PageStore&) = delete;
  ~PageStore() override;

  // ---- As attention sees it.
  const Shape& shape() const override { return shape_; }
  int64_t num_cells() const override { return num_cells_; }
  const PageFormat& format(int kv_head) const override { return formats_->Of(kv_head); }
  bool exact_only() const override { return exact_only_; }
  const SteppedCentre* centre(int kv_head) const override { return formats_->CentreOf(kv_head); }
  PageView View(int64_t page, int kv_head) const override;
  void ReadRow(int64_t cell, float* row) const override;

  // ---- Writing. A run is `count` rows into consecutive slots of one page, from row `row` of the
  // host's on.
  struct Run {
    int64_t page;
    int slot, count;
    int64_t row;
  };
  // `positions` [rows]: each in [0, 2^24). Runs of one page lie side by side. Throws without having
  // changed a row.
  void Write(std::span<const Run> runs, const HostRows& rows, const int32_t* positions,
             int num_threads);
  // These rows of a page have left the window.
  void Retire(int64_t page, const PageBits& slots);
  // Closes pages of retired rows; partial ones beyond `max_partial_pages` close short, oldest
  // first. Nothing to do where rows stand alone.
  void CloseRetired(int max_partial_pages, int num_threads);
  void Forget(int64_t page, const PageBits& slots);
  void Clear();
  // Without a profile rows are kept exact. Codes what is there.
  void SetProfile(std::shared_ptr<const KeyProfile> profile, int num_threads);
  bool ready() const { return formats_->ready; }
  bool stands_alone() const { return !exact_only_ && format(0).header_bytes() == 0; }
  // Positions matter to the codes: keys with a centre that turns.
  bool needs_positions() const { return needs_positions_; }

  // ---- Reading.
  // One kv_head of a page, [page_tokens][head_dim]; zeros where nothing was written.
  void DecodePage(int64_t page, int kv_head, float* rows) const;
  // Cells [first, first + count).
  void Read(int64_t first, int64_t count, float* rows, int64_t row_stride, int64_t head_stride,
            int num_threads) const;
  int32_t PositionOf(int64_t cell) const;  // of an exact row

  // ---- Sequences: what the table ends with, and begins with.
  void SetEnd(int64_t num_cells);  // grows, or forgets the cells from there on
  void DropPages(int64_t count);   // from the front: cells are renumbered

  // ---- Rows as bytes and in bulk (page_rows.cc).
  size_t row_values() const { return static_cast<size_t>(exact_row_stride()); }
  size_t row_bytes() const { return row_values() * sizeof(uint16_t); }
  bool can_save() const;
  void Save(int64_t first, int64_t count, std::byte* saved, int num_threads) const;
  void Load(int64_t first, int64_t count, const std::byte* saved, int num_threads);
  void CopyFrom(const PageStore& other, int64_t first, int64_t count);
  void Transform(int64_t page, const PageBits& slots,
                 const std::function<void(int64_t cell, float* row)>& change,
                 const std::function<int32_t(int64_t cell)>& shift);
  // Throws Error(kParameter) if a row that says its position would be shifted out of range.
  void CheckShift(int64_t page, const PageBits& slots,
                  const std::function<int32_t(int64_t cell)>& shift) const;
  uint16_t SchemeTag() const;

  // ---- The table, for policies and files.
  const std::vector<PageEntry>& pages() const { return pages_; }
  int64_t exact_rows() const { return num_exact_; }
  int64_t PageOf(int64_t cell) const { return cell / shape_.page_tokens; }
  int SlotOf(int64_t cell) const { return static_cast<int>(cell % shape_.page_tokens); }
  int64_t CellOf(int64_t page, int slot) const { return page * shape_.page_tokens + slot; }
  size_t codes_bytes() const {
    return static_cast<size_t>(shape_.num_kv_heads) * format(0).page_bytes();
  }
  std::byte* Codes(const PageEntry& page, int kv_head) const {
    return code_pool_->At(page.codes) + static_cast<size_t>(kv_head) * format(0).page_bytes();
  }
  uint16_t* ExactRow(const PageEntry& page, int slot) const {
    return reinterpret_cast<uint16_t*>(exact_pool_->At(page.exact_slot)) +
           static_cast<size_t>(slot) * row_values();
  }
  const PageEntry* Find(int64_t page) const;
  // A page read from a file: its exact rows and codes are filled in by the caller.
  const PageEntry& Restore(int64_t page, const PageBits& written, const PageBits& exact,
                           bool coded);
  // Appends a page of a store whose pools are shared, as far as it is `written`; its first slot has
  // position `first`. False, and nothing happens, if rows are missing there.
  bool SharePage(const PageStore& other, int64_t page, const PageBits& written, int32_t first);

  // Adds the memory it holds to `use`; OS pages go to `exact` and `codes`, which count each once.
  void AddMemory(MemoryUse* use, OsPages* exact, OsPages* codes, std::set<const void*>* seen) const;

 private:
  PageEntry& Need(int64_t page);   // made if it is not there
  void OwnCodes(PageEntry& page);  // a slot of its own, with what was there
  void OwnExact(PageEntry& page);
  void GiveSlots(PageEntry& page);
  void ReleaseExact(int64_t page, const PageBits& slots);  // memory of rows that are exact no more
  void NotePosition(PageEntry& page, int slot, int32_t position);
  int CellsIn(int64_t page) const;  // that it has, or can have
  // visit(run, kv_head, scratch) on a team. The runs of a page stay on one thread: in tiles, codes
  // of several rows share a byte.
  void ForEachHead(
      std::span<const Run> runs, int num_threads,
      const std::function<void(const Run&, int kv_head, std::vector<float>* scratch)>& visit) const;
  // Codes rows [slot, slot + count) of a kv_head from their exact copies.
  void EncodeExact(const PageEntry& page, int kv_head, int slot, int count,
                   std::vector<float>* scratch) const;
  void AddCentre(const PageEntry& page, int kv_head, int slot, int count, float sign,
                 float* rows) const;
  void CloseHead(const PageEntry& page, int64_t number, int kv_head, float* rows) const;

  Shape shape_;
  int sink_tokens_;
  bool exact_only_, needs_positions_, identity_;
  int64_t num_cells_;
  std::shared_ptr<const RowFormats> formats_;
  std::shared_ptr<PagePool> code_pool_, exact_pool_;
  std::vector<PageEntry> pages_;
  int64_t num_exact_ = 0;
  uint64_t clock_ = 0;
};

}  // namespace polarquant
