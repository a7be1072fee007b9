// SPDX-License-Identifier: Apache-2.0
// Host: Python. What is known of a model's keys, and policies: balance scales observed or read from
// a profile, the parts of a scheme's name, policy files.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "arrays.h"
#include "bindings.h"
#include "polarquant/error.h"
#include "polarquant/model_profile.h"
#include "polarquant/policy.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace polarquant::python {
namespace {

Rope::Pairing PairingOf(const std::string& word) {
  if (word == "none") return Rope::Pairing::kNone;
  if (word == "adjacent") return Rope::Pairing::kAdjacent;
  if (word == "halves") return Rope::Pairing::kHalves;
  throw Error(ErrorCode::kParameter,
              "pairing is '" + word + "': it must be 'halves', 'adjacent' or 'none'");
}

const char* WordOf(Rope::Pairing pairing) {
  switch (pairing) {
    case Rope::Pairing::kNone:
      return "none";
    case Rope::Pairing::kAdjacent:
      return "adjacent";
    case Rope::Pairing::kHalves:
      return "halves";
  }
  return "none";
}

// The rows [heads][n][d] as f32 [n][heads][d].
std::vector<float> ByToken(const View& view) {
  std::vector<float> rows(static_cast<size_t>(view.shape[0] * view.shape[1] * view.shape[2]));
  float* to = rows.data();
  for (int64_t n = 0; n < view.shape[1]; ++n) {
    for (int64_t h = 0; h < view.shape[0]; ++h, to += view.shape[2]) {
      const auto* from = static_cast<const std::byte*>(view.data) +
                         (h * view.strides[0] + n * view.strides[1]) * SizeOf(view.type);
      ToFloats(from, view.type, view.shape[2], to);
    }
  }
  return rows;
}

nb::object ObserveBalance(const AnyArray& queries, const AnyArray& keys, int page_tokens,
                          const std::string& pairing, int rope_dims) {
  const View key_view = ViewOf(keys, "keys", std::array<int64_t, 3>{-1, -1, -1});
  const View query_view =
      ViewOf(queries, "queries", std::array<int64_t, 3>{-1, key_view.shape[1], key_view.shape[2]});
  const auto num_kv_heads = static_cast<int>(key_view.shape[0]);
  const auto num_q_heads = static_cast<int>(query_view.shape[0]);
  const auto count = static_cast<int>(key_view.shape[1]);
  const auto head_dim = static_cast<int>(key_view.shape[2]);
  const Rope rope{PairingOf(pairing), rope_dims, {}};
  if (num_kv_heads == 0 || num_q_heads % num_kv_heads != 0) {
    throw Error(ErrorCode::kParameter, std::to_string(num_q_heads) + " query heads and " +
                                           std::to_string(num_kv_heads) +
                                           " heads of keys: one must be a multiple of the other");
  }
  if (rope_dims < 0 || rope_dims > head_dim || rope_dims % 2 != 0) {
    throw Error(ErrorCode::kParameter, "rope_dims is " + std::to_string(rope_dims) +
                                           ": it must be even and at most the head_dim, " +
                                           std::to_string(head_dim));
  }
  if (count < 1) throw Error(ErrorCode::kParameter, "there are no keys to observe");
  if (page_tokens < 1) {
    throw Error(ErrorCode::kParameter,
                "page_tokens is " + std::to_string(page_tokens) + ": it must be at least 1");
  }
  const std::vector<float> query_rows = ByToken(query_view), key_rows = ByToken(key_view);
  const int64_t query_stride = int64_t{num_q_heads} * head_dim;
  const int64_t key_stride = int64_t{num_kv_heads} * head_dim;
  KeyObserver observer(0, num_kv_heads, head_dim, rope);
  observer.AddQueries(query_rows.data(), count, query_stride, num_q_heads, head_dim);
  for (int first = 0; first < count; first += page_tokens) {
    observer.AddPage(key_rows.data() + first * key_stride, std::min(page_tokens, count - first),
                     key_stride, nullptr);  // no frequencies, so no positions
  }
  return MatrixOf(observer.Finish(1).balance, num_kv_heads, head_dim);
}

nb::dict LoadProfile(const std::string& path) {
  const ModelProfile profile = ModelProfile::Load(path);
  nb::dict layers;
  for (const LayerProfile& layer : profile.layers) {
    nb::dict facts;
    facts["balance"] = MatrixOf(layer.balance, layer.num_kv_heads, layer.head_dim);
    facts["pairing"] = WordOf(layer.rope.pairing);
    facts["rope_dims"] = layer.rope.dims;
    layers[nb::int_(layer.layer)] = facts;
  }
  nb::dict facts;
  facts["model"] = profile.model;
  facts["architecture"] = profile.architecture;
  facts["layers"] = layers;
  return facts;
}

nb::dict SchemeParts(const std::string& text) {
  const Scheme scheme = Scheme::Parse(text);
  nb::dict parts;
  parts["name"] = scheme.ToString();
  parts["codec"] = scheme.codec;
  parts["sharpen"] = scheme.sharpen;
  parts["center"] = scheme.normalisation.center;
  parts["balance"] = scheme.normalisation.balance;
  parts["dense"] = scheme.normalisation.dense;
  parts["step"] = scheme.normalisation.step;
  return parts;
}

nb::dict ReadPolicy(const std::string& json, int num_layers) {
  const Policy policy = Policy::Parse(json);
  policy.Check();
  nb::list schemes;
  for (int layer = 0; layer < num_layers; ++layer) {
    schemes.append(nb::make_tuple(policy.SchemeFor(Role::kKey, layer, num_layers).ToString(),
                                  policy.SchemeFor(Role::kValue, layer, num_layers).ToString()));
  }
  nb::list profiles;
  for (const std::string& profile : policy.profiles) profiles.append(profile);
  nb::dict facts;
  facts["schemes"] = schemes;
  facts["window_tokens"] = policy.window_tokens;
  facts["sink_tokens"] = policy.sink_tokens;
  facts["page_tokens"] = policy.page_tokens;
  facts["profiles"] = profiles;
  return facts;
}

}  // namespace

void BindProfile(nb::module_& module) {
  module.def("observe_balance", &ObserveBalance, "queries"_a.noconvert(), "keys"_a.noconvert(),
             "page_tokens"_a, "pairing"_a, "rope_dims"_a,
             "The balance scale about the means of pages, float32 [num_kv_heads, head_dim], from "
             "queries [num_q_heads, n, "
             "head_dim] and keys\n[num_kv_heads, n, head_dim] after RoPE. pairing: which channels "
             "RoPE turns, 'halves', 'adjacent' or 'none'.");
  module.def("load_profile", &LoadProfile, "path"_a,
             "A file made by `polarquant tune`: {'model', 'architecture', 'layers': {number: "
             "{'balance': float32\n[num_kv_heads, head_dim], 'pairing', 'rope_dims'}}}.");
  module.def("scheme_parts", &SchemeParts, "text"_a,
             "The canonical name of a scheme, its codec, and which normalisations it asks for.");
  module.def("read_policy", &ReadPolicy, "json"_a, "num_layers"_a,
             "A policy's (key, value) schemes for each of num_layers layers, window, sinks, page.");
}

}  // namespace polarquant::python
