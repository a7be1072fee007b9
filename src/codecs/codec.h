// SPDX-License-Identifier: Apache-2.0
// Stage 3, quantise. A codec turns one prepared row (normalised and rotated by others, never NaN or
// infinite) into its record and back. Most are data plus three functions, in one file and one row
// of the table. Those with options, or with statistics of the rows that are encoded together, make
// a Coder instead.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>

#include "polarquant/codec.h"
#include "polarquant/page.h"
#include "polarquant/scheme.h"

namespace polarquant {

// How a page holds the records of a codec: one after another, or codes in tile order with the
// scales apart (format/tile_layout.h).
enum class PageLayout { kRecords, kTiles };

// What a codec has to know of the rows before it sees one.
struct RowShape {
  int head_dim;
  int page_tokens = kMaxPageTokens;
  Role role = Role::kKey;
};

// A codec with everything about it decided. Thread-safe: nothing changes after it is made.
class Coder {
 public:
  virtual ~Coder() = default;
  virtual size_t record_bytes() const = 0;
  // Statistics that rows encoded together share, and how many neighbours in a page do: a divisor of
  // page_tokens, or 0 for the whole page. A codec of groups does not normalise: a page has one
  // mean.
  virtual size_t header_bytes() const { return 0; }
  virtual int group_tokens() const { return 0; }
  // Fills the header from `rows` [count][head_dim]; count may be 0.
  virtual void Learn(const float* rows, int count, std::byte* header) const;
  virtual void Encode(const std::byte* header, const float* row, std::byte* record) const = 0;
  virtual void Decode(const std::byte* header, const std::byte* record, float* row) const = 0;
};

// Kernels that read records as they are (kernels/kernels.h); without one, and without tiles,
// attention decodes them row by row.
enum class RecordKernel { kNone, kF16, kQ8_0, kQ4_0 };

struct Codec {
  CodecInfo info;
  // Either these three,
  size_t (*record_bytes)(int head_dim) = nullptr;
  void (*encode)(const float* row, int head_dim, ScaleRule rule, std::byte* record) = nullptr;
  void (*decode)(const std::byte* record, int head_dim, float* row) = nullptr;
  // or this one. Throws Error(kUnsupported) naming what it cannot do.
  std::unique_ptr<const Coder> (*make)(const Scheme& scheme, const RowShape& shape) = nullptr;

  PageLayout layout = PageLayout::kRecords;
  RecordKernel record_kernel = RecordKernel::kNone;
  // For kTiles: the number of f16 scales at the start of a record (codes follow, packed least
  // significant bit first), the 2^code_bits centroids on the int8 grid, ascending, and the unit
  // that turns them into standard deviations; a value is scale * unit * centroid.
  int (*scales_per_row)(int head_dim) = nullptr;
  const signed char* centroids = nullptr;
  float unit = 1.0f;
};

std::span<const Codec> CodecTable();
// Throws Error(kFormat) listing the names there are.
const Codec& FindCodec(std::string_view name);
// The codec of a scheme, whichever way it is made.
std::unique_ptr<const Coder> MakeCoder(const Scheme& scheme, const RowShape& shape);
// The value of an option of the scheme's codec, which must have it.
int OptionOf(const Scheme& scheme, std::string_view name);

}  // namespace polarquant
