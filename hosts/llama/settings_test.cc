// SPDX-License-Identifier: Apache-2.0
#include "settings.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <string>

#include "graph.h"
#include "polarquant/error.h"
#include "version.h"

namespace polarquant::llama {
namespace {

class Environment : public testing::Test {
 protected:
  void TearDown() override {
    for (const auto& [name, value] : set_) unsetenv(name.c_str());
  }
  void Set(const std::string& name, const std::string& value) {
    setenv(name.c_str(), value.c_str(), 1);
    set_[name] = value;
  }
  static std::string Refusal() {
    try {
      Settings::FromEnvironment();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

 private:
  std::map<std::string, std::string> set_;
};

TEST_F(Environment, EmptyGivesTheDefaults) {
  const Settings settings = Settings::FromEnvironment();
  EXPECT_EQ(settings.policy.key.ToString(), "turbo4:balanced");
  EXPECT_EQ(settings.policy.value.ToString(), "turbo4");
  EXPECT_EQ(settings.policy.window_tokens, 128);
  EXPECT_EQ(settings.policy.sink_tokens, 16);
  EXPECT_TRUE(settings.host_attention);
}

TEST_F(Environment, SetsSchemesWindowAndSinks) {
  Set("POLARQUANT_KV", "turbo3/q8_0");
  Set("POLARQUANT_WINDOW", "0");
  Set("POLARQUANT_SINKS", "7");
  Set("POLARQUANT_ATTENTION", "own");
  const Settings settings = Settings::FromEnvironment();
  EXPECT_EQ(settings.policy.key.ToString(), "turbo3");
  EXPECT_EQ(settings.policy.value.ToString(), "q8_0");
  EXPECT_EQ(settings.policy.window_tokens, 0);
  EXPECT_EQ(settings.policy.sink_tokens, 7);
  EXPECT_FALSE(settings.host_attention);
}

TEST_F(Environment, RefusesAnUnknownVariableByName) {
  Set("POLARQUANT_WINDOWS", "3");
  EXPECT_NE(Refusal().find("POLARQUANT_WINDOWS"), std::string::npos) << Refusal();
}

TEST_F(Environment, RefusesValuesByName) {
  const std::map<std::string, std::string> bad = {
      {"POLARQUANT_KV", "turbo9"},      {"POLARQUANT_WINDOW", "12x"},
      {"POLARQUANT_WINDOW ", ""},       {"POLARQUANT_SINKS", "-1"},
      {"POLARQUANT_ATTENTION", "mine"}, {"POLARQUANT_POLICY", "/does/not/exist"}};
  for (const auto& [name, value] : bad) {
    Set(name, value);
    EXPECT_NE(Refusal().find(name), std::string::npos) << name << ": " << Refusal();
    unsetenv(name.c_str());
  }
}

TEST_F(Environment, TakesAPolicyFileInsteadOfTheOthersNotBesideThem) {
  const std::string path = testing::TempDir() + "polarquant_policy.json";
  std::ofstream(path) << R"({"key":"turbo2","value":"turbo3","window":5})";
  Set("POLARQUANT_POLICY", path);
  EXPECT_EQ(Settings::FromEnvironment().policy.window_tokens, 5);
  Set("POLARQUANT_WINDOW", "5");
  EXPECT_NE(Refusal().find("POLARQUANT_WINDOW"), std::string::npos) << Refusal();
}

TEST(Version, ToleratesLongerHashesAndDirtyTreesOnly) {
  EXPECT_TRUE(SameCommit("0c1e570", "0c1e570"));
  EXPECT_TRUE(SameCommit("0c1e570-dirty", "0c1e57033"));
  EXPECT_TRUE(SameCommit("unknown", "unknown"));
  EXPECT_FALSE(SameCommit("0c1e570", "0c1e571"));
  EXPECT_FALSE(SameCommit("0c1e", "0c1e570"));
  EXPECT_FALSE(SameCommit("unknown", "0c1e570"));
}

TEST(Graph, ReadsTheNamesOfCacheTensors) {
  const auto keys = ParseCacheName("cache_k_l12");
  ASSERT_TRUE(keys);
  EXPECT_EQ(keys->role, Role::kKey);
  EXPECT_EQ(keys->layer, 12);
  EXPECT_EQ(keys->tag, "");
  const auto tagged = ParseCacheName("cache_idx_v_l0");
  ASSERT_TRUE(tagged);
  EXPECT_EQ(tagged->role, Role::kValue);
  EXPECT_EQ(tagged->tag, "idx_");
  for (const char* other : {"cache_r_l0", "cache_s_l3", "cache_k_l0 (view)", "cache_k_l", "Kcur-0",
                            "cache__l1", "cache_k_l1x", ""}) {
    EXPECT_FALSE(ParseCacheName(other)) << other;
  }
}

TEST(Graph, FindsHeadDimHoweverAViewIsPermuted) {
  ggml_context* context = ggml_init({1 << 16, nullptr, true});
  ggml_tensor* rows = ggml_new_tensor_2d(context, GGML_TYPE_F16, 192, 256);
  ggml_tensor* heads = ggml_view_4d(context, rows, 64, 3, 256, 1, 128, 384, 384 * 256, 0);
  EXPECT_EQ(HeadDimOfView(ggml_permute(context, heads, 0, 2, 1, 3)), 64);
  EXPECT_EQ(HeadDimOfView(ggml_transpose(context, ggml_permute(context, heads, 0, 2, 1, 3))), 64);
  EXPECT_EQ(RootOf(ggml_permute(context, heads, 0, 2, 1, 3)), rows);
  ggml_free(context);
}

TEST(Graph, NamesOfOperationsStandWhereWeWereCompiledFor) {
  EXPECT_NO_THROW(CheckOperationTable());
}

}  // namespace
}  // namespace polarquant::llama
