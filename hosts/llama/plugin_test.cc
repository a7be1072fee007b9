// SPDX-License-Identifier: Apache-2.0
// The plug-in through ggml's own door, without llama.cpp: caches are allocated, written, attended,
// shifted, saved and loaded as llama.cpp does it, and compared with ggml's CPU backend on plain f16
// tensors.
#include "plugin.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "backend.h"
#include "buffer.h"
#include "control.h"
#include "device.h"
#include "ggml-alloc.h"
#include "ggml-cpp.h"
#include "graph.h"
#include "polarquant/error.h"
#include "polarquant/model_profile.h"
#include "settings.h"
#include "status.h"

namespace polarquant::llama {
namespace {

constexpr int kHeadDim = 64;
constexpr int kKvHeads = 2;
constexpr int kHeads = 4;
constexpr int kCells = 512;
constexpr int kRowValues = kHeadDim * kKvHeads;

ggml_context_ptr MakeContext() {
  return ggml_context_ptr(ggml_init({size_t{1} << 20, nullptr, /*no_alloc=*/true}));
}

Policy PolicyOf(const std::string& kv, int window = 32) {
  Policy policy;
  std::tie(policy.key, policy.value) = Scheme::ParsePair(kv);
  policy.window_tokens = window;
  return policy;
}

// One layer's cache, in our memory or in ggml's, and the backend that computes on it.
class Cache {
 public:
  static Cache Ours(const Policy& policy, int streams = 1) {
    Plugin::Get().Configure(policy);
    Cache cache;
    cache.backend_.reset(StartBackend());
    SetThreads(cache.backend_.get(), 2);
    cache.Allocate(HostBufferType(), streams);
    return cache;
  }
  static Cache Stock(int streams = 1) {
    Cache cache;
    cache.backend_.reset(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr));
    cache.Allocate(ggml_backend_cpu_buffer_type(), streams);
    return cache;
  }

  // Writes `count` rows of random numbers, the same for the same seed, at cells first, first+1...
  // The first four rows are `sinks` times as large.
  ggml_status Write(int64_t first, int count, unsigned seed, float sinks = 1.0f) {
    const ggml_context_ptr context = MakeContext();
    ggml_tensor* rows[2];
    ggml_cgraph* graph = ggml_new_graph(context.get());
    ggml_tensor* indices = ggml_new_tensor_1d(context.get(), GGML_TYPE_I64, count);
    for (int role = 0; role < 2; ++role) {
      rows[role] = ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, kRowValues, count);
      ggml_tensor* merged = ggml_reshape_2d(context.get(), tensor(role), kRowValues,
                                            tensor(role)->ne[1] * tensor(role)->ne[2]);
      ggml_build_forward_expand(graph, ggml_set_rows(context.get(), merged, rows[role], indices));
    }
    const auto buffer = AllocateInputs(context.get());
    std::mt19937 random(seed);
    for (ggml_tensor* row : rows) {
      Randomise(row, random);
      auto* values = static_cast<float*>(row->data);
      for (int i = 0; i < std::min(4, count) * kRowValues; ++i) values[i] *= sinks;
    }
    auto* index = static_cast<int64_t*>(indices->data);
    std::iota(index, index + count, first);
    return ggml_backend_graph_compute(backend_.get(), graph);
  }

  // Writes `count` keys that a ROPE node turned, by positions of this type.
  ggml_status WriteTurnedKeys(int count, ggml_type positions) {
    const ggml_context_ptr context = MakeContext();
    ggml_tensor* rows = ggml_new_tensor_3d(context.get(), GGML_TYPE_F32, kHeadDim, kKvHeads, count);
    ggml_tensor* by = ggml_new_tensor_1d(context.get(), GGML_TYPE_I32, count);
    ggml_tensor* indices = ggml_new_tensor_1d(context.get(), GGML_TYPE_I64, count);
    ggml_tensor* turned = ggml_rope_ext(context.get(), rows, by, nullptr, kHeadDim, 0, 0, 10000.0f,
                                        1.0f, 0.0f, 1.0f, 32.0f, 1.0f);
    ggml_tensor* write =
        ggml_set_rows(context.get(), tensor(0),
                      ggml_reshape_2d(context.get(), turned, kRowValues, count), indices);
    const auto buffer = AllocateInputs(context.get());
    ggml_backend_buffer_clear(buffer.get(), 0);
    auto* index = static_cast<int64_t*>(indices->data);
    std::iota(index, index + count, 0);
    by->type = positions;
    ggml_cgraph* graph = ggml_new_graph(context.get());
    ggml_graph_add_node(graph, write);  // the turning itself is another backend's
    return ggml_backend_graph_compute(backend_.get(), graph);
  }

