// SPDX-License-Identifier: Apache-2.0
// The wall between exceptions and C.
#include "guard.h"

#include <gtest/gtest.h>

#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "checks.h"

// A struct that has grown: its first version ended with `first`.
struct Grown {
  size_t struct_size;
  int64_t first;
  int64_t second;
};

namespace polarquant::c {

PQ_FIRST_VERSION(Grown, first)

namespace {

TEST(Guard, SaysNothingAndZeroWhenAllIsWell) {
  std::thread([] {  // a thread that never failed
    EXPECT_EQ(Guard([] {}), PQ_OK);
    EXPECT_STREQ(pq_last_error(), "");
  })
      .join();
}

TEST(Guard, TurnsEveryFamilyOfErrorsIntoItsNumber) {
  const std::pair<ErrorCode, pq_status> families[] = {
      {ErrorCode::kFormat, PQ_ERROR_FORMAT},
      {ErrorCode::kCorruption, PQ_ERROR_CORRUPTION},
      {ErrorCode::kUnsupported, PQ_ERROR_UNSUPPORTED},
      {ErrorCode::kParameter, PQ_ERROR_PARAMETER},
      {ErrorCode::kCapacity, PQ_ERROR_CAPACITY},
      {ErrorCode::kHost, PQ_ERROR_HOST}};
  for (const auto& [code, status] : families) {
    const std::string message = "family " + std::to_string(status);
    EXPECT_EQ(Guard([&, of = code] { throw Error(of, message); }), status);
    EXPECT_EQ(pq_last_error(), message);
  }
}

TEST(Guard, ReportsMemoryThatCannotBeHad) {
  EXPECT_EQ(Guard([] { throw std::bad_alloc(); }), PQ_ERROR_CAPACITY);
  EXPECT_NE(std::string(pq_last_error()).find("out of memory"), std::string::npos);
  EXPECT_EQ(Guard([] { std::vector<char>().reserve(SIZE_MAX); }), PQ_ERROR_CAPACITY);
  EXPECT_NE(std::string(pq_last_error()).find("out of memory"), std::string::npos);
}

TEST(Guard, CallsWhatNobodyExpectedInternal) {
  EXPECT_EQ(Guard([] { throw std::runtime_error("a surprise"); }), PQ_ERROR_INTERNAL);
  EXPECT_STREQ(pq_last_error(), "a surprise");
  EXPECT_EQ(Guard([] { throw 42; }), PQ_ERROR_INTERNAL);
  EXPECT_NE(std::string(pq_last_error()).find("no error"), std::string::npos);
}

TEST(Guard, KeepsTheMessageUntilTheNextFailure) {
  Guard([] { Refuse("first"); });
  EXPECT_EQ(Guard([] {}), PQ_OK);
  EXPECT_STREQ(pq_last_error(), "first");
  Guard([] { Refuse("second"); });
  EXPECT_STREQ(pq_last_error(), "second");
}

TEST(Guard, KeepsTheMessagesOfThreadsApart) {
  Guard([] { Refuse("mine"); });
  std::thread([] {
    Guard([] { Refuse("theirs"); });
    EXPECT_STREQ(pq_last_error(), "theirs");
  }).join();
  EXPECT_STREQ(pq_last_error(), "mine");
}

TEST(Guard, CutsAMessageThatIsTooLong) {
  const std::string most(kMessageBytes - 1, 'x');
  Guard([&] { Refuse(most); });
  EXPECT_EQ(pq_last_error(), most);
  Guard([&] { Refuse(most + "yz"); });
  EXPECT_EQ(pq_last_error(), most.substr(0, most.size() - 4) + " ...");
}

TEST(Guard, CanRememberItsOwnMessage) {
  Guard([] { Refuse("the same"); });
  RememberError(pq_last_error());
  EXPECT_STREQ(pq_last_error(), "the same");
}

TEST(Create, HandsOutNullWhenItFails) {
  int there = 0;
  int* handle = &there;
  EXPECT_EQ(Create(&handle, "handle", []() -> std::unique_ptr<int> { Refuse("no"); }),
            PQ_ERROR_PARAMETER);
  EXPECT_EQ(handle, nullptr);
  EXPECT_EQ(Create(&handle, "handle", [] { return std::make_unique<int>(7); }), PQ_OK);
  ASSERT_NE(handle, nullptr);
  EXPECT_EQ(*handle, 7);
  EXPECT_EQ(Destroy(handle), PQ_OK);
  EXPECT_EQ(Create<int>(nullptr, "handle", [] { return std::make_unique<int>(7); }),
            PQ_ERROR_PARAMETER);
  EXPECT_NE(std::string(pq_last_error()).find("handle is NULL"), std::string::npos);
}

TEST(Structs, OfAnOlderCallerGetTheDefaultsOfNewFields) {
  std::vector<Grown> memory(kMaxStructBytes / sizeof(Grown) + 1);  // compilers look at its size
  Grown& old = memory.front();
  old = {16, 5, 77};  // the caller's ends after `first`
  const Grown usual = {sizeof(Grown), 1, 2};
  const Grown taken = Taken(&old, "old", usual);
  EXPECT_EQ(taken.first, 5);
  EXPECT_EQ(taken.second, 2);
  Give(Grown{sizeof(Grown), 8, 9}, &old, "old");
  EXPECT_EQ(old.struct_size, 16u);
  EXPECT_EQ(old.first, 8);
  EXPECT_EQ(old.second, 77);
  old.struct_size = 15;
  EXPECT_EQ(Guard([&] { Taken(&old, "old", usual); }), PQ_ERROR_PARAMETER);
  EXPECT_NE(std::string(pq_last_error()).find("old.struct_size is 15"), std::string::npos);
}

// Programs that were compiled against the first version know these.
TEST(Structs, AreAsLongAsInTheirFirstVersionOrLonger) {
  if (sizeof(void*) != 8) GTEST_SKIP() << "written down for 64 bits";
  EXPECT_EQ(kFirstBytes<pq_library_info>, 32u);
  EXPECT_EQ(kFirstBytes<pq_codec_info>, 64u);
  EXPECT_EQ(kFirstBytes<pq_codec_option>, 40u);
  EXPECT_EQ(kFirstBytes<pq_key_profile>, 56u);
  EXPECT_EQ(kFirstBytes<pq_observation>, 88u);
  EXPECT_EQ(kFirstBytes<pq_page_config>, 40u);
  EXPECT_EQ(kFirstBytes<pq_page_sizes>, 48u);
  EXPECT_EQ(kFirstBytes<pq_memory_use>, 72u);
  EXPECT_EQ(kFirstBytes<pq_cell_store_config>, 64u);
  EXPECT_EQ(kFirstBytes<pq_sequence_cache_config>, 56u);
  EXPECT_EQ(kFirstBytes<pq_rows>, 40u);
  EXPECT_EQ(kFirstBytes<pq_sequence_state>, 32u);
  EXPECT_EQ(kFirstBytes<pq_attention>, 152u);
}

TEST(Directions, MayNotWriteAnythingTwice) {
  const auto status = [](int64_t a, int64_t count_a, int64_t b, int64_t count_b) {
    return Guard([&] { CheckApart({"a", a, count_a}, {"b", b, count_b}, 8); });
  };
  EXPECT_EQ(status(8, 4, 32, 3), PQ_OK);
  EXPECT_EQ(status(32, 3, 8, 4), PQ_OK);
  EXPECT_EQ(status(8, 4, 31, 3), PQ_ERROR_PARAMETER);
  EXPECT_NE(std::string(pq_last_error()).find("b is 31; with a 8 and 4"), std::string::npos);
  EXPECT_NE(std::string(pq_last_error()).find("at least 32"), std::string::npos);
  EXPECT_EQ(status(8, 2, 8, 2), PQ_ERROR_PARAMETER);
  EXPECT_EQ(status(7, 2, 100, 2), PQ_ERROR_PARAMETER);
  EXPECT_EQ(status(100, 2, -1, 2), PQ_ERROR_PARAMETER);
  EXPECT_EQ(status(0, 1, 8, 9), PQ_OK);  // what is not gone along may be anything
  EXPECT_EQ(status(8, 9, 0, 1), PQ_OK);
  EXPECT_EQ(status(0, 0, 0, 0), PQ_OK);
}

}  // namespace
}  // namespace polarquant::c
