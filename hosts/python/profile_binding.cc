// SPDX-License-Identifier: Apache-2.0
// Host: Python. What is known of a model's keys, and policies: moments and means observed or read
// from a profile, what keys are coded with, the parts of a scheme's name, policy files.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
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

Rope RopeOf(const std::string& pairing, int dims, std::vector<double> frequencies,
            double magnitude) {
  return {PairingOf(pairing), dims, std::move(frequencies), magnitude};
}

nb::dict Facts(const LayerProfile& layer) {
  const auto matrix = [&](const std::vector<float>& values) {
    return MatrixOf(values, layer.num_kv_heads, layer.head_dim);
  };
  nb::dict facts;
  facts["query_moment"] = matrix(layer.query_moment);
  facts["key_moment"] = matrix(layer.key_moment);
  facts["key_variance"] = matrix(layer.key_variance);
  facts["mean"] = matrix(layer.mean);
  facts["balance"] = matrix(layer.balance);
  facts["pairing"] = WordOf(layer.rope.pairing);
  facts["rope_dims"] = layer.rope.dims;
  return facts;
}

nb::dict ObserveKeys(const AnyArray& queries, const AnyArray& keys,
                     const std::vector<int32_t>& positions, int page_tokens,
                     const std::string& pairing, int rope_dims, std::vector<double> frequencies,
                     double magnitude) {
  const View key_view = ViewOf(keys, "keys", std::array<int64_t, 3>{-1, -1, -1});
  const View query_view =
      ViewOf(queries, "queries", std::array<int64_t, 3>{-1, key_view.shape[1], key_view.shape[2]});
  const auto num_kv_heads = static_cast<int>(key_view.shape[0]);
  const auto num_q_heads = static_cast<int>(query_view.shape[0]);
  const auto count = static_cast<int>(key_view.shape[1]);
  const auto head_dim = static_cast<int>(key_view.shape[2]);
  const Rope rope = RopeOf(pairing, rope_dims, std::move(frequencies), magnitude);
  KeyProfile{{}, {}, rope, {}, {}}.Check(num_kv_heads, head_dim);
  if (num_kv_heads == 0 || num_q_heads % num_kv_heads != 0) {
    throw Error(ErrorCode::kParameter, std::to_string(num_q_heads) + " query heads and " +
                                           std::to_string(num_kv_heads) +
                                           " heads of keys: one must be a multiple of the other");
  }
  if (count < 1) throw Error(ErrorCode::kParameter, "there are no keys to observe");
  if (positions.size() != static_cast<size_t>(count)) {
    throw Error(ErrorCode::kParameter, std::to_string(positions.size()) + " positions for " +
                                           std::to_string(count) + " keys");
  }
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
                     key_stride, positions.data() + first);
  }
  return Facts(observer.Finish(1));
}

// Of all that is known of a layer, what keys of `scheme` are coded with.
HeldProfile MakeKeyProfile(const std::string& scheme, const nb::dict& layer,
                           const std::string& pairing, int rope_dims,
                           std::vector<double> frequencies, double magnitude) {
  LayerProfile known;
  const auto take = [&](const char* name, std::vector<float>& values) {
    const View view = ViewOf(nb::cast<AnyArray>(layer[name]), name, std::array<int64_t, 2>{-1, -1});
    CheckFloats(view, name);
    known.num_kv_heads = static_cast<int>(view.shape[0]);
    known.head_dim = static_cast<int>(view.shape[1]);
    for (int64_t head = 0; head < view.shape[0]; ++head) {
      const float* row = static_cast<const float*>(view.data) + head * view.strides[0];
      values.insert(values.end(), row, row + view.shape[1]);
    }
  };
  take("query_moment", known.query_moment);
  take("key_moment", known.key_moment);
  take("key_variance", known.key_variance);
  take("mean", known.mean);
  take("balance", known.balance);
  const Normalisation normalisation = Scheme::Parse(scheme).normalisation;
  const Rope rope = RopeOf(pairing, rope_dims, std::move(frequencies), magnitude);
  KeyProfile{known.balance, known.mean, rope, {}, {}}.Check(known.num_kv_heads, known.head_dim);
  KeyProfile keys = known.KeysFor(normalisation, rope);
  if (normalisation.step == 0) {  // the mean of a page needs nothing of this
    keys.mean.clear();
    keys.rope = {};
  }
  return {std::make_shared<const KeyProfile>(std::move(keys)), known.num_kv_heads, known.head_dim};
}

