// SPDX-License-Identifier: Apache-2.0
#include "backend.h"

#include <memory>

#include "callback.h"
#include "device.h"
#include "graph.h"
#include "host_compute.h"
#include "ops.h"
#include "polarquant/error.h"
#include "polarquant/llama_control.h"

namespace polarquant::llama {
namespace {

HostCompute& HostOf(ggml_backend_t backend) { return *static_cast<HostCompute*>(backend->context); }

const char* BackendName(ggml_backend_t) { return POLARQUANT_DEVICE_NAME; }

void FreeBackend(ggml_backend_t backend) {
  delete &HostOf(backend);
  delete backend;
}

void ComputeNode(HostCompute& host, ggml_tensor* node) {
  switch (OpOf(node)) {
    case Op::kView:
      return;
    case Op::kSetRows:
      return WriteRows(host, node);
    case Op::kFlashAttention:
      return ComputeAttention(host, node);
    case Op::kRope:
      return ShiftKeys(host, node);
    case Op::kMatMul:
    case Op::kOther:
      break;
  }
  throw Error(ErrorCode::kHost, std::string("asked to compute ") + ggml_op_name(node->op) + " (" +
                                    node->name + "), which we never offered");
}

ggml_status ComputeGraph(ggml_backend_t backend, ggml_cgraph* graph) {
  return Guarded(GGML_STATUS_FAILED, [&] {
    HostOf(backend).SetGraph(graph);
    const int count = ggml_graph_n_nodes(graph);
    for (int i = 0; i < count; ++i) ComputeNode(HostOf(backend), ggml_graph_node(graph, i));
    return GGML_STATUS_SUCCESS;
  });
}

ggml_guid_t Guid() {
  static ggml_guid guid = {0x70, 0x6f, 0x6c, 0x61, 0x72, 0x71, 0x75, 0x61,
                           0x6e, 0x74, 0x2d, 0x6b, 0x76, 0x2d, 0x30, 0x31};
  return &guid;
}

}  // namespace

ggml_backend_t StartBackend() {
  auto host = std::make_unique<HostCompute>();
  ggml_backend_i interface = {};
  interface.get_name = BackendName;
  interface.free = FreeBackend;
  interface.graph_compute = ComputeGraph;
  return new ggml_backend{Guid(), interface, TheDevice(), host.release()};
}

void SetThreads(ggml_backend_t backend, int num_threads) {
  Guarded([&] { HostOf(backend).SetThreads(num_threads); });
}

}  // namespace polarquant::llama
