// SPDX-License-Identifier: Apache-2.0
// What llama.cpp's scheduler asks before it places a node. It asks about every node near a cache,
// so this is also where caches that are not ours are noticed.
#include <string>

#include "buffer.h"
#include "device.h"
#include "graph.h"
#include "host_compute.h"
#include "polarquant/error.h"
#include "rope.h"
#include "status.h"

namespace polarquant::llama {
namespace {

// A cache tensor with memory of its own that is not ours. Dry runs have buffers of no size.
void NoticeForeign(const ggml_tensor* view) {
  const ggml_tensor* root = RootOf(view);
  if (root == nullptr || root->buffer == nullptr || root->buffer->size == 0) return;
  const auto name = ParseCacheName(root->name);
  if (!name || IsOwnBufferType(root->buffer->buft)) return;
  LogBypass(name->layer, std::string("llama.cpp keeps the cache in a ") +
                             ggml_backend_buffer_name(root->buffer) +
                             " buffer; give polarquant every layer (no -nkvo, -ngl all, "
                             "-dev POLARQUANT)");
}

void LearnFrom(const ggml_tensor* view, int64_t head_dim) {
  KvTensor* tensor = KvTensorOf(view);
  if (tensor == nullptr) return;
  const std::lock_guard lock(tensor->cache->mutex());
  if (!tensor->cache->refusal().empty()) return;
  try {
    tensor->cache->Learn(*tensor, head_dim);
  } catch (const Error& error) {
    // Refusing the node would make llama.cpp abort; computing it fails with this cause instead.
    LogRefused(error.what());
    tensor->cache->SetRefusal(error.what());
  }
}

// Somebody else's operation over our rows: it will read them decoded (buffer.h), and what it reads
// may tell the shape of heads that nobody else will.
void LearnFromForeign(const ggml_tensor* node) {
  for (const ggml_tensor* source : node->src) {
    if (source == nullptr || source->view_src == nullptr) continue;
    const KvTensor* tensor = KvTensorOf(source);
    if (tensor == nullptr || tensor->head_dim != 0) continue;
    const int64_t head_dim = HeadDimOfView(source);
    if (head_dim > 0 && tensor->row_values % head_dim == 0) LearnFrom(source, head_dim);
  }
}

// The pairing, and the frequencies as soon as the model's factors are there to be read: a state may
// be loaded before the first row is written.
void LearnRope(const ggml_tensor* rope, KvTensor& tensor) {
  static HostCompute host;
  if (!tensor.rope) tensor.rope = PairingOf(rope);
  const ggml_tensor* factors = rope->src[2];
  const bool readable =
      factors == nullptr ||
      (factors->type == GGML_TYPE_F32 && factors->data != nullptr && factors->buffer != nullptr &&
       ggml_backend_buffer_is_host(factors->buffer));
  if (readable && tensor.rope->frequencies.empty() && tensor.rope_trouble.empty()) {
    FindFrequencies(host, rope, *tensor.rope, tensor.rope_trouble);
  }
}

void CheckWrite(const ggml_tensor* node) {
  KvTensor* tensor = KvTensorOf(node);
  if (tensor == nullptr) return;
  if (const ggml_tensor* rope = RopeOfWrite(node)) {
    const std::lock_guard lock(tensor->cache->mutex());
    if (tensor->parsed.role == Role::kKey) LearnRope(rope, *tensor);
  }
  if (node->ne[0] == tensor->row_values) return;
  const std::string cause =
      "flash attention is off: llama.cpp writes the values transposed, which polarquant cannot "
      "serve; use -fa on (or auto)";
  LogBypass(tensor->parsed.layer, cause);
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
      LearnFromForeign(node);
      return false;
  }
  return false;
}

}  // namespace polarquant::llama
