// SPDX-License-Identifier: Apache-2.0
// Host: Python. Rows to pages and back for arrays of any leading dimensions: the rows of each
// leading index, [n][head_dim], take pages of their own, ceil(n / page_tokens) of them, one after
// another. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "arrays.h"
#include "polarquant/page.h"

namespace polarquant::python {

class PageCodec {
 public:
  // `role`: "key" or "value". `balance` [head_dim] and `dense` [head_dim][head_dim] are empty or
  // the maps of the keys' head.
  PageCodec(const std::string& scheme, const std::string& role, int head_dim, int page_tokens,
            const std::vector<float>& balance, const std::vector<float>& dense);

  const PageFormat& format() const { return format_; }
  int64_t PagesOf(int64_t num_rows) const;  // of one leading index
  int64_t PagesOf(const std::vector<int64_t>& shape) const;

  // Shapes were checked: `rows` [..., n, head_dim], `queries` [..., m, head_dim], `logits`
  // [..., m, n] f32, with the same leading dimensions.
  void Encode(const View& rows, std::byte* pages, int num_threads) const;
  void Decode(const std::byte* pages, const View& rows, int num_threads) const;
  void Score(const View& queries, const std::byte* pages, float scale, const View& logits,
             int num_threads) const;
  // The records of num_rows rows of one leading index after another, record_bytes() each.
  void ReadRecords(const std::byte* pages, int64_t num_leading, int64_t num_rows,
                   std::byte* records, int num_threads) const;

 private:
  PageFormat format_;
};

}  // namespace polarquant::python
