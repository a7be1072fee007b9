// SPDX-License-Identifier: Apache-2.0
// ggml's own CPU backend, private to one stream of ours, for what must come out exactly as
// llama.cpp computes it: attention over exact rows, and the rotation of shifted keys. Also keeps
// the number of threads the host asked for.
#pragma once

#include <cstdint>
#include <vector>

#include "ggml-backend.h"

namespace polarquant::llama {

class HostCompute {
 public:
  // Throws Error(kHost) if there is no CPU backend.
  HostCompute();
  ~HostCompute();
  HostCompute(const HostCompute&) = delete;
  HostCompute& operator=(const HostCompute&) = delete;

  void SetThreads(int num_threads);
  int num_threads() const { return num_threads_; }

  // The graph that is being computed.
  const ggml_cgraph* graph() const { return graph_; }
  void SetGraph(const ggml_cgraph* graph) { graph_ = graph; }

  // Computes one node whose tensors all lie in host memory. Throws Error(kHost) if ggml fails.
  void Compute(ggml_tensor* node);

  // Applies the ROPE node `shift` in place to f32 `rows` [positions.size()][row_values], each row
  // turned by its own position. The node's view says which channels of a head turn.
  struct HeadView {
    int64_t row_values, head_dim, first_channel;
  };
  void Rope(const ggml_tensor* shift, const HeadView& heads, std::vector<int32_t>& positions,
            float* rows);

 private:
  ggml_backend_t cpu_ = nullptr;
  ggml_backend_set_n_threads_t set_threads_ = nullptr;
  int num_threads_ = 1;
  const ggml_cgraph* graph_ = nullptr;
  std::vector<char> graph_memory_;
};

}  // namespace polarquant::llama
