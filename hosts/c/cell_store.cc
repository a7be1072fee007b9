// SPDX-License-Identifier: Apache-2.0
// Host: C. The cell store.
#include <limits>
#include <memory>
#include <span>

#include "checks.h"
#include "handles.h"

namespace polarquant::c {

pq_memory_use MemoryUseOf(const MemoryUse& memory) {
  pq_memory_use use = PQ_MEMORY_USE_INIT;
  use.exact_bytes = memory.exact_bytes;
  use.code_bytes = memory.code_bytes;
  use.header_bytes = memory.header_bytes;
  use.bookkeeping_bytes = memory.bookkeeping_bytes;
  use.total_bytes = memory.total();
  use.filled_cells = memory.filled_cells;
  use.exact_cells = memory.exact_cells;
  use.f16_bytes = memory.f16_bytes;
  return use;
}

}  // namespace polarquant::c

using namespace polarquant;
using namespace polarquant::c;

namespace {

std::unique_ptr<pq_cell_store> Make(const pq_cell_store_config& from) {
  CheckReserved(from.reserved);
  CellStore::Config config;
  config.scheme = Scheme::Parse(&Needed(from.scheme, "scheme"));
  config.role = RoleOf(from.role);
  config.head_dim = from.head_dim;
  config.num_kv_heads = from.num_kv_heads;
  config.num_cells = from.num_cells;
  config.page_tokens = from.page_tokens;
  config.window_tokens = from.window_tokens;
  config.sink_tokens = from.sink_tokens;
  config.max_partial_pages = from.max_partial_pages;
  config.profile = ProfileOf(from.profile, from.num_kv_heads, from.head_dim);
  if (config.scheme.normalisation.needs_profile() && config.profile == nullptr) {
    throw Error(ErrorCode::kParameter, "scheme " + config.scheme.ToString() +
                                           " needs the layer's key profile: set config.profile");
  }
  return std::make_unique<pq_cell_store>(config);
}

template <typename Handle>
auto& StoreOf(Handle* handle) {
  return Needed(handle, "store").store;
}

size_t RowValues(const CellStore& store) { return store.saved_row_bytes() / sizeof(uint16_t); }

std::span<const int64_t> CellsOf(const int64_t* cells, int64_t count) {
  CheckRange<int64_t>("count", count, 0, std::numeric_limits<int64_t>::max() / 8);
  if (count > 0) Needed(cells, "cells");
  return {cells, static_cast<size_t>(count)};
}

void CheckSaved(const CellStore& store, int64_t count, size_t saved_bytes) {
  CheckRange<int64_t>("count", count, 0, store.num_cells());
  CheckBytes("saved_bytes", saved_bytes, static_cast<size_t>(count) * store.saved_row_bytes());
}

}  // namespace

pq_status pq_cell_store_create(const pq_cell_store_config* config, pq_cell_store** store) {
  return Create(store, "store", [&] {
    return Make(Taken<pq_cell_store_config>(config, "config", PQ_CELL_STORE_CONFIG_INIT));
  });
}

pq_status pq_cell_store_destroy(pq_cell_store* store) { return Destroy(store); }

pq_status pq_cell_store_write(pq_cell_store* store, const int64_t* cells, int64_t count,
                              const float* rows, int64_t row_stride, const int32_t* positions,
                              int32_t num_threads) {
  return Guard([&] {
    CellStore& to = StoreOf(store);
    const auto list = CellsOf(cells, count);
    CheckThreads(num_threads);
    if (count > 0) Needed(rows, "rows");
    CheckStride("row_stride", row_stride, count, static_cast<int64_t>(RowValues(to)));
    to.Write(list, rows, row_stride, num_threads, positions);
  });
}

pq_status pq_cell_store_settle(pq_cell_store* store, int32_t num_threads) {
  return Guard([&] {
    CellStore& of = StoreOf(store);
    CheckThreads(num_threads);
    of.Settle(num_threads);
  });
}

pq_status pq_cell_store_retire(pq_cell_store* store, const int64_t* cells, int64_t count,
                               int32_t num_threads) {
  return Guard([&] {
    CellStore& of = StoreOf(store);
    CheckThreads(num_threads);
    of.Retire(CellsOf(cells, count), num_threads);
  });
}

pq_status pq_cell_store_clear(pq_cell_store* store) {
  return Guard([&] { StoreOf(store).Clear(); });
}

pq_status pq_cell_store_clear_cells(pq_cell_store* store, int64_t first, int64_t count) {
  return Guard([&] { StoreOf(store).ClearCells(first, count); });
}

pq_status pq_cell_store_copy(pq_cell_store* store, const pq_cell_store* from, int64_t first,
                             int64_t count) {
  return Guard([&] {
    CellStore& to = StoreOf(store);
    to.CopyFrom(Needed(from, "from").store, first, count);
  });
}

pq_status pq_cell_store_read_row(const pq_cell_store* store, int64_t cell, float* row,
                                 size_t num_values) {
  return Guard([&] {
    const CellStore& of = StoreOf(store);
    CheckBytes("num_values", num_values, RowValues(of));
    of.ReadRow(cell, &Needed(row, "row"));
  });
}

pq_status pq_cell_store_saved_row_bytes(const pq_cell_store* store, size_t* saved_bytes) {
  return Guard([&] {
    const CellStore& of = StoreOf(store);
    Needed(saved_bytes, "saved_bytes") = of.saved_row_bytes();
  });
}

pq_status pq_cell_store_save_rows(const pq_cell_store* store, int64_t first, int64_t count,
                                  void* saved, size_t saved_bytes, int32_t num_threads) {
  return Guard([&] {
    const CellStore& of = StoreOf(store);
    CheckThreads(num_threads);
    CheckSaved(of, count, saved_bytes);
    if (count > 0)
      of.SaveRows(first, count, &Needed(static_cast<std::byte*>(saved), "saved"), num_threads);
  });
}

pq_status pq_cell_store_load_rows(pq_cell_store* store, int64_t first, int64_t count,
                                  const void* saved, size_t saved_bytes, int32_t num_threads) {
  return Guard([&] {
    CellStore& of = StoreOf(store);
    CheckThreads(num_threads);
    CheckSaved(of, count, saved_bytes);
    if (count > 0) {
      of.LoadRows(first, count, &Needed(static_cast<const std::byte*>(saved), "saved"),
                  num_threads);
    }
  });
}

pq_status pq_cell_store_memory(const pq_cell_store* store, pq_memory_use* memory) {
  return Guard([&] { Give(MemoryUseOf(StoreOf(store).memory()), memory, "memory"); });
}
