// SPDX-License-Identifier: Apache-2.0
// Writes small models with random weights, one for every shape of attention that a cache must
// serve. Weights are f32 and scaled so that activations stay near one; the vocabulary is bare
// token numbers ("none"), which is all that a comparison of logits needs.
//
//   random_gguf list            the names of the shapes
//   random_gguf NAME FILE       writes one
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "ggml.h"
#include "gguf.h"

namespace {

struct Shape {
  const char* name;
  const char* architecture;
  int layers;
  int heads;
  int kv_heads;
  int head_dim;
  int embedding = 256;
  int feed_forward = 384;
  int vocabulary = 512;
  int sliding_window = 0;
};

// One row a shape; the grid of head dimensions and group sizes, then what is special.
constexpr Shape kShapes[] = {
    {"dim64_gqa1", "llama", 2, 4, 4, 64},
    {"dim64_gqa4", "llama", 2, 8, 2, 64},
    {"dim80_gqa4", "llama", 2, 4, 1, 80},
    {"dim96_gqa7", "llama", 2, 7, 1, 96},
    {"dim112_gqa2", "llama", 2, 4, 2, 112},
    {"dim128_gqa8", "llama", 2, 8, 1, 128},
    {"dim128_gqa4", "llama", 2, 8, 2, 128},
    {"dim256_gqa2", "llama", 2, 2, 1, 256},
    {"dim64_mqa", "llama", 2, 6, 1, 64},
    {"softcap_sliding", "gemma2", 4, 4, 2, 64, 256, 384, 512, 128},
    {"sliding_qk_norm", "gemma3", 4, 4, 1, 96, 256, 384, 512, 128},
    {"sinks_sliding", "gpt-oss", 4, 8, 2, 64, 256, 384, 512, 128},
    {"alibi", "bloom", 2, 4, 4, 64},
    {"hybrid", "lfm2", 4, 4, 2, 64},
    // Little to compute and much to remember: 16 KiB a token in 16 bit.
    {"bench_wide_cache", "llama", 8, 8, 8, 64, 256, 128},
    // Heavier, for timing attention at depth: its cache takes 16 KiB a token in 16 bit.
    {"bench_dim128_gqa4", "llama", 4, 32, 8, 128, 512, 1024, 4096},
};

class Writer {
 public:
  explicit Writer(const Shape& shape)
      : shape_(shape), architecture_(shape.architecture), gguf_(gguf_init_empty()) {
    const ggml_init_params params = {size_t{1} << 30, nullptr, /*no_alloc=*/false};
    ggml_ = ggml_init(params);
    gguf_set_val_str(gguf_, "general.architecture", architecture_.c_str());
    gguf_set_val_str(gguf_, "general.name", shape.name);
    gguf_set_val_str(gguf_, "tokenizer.ggml.model", "none");
  }
  ~Writer() {
    gguf_free(gguf_);
    ggml_free(ggml_);
  }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  bool Is(const char* architecture) const { return architecture_ == architecture; }
  // In the hybrid, layers 0 and 2 are short convolutions without a cache of keys and values.
  bool HasAttention(int layer) const { return !Is("lfm2") || layer % 2 == 1; }

  void Number(const std::string& key, int value) {
    gguf_set_val_u32(gguf_, (architecture_ + "." + key).c_str(), static_cast<uint32_t>(value));
  }
  void Real(const std::string& key, float value) {
    gguf_set_val_f32(gguf_, (architecture_ + "." + key).c_str(), value);
  }
  void Numbers(const std::string& key, const std::vector<int32_t>& values) {
    gguf_set_arr_data(gguf_, (architecture_ + "." + key).c_str(), GGUF_TYPE_INT32, values.data(),
                      values.size());
  }

  // A matrix [inputs -> outputs] that keeps the variance of its input times gain squared.
  void Matrix(const std::string& name, int inputs, int outputs, float gain = 1.0f,
              int experts = 0) {
    ggml_tensor* tensor = experts > 0
                              ? ggml_new_tensor_3d(ggml_, GGML_TYPE_F32, inputs, outputs, experts)
                              : ggml_new_tensor_2d(ggml_, GGML_TYPE_F32, inputs, outputs);
    Fill(tensor, name, 0.0f, gain / std::sqrt(static_cast<float>(inputs)));
  }
  void Vector(const std::string& name, int size, float centre, float spread) {
    Fill(ggml_new_tensor_1d(ggml_, GGML_TYPE_F32, size), name, centre, spread);
  }
  void Matrix2(const std::string& name, int experts, int size, float spread) {
    Fill(ggml_new_tensor_2d(ggml_, GGML_TYPE_F32, size, experts), name, 0.0f, spread);
  }

