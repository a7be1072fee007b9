// SPDX-License-Identifier: Apache-2.0
// Slots of page memory: counted, shared, handed back.
#include "cache/page_pool.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <set>
#include <thread>
#include <vector>

#include "cache/host_range.h"
#include "polarquant/error.h"

namespace polarquant {
namespace {

const size_t kOs = SparseRange::OsPageBytes();

bool AllAre(const std::byte* bytes, size_t count, int value) {
  for (size_t i = 0; i < count; ++i) {
    if (bytes[i] != static_cast<std::byte>(value)) return false;
  }
  return true;
}

TEST(PagePool, GivesEverySlotAPlaceOfItsOwnWhileItGrows) {
  PagePool pool(100, false);
  std::vector<std::byte*> places;
  std::set<int32_t> slots;
  for (int i = 0; i < 500; ++i) {
    const int32_t slot = pool.Take();
    EXPECT_TRUE(slots.insert(slot).second);
    places.push_back(pool.At(slot));
    std::memset(places.back(), i % 256, 100);
  }
  for (int i = 0; i < 500; ++i) {  // and none has moved
    EXPECT_TRUE(AllAre(places[static_cast<size_t>(i)], 100, i % 256)) << i;
  }
}

TEST(PagePool, PadsSlotsToWholeOsPagesIfAsked) {
  PagePool pool(kOs + 1, true);
  EXPECT_EQ(pool.slot_bytes(), 2 * kOs);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(pool.At(pool.Take())) % kOs, 0u);
  }
}

TEST(PagePool, CountsOwnersAndFreesASlotWithItsLast) {
  PagePool pool(64, false);
  const int32_t slot = pool.Take();
  EXPECT_FALSE(pool.IsShared(slot));
  pool.Share(slot);
  pool.Share(slot);
  EXPECT_TRUE(pool.IsShared(slot));
  EXPECT_FALSE(pool.Give(slot));
  EXPECT_FALSE(pool.Give(slot));
  EXPECT_FALSE(pool.IsShared(slot));
  EXPECT_TRUE(pool.Give(slot));
  EXPECT_EQ(pool.Take(), slot);  // used again before new memory is
  EXPECT_FALSE(pool.IsShared(slot));
}

TEST(PagePool, GivesMemoryBackWhereNoNeighbourLiesOnIt) {
  const size_t slot_bytes = kOs / 2 + kOs;  // neighbours share an OS page, two by two
  HostRange range(6 * slot_bytes);
  PagePool pool(slot_bytes, 6, 6 * slot_bytes, range.data());
  for (int32_t slot = 0; slot < 6; ++slot) {
    pool.Claim(slot);
    std::memset(pool.At(slot), 1 + slot, slot_bytes);
  }
  EXPECT_EQ(range.resident(), 9 * kOs);
  EXPECT_TRUE(pool.Give(2));
  EXPECT_EQ(range.resident(), 8 * kOs);
  EXPECT_TRUE(AllAre(pool.At(1), slot_bytes, 2));
  EXPECT_TRUE(AllAre(pool.At(3), slot_bytes, 4));
  EXPECT_TRUE(pool.Give(3));
  EXPECT_EQ(range.resident(), 6 * kOs);
  EXPECT_TRUE(AllAre(pool.At(2), 2 * slot_bytes, 0));
  EXPECT_TRUE(AllAre(pool.At(4), slot_bytes, 5));
}

TEST(PagePool, ReleasesOnlyWholeOsPagesWithinWhatItIsTold) {
  HostRange range(4 * kOs);
  PagePool pool(4 * kOs, 1, 4 * kOs, range.data());
  pool.Claim(0);
  std::memset(pool.At(0), 7, 4 * kOs);
  pool.Release(0, 1, 2 * kOs - 1);
  EXPECT_EQ(range.resident(), 4 * kOs);
  pool.Release(0, 1, 3 * kOs);
  EXPECT_EQ(range.resident(), 2 * kOs);
  EXPECT_TRUE(AllAre(pool.At(0), kOs, 7));
  EXPECT_TRUE(AllAre(pool.At(0) + kOs, 2 * kOs, 0));
  EXPECT_TRUE(AllAre(pool.At(0) + 3 * kOs, kOs, 7));
}

TEST(PagePool, NeverTouchesAdoptedMemoryBeyondItsEnd) {
  HostRange range(3 * kOs);  // one slot and a half
  {
    PagePool pool(2 * kOs, 2, 3 * kOs, range.data());
    pool.Claim(0);
    pool.Claim(1);
    std::memset(range.data(), 1, 3 * kOs);
    pool.Release(1, 0, 2 * kOs);
    EXPECT_EQ(range.resident(), 2 * kOs);
    EXPECT_TRUE(range.intact());
    EXPECT_TRUE(pool.Give(1));
    EXPECT_TRUE(range.intact());
    EXPECT_TRUE(pool.Give(0));
    EXPECT_EQ(range.resident(), 0u);
  }
  EXPECT_TRUE(range.intact());
}

TEST(PagePool, SaysWhenAllSlotsAreTaken) {
  PagePool pool(64, 3, 3 * 64, nullptr);
  for (int i = 0; i < 3; ++i) pool.Take();
  try {
    pool.Take();
    FAIL() << "a fourth slot of three";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCapacity);
    EXPECT_NE(std::string(error.what()).find("all 3 page slots"), std::string::npos);
  }
}

// Each thread takes slots, shares them with the next one over and gives what it was handed.
TEST(PagePool, MayBeUsedByThreadsThatShareSlots) {
  constexpr size_t kThreads = 4;
  constexpr int kRounds = 200;
  PagePool pool(48, false);  // 85 to an OS page
  const int32_t common = pool.Take();
  std::memset(pool.At(common), 99, 48);
  for (size_t i = 0; i < kThreads; ++i) pool.Share(common);
  std::array<bool, kThreads> fine{};
  std::vector<std::thread> threads;
  for (size_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      bool all = true;
      std::vector<int32_t> mine;
      for (int round = 0; round < kRounds; ++round) {
        mine.push_back(pool.Take());
        std::memset(pool.At(mine.back()), static_cast<int>(i), 48);
        all = all && AllAre(pool.At(common), 48, 99);
        if (round % 3 != 2) continue;
        all = all && AllAre(pool.At(mine.front()), 48, static_cast<int>(i));
        pool.Give(mine.front());
        mine.erase(mine.begin());
      }
      for (const int32_t slot : mine) {
        all = all && AllAre(pool.At(slot), 48, static_cast<int>(i));
        pool.Give(slot);
      }
      pool.Give(common);
      fine[i] = all;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const bool each : fine) EXPECT_TRUE(each);
  EXPECT_FALSE(pool.IsShared(common));
  EXPECT_TRUE(pool.Give(common));
  std::set<int32_t> slots;  // every slot came back, once
  for (int i = 0; i < 16; ++i) EXPECT_TRUE(slots.insert(pool.Take()).second);
}

}  // namespace
}  // namespace polarquant
