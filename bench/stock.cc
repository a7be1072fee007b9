// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "bench.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

namespace polarquant::bench {
namespace {

// One graph with the attention of every layer, on caches laid out as llama.cpp lays them out.
class Stock : public Contestant {
 public:
  Stock(ggml_type type, const Workload& workload, const Inputs& inputs) : workload_(workload) {
    const int64_t head_dim = workload.head_dim, kv_heads = workload.kv_heads;
    const size_t tensors = static_cast<size_t>(workload.layers) * 6 + 4;
    context_ = ggml_init({tensors * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true});
    backend_ = ggml_backend_cpu_init();
    ggml_backend_cpu_set_n_threads(backend_, workload.threads);
    ggml_tensor* queries = ggml_new_tensor_3d(context_, GGML_TYPE_F32, head_dim, workload.q_heads,
                                              workload.num_queries);
    ggml_tensor* mask =
        ggml_new_tensor_2d(context_, GGML_TYPE_F16, workload.depth, workload.num_queries);
    graph_ = ggml_new_graph(context_);
    std::vector<ggml_tensor*> keys, values;
    for (int layer = 0; layer < workload.layers; ++layer) {
      keys.push_back(ggml_new_tensor_3d(context_, type, head_dim, kv_heads, workload.depth));
      values.push_back(ggml_new_tensor_3d(context_, type, head_dim, kv_heads, workload.depth));
      ggml_tensor* out =
          ggml_flash_attn_ext(context_, ggml_permute(context_, queries, 0, 2, 1, 3),
                              ggml_permute(context_, keys.back(), 0, 2, 1, 3),
                              ggml_permute(context_, values.back(), 0, 2, 1, 3), mask,
                              1.0f / std::sqrt(static_cast<float>(head_dim)), 0.0f, 0.0f);
      ggml_build_forward_expand(graph_, out);
      if (layer == 0) output_ = out;
    }
    buffer_ = ggml_backend_alloc_ctx_tensors(context_, backend_);
    if (buffer_ == nullptr) throw std::runtime_error("ggml could not allocate the caches");
    std::memcpy(queries->data, inputs.queries.data(), ggml_nbytes(queries));
    std::memcpy(mask->data, inputs.mask.data(), ggml_nbytes(mask));
    for (int layer = 0; layer < workload.layers; ++layer) {
      const auto l = static_cast<size_t>(layer);
      for (ggml_tensor* t : {keys[l], values[l]}) {
        const std::vector<float>& rows = t == keys[l] ? inputs.keys : inputs.values;
        if (layer > 0) {
          std::memcpy(t->data, (t == keys[l] ? keys[0] : values[0])->data, ggml_nbytes(t));
        } else {
          ggml_quantize_chunk(type, rows.data(), t->data, 0, workload.depth * kv_heads, head_dim,
                              nullptr);
        }
      }
    }
    layer_bytes_ = ggml_nbytes(keys[0]) + ggml_nbytes(values[0]);
  }
  ~Stock() override {
    ggml_backend_buffer_free(buffer_);
    ggml_backend_free(backend_);
    ggml_free(context_);
  }

  void Run() override { ggml_backend_graph_compute(backend_, graph_); }
  size_t LayerBytes() const override { return layer_bytes_; }
  std::vector<float> Output() const override {
    const float* data = static_cast<const float*>(output_->data);
    return {data, data + ggml_nelements(output_)};
  }

 private:
  Workload workload_;
  ggml_context* context_;
  ggml_backend_t backend_;
  ggml_backend_buffer_t buffer_;
  ggml_cgraph* graph_;
  ggml_tensor* output_ = nullptr;
  size_t layer_bytes_;
};

}  // namespace

std::unique_ptr<Contestant> StockAttention(const std::string& type, const Workload& workload,
                                           const Inputs& inputs) {
  const ggml_type t = type == "f16"    ? GGML_TYPE_F16
                      : type == "q8_0" ? GGML_TYPE_Q8_0
                      : type == "q4_0" ? GGML_TYPE_Q4_0
                                       : throw std::runtime_error("no stock cache type " + type);
  return std::make_unique<Stock>(t, workload, inputs);
}

}  // namespace polarquant::bench
