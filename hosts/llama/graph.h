// SPDX-License-Identifier: Apache-2.0
// Reading ggml graphs: which operation a node is, which cache tensor lies beneath a view.
// Operations are compared by name, because their numbers differ between versions of ggml.
#pragma once

#include <optional>
#include <string>

#include "ggml.h"
#include "polarquant/scheme.h"

namespace polarquant::llama {

enum class Op {
  kView,  // NONE, VIEW, RESHAPE, PERMUTE, TRANSPOSE: nothing to compute
  kSetRows,
  kFlashAttention,
  kRope,
  kMatMul,
  kOther,
};
Op OpOf(const ggml_tensor* node);

// The tensor that owns the memory of a chain of views.
inline const ggml_tensor* RootOf(const ggml_tensor* tensor) {
  while (tensor != nullptr && tensor->view_src != nullptr) tensor = tensor->view_src;
  return tensor;
}

// What llama.cpp's name of a cache tensor says: cache_TAGk_lN or cache_TAGv_lN.
struct CacheName {
  Role role;
  int layer;
  std::string tag;
};
std::optional<CacheName> ParseCacheName(const char* name);

// The mask of the first attention in a graph, or null.
const ggml_tensor* FirstMask(const ggml_cgraph* graph);

// A tensor dimension that steps over neighbouring elements is the head's: its length is head_dim,
// however the view is permuted. 0 if there is none.
int64_t HeadDimOfView(const ggml_tensor* view);

// Throws Error(kHost) if the names of the operations and types we were compiled for do not stand
// at their numbers in the ggml that loads us.
void CheckOperationTable();

}  // namespace polarquant::llama
