// SPDX-License-Identifier: Apache-2.0
// The cell store through C beside one through C++: the same rows, the same memory.
#include "polarquant/cell_store.h"

#include <thread>

#include "c_testing.h"

namespace polarquant {
namespace {

using namespace c_testing;

constexpr int kDim = 64, kHeads = 2, kCells = 600;
constexpr int64_t kRow = kDim * kHeads;

pq_cell_store_config SomeConfig() {
  pq_cell_store_config config = PQ_CELL_STORE_CONFIG_INIT;
  config.scheme = "turbo4:center";
  config.head_dim = kDim;
  config.num_kv_heads = kHeads;
  config.num_cells = kCells;
  config.window_tokens = 16;
  return config;
}

CellStorePtr Made(const pq_cell_store_config& config) {
  pq_cell_store* store = nullptr;
  EXPECT_TRUE(Ok(pq_cell_store_create(&config, &store)));
  return CellStorePtr(store);
}

void Write(pq_cell_store* store, int64_t first, int64_t count, unsigned seed, int threads = 1) {
  const auto cells = Cells(first, count);
  const Floats rows = Random(static_cast<size_t>(count * kRow), seed);
  ASSERT_TRUE(
      Ok(pq_cell_store_write(store, cells.data(), count, rows.data(), kRow, nullptr, threads)));
}

Floats RowOf(const pq_cell_store* store, int64_t cell) {
  Floats row(kRow);
  EXPECT_TRUE(Ok(pq_cell_store_read_row(store, cell, row.data(), row.size())));
  return row;
}

pq_memory_use MemoryOf(const pq_cell_store* store) {
  pq_memory_use use = PQ_MEMORY_USE_INIT;
  EXPECT_TRUE(Ok(pq_cell_store_memory(store, &use)));
  return use;
}

void ExpectEqual(const pq_cell_store* c, const CellStore& cpp) {
  Floats want(kRow);
  for (int64_t cell = 0; cell < kCells; ++cell) {
    cpp.ReadRow(cell, want.data());
    ASSERT_EQ(RowOf(c, cell), want) << "cell " << cell;
  }
  const MemoryUse expected = cpp.memory();
  const pq_memory_use use = MemoryOf(c);
  EXPECT_EQ(use.exact_bytes, expected.exact_bytes);
  EXPECT_EQ(use.code_bytes, expected.code_bytes);
  EXPECT_EQ(use.header_bytes, expected.header_bytes);
  EXPECT_EQ(use.bookkeeping_bytes, expected.bookkeeping_bytes);
  EXPECT_EQ(use.total_bytes, expected.total());
  EXPECT_EQ(use.filled_cells, expected.filled_cells);
  EXPECT_EQ(use.exact_cells, expected.exact_cells);
  EXPECT_EQ(use.f16_bytes, expected.f16_bytes);
}

TEST(CCellStore, IsTheCellStoreOfCxxAtEveryStep) {
  const CellStorePtr c = Made(SomeConfig());
  CellStore::Config config;
  config.scheme = Scheme::Parse("turbo4:center");
  config.head_dim = kDim;
  config.num_kv_heads = kHeads;
  config.num_cells = kCells;
  config.window_tokens = 16;
  CellStore cpp(config);

  Write(c.get(), 0, 400, 1);
  const Floats rows = Random(400 * kRow, 1);
  cpp.Write(Cells(0, 400), rows.data(), kRow, 1);
  ExpectEqual(c.get(), cpp);
  const auto some = Cells(20, 40);
  ASSERT_TRUE(Ok(pq_cell_store_retire(c.get(), some.data(), 40, 1)));
  cpp.Retire(some, 1);
  ExpectEqual(c.get(), cpp);
  ASSERT_TRUE(Ok(pq_cell_store_settle(c.get(), 2)));
  cpp.Settle(2);
  EXPECT_GT(MemoryOf(c.get()).code_bytes, 0u);
  ExpectEqual(c.get(), cpp);
  ASSERT_TRUE(Ok(pq_cell_store_clear_cells(c.get(), 100, 50)));
  cpp.ClearCells(100, 50);
  ExpectEqual(c.get(), cpp);
  ASSERT_TRUE(Ok(pq_cell_store_clear(c.get())));
  cpp.Clear();
  ExpectEqual(c.get(), cpp);
  EXPECT_EQ(MemoryOf(c.get()).filled_cells, 0);
}

TEST(CCellStore, TakesRowsWithAStride) {
  const CellStorePtr store = Made(SomeConfig());
  const Floats rows = Random(2 * kRow + 5, 2);
  const int64_t cells[] = {7, 3};
  ASSERT_TRUE(Ok(pq_cell_store_write(store.get(), cells, 2, rows.data(), kRow + 5, nullptr, 1)));
  EXPECT_NEAR(RowOf(store.get(), 7)[5], rows[5], 1e-2f);
  EXPECT_NEAR(RowOf(store.get(), 3)[5], rows[kRow + 10], 1e-2f);
}

TEST(CCellStore, SavesAndLoadsItsVeryCodesAtAnyCell) {
  pq_cell_store_config config = SomeConfig();
  config.scheme = "turbo4";
  const CellStorePtr from = Made(config), to = Made(config);
  Write(from.get(), 0, 300, 3);
  ASSERT_TRUE(Ok(pq_cell_store_settle(from.get(), 1)));
  size_t bytes = 0;
  ASSERT_TRUE(Ok(pq_cell_store_saved_row_bytes(from.get(), &bytes)));
  ASSERT_EQ(bytes, static_cast<size_t>(kRow) * 2);
  bytes *= 300;
  std::vector<std::byte> saved(bytes);
  ASSERT_TRUE(Ok(pq_cell_store_save_rows(from.get(), 0, 300, saved.data(), bytes, 2)));
  ASSERT_TRUE(Ok(pq_cell_store_load_rows(to.get(), 37, 300, saved.data(), bytes, 2)));
  for (int64_t cell = 0; cell < 300; ++cell) {
    ASSERT_EQ(RowOf(to.get(), cell + 37), RowOf(from.get(), cell));
  }
  saved[bytes / 300 * 100 + 2] ^= std::byte{0xff};  // the tag of a coded row
  EXPECT_TRUE(Refused(PQ_ERROR_CORRUPTION,
                      pq_cell_store_load_rows(to.get(), 0, 300, saved.data(), bytes, 1),
                      {"cell 100"}));
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER,
                      pq_cell_store_save_rows(from.get(), 0, 2, saved.data(), bytes, 1),
                      {"saved_bytes"}));
  const CellStorePtr pages = Made(SomeConfig());
  EXPECT_TRUE(Refused(PQ_ERROR_UNSUPPORTED,
                      pq_cell_store_save_rows(pages.get(), 0, 300, saved.data(), bytes, 1),
                      {"turbo4:center", "whole pages"}));
}

