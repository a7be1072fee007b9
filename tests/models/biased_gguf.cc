// SPDX-License-Identifier: Apache-2.0
// Turns a model of the llama architecture into one with the keys of Qwen2.5: a few pairs of
// channels far larger than the rest, with a large bias before RoPE. In six pairs of every kv_head
// (three of the eight fastest, three of the eight slowest) the rows of the key projection are
// multiplied by 20 and those of the query projection divided by 20, which the model does not
// notice, and a bias of +-40 is added to the keys there, which it does not notice much.
//
//   biased_gguf MODEL FILE
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "ggml.h"
#include "gguf.h"

namespace {

constexpr float kFactor = 20.0f, kBias = 40.0f;
constexpr int kFastOrSlow = 8, kOfEach = 3;

template <auto Free>
struct Freer {
  template <typename T>
  void operator()(T* pointer) const {
    Free(pointer);
  }
};
using Gguf = std::unique_ptr<gguf_context, Freer<gguf_free>>;
using Ggml = std::unique_ptr<ggml_context, Freer<ggml_free>>;

int64_t Number(const gguf_context* file, const std::string& key) {
  const int64_t index = gguf_find_key(file, key.c_str());
  if (index < 0) throw std::runtime_error("the model has no " + key);
  return gguf_get_val_u32(file, index);
}

// Channels of one kv_head that are enlarged: pairs are (2i, 2i + 1), fast ones first.
std::vector<int> LargeChannels(int head_dim, std::mt19937& random) {
  std::vector<int> channels;
  const int pairs = head_dim / 2;
  for (const int first : {0, pairs - kFastOrSlow}) {
    std::array<int, kFastOrSlow> some;
    for (int i = 0; i < kFastOrSlow; ++i) some[static_cast<size_t>(i)] = first + i;
    std::shuffle(some.begin(), some.end(), random);
    for (int i = 0; i < kOfEach; ++i) {
      channels.push_back(2 * some[static_cast<size_t>(i)]);
      channels.push_back(2 * some[static_cast<size_t>(i)] + 1);
    }
  }
  return channels;
}

// The matrix as f32 with some rows (outputs) multiplied.
ggml_tensor* Scaled(ggml_context* to, const ggml_tensor* matrix,
                    const std::vector<float>& row_factors) {
  ggml_tensor* copy = ggml_new_tensor_2d(to, GGML_TYPE_F32, matrix->ne[0], matrix->ne[1]);
  ggml_set_name(copy, matrix->name);
  auto* values = static_cast<float*>(copy->data);
  const int64_t count = ggml_nelements(matrix);
  if (matrix->type == GGML_TYPE_F32) {
    std::memcpy(values, matrix->data, ggml_nbytes(matrix));
  } else {
    ggml_get_type_traits(matrix->type)->to_float(matrix->data, values, count);
  }
  for (int64_t i = 0; i < count; ++i) {
    values[i] *= row_factors[static_cast<size_t>(i / matrix->ne[0])];
  }
  return copy;
}

void Write(const std::string& model, const std::string& path) {
  ggml_context* tensors = nullptr;
  const Gguf in(gguf_init_from_file(model.c_str(), {/*no_alloc=*/false, &tensors}));
  if (!in) throw std::runtime_error(model + " is no GGUF file");
  const Ggml holder(tensors);
  const int layers = static_cast<int>(Number(in.get(), "llama.block_count"));
  const auto heads = static_cast<size_t>(Number(in.get(), "llama.attention.head_count"));
  const auto kv_heads = static_cast<size_t>(Number(in.get(), "llama.attention.head_count_kv"));
  const Gguf out(gguf_init_empty());
  gguf_set_kv(out.get(), in.get());
  gguf_set_val_str(out.get(), "general.name", "biased keys");

  const Ggml fresh(ggml_init({size_t{1} << 30, nullptr, /*no_alloc=*/false}));
  std::mt19937 random(25);
  for (int64_t i = 0; i < gguf_get_n_tensors(in.get()); ++i) {
    const std::string name = gguf_get_tensor_name(in.get(), i);
    if (name.find("attn_k.weight") == std::string::npos &&
        name.find("attn_q.weight") == std::string::npos) {
      gguf_add_tensor(out.get(), ggml_get_tensor(tensors, name.c_str()));
    }
  }
  for (int layer = 0; layer < layers; ++layer) {
    const std::string block = "blk." + std::to_string(layer) + ".";
    const ggml_tensor* keys = ggml_get_tensor(tensors, (block + "attn_k.weight").c_str());
    const ggml_tensor* queries = ggml_get_tensor(tensors, (block + "attn_q.weight").c_str());
    if (keys == nullptr || queries == nullptr) throw std::runtime_error("no " + block + "attn_k");
    const auto head_dim = static_cast<size_t>(keys->ne[1]) / kv_heads;
    std::vector<float> key_factors(static_cast<size_t>(keys->ne[1]), 1.0f);
    std::vector<float> query_factors(static_cast<size_t>(queries->ne[1]), 1.0f);
    ggml_tensor* bias = ggml_new_tensor_1d(fresh.get(), GGML_TYPE_F32, keys->ne[1]);
    ggml_set_name(bias, (block + "attn_k.bias").c_str());
    auto* biases = static_cast<float*>(bias->data);
    std::fill_n(biases, keys->ne[1], 0.0f);
    for (size_t head = 0; head < kv_heads; ++head) {
      for (const int channel : LargeChannels(static_cast<int>(head_dim), random)) {
        const size_t row = head * head_dim + static_cast<size_t>(channel);
        key_factors[row] = kFactor;
        biases[row] = random() % 2 == 0 ? kBias : -kBias;
        for (size_t q = head * heads / kv_heads; q < (head + 1) * heads / kv_heads; ++q) {
          query_factors[q * head_dim + static_cast<size_t>(channel)] = 1.0f / kFactor;
        }
      }
    }
    gguf_add_tensor(out.get(), Scaled(fresh.get(), keys, key_factors));
    gguf_add_tensor(out.get(), Scaled(fresh.get(), queries, query_factors));
    gguf_add_tensor(out.get(), bias);
  }
  if (!gguf_write_to_file(out.get(), path.c_str(), /*only_meta=*/false)) {
    throw std::runtime_error("cannot write " + path);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: biased_gguf MODEL FILE\n");
    return 2;
  }
  try {
    Write(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "biased_gguf: %s\n", error.what());
    return 1;
  }
  return 0;
}
