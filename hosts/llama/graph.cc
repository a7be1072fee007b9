// SPDX-License-Identifier: Apache-2.0
#include "graph.h"

#include <array>
#include <charconv>
#include <cstring>
#include <string_view>

#include "polarquant/error.h"

namespace polarquant::llama {
namespace {

struct NamedOp {
  std::string_view name;
  Op op;
  ggml_op number;
};
constexpr NamedOp kOps[] = {
    {"NONE", Op::kView, GGML_OP_NONE},
    {"VIEW", Op::kView, GGML_OP_VIEW},
    {"RESHAPE", Op::kView, GGML_OP_RESHAPE},
    {"PERMUTE", Op::kView, GGML_OP_PERMUTE},
    {"TRANSPOSE", Op::kView, GGML_OP_TRANSPOSE},
    {"SET_ROWS", Op::kSetRows, GGML_OP_SET_ROWS},
    {"FLASH_ATTN_EXT", Op::kFlashAttention, GGML_OP_FLASH_ATTN_EXT},
    {"ROPE", Op::kRope, GGML_OP_ROPE},
    {"MUL_MAT", Op::kMatMul, GGML_OP_MUL_MAT},
};

std::array<Op, GGML_OP_COUNT> NameAll() {
  std::array<Op, GGML_OP_COUNT> table;
  table.fill(Op::kOther);
  for (int number = 0; number < GGML_OP_COUNT; ++number) {
    const char* name = ggml_op_name(static_cast<ggml_op>(number));
    if (name == nullptr) continue;
    for (const NamedOp& known : kOps) {
      if (known.name == name) table[static_cast<size_t>(number)] = known.op;
    }
  }
  return table;
}

}  // namespace

Op OpOf(const ggml_tensor* node) {
  static const std::array<Op, GGML_OP_COUNT> table = NameAll();
  const auto number = static_cast<size_t>(node->op);
  return number < table.size() ? table[number] : Op::kOther;
}

std::optional<CacheName> ParseCacheName(const char* name) {
  std::string_view rest = name;
  constexpr std::string_view kPrefix = "cache_";
  if (!rest.starts_with(kPrefix)) return std::nullopt;
  rest.remove_prefix(kPrefix.size());
  const size_t mark = rest.rfind("_l");
  if (mark == std::string_view::npos || mark == 0) return std::nullopt;
  const char role = rest[mark - 1];
  if (role != 'k' && role != 'v') return std::nullopt;
  const std::string_view digits = rest.substr(mark + 2);
  CacheName parsed;
  const auto [end, failure] =
      std::from_chars(digits.data(), digits.data() + digits.size(), parsed.layer);
  if (failure != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  parsed.role = role == 'k' ? Role::kKey : Role::kValue;
  parsed.tag = std::string(rest.substr(0, mark - 1));
  return parsed;
}

const ggml_tensor* FirstMask(const ggml_cgraph* graph) {
  auto* nodes = const_cast<ggml_cgraph*>(graph);  // ggml's accessors take no const
  for (int i = 0; graph != nullptr && i < ggml_graph_n_nodes(nodes); ++i) {
    const ggml_tensor* node = ggml_graph_node(nodes, i);
    if (OpOf(node) == Op::kFlashAttention && node->src[3] != nullptr) return node->src[3];
  }
  return nullptr;
}

int64_t HeadDimOfView(const ggml_tensor* view) {
  for (int dim = 0; dim < GGML_MAX_DIMS; ++dim) {
    if (view->nb[dim] == ggml_type_size(view->type) && view->ne[dim] > 1) return view->ne[dim];
  }
  return 0;
}

void CheckOperationTable() {
  for (const NamedOp& known : kOps) {
    const char* name = ggml_op_name(known.number);
    if (name == nullptr || known.name != name) {
      throw Error(ErrorCode::kHost,
                  "operation " + std::to_string(known.number) + " of the loading ggml is " +
                      (name == nullptr ? "unknown" : name) + ", we were built for " +
                      std::string(known.name) + "; build polarquant against this llama.cpp");
    }
  }
  if (std::strcmp(ggml_type_name(GGML_TYPE_F16), "f16") != 0 ||
      std::strcmp(ggml_type_name(GGML_TYPE_I64), "i64") != 0) {
    throw Error(ErrorCode::kHost,
                "the loading ggml numbers its types differently than the one we were built for; "
                "build polarquant against this llama.cpp");
  }
}

}  // namespace polarquant::llama
