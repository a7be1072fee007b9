// SPDX-License-Identifier: Apache-2.0
#include "polarquant/policy.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "polarquant/error.h"

namespace polarquant {
namespace {

// The message of the error of that code which `action` throws.
std::string Refusal(ErrorCode code, const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

void ExpectRefused(ErrorCode code, const std::string& json, const std::string& words) {
  const std::string message = Refusal(code, [&] { Policy::Parse(json); });
  EXPECT_NE(message.find(words), std::string::npos) << json << "\n  gave: " << message;
}

TEST(Policy, TakesEveryDefaultFromAnEmptyObject) {
  const Policy policy = Policy::Parse("{}");
  EXPECT_EQ(policy.key.ToString(), "turbo4:balanced");
  EXPECT_EQ(policy.value.ToString(), "turbo4");
  EXPECT_EQ(policy.window_tokens, 128);
  EXPECT_EQ(policy.sink_tokens, 16);
  EXPECT_EQ(policy.page_tokens, 128);
  EXPECT_EQ(policy.max_partial_pages, 8);
  EXPECT_TRUE(policy.layers.empty());
}

TEST(Policy, PrintsWhatItParses) {
  const std::string json =
      R"({"key":"turbo4:center","value":"turbo3:scale=norm","window":0,"sinks":1024,)"
      R"("page_tokens":256,"max_partial_pages":3,"layers":[)"
      R"({"first":0,"last":1,"key":"q8_0","value":"q8_0"},)"
      R"({"first":-2,"last":-1,"key":"f16","value":"bf16"}]})";
  const Policy policy = Policy::Parse(json);
  EXPECT_EQ(policy.ToJson(), json);
  EXPECT_EQ(Policy::Parse(policy.ToJson()), policy);
}

TEST(Policy, GivesEachLayerTheSchemeOfItsLastRule) {
  const Policy policy = Policy::Parse(
      R"({"key":"turbo4","value":"turbo3","layers":[{"first":0,"last":3,"key":"q8_0"},)"
      R"({"first":-2,"last":-1,"key":"f16","value":"f16"},{"first":1,"value":"q4_0"},)"
      R"({"first":50,"last":60,"key":"f32"}]})");
  const auto name = [&](Role role, int layer) {
    return policy.SchemeFor(role, layer, 8).ToString();
  };
  EXPECT_EQ(name(Role::kKey, 0), "q8_0");
  EXPECT_EQ(name(Role::kValue, 0), "turbo3");  // a rule without a value keeps the policy's
  EXPECT_EQ(name(Role::kKey, 1), "turbo4");    // the later rule, which keeps the policy's key
  EXPECT_EQ(name(Role::kValue, 1), "q4_0");
  EXPECT_EQ(name(Role::kKey, 2), "q8_0");
  EXPECT_EQ(name(Role::kKey, 4), "turbo4");
  EXPECT_EQ(name(Role::kValue, 5), "turbo3");
  EXPECT_EQ(name(Role::kKey, 6), "f16");
  EXPECT_EQ(name(Role::kValue, 7), "f16");
  // In a smaller model the last layers are others.
  EXPECT_EQ(policy.SchemeFor(Role::kKey, 2, 4).ToString(), "f16");
  Refusal(ErrorCode::kParameter, [&] { policy.SchemeFor(Role::kKey, 8, 8); });
  Refusal(ErrorCode::kParameter, [&] { policy.SchemeFor(Role::kKey, -1, 8); });
}

TEST(Policy, LetsARuleReachFromOneEndToTheOther) {
  const Policy all =
      Policy::Parse(R"({"layers":[{"first":1,"last":-2,"key":"q8_0","value":"q8_0"}]})");
  EXPECT_EQ(all.SchemeFor(Role::kKey, 0, 4).codec, "turbo4");
  EXPECT_EQ(all.SchemeFor(Role::kKey, 1, 4).codec, "q8_0");
  EXPECT_EQ(all.SchemeFor(Role::kKey, 2, 4).codec, "q8_0");
  EXPECT_EQ(all.SchemeFor(Role::kKey, 3, 4).codec, "turbo4");
  EXPECT_EQ(all.SchemeFor(Role::kKey, 0, 1).codec, "turbo4");  // matches no layer
}

TEST(Policy, RefusesTextThatIsNotAPolicyAndSaysWhy) {
  const ErrorCode format = ErrorCode::kFormat;
  ExpectRefused(format, "", "not JSON");
  ExpectRefused(format, "{\"key\":\"turbo4\",}", "not JSON");
  ExpectRefused(format, "[]", "must be a JSON object, not array");
  ExpectRefused(format, R"({"keys":"turbo4"})",
                "unknown key \"keys\" in the policy; allowed: key,");
  ExpectRefused(format, R"({"window":1,"window":2})", "key \"window\" appears twice");
  ExpectRefused(format, R"({"key":4})", "\"key\" is 4; it must be a scheme");
  ExpectRefused(format, R"({"key":"turbo9"})", "turbo9");
  ExpectRefused(format, R"({"window":"128"})", "\"window\" is \"128\"; it must be a whole number");
  ExpectRefused(format, R"({"window":12.5})", "12.5");
  ExpectRefused(format, R"({"window":true})", "true");
  ExpectRefused(format, R"({"sinks":99999999999999999999})", "whole number");
  ExpectRefused(format, R"({"sinks":4294967300})", "4294967300");
  ExpectRefused(format, R"({"layers":{}})", "\"layers\" is {}; it must be a list");
  ExpectRefused(format, R"({"layers":[7]})", "layers[0] must be a JSON object, not number");
  ExpectRefused(format, R"({"layers":[{"key":"f16"}]})", "layers[0] names no layer");
  ExpectRefused(format, R"({"layers":[{"first":2}]})", "layers[0] changes nothing");
  ExpectRefused(format, R"({"layers":[{"first":0,"key":"f16"},{"layer":1}]})",
                "unknown key \"layer\" in layers[1]");
  ExpectRefused(format, R"({"layers":[{"first":0,"first":0,"key":"f16"}]})", "appears twice");
}

TEST(Policy, RefusesValuesOutsideTheirRangeAndNamesTheRange) {
  const ErrorCode parameter = ErrorCode::kParameter;
  ExpectRefused(parameter, R"({"window":-1})", "window is -1; it must be between 0 and 65536");
  ExpectRefused(parameter, R"({"window":65537})", "window is 65537");
  ExpectRefused(parameter, R"({"sinks":1025})", "sinks is 1025; it must be between 0 and 1024");
  ExpectRefused(parameter, R"({"page_tokens":100})",
                "page_tokens is 100; it must be 64, 128 or 256");
  ExpectRefused(parameter, R"({"max_partial_pages":-1})", "max_partial_pages is -1");
  ExpectRefused(parameter, R"({"layers":[{"first":3,"last":1,"key":"f16"}]})",
                "layers[0].first is 3, after last (1)");
  ExpectRefused(parameter, R"({"layers":[{"first":-1,"last":-2,"key":"f16"}]})", "after last (-2)");
  ExpectRefused(parameter, R"({"layers":[{"first":123456,"key":"f16"}]})", "layers[0].first");
}

TEST(Policy, ChecksWhatWasPutTogetherInCode) {
  Policy policy;
  policy.Check();
  policy.key.codec = "nonsense";
  const std::string message = Refusal(ErrorCode::kParameter, [&] { policy.Check(); });
  EXPECT_NE(message.find("key is \"nonsense\""), std::string::npos) << message;
  EXPECT_NE(message.find("turbo4"), std::string::npos) << message;
}

class PolicyFile : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("policy_test." + std::to_string(getpid()));
    std::filesystem::create_directory(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string Path(const char* name) const { return (folder_ / name).string(); }
  std::filesystem::path folder_;
};

TEST_F(PolicyFile, ComesBackAsItWasSavedAndLeavesNothingElse) {
  Policy policy = Policy::Parse(R"({"key":"turbo3","layers":[{"first":-1,"key":"f16"}]})");
  policy.Save(Path("a.json"));
  EXPECT_EQ(Policy::Load(Path("a.json")), policy);
  policy.window_tokens = 7;
  policy.Save(Path("a.json"));
  EXPECT_EQ(Policy::Load(Path("a.json")), policy);
  const std::filesystem::directory_iterator files(folder_), end;
  EXPECT_EQ(std::distance(files, end), 1);
}

TEST_F(PolicyFile, NamesTheFileThatCannotBeReadWrittenOrParsed) {
  const auto named = [&](ErrorCode code, const char* name, const std::function<void()>& action) {
    EXPECT_NE(Refusal(code, action).find(Path(name)), std::string::npos);
  };
  named(ErrorCode::kHost, "none.json", [&] { Policy::Load(Path("none.json")); });
  named(ErrorCode::kHost, "", [&] { Policy::Load(Path("")); });  // a folder
  named(ErrorCode::kHost, "no/b.json", [&] { Policy().Save(Path("no/b.json")); });
  std::ofstream(Path("bad.json")) << "{\"sink\":4}";
  named(ErrorCode::kFormat, "bad.json", [&] { Policy::Load(Path("bad.json")); });
}

}  // namespace
}  // namespace polarquant