  // Attention of `queries` random queries over the first `cells` cells of one stream, `times` in
  // one graph; query n sees the cells up to cells - queries + n. Empty if the graph fails.
  std::vector<std::vector<float>> Attend(int queries, int cells, int times = 1, int stream = 0) {
    const ggml_context_ptr context = MakeContext();
    ggml_tensor* query =
        ggml_new_tensor_4d(context.get(), GGML_TYPE_F32, kHeadDim, queries, kHeads, 1);
    ggml_tensor* mask = ggml_new_tensor_2d(context.get(), GGML_TYPE_F16, cells, queries);
    ggml_cgraph* graph = ggml_new_graph(context.get());
    std::vector<ggml_tensor*> outputs;
    for (int i = 0; i < times; ++i) {
      outputs.push_back(
          ggml_flash_attn_ext(context.get(), query, Heads(context.get(), 0, cells, stream),
                              Heads(context.get(), 1, cells, stream), mask, 0.125f, 0.0f, 0.0f));
      // llama.cpp's scheduler asks first.
      if (IsOwnCache(keys_)) {
        EXPECT_TRUE(SupportsOp(outputs.back()));
      }
      ggml_build_forward_expand(graph, outputs.back());
    }
    const auto buffer = AllocateInputs(context.get());
    std::mt19937 random(99);
    Randomise(query, random);
    auto* visible = static_cast<ggml_fp16_t*>(mask->data);
    for (int n = 0; n < queries; ++n) {
      for (int cell = 0; cell < cells; ++cell) {
        *visible++ = ggml_fp32_to_fp16(cell <= cells - queries + n ? 0.0f : -INFINITY);
      }
    }
    if (ggml_backend_graph_compute(backend_.get(), graph) != GGML_STATUS_SUCCESS) return {};
    std::vector<std::vector<float>> results;
    for (const ggml_tensor* output : outputs) {
      const auto* values = static_cast<const float*>(output->data);
      results.emplace_back(values, values + ggml_nelements(output));
    }
    return results;
  }

  // Turns the keys of cells [0, cells) by `shift` positions.
  ggml_status ShiftKeys(int cells, int shift) {
    const ggml_context_ptr context = MakeContext();
    ggml_tensor* by = ggml_new_tensor_1d(context.get(), GGML_TYPE_I32, kCells);
    ggml_tensor* view =
        ggml_view_3d(context.get(), keys_, kHeadDim, kKvHeads, kCells,
                     kHeadDim * sizeof(ggml_fp16_t), kRowValues * sizeof(ggml_fp16_t), 0);
    ggml_cgraph* graph = ggml_new_graph(context.get());
    ggml_build_forward_expand(
        graph, ggml_rope_ext_inplace(context.get(), view, by, nullptr, kHeadDim, 0, 0, 10000.0f,
                                     1.0f, 0.0f, 1.0f, 32.0f, 1.0f));
    const auto buffer = AllocateInputs(context.get());
    auto* positions = static_cast<int32_t*>(by->data);
    for (int cell = 0; cell < kCells; ++cell) positions[cell] = cell < cells ? shift : 0;
    return ggml_backend_graph_compute(backend_.get(), graph);
  }