TEST(CCellStore, CopiesBitForBitFromAnotherOfItsKind) {
  const CellStorePtr from = Made(SomeConfig()), to = Made(SomeConfig());
  Write(from.get(), 0, 300, 4);
  ASSERT_TRUE(Ok(pq_cell_store_settle(from.get(), 1)));
  ASSERT_TRUE(Ok(pq_cell_store_copy(to.get(), from.get(), 0, 300)));
  for (int64_t cell = 0; cell < 300; ++cell) {
    ASSERT_EQ(RowOf(to.get(), cell), RowOf(from.get(), cell));
  }
  pq_cell_store_config config = SomeConfig();
  config.scheme = "turbo4";
  const CellStorePtr other = Made(config);
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_cell_store_copy(other.get(), from.get(), 0, 300),
                      {"turbo4:center", "must be equal"}));
}

TEST(CCellStore, TakesAProfileForBalanceAndForASteppedCentre) {
  Floats balance = Scales(kRow), mean(kRow, 1.0f);
  std::vector<double> frequencies;
  for (int i = 0; i < kDim / 2; ++i) frequencies.push_back(1.0 / (1 + i));
  pq_key_profile profile = PQ_KEY_PROFILE_INIT;
  profile.balance = balance.data();
  profile.mean = mean.data();
  profile.rope_pairing = PQ_ROPE_HALVES;
  profile.rope_dims = kDim;
  profile.rope_frequencies = frequencies.data();
  pq_cell_store_config config = SomeConfig();
  config.scheme = "turbo4:balanced";
  pq_cell_store* none = nullptr;
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_cell_store_create(&config, &none), {"profile"}));
  config.profile = &profile;
  const CellStorePtr store = Made(config);
  const auto cells = Cells(0, 300);
  const std::vector<int32_t> positions(cells.begin(), cells.end());
  const Floats rows = Random(300 * kRow, 5);
  EXPECT_TRUE(
      Refused(PQ_ERROR_PARAMETER,
              pq_cell_store_write(store.get(), cells.data(), 300, rows.data(), kRow, nullptr, 1),
              {"position"}));
  ASSERT_TRUE(Ok(
      pq_cell_store_write(store.get(), cells.data(), 300, rows.data(), kRow, positions.data(), 1)));
  ASSERT_TRUE(Ok(pq_cell_store_settle(store.get(), 1)));
  const Floats row = RowOf(store.get(), 0);
  for (size_t i = 0; i < row.size(); ++i) EXPECT_NEAR(row[i], rows[i], 1.0f);
}

