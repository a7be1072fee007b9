// SPDX-License-Identifier: Apache-2.0
// Stage 4 and 5, pack and page. A page is `page_tokens` rows of one kv_head and role, encoded
// together: codes, scales, and a header with the page's statistics (empty for most schemes).
// FORMAT.md gives every byte. Nothing here owns memory; all functions are thread-safe, and throw
// Error(kParameter) for rows that a page does not have.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "polarquant/scheme.h"
#include "polarquant/target.h"

namespace polarquant {

struct Codec;  // codecs/codec.h

inline constexpr int kMaxPageTokens = 256;

// How a head's centred keys are weighed against its queries before they are rotated.
struct KeyMap {
  std::span<const float> balance;               // [head_dim], for `balance`
  std::span<const float> dense, dense_inverse;  // [head_dim][head_dim], for `dense`
};

class PageFormat {
 public:
  // The role decides the tile order: keys have tokens as lanes, values channels. page_tokens: 64,
  // 128 or 256. Throws Error(kUnsupported) for a head_dim or page_tokens outside the limits, for a
  // role that the codec does not store, and for values with a scheme that weighs keys against
  // queries. `map` is the head's (polarquant/key_profile.h), for a scheme that has one; without it
  // the format knows its sizes, and encoding and decoding throw Error(kParameter). The stepped
  // centre is not the page's business: rows come without it. `target` encodes and decodes.
  PageFormat(const Scheme& scheme, Role role, int head_dim, int page_tokens = 128,
             const KeyMap& map = {}, const Target& target = DefaultTarget());
  ~PageFormat();
  PageFormat(PageFormat&&) noexcept;
  PageFormat& operator=(PageFormat&&) noexcept;

  const Scheme& scheme() const;
  const Codec& codec() const;
  Role role() const;
  int head_dim() const;
  int page_tokens() const;

  size_t record_bytes() const;    // one row: scales and codes
  size_t header_bytes() const;    // statistics that a row is encoded with, 0 for most schemes
  int group_tokens() const;       // neighbours that share a header: page_tokens for most schemes
  size_t headers_bytes() const;   // of all groups of a page
  size_t page_bytes() const;      // everything, a multiple of 64
  double bits_per_value() const;  // of a full page, everything counted

  // Encodes `rows` [count][head_dim] f32 into `page` (page_bytes() bytes); rows past `count` are
  // encoded as zeros. Rows whose bit in `outside` is set (row r: word r/64, bit r%64; may be null)
  // are encoded but do not enter the statistics. NaN counts as 0 and infinities are clamped to
  // +-65504. Uses the fast encoder of the target where there is one.
  void EncodePage(const float* rows, int count, std::byte* page,
                  const uint64_t* outside = nullptr) const;
  // Decodes rows 0..count-1 into `rows` [count][head_dim], un-rotated, mean added.
  void DecodePage(const std::byte* page, int count, float* rows) const;

  // Rows first, first + 1, ... of a page from `rows` [count][head_dim], with the statistics the
  // page already has; all other rows stay as they are. A page of zeros is one of rows not written
  // yet, for a scheme without headers: they decode as zeros.
  void EncodeRows(std::byte* page, int first, int count, const float* rows) const;
  // One row, and back.
  void EncodeRow(std::byte* page, int index, const float* row) const;
  void DecodeRow(const std::byte* page, int index, float* row) const;
  // For pages of several groups: the statistics of row `index`'s group anew, from `rows`
  // [count][head_dim]. What is encoded in the group already loses its meaning.
  void LearnGroup(std::byte* page, int index, const float* rows, int count) const;

  // The row's record in row order (record_bytes() bytes: scales, then codes packed least
  // significant bit first), wherever the page keeps its parts. Bit-exact both ways.
  void ReadRecord(const std::byte* page, int index, std::byte* record) const;
  void WriteRecord(std::byte* page, int index, const std::byte* record) const;
  // The same for rows first, first + 1, ..., whose records lie `stride` bytes apart.
  void ReadRecords(const std::byte* page, int first, int count, std::byte* records,
                   size_t stride) const;
  void WriteRecords(std::byte* page, int first, int count, const std::byte* records,
                    size_t stride) const;
  // The header of row `index` (header_bytes() bytes), which its neighbours share.
  std::span<const std::byte> Header(const std::byte* page, int index = 0) const;
  std::span<std::byte> Header(std::byte* page, int index = 0) const;

  // For attention: rows as the codec decodes them, still balanced and rotated and without the mean
  // [count][head_dim]; and the mean in the original space (false and untouched if there is none).
  void DecodeCodes(const std::byte* page, int count, float* rows_rot) const;
  bool Mean(const std::byte* page, float* mean) const;
  // For attention: what keys were mapped by is undone on the queries instead, before they are
  // rotated. `queries` [count][head_dim], in place. Nothing happens without a map.
  void MapQueries(float* queries, int count) const;
  // Then into the space of DecodeCodes, in place. Nothing happens if the scheme does not rotate.
  void RotateQueries(float* queries, int count) const;
  size_t map_bytes() const;

  // Where the parts of a page lie, for kernels. Tile codecs (turbo2..4) keep their codes in tile
  // order (format/tile_layout.h) followed by scale_blocks() arrays of page_tokens f16 scales.
  bool tiled() const;
  int code_bits() const;
  int scale_blocks() const;
  size_t scales_offset() const;
  size_t header_offset() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace polarquant
