// SPDX-License-Identifier: Apache-2.0
#include "host_compute.h"

#include <cstring>
#include <memory>

#include "polarquant/error.h"

namespace polarquant::llama {
namespace {

constexpr size_t kGraphNodes = 4;
constexpr size_t kGraphTensors = 8;

struct FreeContext {
  void operator()(ggml_context* context) const { ggml_free(context); }
};
using Context = std::unique_ptr<ggml_context, FreeContext>;

// Tensors without memory of their own; their data pointers are set by hand.
Context MakeContext(std::vector<char>& memory) {
  return Context(ggml_init({memory.size(), memory.data(), true}));
}

}  // namespace

HostCompute::HostCompute()
    : cpu_(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr)) {
  if (cpu_ == nullptr) {
    throw Error(ErrorCode::kHost, "this llama.cpp has no CPU backend; polarquant needs one");
  }
  ggml_backend_reg_t registry = ggml_backend_dev_backend_reg(ggml_backend_get_device(cpu_));
  set_threads_ = reinterpret_cast<ggml_backend_set_n_threads_t>(
      ggml_backend_reg_get_proc_address(registry, "ggml_backend_set_n_threads"));
  graph_memory_.resize(ggml_graph_overhead_custom(kGraphNodes, false) +
                       kGraphTensors * ggml_tensor_overhead());
}

HostCompute::~HostCompute() { ggml_backend_free(cpu_); }

void HostCompute::SetThreads(int num_threads) {
  num_threads_ = num_threads < 1 ? 1 : num_threads;
  if (set_threads_ != nullptr) set_threads_(cpu_, num_threads_);
}

void HostCompute::Compute(ggml_tensor* node) {
  const Context context = MakeContext(graph_memory_);
  ggml_cgraph* graph = ggml_new_graph_custom(context.get(), kGraphNodes, false);
  ggml_graph_add_node(graph, node);
  const ggml_status status = ggml_backend_graph_compute(cpu_, graph);
  if (status != GGML_STATUS_SUCCESS) {
    throw Error(ErrorCode::kHost, std::string("ggml's CPU backend failed at ") +
                                      ggml_op_name(node->op) + ": " +
                                      ggml_status_to_string(status));
  }
}

void HostCompute::Rope(const ggml_tensor* shift, const HeadView& heads,
                       std::vector<int32_t>& positions, float* rows) {
  std::vector<char> memory(kGraphTensors * ggml_tensor_overhead());
  const Context context = MakeContext(memory);
  const auto count = static_cast<int64_t>(positions.size());
  ggml_tensor* turned =
      ggml_new_tensor_3d(context.get(), GGML_TYPE_F32, shift->ne[0], shift->ne[1], count);
  turned->nb[1] = static_cast<size_t>(heads.head_dim) * sizeof(float);
  turned->nb[2] = static_cast<size_t>(heads.row_values) * sizeof(float);
  turned->nb[3] = turned->nb[2] * positions.size();
  turned->data = rows + heads.first_channel;
  ggml_tensor* by = ggml_new_tensor_1d(context.get(), GGML_TYPE_I32, count);
  by->data = positions.data();
  ggml_tensor* node = ggml_view_tensor(context.get(), turned);
  node->data = turned->data;
  node->op = shift->op;
  node->flags |= GGML_TENSOR_FLAG_COMPUTE;  // backends skip nodes without it
  std::memcpy(node->op_params, shift->op_params, sizeof(node->op_params));
  node->src[0] = turned;
  node->src[1] = by;
  node->src[2] = shift->src[2];
  Compute(node);
}

}  // namespace polarquant::llama
