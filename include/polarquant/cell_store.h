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
#include "polarquant/page.h"
#include "polarquant/scheme.h"

namespace polarquant {

struct MemoryUse {
  // Bytes resident now.
  size_t exact_bytes = 0;   // exact rows (window, sinks, open pages), in whole OS pages
  size_t code_bytes = 0;    // codes and scales of closed pages
  size_t header_bytes = 0;  // statistics of closed pages
  size_t bookkeeping_bytes = 0;
  size_t total() const { return exact_bytes + code_bytes + header_bytes + bookkeeping_bytes; }
  // For comparison and for true bits a value.
  int64_t filled_cells = 0;  // cells written and not cleared
  int64_t exact_cells = 0;   // of them, those read from an exact copy
  size_t f16_bytes = 0;      // what the filled cells would take in 16 bit
  MemoryUse& operator+=(const MemoryUse& other);
};

class RotatingCentre;  // math/rotating_centre.h

// One page of one kv_head as attention reads it.
struct PageView {
  const std::byte* page = nullptr;  // encoded page, null while the page is open (all rows exact)
  bool mixed = false;               // rows of several headers: decode with DecodeCells only
  // Cells with an exact copy, which wins over the codes: slot s is word s/64, bit s%64.
  uint64_t exact[kMaxPageTokens / 64] = {};
  // With a rotating centre: slot s has position positions[s], or first_position + s if null.
  const int32_t* positions = nullptr;
  int32_t first_position = 0;
};

class CellStore {
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
  ~CellStore();
  CellStore(const CellStore&) = delete;
  CellStore& operator=(const CellStore&) = delete;

  static size_t exact_range_bytes(const Config& config);

  const Config& config() const;
  // Sizes are the same for all kv_heads.
  const PageFormat& format(int kv_head = 0) const;
  // Whether the scheme stores the exact f16 rows and nothing ever closes.
  bool exact_only() const;

  // Writes rows: `rows` [cells.size()] at row_stride floats apart, each num_kv_heads * head_dim
  // f32, rounded to f16 (NaN to 0, infinities and overflow to +-65504). Cells must be distinct and
  // in range. `positions` [cells.size()] are those RoPE turned the rows by; a scheme with a
  // rotating centre needs them, others ignore them.
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

  // The row as attention sees it, num_kv_heads * head_dim f32 (zeros if never written).
  void ReadRow(int64_t cell, float* row) const;
  // Rows of one kv_head of one page, [page_tokens][head_dim] f32, wherever they live.
  void DecodeCells(int64_t page, int kv_head, float* rows) const;

  // Saved rows take exactly saved_row_bytes() = num_kv_heads * head_dim * 2 bytes: exact rows as
  // they are, coded rows as a marked record with the page's header, so that a load restores the
  // very codes. can_save() is false where the record does not fit, and with a rotating centre (an
  // exact row leaves no room for its position); SaveRow then throws Error(kUnsupported) naming the
  // scheme.
  size_t saved_row_bytes() const;
  bool can_save() const;
  void SaveRow(int64_t cell, std::byte* saved) const;
  void LoadRow(int64_t cell, const std::byte* saved);

  // For attention.
  int64_t num_pages() const;
  const RotatingCentre* centre(int kv_head) const;  // null without one
  PageView View(int64_t page, int kv_head) const;
  const uint16_t* exact_rows() const;  // f16, the range described above
  int64_t exact_row_stride() const;    // num_kv_heads * head_dim

  MemoryUse memory() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace polarquant
