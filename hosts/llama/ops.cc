// SPDX-License-Identifier: Apache-2.0
#include "ops.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "buffer.h"
#include "observer.h"
#include "plugin.h"
#include "polarquant/attention.h"
#include "polarquant/error.h"
#include "rope.h"
#include "status.h"

namespace polarquant::llama {
namespace {

[[noreturn]] void Refuse(const std::string& message) {
  throw Error(ErrorCode::kUnsupported, message);
}

KvTensor& CacheOf(const ggml_tensor* view, const ggml_tensor* node) {
  KvTensor* tensor = KvTensorOf(view);
  if (tensor == nullptr) {
    throw Error(ErrorCode::kHost, std::string(node->name) + " (" + ggml_op_name(node->op) +
                                      ") was given to us but does not work on a cache of ours");
  }
  return *tensor;
}

void RefuseDamaged(const KvTensor& tensor) {
  const std::string& cause = tensor.cache->refusal();
  if (!cause.empty()) Refuse(cause);
}

const std::byte* Bytes(const ggml_tensor* tensor) {
  return static_cast<const std::byte*>(tensor->data);
}

int64_t RowIndex(const ggml_tensor* indices, int64_t i) {
  const std::byte* at = Bytes(indices) + static_cast<size_t>(i) * indices->nb[0];
  if (indices->type == GGML_TYPE_I64) {
    int64_t index;
    std::memcpy(&index, at, sizeof(index));
    return index;
  }
  int32_t index;
  std::memcpy(&index, at, sizeof(index));
  return index;
}

// How attention views a cache tensor: heads apart, the first num_cells cells of some streams.
struct HeadsView {
  KvTensor* tensor;
  int64_t first_stream;
  int64_t num_streams;
  int64_t num_cells;
};

HeadsView ViewOf(const ggml_tensor* view, const ggml_tensor* node) {
  KvTensor& tensor = CacheOf(view, node);
  const auto offset = static_cast<size_t>(Bytes(view) - tensor.base);
  const size_t element = sizeof(ggml_fp16_t);
  const size_t head_bytes = static_cast<size_t>(view->ne[0]) * element;
  const auto first_stream = static_cast<int64_t>(offset / tensor.stream_bytes());
  const bool fits = offset % tensor.stream_bytes() == 0 && view->nb[0] == element &&
                    view->nb[1] == tensor.row_bytes && view->nb[2] == head_bytes &&
                    view->ne[0] * view->ne[2] == tensor.row_values &&
                    view->ne[1] <= tensor.num_cells &&
                    (view->ne[3] == 1 || view->nb[3] == tensor.stream_bytes()) &&
                    first_stream + view->ne[3] <= tensor.num_streams;
  if (!fits) {
    Refuse(tensor.name + ": attention reads it in a way polarquant does not know (heads of " +
           std::to_string(view->ne[0]) + " values, " + std::to_string(view->ne[2]) +
           " heads, rows of " + std::to_string(tensor.row_values) + ")");
  }
  tensor.cache->Learn(tensor, view->ne[0]);
  return {&tensor, first_stream, view->ne[3], view->ne[1]};
}

bool AllExact(const HeadsView& view) {
  for (int64_t stream = view.first_stream; stream < view.first_stream + view.num_streams;
       ++stream) {
    if (!view.tensor->cache->Store(*view.tensor, stream).exact_only()) return false;
  }
  return true;
}

void RefuseUnknownAttention(const ggml_tensor* node, const HeadsView& keys,
                            const HeadsView& values) {
  const ggml_tensor* queries = node->src[0];
  const ggml_tensor* mask = node->src[3];
  const std::string& name = keys.tensor->name;
  if (keys.tensor == values.tensor || keys.tensor->parsed.role != Role::kKey ||
      values.tensor->parsed.role != Role::kValue) {
    Refuse(name +
           ": values are read from the keys (multi-head latent attention), which polarquant "
           "cannot serve");
  }
  if (keys.num_streams != values.num_streams || keys.first_stream != values.first_stream ||
      keys.num_cells != values.num_cells || queries->ne[3] != keys.num_streams) {
    Refuse(name + ": attention reads keys and values of different cells");
  }
  if (queries->type != GGML_TYPE_F32 || queries->nb[0] != sizeof(float) ||
      node->type != GGML_TYPE_F32) {
    Refuse(name + ": queries of type " + ggml_type_name(queries->type) + "; polarquant takes f32");
  }
  if (mask != nullptr && (mask->type != GGML_TYPE_F16 || mask->ne[2] != 1)) {
    Refuse(name + ": a mask of type " + ggml_type_name(mask->type) + " for " +
           std::to_string(mask->ne[2]) + " heads; polarquant takes one f16 mask for all heads");
  }
}

// One stream.
AttentionCall CallOf(const ggml_tensor* node, const HeadsView& keys, int64_t index) {
  const ggml_tensor* queries = node->src[0];
  const ggml_tensor* mask = node->src[3];
  const ggml_tensor* sinks = node->src[4];
  const auto stream = static_cast<size_t>(index);
  AttentionCall call;
  call.num_cells = keys.num_cells;
  call.num_q_heads = static_cast<int>(queries->ne[2]);
  call.num_queries = static_cast<int>(queries->ne[1]);
  call.queries = reinterpret_cast<const float*>(Bytes(queries) + stream * queries->nb[3]);
  call.query_stride = static_cast<int64_t>(queries->nb[1] / sizeof(float));
  call.query_head_stride = static_cast<int64_t>(queries->nb[2] / sizeof(float));
  if (mask != nullptr) {
    const size_t of_stream = stream % static_cast<size_t>(mask->ne[3]);
    call.mask = reinterpret_cast<const uint16_t*>(Bytes(mask) + of_stream * mask->nb[3]);
    call.mask_stride = static_cast<int64_t>(mask->nb[1] / sizeof(uint16_t));
  }
  if (sinks != nullptr) call.sinks = static_cast<const float*>(sinks->data);
  float params[3];
  std::memcpy(params, node->op_params, sizeof(params));
  call.scale = params[0];
  call.max_bias = params[1];
  call.softcap = params[2];
  call.output =
      reinterpret_cast<float*>(static_cast<std::byte*>(node->data) + stream * node->nb[3]);
  call.output_head_stride = static_cast<int64_t>(node->nb[1] / sizeof(float));
  call.output_stride = static_cast<int64_t>(node->nb[2] / sizeof(float));
  return call;
}

// What RoPE turns by is read here, on the CPU. Why it cannot be, or empty.
std::string WhyUnreadable(const ggml_tensor* rope) {
  const auto check = [](const char* what, const ggml_tensor* input, ggml_type type) {
    const ggml_backend_buffer_t buffer = input->buffer;
    const bool fits =
        input->type == type && (buffer == nullptr || ggml_backend_buffer_is_host(buffer));
    if (fits) return std::string();
    return std::string("the ") + what + " of RoPE are " + ggml_type_name(input->type) + " in " +
           (buffer == nullptr ? "unknown" : ggml_backend_buffer_name(buffer)) +
           " memory; polarquant reads " + ggml_type_name(type) +
           " in host memory; name no other device (-dev POLARQUANT)";
  };
  std::string cause = check("positions", rope->src[1], GGML_TYPE_I32);
  if (cause.empty() && rope->src[2] != nullptr) {
    cause = check("frequency factors", rope->src[2], GGML_TYPE_F32);
  }
  return cause;
}

// Learns the frequencies of the RoPE that turned the rows of a write, and returns their positions;
// null where no ROPE node tells them. What cannot be read is refused only if it is `needed`.
const int32_t* LearnRope(HostCompute& host, KvTensor& tensor, const ggml_tensor* node,
                         bool needed) {
  const ggml_tensor* rope = tensor.parsed.role == Role::kKey ? RopeOfWrite(node) : nullptr;
  if (rope == nullptr) return nullptr;
  const std::string unreadable = WhyUnreadable(rope);
  if (!unreadable.empty() && needed) Refuse(tensor.name + ": " + unreadable);
  if (!unreadable.empty()) return nullptr;
  if (!tensor.rope) tensor.rope = PairingOf(rope);
  if (tensor.rope->frequencies.empty() && tensor.rope_trouble.empty()) {
    FindFrequencies(host, rope, *tensor.rope, tensor.rope_trouble);
  }
  const ggml_tensor* positions = rope->src[1];
  if (positions->ne[0] != node->src[0]->ne[1]) return nullptr;  // several a row
  return tensor.cache->Positions(positions).data();
}

// The positions of a batch of `count` rows where no RoPE tells them: another layer's did, or else a
// query's position is the number of cells it sees before its own. Null if not even that is known.
const int32_t* PositionsOf(const HostCompute& host, KvTensor& tensor, int64_t count) {
  KvCache& cache = *tensor.cache;
  if (const auto* known = cache.KnownPositions(count)) return known->data();
  const ggml_tensor* mask = FirstMask(host.graph());
  if (mask == nullptr || mask->type != GGML_TYPE_F16) return nullptr;
  std::vector<int32_t> positions;
  for (int64_t stream = 0; stream < mask->ne[3]; ++stream) {
    for (int64_t n = 0; n < mask->ne[1]; ++n) {
      const auto* row = reinterpret_cast<const uint16_t*>(
          Bytes(mask) + static_cast<size_t>(stream) * mask->nb[3] +
          static_cast<size_t>(n) * mask->nb[1]);
      constexpr uint16_t kHidden = 0xfc00;
      const auto seen =
          std::count_if(row, row + mask->ne[0], [](uint16_t value) { return value != kHidden; });
      positions.push_back(static_cast<int32_t>(std::max<int64_t>(seen - 1, 0)));
    }
  }
  if (static_cast<int64_t>(positions.size()) < count) return nullptr;
  positions.resize(static_cast<size_t>(count));  // masks may be padded
  cache.SetPositions(std::move(positions));
  return cache.KnownPositions(count)->data();
}

}  // namespace

void WriteRows(HostCompute& host, ggml_tensor* node) {
  KvTensor& tensor = CacheOf(node, node);
  const std::lock_guard lock(tensor.cache->mutex());
  RefuseDamaged(tensor);
  const ggml_tensor* rows = node->src[0];
  const ggml_tensor* indices = node->src[1];
  const bool fits = rows->type == GGML_TYPE_F32 && rows->nb[0] == sizeof(float) &&
                    rows->ne[0] == tensor.row_values && rows->ne[2] == 1 && rows->ne[3] == 1 &&
                    node->data == tensor.base &&
                    (indices->type == GGML_TYPE_I64 || indices->type == GGML_TYPE_I32);
  if (!fits) {
    Refuse(tensor.name + ": rows of " + std::to_string(rows->ne[0]) + " " +
           ggml_type_name(rows->type) + " values are written; polarquant takes f32 rows of " +
           std::to_string(tensor.row_values));
  }
  tensor.cache->BeginWrite(tensor, host.num_threads());
  const bool observing = tensor.parsed.role == Role::kKey && Observer::Get().active();
  const int64_t count = rows->ne[1];
  const int32_t* turned_by =
      LearnRope(host, tensor, node, observing || tensor.cache->needs_positions());
  const int32_t* positions = turned_by != nullptr ? turned_by : PositionsOf(host, tensor, count);
  const auto stride = static_cast<int64_t>(rows->nb[1] / sizeof(float));
  std::vector<int64_t> cells;
  for (int64_t first = 0; first < count;) {  // runs of rows of one stream
    const int64_t stream = RowIndex(indices, first) / tensor.num_cells;
    int64_t end = first;
    cells.clear();
    for (; end < count && RowIndex(indices, end) / tensor.num_cells == stream; ++end) {
      cells.push_back(RowIndex(indices, end) % tensor.num_cells);
    }
    if (RowIndex(indices, first) < 0 || stream >= tensor.num_streams) {
      throw Error(ErrorCode::kHost, tensor.name + ": row " +
                                        std::to_string(RowIndex(indices, first)) +
                                        " is written, which it does not have");
    }
    const float* first_row = static_cast<const float*>(rows->data) + first * stride;
    const int32_t* first_position = positions == nullptr ? nullptr : positions + first;
    CellStore& store = tensor.cache->Store(tensor, stream);
    store.Write(cells, first_row, stride, host.num_threads(), first_position);
    if (observing) {
      Observer::Get().Keys(tensor, cells, first_row, stride,
                           turned_by == nullptr ? nullptr : first_position);
    }
    first = end;
  }
  tensor.rows_written += count;
}

void ComputeAttention(HostCompute& host, ggml_tensor* node) {
  KvCache& cache = *CacheOf(node->src[1], node).cache;
  const std::lock_guard lock(cache.mutex());
  RefuseDamaged(CacheOf(node->src[1], node));
  const HeadsView keys = ViewOf(node->src[1], node);
  const HeadsView values = ViewOf(node->src[2], node);
  RefuseUnknownAttention(node, keys, values);
  LogAttention();

  const bool all_exact = AllExact(keys) && AllExact(values);
  for (int64_t i = 0; i < keys.num_streams; ++i) {
    if (Observer::Get().active()) Observer::Get().Queries(*keys.tensor, CallOf(node, keys, i));
    if (cache.learning(*keys.tensor)) cache.observer().Queries(*keys.tensor, CallOf(node, keys, i));
  }
  if (all_exact && Plugin::Get().settings().host_attention) {
    host.Compute(node);
    return;
  }
  AttentionBatch batch;
  std::vector<SequenceCall> streams;
  for (int64_t i = 0; i < keys.num_streams; ++i) {
    const AttentionCall call = CallOf(node, keys, i);
    static_cast<AttentionTerms&>(batch) = static_cast<const AttentionTerms&>(call);
    streams.push_back(static_cast<const SequenceCall&>(call));
    streams.back().keys = &cache.Store(*keys.tensor, keys.first_stream + i);
    streams.back().values = &cache.Store(*values.tensor, values.first_stream + i);
  }
  batch.sequences = streams;
  const int num_threads = host.num_threads();
  Attend(cache.Plan(*keys.tensor, node->src[3], batch, num_threads), batch, Executor{num_threads});
  for (int64_t i = 0; i < keys.num_streams; ++i) {
    cache.AfterRead(*keys.tensor, *values.tensor, keys.first_stream + i,
                    streams[static_cast<size_t>(i)]);
  }
}

void ShiftKeys(HostCompute& host, ggml_tensor* node) {
  const ggml_tensor* view = node->src[0];
  const ggml_tensor* shifts = node->src[1];
  KvTensor& tensor = CacheOf(view, node);
  const std::lock_guard lock(tensor.cache->mutex());
  RefuseDamaged(tensor);
  const auto offset = static_cast<size_t>(Bytes(view) - tensor.base);
  const HostCompute::HeadView heads = {
      .row_values = tensor.row_values,
      .head_dim = static_cast<int64_t>(view->nb[1] / sizeof(ggml_fp16_t)),
      .first_channel = static_cast<int64_t>(offset / sizeof(ggml_fp16_t))};
  const bool fits = shifts->type == GGML_TYPE_I32 && view->nb[2] == tensor.row_bytes &&
                    view->ne[2] == tensor.num_cells * tensor.num_streams && view->ne[3] == 1 &&
                    heads.first_channel + view->ne[0] <= heads.head_dim && node->data == view->data;
  if (!fits) Refuse(tensor.name + ": a rotation polarquant does not know; context shift is off");
  tensor.cache->Learn(tensor, heads.head_dim);

  // Blocks end where pages end, so that a page shifted as a whole is seen as a whole.
  constexpr int64_t kBlockCells = 1024;
  static_assert(kBlockCells % kMaxPageTokens == 0);
  std::vector<int64_t> cells;
  std::vector<int32_t> positions;
  std::vector<float> rows;
  for (int64_t stream = 0; stream < tensor.num_streams; ++stream) {
    const auto* shift = static_cast<const int32_t*>(shifts->data) + stream * tensor.num_cells;
    for (int64_t block = 0; block < tensor.num_cells; block += kBlockCells) {
      cells.clear();
      positions.clear();
      for (int64_t cell = block; cell < std::min(block + kBlockCells, tensor.num_cells); ++cell) {
        if (shift[cell] == 0) continue;
        cells.push_back(cell);
        positions.push_back(shift[cell]);
      }
      if (cells.empty()) continue;
      CellStore& store = tensor.cache->Store(tensor, stream);
      const auto row_values = static_cast<size_t>(tensor.row_values);
      rows.resize(cells.size() * row_values);
      for (size_t i = 0; i < cells.size(); ++i) store.ReadRow(cells[i], &rows[i * row_values]);
      host.Rope(node, heads, positions, rows.data());
      store.Transform(
          cells,
          [&](int64_t cell, float* row) {
            const auto at = std::lower_bound(cells.begin(), cells.end(), cell) - cells.begin();
            std::copy_n(&rows[static_cast<size_t>(at) * row_values], row_values, row);
          },
          host.num_threads(), positions.data());
    }
  }
}

}  // namespace polarquant::llama
