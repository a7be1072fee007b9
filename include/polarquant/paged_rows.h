// SPDX-License-Identifier: Apache-2.0
// Stage 5, as attention sees it: the keys or the values of one layer in pages. The cell store is
// that (polarquant/cell_store.h), and so is each half of a sequence cache
// (polarquant/sequence_cache.h).
#pragma once

#include <cstddef>
#include <cstdint>

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

class SteppedCentre;  // math/stepped_centre.h

// One page of one kv_head as attention reads it.
struct PageView {
  const std::byte* page = nullptr;  // encoded page, null where no row is coded
  // Cells with an exact copy, which wins over the codes: slot s is word s/64, bit s%64.
  uint64_t exact[kMaxPageTokens / 64] = {};
  // f16: the exact copy of slot s is the head_dim values at s * exact_row_stride(). Null if none
  // of them has one.
  const uint16_t* exact_rows = nullptr;
  // With a centre: slot s has position positions[s], or first_position + s if null.
  const int32_t* positions = nullptr;
  int32_t first_position = 0;
};

// Cell c is slot c % page_tokens of page c / page_tokens. Const functions are thread-safe.
class PagedRows {
 public:
  struct Shape {
    Scheme scheme;
    Role role = Role::kKey;
    int head_dim = 0;
    int num_kv_heads = 0;
    int page_tokens = 128;
    const Target* target = nullptr;  // who codes the rows; null: DefaultTarget()
  };

  virtual ~PagedRows() = default;
  virtual const Shape& shape() const = 0;
  virtual int64_t num_cells() const = 0;  // that there are or can be
  // Sizes are the same for all kv_heads.
  virtual const PageFormat& format(int kv_head = 0) const = 0;
  // Whether the scheme stores the exact f16 rows and nothing ever closes.
  virtual bool exact_only() const = 0;
  virtual const SteppedCentre* centre(int kv_head) const = 0;  // null without one
  virtual PageView View(int64_t page, int kv_head) const = 0;
  // The row as attention sees it, num_kv_heads * head_dim f32 (zeros if never written).
  virtual void ReadRow(int64_t cell, float* row) const = 0;

  int64_t exact_row_stride() const {  // num_kv_heads * head_dim
    return int64_t{shape().num_kv_heads} * shape().head_dim;
  }

 protected:
  PagedRows() = default;
  PagedRows(const PagedRows&) = default;
  PagedRows& operator=(const PagedRows&) = default;
};

}  // namespace polarquant