TEST(CCellStore, RefusesConfigurationsOutsideItsLimits) {
  const auto refused = [](pq_status status, auto change, std::initializer_list<const char*> words) {
    pq_cell_store_config config = SomeConfig();
    change(config);
    pq_cell_store* store = nullptr;
    EXPECT_TRUE(Refused(status, pq_cell_store_create(&config, &store), words));
    EXPECT_EQ(store, nullptr);
  };
  using Config = pq_cell_store_config;
  const pq_status parameter = PQ_ERROR_PARAMETER;
  refused(PQ_ERROR_FORMAT, [](Config& c) { c.scheme = "nine"; }, {"nine"});
  refused(PQ_ERROR_UNSUPPORTED, [](Config& c) { c.head_dim = 2000; }, {"2000", "1024"});
  refused(PQ_ERROR_UNSUPPORTED, [](Config& c) { c.page_tokens = 1; }, {"page_tokens 1"});
  refused(parameter, [](Config& c) { c.struct_size += 8192; }, {"struct_size"});
  refused(parameter, [](Config& c) { c.scheme = nullptr; }, {"scheme is NULL"});
  refused(parameter, [](Config& c) { c.role = -1; }, {"role is -1"});
  refused(parameter, [](Config& c) { c.reserved = 5; }, {"reserved is 5"});
  refused(parameter, [](Config& c) { c.num_kv_heads = 0; }, {"num_kv_heads is 0"});
  refused(parameter, [](Config& c) { c.num_cells = 0; }, {"num_cells is 0"});
  refused(parameter, [](Config& c) { c.window_tokens = -1; }, {"window_tokens is -1", "65536"});
  refused(parameter, [](Config& c) { c.sink_tokens = 2000; }, {"sink_tokens is 2000", "1024"});
  refused(parameter, [](Config& c) { c.max_partial_pages = -1; }, {"max_partial_pages is -1"});
  pq_cell_store* store = nullptr;
  EXPECT_TRUE(Refused(parameter, pq_cell_store_create(nullptr, &store), {"config is NULL"}));
  const pq_cell_store_config config = SomeConfig();
  EXPECT_TRUE(Refused(parameter, pq_cell_store_create(&config, nullptr), {"store is NULL"}));
  EXPECT_TRUE(Ok(pq_cell_store_destroy(nullptr)));
}