  bool Save(const char* path) const { return gguf_write_to_file(gguf_, path, false); }

  const Shape& shape() const { return shape_; }

 private:
  void Fill(ggml_tensor* tensor, const std::string& name, float centre, float spread) {
    ggml_set_name(tensor, name.c_str());
    auto* values = static_cast<float*>(tensor->data);
    for (int64_t i = 0; i < ggml_nelements(tensor); ++i) {
      values[i] = centre + spread * normal_(random_);
    }
    gguf_add_tensor(gguf_, tensor);
  }

  Shape shape_;
  std::string architecture_;
  gguf_context* gguf_;
  ggml_context* ggml_ = nullptr;
  std::mt19937 random_{1234};  // NOLINT(bugprone-random-generator-seed): the same model each time
  std::normal_distribution<float> normal_{0.0f, 1.0f};
};

void WriteMetadata(Writer& writer) {
  const Shape& shape = writer.shape();
  writer.Number("block_count", shape.layers);
  writer.Number("context_length", 32768);
  writer.Number("embedding_length", shape.embedding);
  writer.Number("feed_forward_length", shape.feed_forward);
  writer.Number("attention.head_count", shape.heads);
  if (writer.Is("lfm2")) {
    std::vector<int32_t> kv_heads;
    kv_heads.reserve(static_cast<size_t>(shape.layers));
    for (int layer = 0; layer < shape.layers; ++layer) {
      kv_heads.push_back(writer.HasAttention(layer) ? shape.kv_heads : 0);
    }
    writer.Numbers("attention.head_count_kv", kv_heads);
    writer.Number("shortconv.l_cache", 3);
  } else {
    writer.Number("attention.head_count_kv", shape.kv_heads);
  }
  writer.Number("attention.key_length", shape.head_dim);
  writer.Number("attention.value_length", shape.head_dim);
  writer.Number("rope.dimension_count", shape.head_dim);
  writer.Real("rope.freq_base", 10000.0f);
  writer.Number("vocab_size", shape.vocabulary);
  writer.Real(
      writer.Is("bloom") ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon",
      1e-5f);
  if (shape.sliding_window > 0) {
    writer.Number("attention.sliding_window", shape.sliding_window);
    writer.Number("attention.sliding_window_pattern", 2);
  }
  if (writer.Is("gemma2")) {
    writer.Real("attn_logit_softcapping", 3.0f);  // low enough to bend most logits
    writer.Real("final_logit_softcapping", 30.0f);
  }
  if (writer.Is("gpt-oss")) {
    writer.Number("expert_count", 4);
    writer.Number("expert_used_count", 4);  // all: choosing would be discontinuous
    writer.Number("expert_feed_forward_length", shape.feed_forward);
  }
}

void WriteAttention(Writer& writer, const std::string& block) {
  const Shape& shape = writer.shape();
  const int queries = shape.heads * shape.head_dim;
  const int keys = shape.kv_heads * shape.head_dim;
  if (writer.Is("bloom")) {
    writer.Matrix(block + "attn_qkv.weight", shape.embedding, queries + 2 * keys, 1.4f);
    writer.Vector(block + "attn_qkv.bias", queries + 2 * keys, 0.0f, 0.2f);
  } else {
    writer.Matrix(block + "attn_q.weight", shape.embedding, queries, 1.5f);
    writer.Matrix(block + "attn_k.weight", shape.embedding, keys, 1.5f);
    writer.Matrix(block + "attn_v.weight", shape.embedding, keys);
  }
  writer.Matrix(block + "attn_output.weight", queries, shape.embedding, 2.0f);
  if (writer.Is("bloom") || writer.Is("gpt-oss")) {
    writer.Vector(block + "attn_output.bias", shape.embedding, 0.0f, 0.1f);
  }
  if (writer.Is("gpt-oss")) writer.Vector(block + "attn_sinks.weight", shape.heads, 1.0f, 1.0f);
  if (writer.Is("gemma3") || writer.Is("lfm2")) {
    writer.Vector(block + "attn_q_norm.weight", shape.head_dim, 1.2f, 0.1f);
    writer.Vector(block + "attn_k_norm.weight", shape.head_dim, 1.2f, 0.1f);
  }
}

void WriteFeedForward(Writer& writer, const std::string& block) {
  const int embedding = writer.shape().embedding;
  const int hidden = writer.shape().feed_forward;
  if (writer.Is("gpt-oss")) {
    constexpr int kExperts = 4;
    writer.Matrix(block + "ffn_gate_inp.weight", embedding, kExperts);
    writer.Vector(block + "ffn_gate_inp.bias", kExperts, 0.0f, 0.1f);
    writer.Matrix(block + "ffn_gate_exps.weight", embedding, hidden, 1.0f, kExperts);
    writer.Matrix(block + "ffn_up_exps.weight", embedding, hidden, 1.0f, kExperts);
    writer.Matrix(block + "ffn_down_exps.weight", hidden, embedding, 1.0f, kExperts);
    writer.Matrix2(block + "ffn_gate_exps.bias", kExperts, hidden, 0.1f);
    writer.Matrix2(block + "ffn_up_exps.bias", kExperts, hidden, 0.1f);
    writer.Matrix2(block + "ffn_down_exps.bias", kExperts, embedding, 0.1f);
    return;
  }
  writer.Matrix(block + "ffn_up.weight", embedding, hidden);
  writer.Matrix(block + "ffn_down.weight", hidden, embedding);
  if (writer.Is("bloom")) {
    writer.Vector(block + "ffn_up.bias", hidden, 0.0f, 0.1f);
    writer.Vector(block + "ffn_down.bias", embedding, 0.0f, 0.1f);
  } else {
    writer.Matrix(block + "ffn_gate.weight", embedding, hidden);
  }
}

// A norm's weight, with a bias where the architecture has one.
void WriteNorm(Writer& writer, const std::string& name) {
  const int embedding = writer.shape().embedding;
  writer.Vector(name + ".weight", embedding, 1.0f, 0.1f);
  if (writer.Is("bloom")) writer.Vector(name + ".bias", embedding, 0.0f, 0.1f);
}

void WriteTensors(Writer& writer) {
  const Shape& shape = writer.shape();
  // Gemma multiplies its embeddings by sqrt(embedding) itself.
  writer.Matrix("token_embd.weight", shape.embedding, shape.vocabulary,
                writer.Is("gemma2") || writer.Is("gemma3")
                    ? 1.0f
                    : std::sqrt(static_cast<float>(shape.embedding)));
  if (writer.Is("bloom") || writer.Is("lfm2")) WriteNorm(writer, "token_embd_norm");
  if (!writer.Is("lfm2")) WriteNorm(writer, "output_norm");
  if (!writer.Is("gemma2")) writer.Matrix("output.weight", shape.embedding, shape.vocabulary, 3.0f);

  for (int layer = 0; layer < shape.layers; ++layer) {
    const std::string block = "blk." + std::to_string(layer) + ".";
    WriteNorm(writer, block + "attn_norm");
    if (writer.HasAttention(layer)) {
      WriteAttention(writer, block);
    } else {
      writer.Matrix(block + "shortconv.conv.weight", 3, shape.embedding);
      writer.Matrix(block + "shortconv.in_proj.weight", shape.embedding, 3 * shape.embedding);
      writer.Matrix(block + "shortconv.out_proj.weight", shape.embedding, shape.embedding);
    }
    if (writer.Is("gemma2") || writer.Is("gemma3") || writer.Is("gpt-oss")) {
      WriteNorm(writer, block + "post_attention_norm");
    }
    if (!writer.Is("gpt-oss")) WriteNorm(writer, block + "ffn_norm");
    if (writer.Is("gemma2") || writer.Is("gemma3")) WriteNorm(writer, block + "post_ffw_norm");
    WriteFeedForward(writer, block);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "list") == 0) {
    for (const Shape& shape : kShapes) std::puts(shape.name);
    return 0;
  }
  if (argc != 3) {
    std::fprintf(stderr, "usage: random_gguf list | random_gguf NAME FILE\n");
    return 2;
  }
  for (const Shape& shape : kShapes) {
    if (std::strcmp(shape.name, argv[1]) != 0) continue;
    Writer writer(shape);
    WriteMetadata(writer);
    WriteTensors(writer);
    if (writer.Save(argv[2])) return 0;
    std::fprintf(stderr, "random_gguf: cannot write %s\n", argv[2]);
    return 1;
  }
  std::fprintf(stderr, "random_gguf: no shape '%s'; see: random_gguf list\n", argv[1]);
  return 2;
}
