// SPDX-License-Identifier: Apache-2.0
#include "cache_spec.h"

#include <gtest/gtest.h>

#include "polarquant/error.h"
#include "temporary_file.h"

namespace polarquant::cli {
namespace {

ErrorCode CodeOf(const std::string& text, int window = 128, int sinks = 4) {
  try {
    ParseCache(text, window, sinks);
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << text << " is taken";
  return ErrorCode::kHost;
}

TEST(ParseCache, TakesOneSchemeForBothRoles) {
  const CacheSpec spec = ParseCache("turbo3:scale=mse", 64, 2);
  EXPECT_FALSE(spec.stock);
  EXPECT_EQ(spec.label, "turbo3:scale=mse");
  EXPECT_EQ(spec.policy.key.ToString(), "turbo3:scale=mse");
  EXPECT_EQ(spec.policy.value, spec.policy.key);
  EXPECT_EQ(spec.policy.window_tokens, 64);
  EXPECT_EQ(spec.policy.sink_tokens, 2);
}

TEST(ParseCache, TakesASchemeForEachRole) {
  const CacheSpec spec = ParseCache("turbo4:center/turbo3", 128, 4);
  EXPECT_EQ(spec.policy.key.ToString(), "turbo4:center");
  EXPECT_EQ(spec.policy.value.ToString(), "turbo3");
}

TEST(ParseCache, TakesTheCachesOfLlamaCpp) {
  const CacheSpec one = ParseCache("stock:q4_0", 128, 4);
  EXPECT_TRUE(one.stock);
  EXPECT_EQ(one.stock_key, "q4_0");
  EXPECT_EQ(one.stock_value, "q4_0");
  const CacheSpec two = ParseCache("stock:q8_0/q5_1", 128, 4);
  EXPECT_EQ(two.stock_key, "q8_0");
  EXPECT_EQ(two.stock_value, "q5_1");
}

TEST(ParseCache, RefusesWhatItDoesNotKnow) {
  for (const char* text : {"", "turbo9", "turbo4/", "/turbo4", "turbo4:middle", "stock:",
                           "stock:q9", "stock:f16/", "stock:turbo4", "turbo4/turbo4/turbo4"}) {
    EXPECT_EQ(CodeOf(text), ErrorCode::kFormat) << text;
  }
}

TEST(ParseCache, RefusesAWindowOutsideItsRange) {
  EXPECT_EQ(CodeOf("turbo4", -1), ErrorCode::kParameter);
  EXPECT_EQ(CodeOf("turbo4", 128, 100000), ErrorCode::kParameter);
}

TEST(ParseCaches, FallsBackToTheDefaultOnlyWhenNothingIsNamed) {
  EXPECT_EQ(ParseCaches({}).size(), 1u);
  EXPECT_EQ(ParseCaches({}).front().label, kDefaultCache);
  CacheOptions options;
  options.caches = {"turbo2", "stock:f16"};
  const auto specs = ParseCaches(options);
  ASSERT_EQ(specs.size(), 2u);
  EXPECT_EQ(specs[0].label, "turbo2");
  EXPECT_EQ(specs[1].label, "stock:f16");
}

TEST(ParseCaches, TakesNoCacheThatNeedsAProfileWhenThereShallBeNone) {
  CacheOptions options;
  options.profile.none = true;
  EXPECT_TRUE(ParseCaches(options).front().policy.needs_profile());
}

TEST(Presets, AreSchemesAndTheirNamesAreKept) {
  for (const Preset& preset : Presets()) {
    const CacheSpec named = ParseCache(preset.name, 128, 4);
    EXPECT_EQ(named.label, preset.name);
    EXPECT_EQ(named.policy, ParseCache(preset.schemes, 128, 4).policy);
  }
  EXPECT_EQ(ParseCache("balanced", 128, 4).policy, ParseCache(kDefaultCache, 128, 4).policy);
}

TEST(ParseCaches, RefusesTheSameCacheTwice) {
  CacheOptions options;
  options.caches = {"turbo2", "turbo2"};
  EXPECT_THROW(ParseCaches(options), Error);
}

TEST(ParseCaches, ReadsPolicyFilesWithTheirOwnWindow) {
  const TemporaryFile file;
  Policy policy;
  std::tie(policy.key, policy.value) = Scheme::ParsePair("turbo4/turbo2");
  policy.window_tokens = 256;
  policy.Save(file.path());
  CacheOptions options;
  options.policies = {file.path()};
  options.window_tokens = 64;
  const auto specs = ParseCaches(options);
  ASSERT_EQ(specs.size(), 1u);
  EXPECT_EQ(specs.front().policy, policy);
}

}  // namespace
}  // namespace polarquant::cli
