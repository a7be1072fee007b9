// SPDX-License-Identifier: Apache-2.0
#include "on_target.h"

#include <gtest/gtest.h>

#include <csignal>
#include <string>

#include "polarquant/attention.h"
#include "polarquant/error.h"

namespace polarquant::cli {
namespace {

TEST(OnTarget, RunsTheKernelsOfThatTarget) {
  EXPECT_EQ(OnTarget("scalar", [] { return std::string(DefaultTarget().name); }), "scalar");
  EXPECT_TRUE(OnTarget(nullptr, [] { return std::string(DefaultTarget().name); }).has_value());
}

TEST(OnTarget, GivesNothingWhereTheTargetIsMissing) {
  EXPECT_EQ(OnTarget("mmx", [] { return std::string("never"); }), std::nullopt);
}

TEST(OnTarget, BringsLongAnswersBack) {
  const std::string text(1 << 20, 'x');
  EXPECT_EQ(OnTarget("scalar", [&] { return text; }), text);
}

TEST(OnTarget, ThrowsWhatTheChildThrew) {
  try {
    OnTarget("scalar",
             []() -> std::string { throw Error(ErrorCode::kCapacity, "no room: none at all"); });
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCapacity);
    EXPECT_STREQ(error.what(), "no room: none at all");
  }
}

TEST(OnTarget, SaysThatAChildDied) {
  try {
    OnTarget("scalar", []() -> std::string {
      signal(SIGILL, SIG_DFL);
      raise(SIGILL);
      return "";
    });
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kHost);
    EXPECT_NE(std::string(error.what()).find("died of signal 4"), std::string::npos);
  }
}

}  // namespace
}  // namespace polarquant::cli
