// SPDX-License-Identifier: Apache-2.0
// Host: Python. The sequence cache: rows in, attention on them, forks, files, memory. Arrays have
// the shape [kv_heads, tokens, head_dim], whatever the strides of the leading two dimensions.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "arrays.h"
#include "bindings.h"
#include "polarquant/error.h"
#include "polarquant/sequence_cache.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace polarquant::python {
namespace {

SequenceCache Make(const std::string& key, const std::string& value, int key_head_dim,
                   int value_head_dim, int num_kv_heads, int page_tokens, int window_tokens,
                   int sink_tokens) {
  SequenceCache::Config config;
  config.key = Scheme::Parse(key);
  config.value = Scheme::Parse(value);
  config.key_head_dim = key_head_dim;
  config.value_head_dim = value_head_dim;
  config.num_kv_heads = num_kv_heads;
  config.page_tokens = page_tokens;
  config.window_tokens = window_tokens;
  config.sink_tokens = sink_tokens;
  return SequenceCache(config);
}

HostRows RowsOf(const View& view) {
  return {.data = view.data,
          .type = view.type,
          .row_stride = view.strides[1],
          .head_stride = view.strides[0]};
}

float* FloatsOf(const View& view, const char* name) {
  CheckFloats(view, name);
  return static_cast<float*>(view.data);
}

void Append(SequenceCache& cache, const AnyArray& keys, const AnyArray& values, int threads) {
  const SequenceCache::Config& config = cache.config();
  const View key_rows =
      ViewOf(keys, "keys", std::array<int64_t, 3>{config.num_kv_heads, -1, config.key_head_dim});
  const int64_t count = key_rows.shape[1];
  const View value_rows = ViewOf(
      values, "values", std::array<int64_t, 3>{config.num_kv_heads, count, config.value_head_dim});
  const int num_threads = NumThreads(threads);
  const nb::gil_scoped_release released;
  cache.Append(RowsOf(key_rows), RowsOf(value_rows), count, num_threads);
}

void Settle(SequenceCache& cache, int threads) {
  const int num_threads = NumThreads(threads);
  const nb::gil_scoped_release released;
  cache.Settle(num_threads);
}

void SetProfile(SequenceCache& cache, const HeldProfile& profile, int threads) {
  const int num_threads = NumThreads(threads);
  const nb::gil_scoped_release released;
  cache.SetProfile(profile.keys, num_threads);
}

nb::object ProfileOf(const SequenceCache& cache) {
  const SequenceCache::Config& config = cache.config();
  if (config.profile == nullptr) return nb::none();
  return nb::cast(HeldProfile{config.profile, config.num_kv_heads, config.key_head_dim});
}

Role RoleOf(const std::string& word) {
  if (word == "key") return Role::kKey;
  if (word == "value") return Role::kValue;
  throw Error(ErrorCode::kParameter, "role is '" + word + "': it must be 'key' or 'value'");
}

void Read(const SequenceCache& cache, const std::string& role, int64_t first, int64_t count,
          const AnyBuffer& out, int threads) {
  const SequenceCache::Config& config = cache.config();
  const Role which = RoleOf(role);
  const View view = ViewOf(
      out, "out",
      std::array<int64_t, 3>{config.num_kv_heads, count,
                             which == Role::kKey ? config.key_head_dim : config.value_head_dim});
  float* rows = FloatsOf(view, "out");
  const int num_threads = NumThreads(threads);
  const nb::gil_scoped_release released;
  cache.Read(which, first, count, rows, view.strides[1], view.strides[0], num_threads);
}

void AttendTo(const SequenceCache& cache, const AnyArray& queries, const AnyBuffer& out,
              float scale, float softcap, const std::optional<AnyArray>& mask,
              const std::optional<AnyArray>& sinks, bool causal, int threads,
              const std::optional<AnyBuffer>& lse) {
  const SequenceCache::Config& config = cache.config();
  const View query_rows =
      ViewOf(queries, "queries", std::array<int64_t, 3>{-1, -1, config.key_head_dim});
  const int64_t num_heads = query_rows.shape[0], count = query_rows.shape[1];
  const View outputs =
      ViewOf(out, "out", std::array<int64_t, 3>{count, num_heads, config.value_head_dim});
  AttentionCall call = cache.Call();
  call.num_q_heads = static_cast<int>(num_heads);
  call.num_queries = static_cast<int>(count);
  call.queries = FloatsOf(query_rows, "queries");
  call.query_stride = query_rows.strides[1];
  call.query_head_stride = query_rows.strides[0];
  call.output = FloatsOf(outputs, "out");
  call.output_stride = outputs.strides[0];
  call.output_head_stride = outputs.strides[1];
  call.scale = scale;
  call.softcap = softcap;
  call.causal = causal;
  if (mask) {
    const View view =
        ViewOf(*mask, "mask", std::array<int64_t, 2>{count, call.num_cells - call.first_cell});
    if (view.type != NumberType::kF16) {
      throw Error(ErrorCode::kUnsupported, "mask must be float16");
    }
    call.mask = static_cast<const uint16_t*>(view.data);
    call.mask_stride = view.strides[0];
  }
  if (sinks) {
    const View view = ViewOf(*sinks, "sinks", std::array<int64_t, 1>{num_heads});
    call.sinks = FloatsOf(view, "sinks");
  }
  if (lse) {
    const View view = ViewOf(*lse, "lse", std::array<int64_t, 2>{count, num_heads});
    if (view.strides[0] != num_heads) {
      throw Error(ErrorCode::kUnsupported, "lse must be contiguous");
    }
    call.lse = FloatsOf(view, "lse");
  }
  const int num_threads = NumThreads(threads);
  const nb::gil_scoped_release released;
  Attend(call, num_threads);
}

nb::dict Facts(const MemoryUse& use) {
  nb::dict facts;
  facts["exact_bytes"] = use.exact_bytes;
  facts["code_bytes"] = use.code_bytes;
  facts["header_bytes"] = use.header_bytes;
  facts["bookkeeping_bytes"] = use.bookkeeping_bytes;
  facts["total_bytes"] = use.total();
  facts["f16_bytes"] = use.f16_bytes;
  facts["filled_cells"] = use.filled_cells;
  facts["exact_cells"] = use.exact_cells;
  return facts;
}

nb::dict MemoryOf(const std::vector<const SequenceCache*>& caches) {
  return Facts(SequenceCache::MemoryOf(caches));
}

void Save(const std::string& path, const std::vector<const SequenceCache*>& caches,
          const std::string& host) {
  const nb::gil_scoped_release released;
  SavedSequences saved;
  saved.host = host;
  for (const SequenceCache* cache : caches) saved.caches.push_back(*cache);
  saved.Save(path);
}

nb::tuple Load(const std::string& path) {
  SavedSequences saved;
  {
    const nb::gil_scoped_release released;
    saved = SavedSequences::Load(path);
  }
  nb::list caches;
  for (SequenceCache& cache : saved.caches) caches.append(nb::cast(std::move(cache)));
  return nb::make_tuple(saved.host, caches);
}

}  // namespace

