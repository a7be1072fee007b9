// SPDX-License-Identifier: Apache-2.0
// Host: Python. The table of codecs, and pages of rows; polarquant/codec.py and tables.py are what
// people see of them.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "arrays.h"
#include "bindings.h"
#include "page_codec.h"
#include "polarquant/attention.h"
#include "polarquant/codec.h"
#include "polarquant/error.h"

namespace nb = nanobind;

namespace polarquant::python {
namespace {

// What pages are kept in: bytes [number of pages][page_bytes], aligned as the core wants them.
using Pages = nb::ndarray<uint8_t, nb::numpy, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using ConstPages = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<uint8_t, nb::numpy, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

Pages EmptyPages(int64_t count, int64_t page_bytes) {
  constexpr std::align_val_t kAlignment{64};
  const auto size = static_cast<size_t>(count * page_bytes);
  auto* bytes = new (kAlignment) uint8_t[size + 1];
  const nb::capsule owner(bytes, [](void* all) noexcept {
    operator delete[](static_cast<uint8_t*>(all), std::align_val_t{64});
  });
  return Pages(bytes, {static_cast<size_t>(count), static_cast<size_t>(page_bytes)}, owner);
}

const std::byte* Checked(const PageCodec& codec, const ConstPages& pages, int64_t count) {
  const auto page_bytes = static_cast<int64_t>(codec.format().page_bytes());
  const auto rows = static_cast<int64_t>(pages.shape(0)),
             each = static_cast<int64_t>(pages.shape(1));
  if (rows != count || each != page_bytes) {
    throw Error(ErrorCode::kParameter, std::to_string(rows) + " pages of " + std::to_string(each) +
                                           " bytes were given: the shape needs " +
                                           std::to_string(count) + " of " +
                                           std::to_string(page_bytes));
  }
  return reinterpret_cast<const std::byte*>(pages.data());
}

// Rows or queries: [..., n, head_dim].
View RowsOf(const PageCodec& codec, nb::handle array, const char* name, Access access) {
  View view = ViewOf(array, name, access);
  const int head_dim = codec.format().head_dim();
  if (view.ndim() >= 2 && view.shape.back() == head_dim) return view;
  throw Error(ErrorCode::kParameter, std::string(name) + " have the shape " + Spelled(view.shape) +
                                         ": it must be [..., n, " + std::to_string(head_dim) + "]");
}

Pages Encode(const PageCodec& codec, nb::handle array, int threads) {
  const View rows = RowsOf(codec, array, "rows", Access::kRead);
  const int num_threads = NumThreads(threads);
  Pages pages =
      EmptyPages(codec.PagesOf(rows.shape), static_cast<int64_t>(codec.format().page_bytes()));
  const nb::gil_scoped_release released;
  codec.Encode(rows, reinterpret_cast<std::byte*>(pages.data()), num_threads);
  return pages;
}

void Decode(const PageCodec& codec, const ConstPages& pages, nb::handle array, int threads) {
  const View rows = RowsOf(codec, array, "out", Access::kWrite);
  const std::byte* from = Checked(codec, pages, codec.PagesOf(rows.shape));
  const int num_threads = NumThreads(threads);
  const nb::gil_scoped_release released;
  codec.Decode(from, rows, num_threads);
}

void Dot(const PageCodec& codec, nb::handle query_array, const ConstPages& pages,
         nb::handle logit_array, float scale, int threads) {
  const View queries = RowsOf(codec, query_array, "queries", Access::kRead);
  const View logits = ViewOf(logit_array, "logits", Access::kWrite);
  CheckFloats(logits, "logits");
  std::vector<int64_t> shape = queries.shape;
  shape.back() = -1;
  CheckShape(logits, "logits", shape);
  shape[shape.size() - 2] = logits.shape.back();
  const std::byte* from = Checked(codec, pages, codec.PagesOf(shape));
  const int num_threads = NumThreads(threads);
  const nb::gil_scoped_release released;
  codec.Score(queries, from, scale, logits, num_threads);
}

Bytes Records(const PageCodec& codec, const ConstPages& pages, int64_t num_leading,
              int64_t num_rows, int threads) {
  const std::byte* from = Checked(codec, pages, num_leading * codec.PagesOf(num_rows));
  const int num_threads = NumThreads(threads);
  Bytes records =
      EmptyPages(num_leading * num_rows, static_cast<int64_t>(codec.format().record_bytes()));
  const nb::gil_scoped_release released;
  codec.ReadRecords(from, num_leading, num_rows, reinterpret_cast<std::byte*>(records.data()),
                    num_threads);
  return records;
}

nb::object Text(std::string_view text) { return nb::str(text.data(), text.size()); }

nb::list Table() {
  nb::list table;
  for (const CodecInfo& info : Codecs()) {
    nb::dict facts;
    facts["name"] = Text(info.name);
    facts["summary"] = Text(info.summary);
    facts["source"] = Text(info.source);
    facts["code_bits"] = info.code_bits;
    facts["keys"] = info.keys;
    facts["values"] = info.values;
    facts["rotates"] = info.rotates;
    facts["scale_rules"] = info.scale_rules;
    facts["normalises"] = info.normalises;
    nb::list options;
    for (const CodecOption& option : info.options) {
      nb::dict each;
      each["name"] = Text(option.name);
      each["summary"] = Text(option.summary);
      each["values"] = Text(ValuesOf(option));
      each["usual"] = Text(SpellingOf(option, option.usual));
      options.append(each);
    }
    facts["options"] = options;
    table.append(facts);
  }
  return table;
}

nb::dict Facts(const PageCodec& codec) {
  const PageFormat& format = codec.format();
  const Normalisation& normalisation = format.scheme().normalisation;
  nb::dict facts;
  facts["scheme"] = format.scheme().ToString();
  facts["role"] = format.role() == Role::kKey ? "key" : "value";
  facts["head_dim"] = format.head_dim();
  facts["page_tokens"] = format.page_tokens();
  facts["record_bytes"] = format.record_bytes();
  facts["header_bytes"] = format.headers_bytes();
  facts["page_bytes"] = format.page_bytes();
  facts["bits_per_value"] = format.bits_per_value();
  facts["sharpen"] = format.scheme().sharpen / 100.0;
  facts["balance"] = normalisation.balance;
  facts["dense"] = normalisation.dense;
  facts["fast"] = HasFastPath(format.scheme(), format.head_dim());
  return facts;
}

}  // namespace

void BindCodec(nb::module_& module) {
  module.def("codecs", &Table, "The table of codecs, a dict of facts each.");
  module.def("empty_pages", &EmptyPages, nb::arg("count"), nb::arg("page_bytes"),
             "uint8 [count, page_bytes], not initialised, aligned to 64 bytes.");
  nb::class_<PageCodec>(module, "PageCodec", "Rows of one shape and scheme to pages and back.")
      .def(nb::init<const std::string&, const std::string&, int, int, const std::vector<float>&,
                    const std::vector<float>&>(),
           nb::arg("scheme"), nb::arg("role"), nb::arg("head_dim"), nb::arg("page_tokens"),
           nb::arg("balance"), nb::arg("dense"))
      .def("facts", &Facts, "The canonical scheme, and its sizes.")
      .def("encode", &Encode, nb::arg("rows").none(), nb::arg("threads"),
           "Pages of rows [..., n, head_dim].")
      .def("decode", &Decode, nb::arg("pages").noconvert(), nb::arg("out").none(),
           nb::arg("threads"), "Rows [..., n, head_dim] of pages.")
      .def("dot", &Dot, nb::arg("queries").none(), nb::arg("pages").noconvert(), nb::arg("logits"),
           nb::arg("scale"), nb::arg("threads"),
           "Logits [..., m, n] of queries [..., m, head_dim] against the rows of pages.")
      .def("records", &Records, nb::arg("pages").noconvert(), nb::arg("num_leading"),
           nb::arg("num_rows"), nb::arg("threads"),
           "Records [num_leading * num_rows, record_bytes] of the rows of pages.");
}

}  // namespace polarquant::python