  std::vector<char> Save(int role, int cells, int stream = 0) const {
    std::vector<char> bytes(static_cast<size_t>(cells) * tensor(role)->nb[1]);
    ggml_backend_tensor_get(tensor(role), bytes.data(),
                            static_cast<size_t>(stream) * tensor(role)->nb[2], bytes.size());
    return bytes;
  }
  // In pieces of `piece` bytes, which need not be whole rows.
  void Load(int role, const std::vector<char>& bytes, size_t piece) {
    for (size_t at = 0; at < bytes.size(); at += piece) {
      ggml_backend_tensor_set(tensor(role), bytes.data() + at, at,
                              std::min(piece, bytes.size() - at));
    }
  }
  void Clear() { ggml_backend_buffer_clear(buffer_.get(), 0); }
  // Reads once; asking for the status then closes what has left the window.
  void Settle(int cells) {
    Attend(1, cells);
    StatusText();
  }
  void CopyStream(int from, int to) {
    for (int role = 0; role < 2; ++role) {
      const ggml_context_ptr context = MakeContext();
      ggml_tensor* views[2];
      for (int i = 0; i < 2; ++i) {
        views[i] =
            ggml_view_2d(context.get(), tensor(role), kRowValues, kCells, tensor(role)->nb[1],
                         static_cast<size_t>(i == 0 ? from : to) * tensor(role)->nb[2]);
        ggml_backend_view_init(views[i]);
      }
      ggml_backend_tensor_copy(views[0], views[1]);
    }
  }
  ggml_tensor* tensor(int role) const { return role == 0 ? keys_ : values_; }

 private:
  void Allocate(ggml_backend_buffer_type_t type, int streams) {
    context_ = MakeContext();
    keys_ = ggml_new_tensor_3d(context_.get(), GGML_TYPE_F16, kRowValues, kCells, streams);
    values_ = ggml_new_tensor_3d(context_.get(), GGML_TYPE_F16, kRowValues, kCells, streams);
    ggml_set_name(keys_, "cache_k_l0");
    ggml_set_name(values_, "cache_v_l0");
    buffer_.reset(ggml_backend_alloc_ctx_tensors_from_buft(context_.get(), type));
    ASSERT_NE(buffer_, nullptr);
    Clear();
    Attend(1, 1);  // as llama.cpp's reserved graphs do, this announces the shape of heads
  }
  static ggml_backend_buffer_ptr AllocateInputs(ggml_context* context) {
    return ggml_backend_buffer_ptr(
        ggml_backend_alloc_ctx_tensors_from_buft(context, ggml_backend_cpu_buffer_type()));
  }
  static void Randomise(ggml_tensor* tensor, std::mt19937& random) {
    std::normal_distribution<float> normal;
    auto* values = static_cast<float*>(tensor->data);
    for (int64_t i = 0; i < ggml_nelements(tensor); ++i) values[i] = normal(random);
  }
  ggml_tensor* Heads(ggml_context* context, int role, int cells, int stream) const {
    ggml_tensor* all = tensor(role);
    ggml_tensor* view =
        ggml_view_4d(context, all, kHeadDim, kKvHeads, cells, 1, kHeadDim * sizeof(ggml_fp16_t),
                     all->nb[1], all->nb[2], static_cast<size_t>(stream) * all->nb[2]);
    return ggml_permute(context, view, 0, 2, 1, 3);
  }

  ggml_context_ptr context_;
  ggml_backend_ptr backend_;
  ggml_backend_buffer_ptr buffer_;
  ggml_tensor* keys_ = nullptr;
  ggml_tensor* values_ = nullptr;
};

double Distance(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0;
  double energy = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    energy += a[i] * a[i];
  }
  return std::sqrt(error / energy);
}

TEST(PlugIn, WithF16IsBitIdenticalToGgml) {
  Cache ours = Cache::Ours(PolicyOf("f16"));
  Cache stock = Cache::Stock();
  for (int step = 0; step < 3; ++step) {
    ASSERT_EQ(ours.Write(step * 100, 100, 7 + step), GGML_STATUS_SUCCESS);
    ASSERT_EQ(stock.Write(step * 100, 100, 7 + step), GGML_STATUS_SUCCESS);
    EXPECT_EQ(ours.Attend(5, step * 100 + 100), stock.Attend(5, step * 100 + 100));
  }
  ASSERT_EQ(ours.ShiftKeys(200, -17), GGML_STATUS_SUCCESS);
  ASSERT_EQ(stock.ShiftKeys(200, -17), GGML_STATUS_SUCCESS);
  EXPECT_EQ(ours.Save(0, 300), stock.Save(0, 300));
  EXPECT_EQ(ours.Save(1, 300), stock.Save(1, 300));
  EXPECT_EQ(ours.Attend(5, 300), stock.Attend(5, 300));
}

