// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend and 7/7 un-rotate, one unit.
#include "attention/head_block.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "math/rotation.h"
#include "math/stepped_centre.h"

namespace polarquant {
namespace {

constexpr float kHidden = -std::numeric_limits<float>::infinity();
constexpr size_t kAlignment = 64;
// Few rows: several pages a softmax step, so that its fixed costs weigh less.
constexpr int kChunkLogits = 4096;
constexpr int kMaxChunkPages = 8;

// Hands out aligned pieces of a block of memory; with none, only counts.
struct Pieces {
  std::byte* next;
  size_t used = 0;
  template <typename T>
  void Take(T** piece, int64_t count) {
    *piece = next == nullptr ? nullptr : reinterpret_cast<T*>(next + used);
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    used += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
};

struct Slots {
  int begin, end;
};

struct QueryOfRow {
  int query, head;
};
QueryOfRow QueryAt(const Setup& setup, int kv_head, const QueryBlock& block, int row) {
  return {block.first + row / setup.group, kv_head * setup.group + row % setup.group};
}

// exp(a - b) for a <= b; 0 if a is -inf, also when both are.
float Decay(float a, float b) { return a == kHidden ? 0.0f : std::exp(a - b); }

// Adds the sink, divides, writes the output and the log-sum-exp.
void WriteRow(const Setup& setup, const QueryOfRow& at, float max, float sum, const float* acc) {
  const SequenceCall& call = setup.call;
  float factor = 1.0f;
  if (setup.terms.sinks != nullptr) {
    const float sink = setup.terms.sinks[at.head];
    const float top = std::max(max, sink);
    factor = Decay(max, top);
    sum = sum * factor + Decay(sink, top);
    max = top;
  }
  factor = sum == 0.0f ? 0.0f : factor / sum;  // a NaN stays one
  float* out = call.output + at.head * call.output_head_stride + at.query * call.output_stride;
  for (int i = 0; i < setup.values.head_dim; ++i) out[i] = acc[i] * factor;
  if (call.lse != nullptr) {
    call.lse[static_cast<int64_t>(at.query) * setup.terms.num_q_heads + at.head] =
        sum == 0.0f ? kHidden : max + std::log(sum);
  }
}

}  // namespace

void HeadBlock::Start(const Setup& setup, int kv_head, const QueryBlock& block) {
  setup_ = &setup;
  block_ = &block;
  kv_head_ = kv_head;
  rows_ = block.count * setup.group;
  used_rotated_ = false;
  const Side &keys = setup.keys, &values = setup.values;
  const int64_t rows = rows_, dim_k = keys.head_dim, dim_v = values.head_dim;
  chunk_pages_ = std::clamp(kChunkLogits / (rows_ * keys.page_tokens), 1, kMaxChunkPages);
  const SteppedCentre* centre = keys.codes ? keys.store->centre(kv_head) : nullptr;
  const size_t prepared_bytes =
      keys.tiles != nullptr ? keys.tiles->prepared_bytes(rows_, keys.head_dim) : 0;

  const auto lay_out = [&](std::byte* memory) {
    Pieces pieces{memory};
    pieces.Take(&queries_, rows * dim_k);
    queries_mapped_ = queries_;
    if (keys.rotated || keys.mapped) pieces.Take(&queries_mapped_, rows * dim_k);
    if (centre != nullptr) pieces.Take(&queries_centre_, rows * centre->table().num_terms());
    pieces.Take(&prepared_, static_cast<int64_t>(prepared_bytes));
    pieces.Take(&logits_, rows * chunk_pages_ * keys.page_tokens);
    pieces.Take(&scratch_, ScratchFloats(keys, values, rows_));
    pieces.Take(&max_, rows);
    pieces.Take(&sum_, rows);
    pieces.Take(&page_sums_, rows * chunk_pages_);
    pieces.Take(&plain_, rows * dim_v);
    rotated_ = plain_;
    if (values.rotated) pieces.Take(&rotated_, rows * dim_v);
    return pieces.used;
  };
  const size_t needed = lay_out(nullptr) + kAlignment;
  if (memory_.size() < needed) memory_.resize(needed);
  const size_t misaligned = reinterpret_cast<uintptr_t>(memory_.data()) % kAlignment;
  lay_out(memory_.data() + (kAlignment - misaligned) % kAlignment);

  for (int r = 0; r < rows_; ++r) {
    const QueryOfRow at = QueryAt(setup, kv_head, block, r);
    const float* query = setup.call.queries + at.head * setup.call.query_head_stride +
                         at.query * setup.call.query_stride;
    std::copy_n(query, dim_k, queries_ + r * dim_k);
    float poison = 0.0f;  // a NaN or an infinity in the query must reach the output
    for (int64_t i = 0; i < dim_k; ++i) poison += query[i] * 0.0f;
    max_[r] = kHidden;
    sum_[r] = poison;
  }
  if (centre != nullptr) centre->Weigh(queries_, rows_, queries_centre_);
  if (queries_mapped_ != queries_) std::copy_n(queries_, rows * dim_k, queries_mapped_);
  if (keys.mapped) keys.store->format(kv_head).MapQueries(queries_mapped_, rows_);
  if (keys.rotated) setup.kernels().rotate(queries_mapped_, dim_k, rows_, keys.head_dim);
  if (keys.tiles != nullptr) {
    keys.tiles->prepare(*keys.codec, queries_mapped_, dim_k, rows_, keys.head_dim, prepared_);
  }
  std::fill_n(plain_, rows * dim_v, 0.0f);
  if (values.rotated) std::fill_n(rotated_, rows * dim_v, 0.0f);
}

void HeadBlock::Attend(std::span<const PageWork> pages) {
  while (!pages.empty()) {
    const size_t count = std::min<size_t>(pages.size(), static_cast<size_t>(chunk_pages_));
    AttendChunk(pages.first(count), count < pages.size() ? &pages[count] : nullptr);
    pages = pages.subspan(count);
  }
}

void HeadBlock::AttendChunk(std::span<const PageWork> pages, const PageWork* following) {
  const Setup& setup = *setup_;
  const int page_tokens = setup.keys.page_tokens;
  const int64_t stride = static_cast<int64_t>(chunk_pages_) * page_tokens;
  const QueryRows queries = {rows_, queries_, queries_mapped_, prepared_, queries_centre_};
  // In the order they are read: keys of the chunk, values of the chunk, the next chunk's keys.
  PageRef refs[2 * kMaxChunkPages + 1];
  const size_t count = pages.size();
  for (size_t p = 0; p < count; ++p) {
    refs[p] = {kv_head_, pages[p], setup.keys.store->View(pages[p].page, kv_head_)};
    refs[count + p] = {kv_head_, pages[p], setup.values.store->View(pages[p].page, kv_head_)};
  }
  if (following != nullptr) {
    refs[2 * count].view = setup.keys.store->View(following->page, kv_head_);
  }
  for (size_t p = 0; p < 2 * count; ++p) refs[p].next = refs[p + 1].view.page;

  for (size_t p = 0; p < count; ++p) {
    ScorePage(setup.keys, refs[p], queries, scratch_,
              logits_ + static_cast<int64_t>(p) * page_tokens, stride);
  }
  float total = 0.0f;
  for (int r = 0; r < rows_; ++r) total += SoftmaxRow(r, pages);
  if (total == 0.0f) return;
  used_rotated_ = setup.values.rotated;
  for (size_t p = 0; p < count; ++p) {
    AccumulatePage(setup.values, refs[count + p], rows_,
                   logits_ + static_cast<int64_t>(p) * page_tokens, stride,
                   page_sums_ + static_cast<int64_t>(p) * rows_, scratch_, plain_, rotated_);
  }
}

// One step of the online softmax: logits to weights. Returns the sum of the weights.
float HeadBlock::SoftmaxRow(int row, std::span<const PageWork> pages) {
  const Setup& setup = *setup_;
  const AttentionTerms& terms = setup.terms;
  const SequenceCall& call = setup.call;
  const Kernels& kernels = setup.kernels();
  const int page_tokens = setup.keys.page_tokens, dim_v = setup.values.head_dim;
  const QueryOfRow at = QueryAt(setup, kv_head_, *block_, row);
  const float slope = setup.slopes[static_cast<size_t>(at.head)];
  const CellRange seen = SeenBy(terms, call, at.query);
  // Slots of a page's work that the query sees, unless the mask hides them.
  const auto slots_of = [&](const PageWork& work) {
    const auto slot = [&](int64_t cell) {
      return static_cast<int>(
          std::clamp<int64_t>(cell - work.page * page_tokens, work.begin, work.end));
    };
    return work.edged ? Slots{slot(seen.begin), slot(seen.end)} : Slots{work.begin, work.end};
  };
  float* logits = logits_ + static_cast<int64_t>(row) * chunk_pages_ * page_tokens;
  float max = kHidden;
  for (size_t p = 0; p < pages.size(); ++p) {
    const PageWork& work = pages[p];
    const Slots slots = slots_of(work);
    if (slots.begin == slots.end) continue;
    const uint16_t* mask = work.masked ? call.mask + at.query * call.mask_stride +
                                             work.page * page_tokens + slots.begin - call.first_cell
                                       : nullptr;
    max = std::max(max, kernels.shape_logits(
                            logits + static_cast<int64_t>(p) * page_tokens + slots.begin,
                            slots.end - slots.begin, terms.scale, terms.softcap, slope, mask));
  }
  if (max > max_[row]) {
    const float factor = Decay(max_[row], max);
    max_[row] = max;
    sum_[row] *= factor;
    kernels.scale_row(plain_ + static_cast<int64_t>(row) * dim_v, dim_v, factor);
    if (used_rotated_) {
      kernels.scale_row(rotated_ + static_cast<int64_t>(row) * dim_v, dim_v, factor);
    }
  }
  float total = 0.0f;
  for (size_t p = 0; p < pages.size(); ++p) {
    const PageWork& work = pages[p];
    const Slots slots = slots_of(work);
    float* weights = logits + static_cast<int64_t>(p) * page_tokens;
    const float sum = kernels.exp_sum(weights + slots.begin, slots.end - slots.begin, max_[row]);
    std::fill(weights + work.begin, weights + slots.begin, 0.0f);
    std::fill(weights + slots.end, weights + work.end, 0.0f);
    page_sums_[static_cast<int64_t>(p) * rows_ + row] = sum;
    total += sum;
  }
  sum_[row] += total;
  return total;
}

void HeadBlock::Unrotate() {
  if (!used_rotated_) return;
  const int dim_v = setup_->values.head_dim;
  setup_->kernels().unrotate(rotated_, dim_v, rows_, dim_v);
  const int64_t count = static_cast<int64_t>(rows_) * dim_v;
  for (int64_t i = 0; i < count; ++i) plain_[i] += rotated_[i];
}

void HeadBlock::Finish() {
  Unrotate();
  for (int r = 0; r < rows_; ++r) {
    WriteRow(*setup_, QueryAt(*setup_, kv_head_, *block_, r), max_[r], sum_[r],
             plain_ + static_cast<int64_t>(r) * setup_->values.head_dim);
  }
}

void HeadBlock::StorePartial(float* partial) {
  Unrotate();
  const int dim_v = setup_->values.head_dim;
  for (int r = 0; r < rows_; ++r) {
    *partial++ = max_[r];
    *partial++ = sum_[r];
    std::copy_n(plain_ + static_cast<int64_t>(r) * dim_v, dim_v, partial);
    partial += dim_v;
  }
}

void HeadBlock::MergeRow(const Setup& setup, int kv_head, const QueryBlock& block, int row,
                         std::span<const float* const> partials) {
  const int dim_v = setup.values.head_dim;
  const int64_t offset = static_cast<int64_t>(row) * (dim_v + 2);
  float max = kHidden, sum = 0.0f;
  for (const float* partial : partials) max = std::max(max, partial[offset]);
  float acc[kMaxHeadDim] = {};
  for (const float* partial : partials) {
    const float* part = partial + offset;
    const float factor = Decay(part[0], max);
    sum += part[1] * factor;
    for (int i = 0; i < dim_v; ++i) acc[i] += part[2 + i] * factor;
  }
  WriteRow(setup, QueryAt(setup, kv_head, block, row), max, sum, acc);
}

}  // namespace polarquant
