// SPDX-License-Identifier: Apache-2.0
// What llama.cpp's scheduler asks before it places a node. It asks about every node near a cache,
// so this is also where caches that are not ours are noticed.
#include <string>

#include "buffer.h"
#include "device.h"
#include "graph.h"
#include "polarquant/error.h"
#include "status.h"

namespace polarquant::llama {
namespace {

// A cache tensor with memory of its own that is not ours. Dry runs have buffers of no size.
void NoticeForeign(const ggml_tensor* view) {
  const ggml_tensor* root = RootOf(view);
  if (root == nullptr || root->buffer == nullptr || root->buffer->size == 0) return;
  const auto name = ParseCacheName(root->name);
  if (!name || IsOwnBufferType(root->buffer->buft)) return;
  LogBypass("layer " + std::to_string(name->layer) + ": llama.cpp keeps " + root->name + " in a " +
            ggml_backend_buffer_name(root->buffer) +
            " buffer; give polarquant every layer (no -nkvo, -ngl all, -dev " +
            std::string("POLARQUANT)"));
}

void LearnFrom(const ggml_tensor* view, int64_t head_dim) {
  KvTensor* tensor = KvTensorOf(view);
  if (tensor == nullptr || head_dim == 0) return;
  const std::lock_guard lock(tensor->cache->mutex());
  try {
    tensor->cache->Learn(*tensor, head_dim);
  } catch (const Error& error) {
    // Refusing the node would make llama.cpp abort; computing it fails with this cause instead.
    LogRefused(error.what());
    tensor->cache->SetRefusal(error.what());
  }
}

void CheckWrite(const ggml_tensor* node) {
  KvTensor* tensor = KvTensorOf(node);
  if (tensor == nullptr || node->ne[0] == tensor->row_values) return;
  const std::string cause =
      "layer " + std::to_string(tensor->parsed.layer) +
      ": flash attention is off, llama.cpp writes the values transposed and polarquant cannot "
      "serve that; use -fa on (or auto)";
  LogBypass(cause);
  const std::lock_guard lock(tensor->cache->mutex());
  tensor->cache->SetRefusal(cause);
}

}  // namespace

bool SupportsOp(const ggml_tensor* node) {
  switch (OpOf(node)) {
    case Op::kView:
      return IsOwnCache(node);
    case Op::kSetRows:
      if (!IsOwnCache(node)) {
        NoticeForeign(node);
        return false;
      }
      CheckWrite(node);
      return true;
    case Op::kFlashAttention: {
      const ggml_tensor* keys = node->src[1];
      const ggml_tensor* values = node->src[2];
      if (!IsOwnCache(keys) || !IsOwnCache(values)) {
        NoticeForeign(keys);
        NoticeForeign(values);
        return false;
      }
      LearnFrom(keys, keys->ne[0]);
      LearnFrom(values, values->ne[0]);
      return true;
    }
    case Op::kRope:
      if (!IsOwnCache(node->src[0])) return false;
      LearnFrom(node->src[0], static_cast<int64_t>(node->src[0]->nb[1] / sizeof(ggml_fp16_t)));
      return true;
    case Op::kMatMul:
    case Op::kOther:
      // Somebody else's operation over our rows: it will read them decoded.
      for (const ggml_tensor* source : node->src) {
        if (source != nullptr && source->view_src != nullptr && IsOwnCache(source)) {
          LearnFrom(source, HeadDimOfView(source));
        }
      }
      return false;
  }
  return false;
}

}  // namespace polarquant::llama
