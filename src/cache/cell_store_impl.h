// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page. The inside of the cell store, shared by the files that implement it:
//
//   cell_store.cc   what a host calls: write, pin, clear, read
//   residency.cc    which memory is held, and handing it back
//   settle.cc       closing and patching what has left the window
//   transform.cc    changing rows in place (K-shift)
//   coded_rows.cc   rows that arrive as codes, with the statistics they were made with
//   saved_rows.cc   save, load and copy
//
// Two sparse ranges hold everything: the exact rows, laid out as the host lays out its cache, and
// the codes, where page p owns the slot of num_kv_heads encoded pages at p * slot_bytes. Pages
// fill in order, so slots lie side by side and waste nothing, and freeing one is a madvise.
//
// Exact rows are f16 whatever the scheme: with f32 or bf16 a row is rounded to f16 when it is
// written, and stored in its own format when its page closes.
//
// Which memory is resident follows from the bit sets alone: an OS page of exact rows is resident if
// a row in it is exact, an OS page of codes if a page in it has codes. Every function that takes
// such a bit away calls ReleaseExact or DropCodes, which keeps that true.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "cache/page_state.h"
#include "cache/sparse_range.h"
#include "math/stepped_centre.h"
#include "polarquant/cell_store.h"

namespace polarquant {

struct CellStore::Impl {
  Impl(const Config& checked, std::byte* exact_memory);

  // ---- Shapes.
  const Config config;
  const Shape shape;                         // the same, as attention asks for it
  const std::vector<PageFormat> formats;     // one for all kv_heads, or one each with `balance`
  const std::vector<SteppedCentre> centres;  // of the kv_heads, or none
  const PageFormat& format;                  // for sizes
  const bool exact_only;
  const int64_t num_pages;
  const size_t head_dim, num_kv_heads, page_tokens;
  const size_t row_values;    // num_kv_heads * head_dim
  const size_t row_bytes;     // of an exact row
  const size_t slot_bytes;    // the encoded pages of all kv_heads of one page
  const uint16_t scheme_tag;  // of saved rows (saved_rows.cc)

  // ---- State.
  SparseRange exact_range;
  std::optional<SparseRange> codes;  // not with exact_only
  PageTable pages;                   // null until a row of the page is written
  uint64_t writes = 0;               // rows written so far: the clock of the window
  PageQueue recent{Queue::kRecent};
  PageQueue partial{Queue::kPartial};

  // ---- Places.
  const PageState* Find(int64_t page) const { return pages[static_cast<size_t>(page)].get(); }
  PageState& Need(int64_t page);  // creates it
  int64_t PageOf(int64_t cell) const { return cell / static_cast<int64_t>(page_tokens); }
  int SlotOf(int64_t cell) const {
    return static_cast<int>(cell % static_cast<int64_t>(page_tokens));
  }
  int64_t CellOf(int64_t page, int slot) const {
    return page * static_cast<int64_t>(page_tokens) + slot;
  }
  bool needs_positions() const { return !centres.empty() && centres.front().turns(); }
  int CellsIn(int64_t page) const;  // page_tokens, fewer in the last page
  uint16_t* ExactRow(int64_t cell) const {
    return reinterpret_cast<uint16_t*>(exact_range.data()) + static_cast<size_t>(cell) * row_values;
  }
  std::byte* Codes(int64_t page, size_t head) const {
    return codes->data() + static_cast<size_t>(page) * slot_bytes + head * format.page_bytes();
  }
  const PageFormat& FormatOf(size_t head) const { return formats[formats.size() == 1 ? 0 : head]; }
  // rows [count][head_dim] of slots [slot, slot + count) += sign * the stepped centre,
  // where they were written.
  void AddCentre(int64_t page, size_t head, int slot, int count, float sign, float* rows) const;
  void CheckCells(std::span<const int64_t> cells) const;  // in range and distinct
  void CheckRange(int64_t first, int64_t count) const;
  void CheckPage(int64_t page, int kv_head) const;

  static uint16_t SchemeTag(const Config& config);

  // ---- Order. A page is queued exactly if it has loose rows (never with exact_only).
  void Touch(int64_t page);          // makes it the newest page, as old as the newest write
  void UnqueueIfDone(int64_t page);  // after rows were pinned or forgotten
  void Unqueue(int64_t page);

  // ---- Residency (residency.cc).
  void ReleaseExact(int64_t page);  // OS pages of the page's rows without any exact row
  void DropCodes(int64_t page);
  void Forget(int64_t page, const PageBits& slots);
  void ForgetAll();
  bool AnyExact(int64_t first_cell, int64_t end_cell) const;
  bool AnyCodes(int64_t first_page, int64_t end_page) const;
  MemoryUse Memory() const;

  // ---- Reading.
  void DecodeRow(int64_t page, size_t head, int slot, float* row) const;  // of a coded row
  void DecodeCells(int64_t page, size_t head, float* rows) const;
  void ReadRow(int64_t cell, float* row) const;

  // ---- Encoding (settle.cc, transform.cc).
  void Settle(int num_threads);
  // Encodes one kv_head of a page from `rows` [page_tokens][head_dim], zeros where nothing was
  // written. Pinned and unwritten rows stay out of the statistics. Overwrites the rows.
  void EncodeHead(int64_t page, size_t head, float* rows) const;
  // One kv_head of `slots`, from `rows` [page_tokens][head_dim], into a page whose other codes
  // stay: with the statistics the page has, except that a group of rows among several of a page
  // gets statistics of its own if no code that stays was made with those it has. Overwrites the
  // rows.
  void PatchHead(int64_t page, size_t head, const PageBits& slots, float* rows) const;
  void TransformPage(int64_t page, const PageBits& cells,
                     const std::function<void(int64_t cell, float* row)>& change,
                     const std::function<int32_t(int64_t cell)>& shift);

  // ---- Rows that arrive as codes (coded_rows.cc).
  std::span<const std::byte> HeaderOf(int64_t page, size_t head, int slot) const;
  // The row's statistics and record, num_kv_heads of each, bit-exact both ways.
  void ReadCoded(int64_t cell, std::byte* headers, std::byte* records) const;
  void InstallCoded(int64_t cell, const std::byte* headers, const std::byte* records);
  uint8_t HeaderIndex(int64_t page, int slot, const std::byte* headers);
  void TidyMixed(PageState& state) const;  // drops the table of headers when no row needs it
  void InstallExact(int64_t cell, const uint16_t* row);
  void CopyPage(const Impl& other, int64_t page);
  void CopyCell(const Impl& other, int64_t cell);

  // Cells in groups by page, pages ascending.
  struct PageCells {
    int64_t page;
    PageBits slots;
  };
  std::vector<PageCells> ByPage(std::span<const int64_t> cells) const;
};

}  // namespace polarquant