TEST(CCellStore, RefusesCallsThatDoNotFitAndSaysWhy) {
  const CellStorePtr owner = Made(SomeConfig());
  pq_cell_store* s = owner.get();
  Floats rows = Random(2 * kRow, 6);
  const int64_t good[] = {1, 2}, past[] = {1, kCells}, twice[] = {4, 4};
  const auto parameter = [](pq_status status, std::initializer_list<const char*> words) {
    EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, status, words));
  };
  float* r = rows.data();
  parameter(pq_cell_store_write(nullptr, good, 2, r, kRow, nullptr, 1), {"store is NULL"});
  parameter(pq_cell_store_write(s, nullptr, 2, r, kRow, nullptr, 1), {"cells is NULL"});
  parameter(pq_cell_store_write(s, good, 2, nullptr, kRow, nullptr, 1), {"rows is NULL"});
  parameter(pq_cell_store_write(s, good, -2, r, kRow, nullptr, 1), {"count is -2"});
  parameter(pq_cell_store_write(s, good, 2, r, kRow - 1, nullptr, 1), {"row_stride is 127", "128"});
  parameter(pq_cell_store_write(s, good, 2, r, kRow, nullptr, 0), {"num_threads is 0", "1024"});
  parameter(pq_cell_store_write(s, past, 2, r, kRow, nullptr, 1), {"600", "between 0 and 599"});
  parameter(pq_cell_store_write(s, twice, 2, r, kRow, nullptr, 1), {"cell 4", "twice"});
  EXPECT_EQ(MemoryOf(s).filled_cells, 0);  // a refused write writes nothing
  parameter(pq_cell_store_settle(nullptr, 1), {"store is NULL"});
  parameter(pq_cell_store_settle(s, -1), {"num_threads is -1"});
  parameter(pq_cell_store_retire(nullptr, good, 2, 1), {"store is NULL"});
  parameter(pq_cell_store_retire(s, past, 2, 1), {"600"});
  parameter(pq_cell_store_retire(s, nullptr, 2, 1), {"cells is NULL"});
  parameter(pq_cell_store_clear(nullptr), {"store is NULL"});
  parameter(pq_cell_store_clear_cells(nullptr, 0, 1), {"store is NULL"});
  parameter(pq_cell_store_clear_cells(s, 590, 11), {"11", "between 0 and 10"});
  parameter(pq_cell_store_copy(nullptr, s, 0, 1), {"store is NULL"});
  parameter(pq_cell_store_copy(s, nullptr, 0, 1), {"from is NULL"});
  parameter(pq_cell_store_copy(s, s, 0, 601), {"601", "600"});
  parameter(pq_cell_store_read_row(nullptr, 0, r, kRow), {"store is NULL"});
  parameter(pq_cell_store_read_row(s, kCells, r, kRow), {"600"});
  parameter(pq_cell_store_read_row(s, 0, nullptr, kRow), {"row is NULL"});
  parameter(pq_cell_store_read_row(s, 0, r, 1), {"num_values is 1", "128"});
  size_t bytes = 0;
  parameter(pq_cell_store_saved_row_bytes(nullptr, &bytes), {"store is NULL"});
  parameter(pq_cell_store_saved_row_bytes(s, nullptr), {"saved_bytes is NULL"});
  parameter(pq_cell_store_save_rows(nullptr, 0, 1, r, 256, 1), {"store is NULL"});
  parameter(pq_cell_store_save_rows(s, 0, 1, nullptr, 256, 1), {"saved is NULL"});
  parameter(pq_cell_store_save_rows(s, 0, 1, r, 255, 1), {"saved_bytes is 255", "256"});
  parameter(pq_cell_store_save_rows(s, -1, 1, r, 256, 1), {"first cell is -1"});
  parameter(pq_cell_store_load_rows(nullptr, 0, 1, r, 256, 1), {"store is NULL"});
  parameter(pq_cell_store_load_rows(s, 0, 1, nullptr, 256, 1), {"saved is NULL"});
  parameter(pq_cell_store_load_rows(s, 0, 1, r, 1, 1), {"saved_bytes is 1", "256"});
  parameter(pq_cell_store_load_rows(s, kCells, 1, r, 256, 1), {"count of cells is 1"});
  pq_memory_use use = PQ_MEMORY_USE_INIT;
  parameter(pq_cell_store_memory(nullptr, &use), {"store is NULL"});
  parameter(pq_cell_store_memory(s, nullptr), {"memory is NULL"});
  use.struct_size = 12;
  parameter(pq_cell_store_memory(s, &use), {"memory.struct_size is 12"});
  EXPECT_TRUE(Ok(pq_cell_store_write(s, nullptr, 0, nullptr, 0, nullptr, 1)));  // nothing is fine
}

TEST(CCellStore, WorksInSeveralThreadsWithAStoreEach) {
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      const CellStorePtr store = Made(SomeConfig());
      Write(store.get(), 0, 300, t);
      EXPECT_TRUE(Ok(pq_cell_store_settle(store.get(), 1)));
      EXPECT_EQ(MemoryOf(store.get()).filled_cells, 300);
      EXPECT_NE(pq_cell_store_clear_cells(store.get(), -1 - static_cast<int64_t>(t), 1), PQ_OK);
      EXPECT_NE(std::string(pq_last_error()).find("is -" + std::to_string(t + 1)),
                std::string::npos);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace polarquant