TEST(PlugIn, AttendsNearTheExactCacheWithStatisticsOfPages) {
  Cache ours = Cache::Ours(PolicyOf("turbo4:center/turbo4"));
  Cache stock = Cache::Stock();
  for (Cache* cache : {&ours, &stock}) ASSERT_EQ(cache->Write(0, 400, 3), GGML_STATUS_SUCCESS);
  ours.Settle(400);
  const double distance = Distance(stock.Attend(3, 400)[0], ours.Attend(3, 400)[0]);
  EXPECT_GT(distance, 3e-3) << "nothing was encoded";
  EXPECT_LT(distance, 0.45);
}

class EverySchemeOnTheWay : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Schemes, EverySchemeOnTheWay,
                         testing::Values("turbo8", "turbo4/turbo4", "turbo3/turbo2", "q8_0",
                                         "f16/turbo4"));

TEST_P(EverySchemeOnTheWay, AttendsNearTheExactCache) {
  Cache ours = Cache::Ours(PolicyOf(GetParam()));
  Cache stock = Cache::Stock();
  for (Cache* cache : {&ours, &stock}) ASSERT_EQ(cache->Write(0, 400, 3), GGML_STATUS_SUCCESS);
  ours.Settle(400);
  const double distance = Distance(stock.Attend(3, 400)[0], ours.Attend(3, 400)[0]);
  EXPECT_GT(distance, 3e-3) << "nothing was encoded";
  EXPECT_LT(distance, 0.45);
}

TEST_P(EverySchemeOnTheWay, LoadsTheVeryRowsItSaved) {
  Cache ours = Cache::Ours(PolicyOf(GetParam()));
  ASSERT_EQ(ours.Write(0, 400, 3), GGML_STATUS_SUCCESS);
  ours.Attend(4, 4);  // names the sinks
  ours.Settle(400);
  const auto before = ours.Attend(3, 400);
  const std::vector<char> keys = ours.Save(0, 400);
  const std::vector<char> values = ours.Save(1, 400);
  ours.Clear();
  EXPECT_NE(ours.Attend(3, 400), before);
  ours.Load(0, keys, keys.size());
  ours.Load(1, values, 1000);  // rows arrive in parts
  EXPECT_EQ(ours.Save(0, 400), keys);
  EXPECT_EQ(ours.Save(1, 400), values);
  EXPECT_EQ(ours.Attend(3, 400), before);
  EXPECT_EQ(ours.Attend(3, 400), before) << "the sinks did not stay exact";
}

TEST_P(EverySchemeOnTheWay, CopiesStreams) {
  Cache ours = Cache::Ours(PolicyOf(GetParam()), 3);
  ASSERT_EQ(ours.Write(0, 300, 3), GGML_STATUS_SUCCESS);
  ours.Settle(300);
  ours.CopyStream(0, 2);
  EXPECT_EQ(ours.Attend(2, 300, 1, 2), ours.Attend(2, 300, 1, 0));
  EXPECT_EQ(ours.Save(0, 300, 2), ours.Save(0, 300, 0));
}

TEST(PlugIn, LetsEveryReaderOfABatchSeeTheSameRows) {
  Cache ours = Cache::Ours(PolicyOf("turbo2", 0));
  for (int round = 0; round < 3; ++round) {
    ASSERT_EQ(ours.Write(round * 128, 128, 5 + round), GGML_STATUS_SUCCESS);
    const auto results = ours.Attend(2, (round + 1) * 128, /*times=*/2);
    EXPECT_EQ(results[0], results[1]) << "round " << round;
  }
}

