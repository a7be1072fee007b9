// SPDX-License-Identifier: Apache-2.0
// Host: C. Rows to a page's bytes and back.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "checks.h"
#include "handles.h"

using namespace polarquant;
using namespace polarquant::c;

namespace {

std::unique_ptr<pq_page_format> Make(const pq_page_config& config) {
  CheckReserved(config.reserved);
  const Scheme scheme = Scheme::Parse(&Needed(config.scheme, "scheme"));
  const auto profile = ProfileOf(config.profile, 1, config.head_dim);
  KeyMap map;
  if (profile != nullptr) map = {profile->balance, profile->dense, profile->dense_inverse};
  return std::make_unique<pq_page_format>(pq_page_format{
      PageFormat(scheme, RoleOf(config.role), config.head_dim, config.page_tokens, map)});
}

// Whichever of the two it is: const void* to const bytes, void* to bytes.
auto* PageAt(const PageFormat& format, auto* page, size_t page_bytes) {
  Needed(static_cast<const std::byte*>(page), "page");
  const size_t past = reinterpret_cast<uintptr_t>(page) % PQ_PAGE_ALIGNMENT;
  if (past != 0) {
    Refuse("page lies " + std::to_string(past) + " bytes past a multiple of " +
           std::to_string(PQ_PAGE_ALIGNMENT) +
           "; take aligned_alloc(PQ_PAGE_ALIGNMENT, page_bytes)");
  }
  CheckBytes("page_bytes", page_bytes, format.page_bytes());
  using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(page)>>,
                                  const std::byte, std::byte>;
  return static_cast<Byte*>(page);
}

const PageFormat& FormatOf(const pq_page_format* handle) { return Needed(handle, "format").format; }

void CheckRows(const PageFormat& format, const float* rows, int64_t row_stride, int64_t count) {
  CheckRange<int64_t>("count", count, 0, format.page_tokens());
  if (count > 0) Needed(rows, "rows");
  CheckStride("row_stride", row_stride, count, format.head_dim());
}

int IndexOf(const PageFormat& format, int64_t index) {
  CheckRange<int64_t>("index", index, 0, format.page_tokens() - 1);
  return static_cast<int>(index);
}

// Calls use(page, index) for one row of a page.
template <typename Page, typename Use>
pq_status WithRow(const pq_page_format* handle, Page* page, size_t page_bytes, int64_t index,
                  const Use& use) {
  return Guard([&] {
    const PageFormat& format = FormatOf(handle);
    auto* bytes = PageAt(format, page, page_bytes);
    use(format, bytes, IndexOf(format, index));
  });
}

}  // namespace

pq_status pq_page_format_create(const pq_page_config* config, pq_page_format** format) {
  return Create(format, "format",
                [&] { return Make(Taken<pq_page_config>(config, "config", PQ_PAGE_CONFIG_INIT)); });
}

pq_status pq_page_format_destroy(pq_page_format* format) { return Destroy(format); }

pq_status pq_page_format_sizes(const pq_page_format* format, pq_page_sizes* sizes) {
  return Guard([&] {
    const PageFormat& from = FormatOf(format);
    pq_page_sizes to = PQ_PAGE_SIZES_INIT;
    to.page_bytes = from.page_bytes();
    to.record_bytes = from.record_bytes();
    to.header_bytes = from.header_bytes();
    to.group_tokens = from.group_tokens();
    to.code_bits = from.code_bits();
    to.bits_per_value = from.bits_per_value();
    Give(to, sizes, "sizes");
  });
}

