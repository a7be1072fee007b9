// SPDX-License-Identifier: Apache-2.0
#include "run_guard.h"

#include <gtest/gtest.h>

#include <map>

namespace polarquant::cli {
namespace {

using Words = std::vector<std::string>;

std::string Find(const std::string& program, const Words& arguments,
                 const std::map<std::string, std::string>& variables = {}) {
  const Environment environment = [&](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  };
  const LayerCount layers = [](const std::string& path) -> std::optional<int> {
    return path == "m.gguf" ? std::optional(30) : std::nullopt;
  };
  return FindBypass(program, arguments, environment, layers);
}

struct BypassCase {
  const char* program;
  Words arguments;
  std::map<std::string, std::string> variables;
  const char* named;  // what the message must name
};

class EveryBypass : public testing::TestWithParam<BypassCase> {};

TEST_P(EveryBypass, IsRefusedNamingItsCause) {
  const BypassCase& test = GetParam();
  const std::string cause = Find(test.program, test.arguments, test.variables);
  EXPECT_EQ(cause.find(test.named), 0u) << "says: " << cause;
}

INSTANTIATE_TEST_SUITE_P(
    Arguments, EveryBypass,
    testing::Values(BypassCase{"llama-server", {"-m", "m.gguf", "-nkvo"}, {}, "-nkvo keeps"},
                    BypassCase{"llama-server", {"--no-kv-offload"}, {}, "--no-kv-offload keeps"},
                    BypassCase{"llama-server", {"--no_kv_offload"}, {}, "--no_kv_offload keeps"},
                    BypassCase{"/x/llama-cli", {"-ngl", "0"}, {}, "-ngl 0 gives no layer"},
                    BypassCase{"llama-cli", {"--n-gpu-layers", "0"}, {}, "--n-gpu-layers 0"},
                    BypassCase{"llama-cli", {"--gpu_layers", "0"}, {}, "--gpu_layers 0"},
                    BypassCase{"llama-cli", {"-m", "m.gguf", "-ngl", "30"}, {}, "-ngl 30 gives 30"},
                    BypassCase{"llama-cli", {"-dev", "none"}, {}, "-dev none uses no device"},
                    BypassCase{"llama-cli", {"--device", "CUDA0,POLARQUANT"}, {}, "--device CUDA0"},
                    BypassCase{"llama-cli", {"-fa", "off"}, {}, "-fa off turns flash"},
                    BypassCase{"llama-cli", {"--flash-attn", "0"}, {}, "--flash-attn 0"},
                    BypassCase{"llama-cli", {"-ctk", "q8_0"}, {}, "-ctk q8_0 names"},
                    BypassCase{"llama-cli", {"--cache-type-v", "q4_0"}, {}, "--cache-type-v q4_0"},
                    BypassCase{"llama-cli", {"-sm", "row"}, {}, "-sm row spreads"},
                    BypassCase{"llama-cli", {"-mg", "-1"}, {}, "-mg -1 uses no device"},
                    BypassCase{"llama-server", {"-devd", "none"}, {}, "-devd none"},
                    BypassCase{"llama-server", {"-ngld", "0"}, {}, "-ngld 0"},
                    BypassCase{"llama-bench", {"-nkvo", "0,1"}, {}, "-nkvo 0,1 keeps"},
                    BypassCase{"llama-bench", {"-ngl", "99,0"}, {}, "-ngl 99,0"},
                    BypassCase{"llama-bench", {"-fa", "1,0"}, {}, "-fa 1,0"},
                    BypassCase{"llama-bench", {"-ctk", "f16,q8_0"}, {}, "-ctk f16,q8_0"}));

INSTANTIATE_TEST_SUITE_P(
    Variables, EveryBypass,
    testing::Values(
        BypassCase{"llama-server", {}, {{"LLAMA_ARG_KV_OFFLOAD", "0"}}, "LLAMA_ARG_KV_OFFLOAD=0"},
        BypassCase{"llama-server", {}, {{"LLAMA_ARG_NO_KV_OFFLOAD", "1"}}, "LLAMA_ARG_NO_KV"},
        BypassCase{"llama-server", {}, {{"LLAMA_ARG_N_GPU_LAYERS", "0"}}, "LLAMA_ARG_N_GPU"},
        BypassCase{"llama-server", {"-m", "m.gguf"}, {{"LLAMA_ARG_N_GPU_LAYERS", "7"}}, "LLAMA_AR"},
        BypassCase{"llama-server", {}, {{"LLAMA_ARG_DEVICE", "none"}}, "LLAMA_ARG_DEVICE=none"},
        BypassCase{"llama-server", {}, {{"LLAMA_ARG_FLASH_ATTN", "off"}}, "LLAMA_ARG_FLASH"},
        BypassCase{"llama-server", {}, {{"LLAMA_ARG_CACHE_TYPE_K", "q8_0"}}, "LLAMA_ARG_CACHE"},
        BypassCase{"llama-server", {}, {{"LLAMA_ARG_MAIN_GPU", "-1"}}, "LLAMA_ARG_MAIN_GPU"}));

TEST(FindBypass, LetsHarmlessCommandsThrough) {
  EXPECT_EQ(Find("llama-server", {"-m", "m.gguf", "-c", "0", "-ngl", "31"}), "");
  EXPECT_EQ(Find("llama-server", {"-ngl", "all", "-dev", "polarquant", "-fa", "on"}), "");
  EXPECT_EQ(Find("llama-server", {"-ngl", "auto", "-fa", "auto", "-ctk", "f16", "-sm", "none"}),
            "");
  EXPECT_EQ(Find("llama-server", {"-ngl", "12", "-m", "unreadable.gguf"}), "");
  EXPECT_EQ(Find("llama-completion", {"-p", "-nkvoX", "-n", "0"}), "");
  EXPECT_EQ(Find("llama-bench", {"-nkvo", "0", "-ngl", "99", "-fa", "1"}), "");
  EXPECT_EQ(Find("llama-bench", {}, {{"LLAMA_ARG_DEVICE", "none"}}), "");  // reads no variables
  EXPECT_EQ(Find("llama-server", {}, {{"LLAMA_ARG_KV_OFFLOAD", "1"}}), "");
}

TEST(ModelsOf, FindsTheModelAndTheDraftModel) {
  const auto models = [](const Words& arguments,
                         const std::map<std::string, std::string>& variables = {}) {
    return ModelsOf(arguments, [&](const std::string& name) -> std::optional<std::string> {
      const auto found = variables.find(name);
      return found == variables.end() ? std::nullopt : std::optional(found->second);
    });
  };
  EXPECT_EQ(models({"-c", "512", "-m", "a.gguf"}), Words{"a.gguf"});
  EXPECT_EQ(models({"--model", "a.gguf", "-md", "b.gguf"}), (Words{"a.gguf", "b.gguf"}));
  EXPECT_EQ(models({"--model_draft", "b.gguf"}, {{"LLAMA_ARG_MODEL", "c.gguf"}}),
            (Words{"c.gguf", "b.gguf"}));
  EXPECT_EQ(models({"-hf", "someone/model"}), Words{});
}

TEST(AsksForInformation, KnowsTheQuestions) {
  EXPECT_TRUE(AsksForInformation({"--version"}));
  EXPECT_TRUE(AsksForInformation({"-m", "x", "--list_devices"}));
  EXPECT_FALSE(AsksForInformation({"-m", "x", "-p", "help"}));
}

TEST(HandoverFor, NamesOurDeviceInVariablesUnlessTheUserDid) {
  const Handover all = HandoverFor("llama-server", {"-m", "m.gguf"});
  EXPECT_TRUE(all.arguments.empty());
  ASSERT_EQ(all.variables.size(), 3u);
  EXPECT_EQ(all.variables[0],
            std::pair(std::string("LLAMA_ARG_DEVICE"), std::string("POLARQUANT")));
  const Handover rest = HandoverFor("llama-server", {"-dev", "POLARQUANT", "--n_gpu_layers", "99"});
  ASSERT_EQ(rest.variables.size(), 1u);
  EXPECT_EQ(rest.variables[0].first, "LLAMA_ARG_FLASH_ATTN");
}

TEST(HandoverFor, GivesLlamaBenchArguments) {
  const Handover setup = HandoverFor("/opt/llama-bench", {"-fa", "1"});
  EXPECT_TRUE(setup.variables.empty());
  EXPECT_EQ(setup.arguments, (Words{"-dev", "POLARQUANT", "-ngl", "-1"}));
}

TEST(CountLayers, SaysNothingOfFilesThatAreNoModels) {
  EXPECT_EQ(CountLayers("/no/such/file.gguf"), std::nullopt);
}

}  // namespace
}  // namespace polarquant::cli
