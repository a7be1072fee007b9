// SPDX-License-Identifier: Apache-2.0
// Stage 5, the cell store: the keys or the values of one layer (all its kv_heads), addressed by
// cell number, written in any order, overwritten, read through the host's mask.
//
// A row is coded when it is written. The newest `window_tokens` rows of a sequence and its first
// `sink_tokens` (by position, whatever the order of writing) also lie exact (f16) beside their
// codes, and attention prefers the exact copy. It goes when the row is *retired*: by Settle, where
// the store holds one sequence, or by Retire, for hosts whose mask says who sees what. Cell c is
// slot c % page_tokens of page c / page_tokens; exact rows lie as the host lays out its own cache:
// cell c, kv_head h, channel i at index (c * num_kv_heads + h) * head_dim + i.
//
// What a code is depends on the row, its position and the profile alone, so rewinding, overwriting,
// restoring at another cell and writing out of order are right without a further thought. Only
// schemes with statistics of a page (`center`, `kivi`, `zscore` and the like) differ: their rows
// stay exact until all of a page's have been retired, and then close together; rows written into a
// closed page later join it with the statistics it has.
//
// Threads: calls on one store must not overlap, except the const ones among themselves.
// Functions that take num_threads use that many threads themselves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "polarquant/key_profile.h"
#include "polarquant/paged_rows.h"
#include "polarquant/scheme.h"

namespace polarquant {

class CellStore final : public PagedRows {
 public:
  struct Config {
    Scheme scheme;
    Role role = Role::kKey;  // decides the tile order of the pages
    int head_dim = 0;
    int num_kv_heads = 0;
    int64_t num_cells = 0;
    int page_tokens = 128;
    int window_tokens = 128;
    int sink_tokens = 16;
    // Of schemes with statistics of a page: partly filled pages kept exact before the oldest
    // closes.
    int max_partial_pages = 8;
    // Exact rows kept by Retire: those of this many windows. Sequences that a host has dropped
    // without a word still have theirs; beyond the limit the oldest go.
    int max_windows = 64;
    // For schemes that need it (Normalisation::needs_profile). Its pairing must be the model's. It
    // may come later (SetProfile): until then rows are kept exact.
    std::shared_ptr<const KeyProfile> profile;
    // Who codes the rows; null: DefaultTarget().
    const Target* target = nullptr;
  };

  // `exact_range`: zero-filled anonymous private memory of at least exact_range_bytes(), aligned to
  // the OS page, owned by the caller and outliving the store, whose pages the store hands back
  // with madvise; null lets the store map its own. Throws Error.
  explicit CellStore(const Config& config, std::byte* exact_range = nullptr);
  ~CellStore() override;
  CellStore(const CellStore&) = delete;
  CellStore& operator=(const CellStore&) = delete;

  static size_t exact_range_bytes(const Config& config);

  const Config& config() const;

  // Writes rows: `rows` [cells.size()] at row_stride floats apart, each num_kv_heads * head_dim
  // f32, rounded to f16 (NaN to 0, infinities and overflow to +-65504). Cells must be distinct and
  // in range. `positions` [cells.size()], each in [0, 2^24), are those RoPE turned the rows by; a
  // scheme with center=step needs them. Null: rows are numbered as they are written.
  void Write(std::span<const int64_t> cells, const float* rows, int64_t row_stride, int num_threads,
             const int32_t* positions = nullptr);
  // Retires what is window_tokens positions or more behind the newest row that is exact. For a
  // store of one sequence; call after attention has read the batch.
  void Settle(int num_threads);
  // The cells whose exact copies may go, by a mask (AttentionCall::mask over cells [0, num_cells)):
  // those that a query sees window_tokens positions or more behind the newest row it sees. Cells
  // that no query sees are other sequences' and stay.
  std::vector<int64_t> LeavingWindow(const uint16_t* mask, int64_t mask_stride, int num_queries,
                                     int64_t num_cells) const;
  void Retire(std::span<const int64_t> cells, int num_threads);

  // Where the scheme needs a profile and the store was made without one. Codes what is there.
  // Throws Error(kParameter) if there is one already or it does not fit.
  void SetProfile(std::shared_ptr<const KeyProfile> profile, int num_threads);
  bool needs_profile() const;  // and has none

  // K-shift and the like: rows of `cells` are decoded, changed by `change(cell, row)` (row is
  // num_kv_heads * head_dim f32) and stored back as they were: exact rows exact, coded rows coded.
  // `change` may run on any thread. `shifts` [cells.size()] is what is added to the positions of
  // the rows; null: nothing. Throws Error(kParameter), before anything changes, if a position would
  // leave its range.
  void Transform(std::span<const int64_t> cells,
                 const std::function<void(int64_t cell, float* row)>& change, int num_threads,
                 const int32_t* shifts = nullptr);

  // Forgets every row and gives all memory back.
  void Clear();
  // Forgets the rows of [first, first + count).
  void ClearCells(int64_t first, int64_t count);
  // Copies rows bit-exactly from a store of equal config (their cells map one to one). Schemes with
  // statistics of a page are copied by whole pages only; Error(kUnsupported) else, before anything
  // changes.
  void CopyFrom(const CellStore& other, int64_t first, int64_t count);

  // Saved rows take saved_row_bytes() = num_kv_heads * head_dim * 2 bytes each: exact rows as they
  // are, coded rows as marked records with their position, so that a load restores the very codes,
  // at any cell. can_save() is false where records do not fit or need statistics of a page; saving
  // then throws Error(kUnsupported) naming the scheme. Loading throws Error(kCorruption) for
  // damage, or for rows of another scheme or profile, before it changes anything.
  size_t saved_row_bytes() const;
  bool can_save() const;
  void SaveRows(int64_t first, int64_t count, std::byte* saved, int num_threads) const;
  void LoadRows(int64_t first, int64_t count, const std::byte* saved, int num_threads);

  // For attention.
  const Shape& shape() const override;
  int64_t num_cells() const override;
  const PageFormat& format(int kv_head = 0) const override;
  bool exact_only() const override;
  const SteppedCentre* centre(int kv_head) const override;
  PageView View(int64_t page, int kv_head) const override;
  void ReadRow(int64_t cell, float* row) const override;
  int64_t num_pages() const;
  // The cells with an exact copy, ascending, and the positions of their rows.
  std::vector<std::pair<int64_t, int32_t>> ExactCells() const;

  MemoryUse memory() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace polarquant
