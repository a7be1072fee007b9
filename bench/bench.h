// SPDX-License-Identifier: Apache-2.0
// What the attention benchmark times: the same queries over the same random caches, every layer of
// a model in turn, so that a cache is as cold as it is in a real decode.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace polarquant::bench {

struct Workload {
  int head_dim, q_heads, kv_heads;
  int64_t depth;  // cells filled, of them the last num_queries by the queries themselves
  int num_queries;
  int layers;
  int threads;

  size_t f16_layer_bytes() const {
    return static_cast<size_t>(depth) * static_cast<size_t>(kv_heads * head_dim) * 4;
  }
};

// Random inputs that all contestants share.
struct Inputs {
  std::vector<float> keys, values;  // [depth][kv_heads * head_dim], the same for every layer
  std::vector<float> queries;       // [num_queries][q_heads][head_dim]
  std::vector<uint16_t> mask;       // f16 [num_queries][depth], causal
};

class Contestant {
 public:
  virtual ~Contestant() = default;
  virtual void Run() = 0;                         // attention of all layers once
  virtual size_t LayerBytes() const = 0;          // that one layer's attention reads
  virtual std::vector<float> Output() const = 0;  // of the first layer, [num_queries][q_heads][d]
};

// Scheme of keys and values, for instance "turbo4"; "f16" is our own exact path.
std::unique_ptr<Contestant> OwnAttention(const std::string& schemes, const Workload& workload,
                                         const Inputs& inputs);
// ggml's FLASH_ATTN_EXT on its CPU backend with a cache of this type: "f16", "q8_0", "q4_0".
std::unique_ptr<Contestant> StockAttention(const std::string& type, const Workload& workload,
                                           const Inputs& inputs);

}  // namespace polarquant::bench