TEST(PlugIn, ShiftsCodedKeysAsItShiftsExactOnes) {
  Cache ours = Cache::Ours(PolicyOf("turbo8"));
  Cache stock = Cache::Stock();
  for (Cache* cache : {&ours, &stock}) {
    ASSERT_EQ(cache->Write(0, 400, 3), GGML_STATUS_SUCCESS);
    cache->Settle(400);
    ASSERT_EQ(cache->ShiftKeys(256, 40), GGML_STATUS_SUCCESS);
  }
  EXPECT_LT(Distance(stock.Attend(3, 400)[0], ours.Attend(3, 400)[0]), 0.03);
}

TEST(PlugIn, RefusesAStateThatCouldNotBeSavedUntilTheCacheIsCleared) {
  Cache ours = Cache::Ours(PolicyOf("f32"));
  ASSERT_EQ(ours.Write(0, 300, 3), GGML_STATUS_SUCCESS);
  ASSERT_FALSE(ours.Attend(1, 300).empty());
  const std::vector<char> keys = ours.Save(0, 300);
  EXPECT_NE(StatusText().find("cannot be saved: scheme f32"), std::string::npos);
  ours.Load(0, keys, keys.size());
  EXPECT_EQ(ours.Write(300, 1, 1), GGML_STATUS_FAILED);
  ours.Clear();
  EXPECT_EQ(ours.Write(0, 1, 1), GGML_STATUS_SUCCESS);
}

TEST(PlugIn, ObservesNoSinksWhereNoRopeTellsPositions) {
  const std::string path = testing::TempDir() + "observed." + std::to_string(getpid());
  Cache ours = Cache::Ours(PolicyOf("f16"));
  ASSERT_EQ(Observe(0), 0);
  ASSERT_EQ(ours.Write(0, 400, 3, /*sinks=*/100), GGML_STATUS_SUCCESS);
  ours.Attend(300, 400);
  char message[200];
  ASSERT_EQ(Observed(path.c_str(), message, sizeof(message)), 0) << message;
  const ModelProfile profile = ModelProfile::Load(path);
  std::filesystem::remove(path);
  EXPECT_EQ(profile.tokens, 384 - 4) << "the last 16 rows are too few for a page";
  for (const float moment : profile.layers.at(0).key_moment) EXPECT_NEAR(moment, 1, 0.5);
}

TEST(PlugIn, RefusesToObserveKeysWhosePositionsItCannotRead) {
  Cache ours = Cache::Ours(PolicyOf("f16"));
  ASSERT_EQ(Observe(0), 0);
  EXPECT_EQ(ours.WriteTurnedKeys(64, GGML_TYPE_I32), GGML_STATUS_SUCCESS);
  EXPECT_EQ(ours.WriteTurnedKeys(64, GGML_TYPE_F32), GGML_STATUS_FAILED);
  EXPECT_NE(StatusText().find("the positions of RoPE are f32"), std::string::npos);
  Observed("", nullptr, 0);  // too little was seen, which ends it all the same
  EXPECT_EQ(ours.WriteTurnedKeys(64, GGML_TYPE_F32), GGML_STATUS_SUCCESS) << "nobody asks for them";
}

TEST(PlugIn, RefusesQuantisedCacheTensorsAndKeysWithoutValues) {
  Plugin::Get().Configure(PolicyOf("turbo4"));
  Plugin::Get().BackendStarted();
  ggml_context_ptr context = MakeContext();
  ggml_set_name(ggml_new_tensor_2d(context.get(), GGML_TYPE_Q8_0, 64, 256), "cache_k_l0");
  EXPECT_EQ(ggml_backend_alloc_ctx_tensors_from_buft(context.get(), HostBufferType()), nullptr);
  context = MakeContext();
  ggml_set_name(ggml_new_tensor_2d(context.get(), GGML_TYPE_F16, 64, 256), "cache_k_l0");
  ggml_set_name(ggml_new_tensor_2d(context.get(), GGML_TYPE_F16, 64, 256), "cache_k_l1");
  EXPECT_EQ(ggml_backend_alloc_ctx_tensors_from_buft(context.get(), HostBufferType()), nullptr);
  EXPECT_NE(StatusText().find("latent attention"), std::string::npos);
}