pq_status pq_page_encode(const pq_page_format* format, const float* rows, int64_t row_stride,
                         int64_t count, void* page, size_t page_bytes) {
  return Guard([&] {
    const PageFormat& f = FormatOf(format);
    CheckRows(f, rows, row_stride, count);
    std::byte* bytes = PageAt(f, page, page_bytes);
    const int64_t dim = f.head_dim();
    if (count <= 1 || row_stride == dim) {
      f.EncodePage(rows, static_cast<int>(count), bytes);
      return;
    }
    std::vector<float> dense(static_cast<size_t>(count * dim));
    for (int64_t r = 0; r < count; ++r) {
      std::copy_n(rows + r * row_stride, dim, dense.data() + r * dim);
    }
    f.EncodePage(dense.data(), static_cast<int>(count), bytes);
  });
}

pq_status pq_page_decode(const pq_page_format* format, const void* page, size_t page_bytes,
                         int64_t count, float* rows, int64_t row_stride) {
  return Guard([&] {
    const PageFormat& f = FormatOf(format);
    CheckRows(f, rows, row_stride, count);
    const std::byte* bytes = PageAt(f, page, page_bytes);
    const int64_t dim = f.head_dim();
    if (count <= 1 || row_stride == dim) {
      f.DecodePage(bytes, static_cast<int>(count), rows);
      return;
    }
    std::vector<float> dense(static_cast<size_t>(count * dim));
    f.DecodePage(bytes, static_cast<int>(count), dense.data());
    for (int64_t r = 0; r < count; ++r) {
      std::copy_n(dense.data() + r * dim, dim, rows + r * row_stride);
    }
  });
}

pq_status pq_page_encode_row(const pq_page_format* format, void* page, size_t page_bytes,
                             int64_t index, const float* row) {
  return WithRow(format, page, page_bytes, index, [&](const PageFormat& f, std::byte* p, int i) {
    f.EncodeRow(p, i, &Needed(row, "row"));
  });
}

pq_status pq_page_decode_row(const pq_page_format* format, const void* page, size_t page_bytes,
                             int64_t index, float* row) {
  return WithRow(format, page, page_bytes, index,
                 [&](const PageFormat& f, const std::byte* p, int i) {
                   f.DecodeRow(p, i, &Needed(row, "row"));
                 });
}

pq_status pq_page_read_record(const pq_page_format* format, const void* page, size_t page_bytes,
                              int64_t index, void* record, size_t record_bytes) {
  return WithRow(format, page, page_bytes, index,
                 [&](const PageFormat& f, const std::byte* p, int i) {
                   CheckBytes("record_bytes", record_bytes, f.record_bytes());
                   f.ReadRecord(p, i, &Needed(static_cast<std::byte*>(record), "record"));
                 });
}

pq_status pq_page_write_record(const pq_page_format* format, void* page, size_t page_bytes,
                               int64_t index, const void* record, size_t record_bytes) {
  return WithRow(format, page, page_bytes, index, [&](const PageFormat& f, std::byte* p, int i) {
    CheckBytes("record_bytes", record_bytes, f.record_bytes());
    f.WriteRecord(p, i, &Needed(static_cast<const std::byte*>(record), "record"));
  });
}

pq_status pq_page_read_header(const pq_page_format* format, const void* page, size_t page_bytes,
                              int64_t index, void* header, size_t header_bytes) {
  return WithRow(
      format, page, page_bytes, index, [&](const PageFormat& f, const std::byte* p, int i) {
        CheckBytes("header_bytes", header_bytes, f.header_bytes());
        if (header_bytes == 0) return;
        std::ranges::copy(f.Header(p, i), &Needed(static_cast<std::byte*>(header), "header"));
      });
}

pq_status pq_page_write_header(const pq_page_format* format, void* page, size_t page_bytes,
                               int64_t index, const void* header, size_t header_bytes) {
  return WithRow(format, page, page_bytes, index, [&](const PageFormat& f, std::byte* p, int i) {
    CheckBytes("header_bytes", header_bytes, f.header_bytes());
    if (header_bytes == 0) return;
    std::copy_n(&Needed(static_cast<const std::byte*>(header), "header"), header_bytes,
                f.Header(p, i).data());
  });
}
