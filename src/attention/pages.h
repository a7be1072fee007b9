// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend, page by page: the logits of a page's keys and the weighted sum of its values,
// wherever their rows live. Codes are read as they are; exact copies win over them; pages whose
// rows have headers of their own are decoded.
#pragma once

#include <cstdint>

#include "attention/plan.h"
#include "codecs/codec.h"
#include "kernels/kernels.h"
#include "polarquant/paged_rows.h"

namespace polarquant {

// Records, `count` rows one after another, to f32 rows.
using DecodeRecords = void(const std::byte* records, int count, int head_dim, float* rows);

// The keys or the values of a call and how their codes are read.
struct Side {
  const Kernels* kernels = nullptr;
  const PagedRows* store = nullptr;
  const Codec* codec = nullptr;
  const TileKernels* tiles = nullptr;  // null: codes are decoded to f32 rows
  DecodeRecords* decode = nullptr;     // null: by the page's format
  int head_dim = 0;
  int page_tokens = 0;
  bool codes = false;    // pages may have codes at all
  bool rotated = false;  // codes are in the rotated space
  float sharpen = 1.0f;  // what logits of codes are multiplied by
  bool mapped = false;   // and queries are mapped first, against what keys were mapped by

  Side(const Kernels& with, const PagedRows& of);
};

// Null where the target has none for the codec.
const TileKernels* TilesFor(const Kernels& kernels, const Codec& codec);
DecodeRecords* DecoderFor(const Kernels& kernels, const Codec& codec);

// Query rows of one kv_head.
struct QueryRows {
  int rows;
  const float* plain;         // [rows][head_dim]
  const float* mapped;        // and rotated as the codes are
  const std::byte* prepared;  // for tiles
  const float* centre;        // weighed for the centre, if there is one (SteppedCentre::Weigh)
};

// A page of one kv_head, and the codes of the page that is read after it (null if unknown): they
// are fetched into the cache meanwhile.
struct PageRef {
  int kv_head;
  PageWork work;
  PageView view;
  const std::byte* next = nullptr;
};

// logits[r * stride + slot] for the slots of the page's work (others of it may be overwritten).
// `scratch` holds ScratchFloats() floats.
int64_t ScratchFloats(const Side& keys, const Side& values, int rows);
void ScorePage(const Side& keys, const PageRef& page, const QueryRows& queries, float* scratch,
               float* logits, int64_t stride);

// plain += and rotated += weights times the values of the page's work. `sums`[r] is the sum of a
// row's weights over it. May overwrite the weights of the whole page. The accumulators are [rows]
// [head_dim], the same one when codes are not rotated.
void AccumulatePage(const Side& values, const PageRef& page, int rows, float* weights,
                    int64_t stride, const float* sums, float* scratch, float* plain,
                    float* rotated);

}  // namespace polarquant