// For rows whose number n stands at the position n + `positions`: RoPE at n turns a mean that was
// turned by `positions` before as far as the row was.
HeldProfile Turned(const HeldProfile& profile, int64_t positions) {
  const Rope& rope = profile.keys->rope;
  if (positions == 0 || rope.dims == 0 || profile.keys->mean.empty()) return profile;
  KeyProfile turned = *profile.keys;
  for (int head = 0; head < profile.num_kv_heads; ++head) {
    float* mean = turned.mean.data() + int64_t{head} * profile.head_dim;
    for (size_t p = 0; p < rope.frequencies.size(); ++p) {
      const auto [a, b] = rope.Pair(static_cast<int>(p));
      const std::complex<double> pair(static_cast<double>(mean[a]), static_cast<double>(mean[b]));
      const std::complex<double> moved =
          pair * std::polar(1.0, rope.frequencies[p] * static_cast<double>(positions));
      mean[a] = static_cast<float>(moved.real());
      mean[b] = static_cast<float>(moved.imag());
    }
  }
  return {std::make_shared<const KeyProfile>(std::move(turned)), profile.num_kv_heads,
          profile.head_dim};
}

nb::dict LoadProfile(const std::string& path) {
  const ModelProfile profile = ModelProfile::Load(path);
  nb::dict layers;
  for (const LayerProfile& layer : profile.layers) {
    layers[nb::int_(layer.layer)] = Facts(layer);
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
  nb::class_<HeldProfile>(module, "KeyProfile", "What the keys of a layer are coded with.")
      .def_prop_ro(
          "balance",
          [](const HeldProfile& p) {
            return MatrixOf(p.keys->balance, p.num_kv_heads, p.head_dim);
          },
          "The balance scale, float32 [num_kv_heads, head_dim].")
      .def_prop_ro(
          "mean",
          [](const HeldProfile& p) -> nb::object {
            if (p.keys->mean.empty()) return nb::none();
            return MatrixOf(p.keys->mean, p.num_kv_heads, p.head_dim);
          },
          "The mean key before RoPE, float32 [num_kv_heads, head_dim], or None.")
      .def_ro("num_kv_heads", &HeldProfile::num_kv_heads)
      .def_ro("head_dim", &HeldProfile::head_dim)
      .def("turned", &Turned, "positions"_a,
           "The same for rows that stand that many positions behind their number.");
  module.def("key_profile", &MakeKeyProfile, "scheme"_a, "layer"_a, "pairing"_a, "rope_dims"_a,
             "frequencies"_a, "magnitude"_a,
             "The KeyProfile for keys of `scheme` where RoPE turns as said, from a layer of "
             "observe_keys or load_profile.");
  module.def("observe_keys", &ObserveKeys, "queries"_a.noconvert(), "keys"_a.noconvert(),
             "positions"_a, "page_tokens"_a, "pairing"_a, "rope_dims"_a, "frequencies"_a,
             "magnitude"_a,
             "What a profile says of a layer, from queries [num_q_heads, n, head_dim] and keys\n"
             "[num_kv_heads, n, head_dim] after RoPE at `positions`. pairing: which channels RoPE "
             "turns, 'halves',\n'adjacent' or 'none'. Without frequencies the mean of these is 0.");
  module.def("load_profile", &LoadProfile, "path"_a,
             "A file made by `polarquant tune`: {'model', 'architecture', 'layers': {number: "
             "{'query_moment',\n'key_moment', 'key_variance', 'mean', 'balance': float32 "
             "[num_kv_heads, head_dim], 'pairing',\n'rope_dims'}}}.");
  module.def("scheme_parts", &SchemeParts, "text"_a,
             "The canonical name of a scheme, its codec, and which normalisations it asks for.");
  module.def("read_policy", &ReadPolicy, "json"_a, "num_layers"_a,
             "A policy's (key, value) schemes for each of num_layers layers, window, sinks, page.");
}

}  // namespace polarquant::python
