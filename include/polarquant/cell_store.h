// SPDX-License-Identifier: Apache-2.0
// Stage 5, the cell store: the keys or the values of one layer (all its kv_heads), addressed by
// cell number, written in any order, overwritten, read through the host's mask.
//
// Rows are written exact (f16) into a virtual range laid out as the host lays out its own cache:
// cell c, kv_head h, channel i at index (c * num_kv_heads + h) * head_dim + i. Nothing of it is
// resident before it is written. Cell c is slot c % page_tokens of page c / page_tokens. A page
// whose cells are all written and none of them among the newest `window_tokens` rows closes:
// every kv_head's rows are encoded at once and the exact rows give their memory back. Sinks stay
// exact beside their codes. A write into a closed page gives that row an exact copy again; once it
// has left the window the page closes afresh (all rows rewritten) or those rows are patched with
// the statistics the page has. No row is quantised twice.
//
// Threads: calls on one store must not overlap, except the const ones among themselves.
// Functions that take num_threads use that many threads themselves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
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
    int max_partial_pages = 8;
    // For schemes that need it (Normalisation::needs_profile): the balance scale, or the mean with
    // RoPE and its frequencies, of this layer's heads. Its pairing must be the model's.
    std::shared_ptr<const KeyProfile> profile;
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
  const Shape& shape() const override;
  int64_t num_cells() const override;
  const PageFormat& format(int kv_head = 0) const override;
  bool exact_only() const override;

  // Writes rows: `rows` [cells.size()] at row_stride floats apart, each num_kv_heads * head_dim
  // f32, rounded to f16 (NaN to 0, infinities and overflow to +-65504). Cells must be distinct and
  // in range. `positions` [cells.size()] are those RoPE turned the rows by; a scheme with
  // center=step needs them, from 0 on, where RoPE turns; others ignore them.
  void Write(std::span<const int64_t> cells, const float* rows, int64_t row_stride, int num_threads,
             const int32_t* positions = nullptr);
  // Closes and patches what has left the window. Call after attention has read the batch.
  void Settle(int num_threads);
  // Keeps these cells exact until they are written again. A cell whose exact copy is already gone
  // stays as it is.
  void PinSinks(std::span<const int64_t> cells);

  // K-shift and the like: rows of `cells` are decoded, changed by `change(cell, row)` (row is
  // num_kv_heads * head_dim f32) and stored back as they were: exact rows exact, coded rows coded
  // (a page all of whose rows change gets fresh statistics). `change` may run on any thread.
  // `shifts` [cells.size()] is what is added to the positions of the rows, as for Write.
  void Transform(std::span<const int64_t> cells,
                 const std::function<void(int64_t cell, float* row)>& change, int num_threads,
                 const int32_t* shifts = nullptr);

  // Forgets every row and gives all memory back.
  void Clear();
  // Forgets the rows of [first, first + count).
  void ClearCells(int64_t first, int64_t count);
  // Copies rows bit-exactly from a store of equal config (their cells map one to one).
  void CopyFrom(const CellStore& other, int64_t first, int64_t count);

  void ReadRow(int64_t cell, float* row) const override;
  void DecodeCells(int64_t page, int kv_head, float* rows) const override;

  // Saved rows take exactly saved_row_bytes() = num_kv_heads * head_dim * 2 bytes: exact rows as
  // they are, coded rows as a marked record with the page's header, so that a load restores the
  // very codes. can_save() is false where the record does not fit, and with a stepped centre (an
  // exact row leaves no room for its position); SaveRow then throws Error(kUnsupported) naming the
  // scheme.
  size_t saved_row_bytes() const;
  bool can_save() const;
  void SaveRow(int64_t cell, std::byte* saved) const;
  void LoadRow(int64_t cell, const std::byte* saved);

  // For attention.
  int64_t num_pages() const;
  const SteppedCentre* centre(int kv_head) const override;
  PageView View(int64_t page, int kv_head) const override;
  const uint16_t* exact_rows() const;  // f16, the range described above

  MemoryUse memory() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace polarquant