void BindSequence(nb::module_& module) {
  nb::class_<SequenceCache>(module, "SequenceCache",
                            "The keys and the values of one layer and one sequence.\n\n"
                            "The newest `window_tokens` and the first `sink_tokens` are read exact "
                            "(16 bit), the others as they\nwere encoded, once. Not thread-safe.")
      .def(
          "__init__",
          [](SequenceCache* place, const std::string& key, const std::string& value,
             int key_head_dim, int value_head_dim, int num_kv_heads, int page_tokens,
             int window_tokens, int sink_tokens) {
            new (place) SequenceCache(Make(key, value, key_head_dim, value_head_dim, num_kv_heads,
                                           page_tokens, window_tokens, sink_tokens));
          },
          "key"_a, "value"_a, "key_head_dim"_a, "value_head_dim"_a, "num_kv_heads"_a,
          "page_tokens"_a = 128, "window_tokens"_a = 128, "sink_tokens"_a = 16)
      .def("append", &Append, "keys"_a.noconvert(), "values"_a.noconvert(), "threads"_a = 0,
           "Rows [num_kv_heads, n, head_dim] of new tokens; rounded to f16.")
      .def("settle", &Settle, "threads"_a = 0,
           "Retires what has left the window. ParameterError if that needs a profile that was not "
           "set.")
      .def("set_profile", &SetProfile, "profile"_a, "threads"_a = 0,
           "What keys are coded with, frozen from now on. ParameterError if there is a profile, or "
           "if the scheme takes none.")
      .def_prop_ro("profile", &ProfileOf, "A KeyProfile, or None.")
      .def_prop_ro("wants_profile", &SequenceCache::wants_profile,
                   "Whether a page has left the window that waits for a profile; settle() would "
                   "raise.")
      .def("read", &Read, "role"_a, "first"_a, "count"_a, "out"_a.noconvert(), "threads"_a = 0,
           "Tokens [first, first + count) of 'key' or 'value' as attention sees them, into the "
           "float32 array out [num_kv_heads, count, head_dim].")
      .def("attend", &AttendTo, "queries"_a.noconvert(), "out"_a.noconvert(), "scale"_a,
           "softcap"_a = 0.0f, "mask"_a.noconvert() = nb::none(),
           "sinks"_a.noconvert() = nb::none(), "causal"_a = true, "threads"_a = 0,
           "lse"_a.noconvert() = nb::none(),
           "softmax(queries keys^T) values into out.\n\n"
           "queries float32 [num_q_heads, n, key_head_dim], out float32 [n, num_q_heads, "
           "value_head_dim], mask\nfloat16 [n, tokens held], added to logits, sinks float32 "
           "[num_q_heads], lse float32\n[n, num_q_heads], natural. causal: query i does not see "
           "the last n - 1 - i tokens.")
      .def_prop_ro("length", &SequenceCache::length, "Tokens appended and not truncated.")
      .def_prop_ro("first_token", &SequenceCache::first_token, "Tokens evicted from the front.")
      .def_prop_ro("key", [](const SequenceCache& c) { return c.config().key.ToString(); })
      .def_prop_ro("value", [](const SequenceCache& c) { return c.config().value.ToString(); })
      .def_prop_ro("key_head_dim", [](const SequenceCache& c) { return c.config().key_head_dim; })
      .def_prop_ro("value_head_dim",
                   [](const SequenceCache& c) { return c.config().value_head_dim; })
      .def_prop_ro("num_kv_heads", [](const SequenceCache& c) { return c.config().num_kv_heads; })
      .def_prop_ro("page_tokens", [](const SequenceCache& c) { return c.config().page_tokens; })
      .def_prop_ro("window_tokens", [](const SequenceCache& c) { return c.config().window_tokens; })
      .def_prop_ro("sink_tokens", [](const SequenceCache& c) { return c.config().sink_tokens; })
      .def(
          "fork", [](const SequenceCache& cache) { return SequenceCache(cache); },
          "A copy that shares every page.")
      .def("__deepcopy__", [](const SequenceCache& cache,
                              const nb::object& /*memo*/) { return SequenceCache(cache); })
      .def("truncate", &SequenceCache::Truncate, "length"_a, "Drops the tokens from `length` on.")
      .def("evict_front", &SequenceCache::EvictFront, "count"_a,
           "Drops the first `count` tokens held, sinks too.")
      .def("clear", &SequenceCache::Clear)
      .def(
          "memory", [](const SequenceCache& cache) { return Facts(cache.memory()); },
          "Bytes held now, and what 16 bit would take.")
      .def_static("memory_of", &MemoryOf, "caches"_a,
                  "Of several together, what they share counted once.")
      .def_static("save", &Save, "path"_a, "caches"_a, "host"_a = "",
                  "Several caches in one file, with a text of the caller's own.")
      .def_static("load", &Load, "path"_a, "(the text, the caches) of a saved file.");
}

}  // namespace polarquant::python
