// SPDX-License-Identifier: Apache-2.0
// The wall between exceptions and C.
#include "guard.h"

#include <gtest/gtest.h>

#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

namespace polarquant::c {
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

}  // namespace
}  // namespace polarquant::c
