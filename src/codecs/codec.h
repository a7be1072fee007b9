// SPDX-License-Identifier: Apache-2.0
// Stage 3, quantise. A codec is data plus two functions, in one file and one row of the table.
// It turns one prepared row (normalised and rotated by others, never NaN or infinite) into its
// record and back; it does not know pages.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "polarquant/codec.h"
#include "polarquant/scheme.h"

namespace polarquant {

// How a page holds the records of a codec: one after another, or codes in tile order with the
// scales apart (format/tile_layout.h).
enum class PageLayout { kRecords, kTiles };

struct Codec {
  CodecInfo info;
  PageLayout layout;
  // Number of f16 scales at the start of a record; codes follow, packed least significant bit
  // first. -1 for opaque records (foreign formats, plain numbers).
  int (*scales_per_row)(int head_dim);
  size_t (*record_bytes)(int head_dim);
  void (*encode)(const float* row, int head_dim, ScaleRule rule, std::byte* record);
  void (*decode)(const std::byte* record, int head_dim, float* row);
  // For kTiles: the 2^code_bits centroids on the int8 grid, ascending, and the unit that turns them
  // into standard deviations; a value is scale * unit * centroid. Null for kRecords.
  const signed char* centroids;
  float unit;
};

std::span<const Codec> CodecTable();
// Throws Error(kFormat) listing the names there are.
const Codec& FindCodec(std::string_view name);

}  // namespace polarquant
