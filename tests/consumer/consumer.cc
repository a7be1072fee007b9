// SPDX-License-Identifier: Apache-2.0
// Keeps 512 keys and values in four bits and attends to them, the way README says.
#include <polarquant/attention.h>
#include <polarquant/cell_store.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <random>
#include <vector>

int main() {
  constexpr int kHeadDim = 64, kCells = 512;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> rows(static_cast<size_t>(kCells) * kHeadDim), query(kHeadDim);
  for (float& x : rows) x = normal(random);
  for (float& x : query) x = normal(random);
  std::vector<int64_t> cells(kCells);
  std::iota(cells.begin(), cells.end(), 0);

  polarquant::CellStore::Config config;
  config.scheme = polarquant::Scheme::Parse("turbo4");
  config.head_dim = kHeadDim;
  config.num_kv_heads = 1;
  config.num_cells = kCells;
  config.window_tokens = 0;
  polarquant::CellStore keys(config);
  config.role = polarquant::Role::kValue;
  polarquant::CellStore values(config);
  for (polarquant::CellStore* store : {&keys, &values}) {
    store->Write(cells, rows.data(), kHeadDim, /*num_threads=*/1);
    store->Settle(/*num_threads=*/1);
  }

  std::vector<float> fast(kHeadDim), reference(kHeadDim);
  polarquant::AttentionCall call;
  call.keys = &keys;
  call.values = &values;
  call.num_cells = kCells;
  call.num_q_heads = 1;
  call.num_queries = 1;
  call.queries = query.data();
  call.query_stride = call.query_head_stride = kHeadDim;
  call.scale = 0.125f;
  call.output = fast.data();
  call.output_stride = call.output_head_stride = kHeadDim;
  polarquant::Attend(call, /*num_threads=*/1);
  call.output = reference.data();
  polarquant::AttendReference(call);

  float worst = 0.0f;
  for (int i = 0; i < kHeadDim; ++i) worst = std::fmax(worst, std::fabs(fast[i] - reference[i]));
  const polarquant::MemoryUse memory = keys.memory();
  std::printf("%zu bytes of codes for %zu in 16 bit, difference %g\n", memory.code_bytes,
              memory.f16_bytes, worst);
  return worst < 0.01f && memory.code_bytes < memory.f16_bytes / 3 ? 0 : 1;
}