TEST(PlugIn, KeepsCachesOfDifferentPoliciesApart) {
  Cache eight = Cache::Ours(PolicyOf("turbo8", 0));
  Cache two = Cache::Ours(PolicyOf("turbo2", 0));
  Cache stock = Cache::Stock();
  for (Cache* cache : {&eight, &two, &stock}) {
    ASSERT_EQ(cache->Write(0, 384, 3), GGML_STATUS_SUCCESS);
    cache->Settle(384);
  }
  const auto exact = stock.Attend(3, 384)[0];
  EXPECT_LT(5 * Distance(exact, eight.Attend(3, 384)[0]), Distance(exact, two.Attend(3, 384)[0]));
}

// What Rows hands out, by role.
struct HandedRows {
  std::vector<float> rows[2];
  static void Take(void* user, int layer, int is_value, int num_kv_heads, int head_dim,
                   const float* rows) {
    EXPECT_EQ(layer, 0);
    EXPECT_EQ(num_kv_heads, kKvHeads);
    EXPECT_EQ(head_dim, kHeadDim);
    static_cast<HandedRows*>(user)->rows[is_value].assign(rows, rows + 300 * kRowValues);
  }
};

TEST(PlugIn, HandsOutTheRowsItHolds) {
  Cache ours = Cache::Ours(PolicyOf("f16"));
  ASSERT_EQ(ours.Write(0, 300, 3), GGML_STATUS_SUCCESS);
  HandedRows handed;
  char message[200];
  ASSERT_EQ(Rows(300, HandedRows::Take, &handed, message, sizeof(message)), 0) << message;
  for (int role = 0; role < 2; ++role) {
    std::vector<ggml_fp16_t> halves(handed.rows[role].size());
    ggml_fp32_to_fp16_row(handed.rows[role].data(), halves.data(),
                          static_cast<int64_t>(halves.size()));
    const std::vector<char> saved = ours.Save(role, 300);
    ASSERT_EQ(saved.size(), halves.size() * sizeof(ggml_fp16_t));
    EXPECT_EQ(std::memcmp(saved.data(), halves.data(), saved.size()), 0);
  }
  EXPECT_NE(Rows(kCells + 1, HandedRows::Take, &handed, message, sizeof(message)), 0);
  EXPECT_NE(std::string(message).find("it has 512 cells"), std::string::npos) << message;
}

TEST(PlugIn, TellsWhatItHolds) {
  Cache ours = Cache::Ours(PolicyOf("turbo4", 0));
  ASSERT_EQ(ours.Write(0, 384, 3), GGML_STATUS_SUCCESS);
  ours.Settle(384);
  const size_t needed = WriteStatus(nullptr, 0);
  std::string text(needed + 1, 'x');
  EXPECT_EQ(WriteStatus(text.data(), text.size()), needed);
  EXPECT_NE(text.find("\"layers_owned\":1"), std::string::npos) << text;
  EXPECT_NE(text.find("\"filled_cells\":384"), std::string::npos) << text;
  EXPECT_NE(text.find("\"kv\":\"turbo4/turbo4\""), std::string::npos) << text;
}

TEST(PlugIn, RefusesAPolicyThatDoesNotParse) {
  char message[200];
  EXPECT_NE(Configure("{\"key\":\"turbo99\"}", message, sizeof(message)), 0);
  EXPECT_NE(std::string(message).find("turbo99"), std::string::npos) << message;
  EXPECT_EQ(Configure("{\"key\":\"turbo3\",\"window\":0}", message, sizeof(message)), 0);
  EXPECT_EQ(Plugin::Get().policy().window_tokens, 0);
}

}  // namespace
}  // namespace polarquant::llama

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  polarquant::llama::Settings settings;
  settings.policy = polarquant::llama::Settings::DefaultPolicy();
  polarquant::llama::Plugin::Create(settings);
  return RUN_ALL_TESTS();
}
