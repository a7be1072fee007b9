// SPDX-License-Identifier: Apache-2.0
#include "chunked.h"

#include <gtest/gtest.h>

namespace polarquant::cli {
namespace {

using Passages = std::vector<std::string>;

TEST(SplitPassages, BlankLinesSeparateAndOtherLinesAreJoined) {
  EXPECT_EQ(SplitPassages("one\ntwo\n\nthree\n"), (Passages{"one two", "three"}));
}

TEST(SplitPassages, SpacesAndCarriageReturnsMakeNoPassage) {
  EXPECT_EQ(SplitPassages("\n\r\n  one \r\n\ttwo\r\n \t\r\n\n\nthree"),
            (Passages{"one two", "three"}));
  EXPECT_EQ(SplitPassages(""), Passages{});
  EXPECT_EQ(SplitPassages(" \n\t\n\r\n"), Passages{});
}

TEST(CloseShort, KeepsWindowSinksAndSchemes) {
  CacheSpec spec = ParseCache("turbo3:center/turbo2", 5, 7);
  const CacheSpec before = spec;
  CloseShort(spec);
  EXPECT_EQ(spec.policy.max_partial_pages, 0);
  EXPECT_EQ(spec.policy.page_tokens, 64);
  spec.policy.max_partial_pages = before.policy.max_partial_pages;
  spec.policy.page_tokens = before.policy.page_tokens;
  EXPECT_EQ(spec.policy, before.policy);
}

}  // namespace
}  // namespace polarquant::cli
