// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend, page by page.
#include "attention/pages.h"

#include <algorithm>
#include <numeric>

#include "cache/page_bits.h"
#include "format/tile_layout.h"
#include "math/rotation.h"
#include "math/stepped_centre.h"

namespace polarquant {
namespace {

// The slots a tile kernel works on: whole tiles, and the whole page if its scales are several
// arrays of page_tokens.
struct TileRange {
  int begin, end;
};
TileRange TilesOf(const Side& side, const PageWork& work) {
  if (side.store->format().scale_blocks() != 1) return {0, side.page_tokens};
  return {work.begin / kTileTokens * kTileTokens,
          (work.end + kTileTokens - 1) / kTileTokens * kTileTokens};
}

const std::byte* CodesAt(const Side& side, const std::byte* page, int slot) {
  return page + static_cast<size_t>(slot / kTileTokens) *
                    TileBytes(side.codec->info.code_bits, side.head_dim);
}

const uint16_t* ScalesAt(const Side& side, const std::byte* page, int slot) {
  return reinterpret_cast<const uint16_t*>(page + side.store->format().scales_offset()) + slot;
}

const uint16_t* ExactRowAt(const Side& side, const PageRef& page, int slot) {
  return page.view.exact_rows + slot * side.store->exact_row_stride();
}

int64_t Ahead(const PageRef& page) { return page.next == nullptr ? 0 : page.next - page.view.page; }

PageBits ExactSlots(const PageView& view, const PageWork& work) {
  PageBits exact;
  std::copy(std::begin(view.exact), std::end(view.exact), exact.words);
  return exact.And(PageBits::Range(work.begin, work.end));
}

// Codes of slots [0, work.end) as f32 rows.
void DecodeTo(const Side& side, const std::byte* page, const PageWork& work, float* rows) {
  if (side.decode != nullptr) {
    side.decode(page, work.end, side.head_dim, rows);
  } else {
    side.store->format().DecodeCodes(page, work.end, rows);
  }
}

// The centre's share of the logits of slots [work.begin, work.end): one number for each query and
// step of positions.
void AddCentreScores(const Side& keys, const SteppedCentre& centre, const PageRef& page,
                     const QueryRows& queries, float* scratch, float* logits, int64_t stride) {
  StepTable& table = centre.table();
  const int terms = table.num_terms();
  const PageView& view = page.view;
  // `count` slots from `slot` on, of one step.
  const auto add = [&](int slot, int count, const float* scores, int64_t score_stride) {
    for (int r = 0; r < queries.rows; ++r) {
      const float score = scores[r * score_stride];
      float* row = logits + r * stride + slot;
      for (int i = 0; i < count; ++i) row[i] += score;
    }
  };
  const auto score = [&](int64_t step, int count) {
    keys.kernels->score_f32(queries.centre, terms, queries.rows, terms, table.Row(step), terms,
                            count, scratch, count);
  };
  const int end = page.work.end;
  if (view.positions != nullptr) {
    for (int slot = page.work.begin; slot < end;) {
      const int64_t step = centre.StepAt(view.positions[slot]);
      int next = slot + 1;
      while (next < end && centre.StepAt(view.positions[next]) == step) ++next;
      score(step, 1);
      add(slot, next - slot, scratch, 1);
      slot = next;
    }
    return;
  }
  for (int slot = page.work.begin; slot < end;) {  // as many steps at once as lie side by side
    const int64_t position = int64_t{view.first_position} + slot;
    const int64_t first = centre.StepAt(position);
    const int64_t last =
        std::min(centre.StepAt(int64_t{view.first_position} + end - 1),
                 first / StepTable::kChunkRows * StepTable::kChunkRows + StepTable::kChunkRows - 1);
    const int steps = static_cast<int>(last - first + 1);
    score(first, steps);
    for (int step = 0; step < steps; ++step) {
      const int64_t step_end = (first + step + 1) * table.step() - view.first_position;
      const int next = static_cast<int>(std::min<int64_t>(end, step_end));
      add(slot, next - slot, scratch + step, steps);
      slot = next;
    }
  }
}

}  // namespace

const TileKernels* TilesFor(const Kernels& kernels, const Codec& codec) {
  if (codec.layout != PageLayout::kTiles) return nullptr;
  const TileKernels* tiles = codec.info.code_bits == 2   ? &kernels.tile2
                             : codec.info.code_bits == 3 ? &kernels.tile3
                             : codec.info.code_bits == 4 ? &kernels.tile4
                                                         : nullptr;
  return tiles != nullptr && tiles->score != nullptr ? tiles : nullptr;
}

DecodeRecords* DecoderFor(const Kernels& kernels, const Codec& codec) {
  switch (codec.record_kernel) {
    case RecordKernel::kQ8_0:
      return kernels.decode_q8_0;
    case RecordKernel::kQ4_0:
      return kernels.decode_q4_0;
    case RecordKernel::kF16:  // a store of f16 has exact rows only
    case RecordKernel::kNone:
      break;
  }
  return nullptr;
}

Side::Side(const Kernels& with, const PagedRows& of)
    : kernels(&with),
      store(&of),
      codec(&of.format().codec()),
      tiles(TilesFor(with, *codec)),
      decode(DecoderFor(with, *codec)),
      head_dim(of.shape().head_dim),
      page_tokens(of.shape().page_tokens),
      codes(!of.exact_only()),
      rotated(codes && of.shape().scheme.rotate),
      sharpen(static_cast<float>(of.shape().scheme.sharpen) / 100.0f),
      mapped(codes &&
             (of.shape().scheme.normalisation.balance || of.shape().scheme.normalisation.dense)) {}

int64_t ScratchFloats(const Side& keys, const Side& values, int rows) {
  const int64_t decoded =
      static_cast<int64_t>(keys.page_tokens) * std::max(keys.head_dim, values.head_dim);
  const int64_t centred = static_cast<int64_t>(rows) * keys.page_tokens;
  return std::max(decoded, centred);
}

void ScorePage(const Side& keys, const PageRef& page, const QueryRows& queries, float* scratch,
               float* logits, int64_t stride) {
  const Kernels& kernels = *keys.kernels;
  const int head_dim = keys.head_dim, rows = queries.rows;
  const PageWork& work = page.work;
  const PageView& view = page.view;
  const auto score_exact = [&](int begin, int end) {
    kernels.score_f16(queries.plain, head_dim, rows, head_dim, ExactRowAt(keys, page, begin),
                      keys.store->exact_row_stride(), end - begin, logits + begin, stride);
  };
  if (view.page == nullptr) return score_exact(work.begin, work.end);
  const auto sharpen_and_score_exact = [&] {
    for (int r = 0; r < rows && keys.sharpen != 1.0f; ++r) {
      float* row = logits + r * stride;
      for (int slot = work.begin; slot < work.end; ++slot) row[slot] *= keys.sharpen;
    }
    ExactSlots(view, work).ForEachRun(score_exact);
  };
  if (keys.tiles != nullptr) {
    const TileRange range = TilesOf(keys, work);
    keys.tiles->score(*keys.codec, queries.prepared, rows, head_dim,
                      CodesAt(keys, view.page, range.begin), ScalesAt(keys, view.page, range.begin),
                      range.end - range.begin, Ahead(page), logits + range.begin, stride);
  } else {
    DecodeTo(keys, view.page, work, scratch);
    kernels.score_f32(queries.mapped, head_dim, rows, head_dim,
                      scratch + static_cast<int64_t>(work.begin) * head_dim, head_dim,
                      work.end - work.begin, logits + work.begin, stride);
  }
  float mean[kMaxHeadDim];
  if (keys.store->format().Mean(view.page, mean)) {  // <q, k> = <q, k - mean> + <q, mean>
    float* shifts = scratch;
    kernels.score_f32(queries.plain, head_dim, rows, head_dim, mean, head_dim, 1, shifts, 1);
    for (int r = 0; r < rows; ++r) {
      float* row = logits + r * stride;
      for (int slot = work.begin; slot < work.end; ++slot) row[slot] += shifts[r];
    }
  }
  if (const SteppedCentre* centre = keys.store->centre(page.kv_head)) {
    AddCentreScores(keys, *centre, page, queries, scratch, logits, stride);
  }
  sharpen_and_score_exact();
}

void AccumulatePage(const Side& values, const PageRef& page, int rows, float* weights,
                    int64_t stride, const float* sums, float* scratch, float* plain,
                    float* rotated) {
  const Kernels& kernels = *values.kernels;
  const int head_dim = values.head_dim;
  const PageWork& work = page.work;
  const PageView& view = page.view;
  const auto add_exact = [&](int begin, int end) {
    kernels.accumulate_f16(weights + begin, stride, rows, head_dim, ExactRowAt(values, page, begin),
                           values.store->exact_row_stride(), end - begin, plain, head_dim);
  };
  if (view.page == nullptr) return add_exact(work.begin, work.end);
  // Exact cells leave the weights of the codes.
  const PageBits exact = ExactSlots(view, work);
  exact.ForEachRun([&](int begin, int end) {
    add_exact(begin, end);
    for (int r = 0; r < rows; ++r) {
      std::fill(weights + r * stride + begin, weights + r * stride + end, 0.0f);
    }
  });
  if (values.tiles != nullptr) {
    const TileRange range = TilesOf(values, work);
    for (int r = 0; r < rows; ++r) {
      float* row = weights + r * stride;
      std::fill(row + range.begin, row + work.begin, 0.0f);
      std::fill(row + work.end, row + range.end, 0.0f);
    }
    values.tiles->accumulate(*values.codec, weights + range.begin, stride, rows, head_dim,
                             CodesAt(values, view.page, range.begin),
                             ScalesAt(values, view.page, range.begin), range.end - range.begin,
                             Ahead(page), rotated, head_dim);
  } else {
    DecodeTo(values, view.page, work, scratch);
    kernels.accumulate_f32(weights + work.begin, stride, rows, head_dim,
                           scratch + static_cast<int64_t>(work.begin) * head_dim, head_dim,
                           work.end - work.begin, rotated, head_dim);
  }
  float mean[kMaxHeadDim];
  if (values.store->format().Mean(view.page, mean)) {
    const float* code_sums = sums;
    if (exact.Any()) {
      for (int r = 0; r < rows; ++r) {
        const float* row = weights + r * stride;
        scratch[r] = std::accumulate(row + work.begin, row + work.end, 0.0f);
      }
      code_sums = scratch;
    }
    kernels.accumulate_f32(code_sums, 1, rows, head_dim, mean, head_dim, 1, plain, head_dim);
  }
}

}  // namespace polarquant
