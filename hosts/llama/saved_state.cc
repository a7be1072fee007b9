// SPDX-License-Identifier: Apache-2.0
#include "saved_state.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

#include "polarquant/error.h"
#include "status.h"

namespace polarquant::llama {
namespace {

// What stands for a row that could not be saved: as f16 it would be NaNs, which rows never hold.
constexpr std::byte kUnsaved{0xff};

bool AllBytesAre(std::span<const std::byte> bytes, std::byte value) {
  return std::all_of(bytes.begin(), bytes.end(), [&](std::byte byte) { return byte == value; });
}

// Splits a range into runs of whole rows of one stream, and parts of rows: visit(stream, first
// cell, first byte within the row, position in the range, bytes).
void ForRows(const KvTensor& tensor, size_t offset, size_t bytes,
             const std::function<void(int64_t, int64_t, size_t, size_t, size_t)>& visit) {
  for (size_t done = 0; done < bytes;) {
    const size_t at = offset + done;
    const auto row = static_cast<int64_t>(at / tensor.row_bytes);
    const size_t within = at % tensor.row_bytes;
    const int64_t stream = row / tensor.num_cells, cell = row % tensor.num_cells;
    const auto left = static_cast<size_t>(tensor.num_cells - cell) * tensor.row_bytes;
    const size_t rest = std::min(bytes - done, left);
    const size_t part = within != 0 || rest < tensor.row_bytes
                            ? std::min(rest, tensor.row_bytes - within)
                            : rest / tensor.row_bytes * tensor.row_bytes;
    visit(stream, cell, within, done, part);
    done += part;
  }
}

// Reads every row of the range whole with `read`(store, first cell, count, to), and hands out what
// was asked for.
void ReadRows(const KvTensor& tensor, size_t offset, std::span<std::byte> out,
              const std::function<void(const CellStore&, int64_t, int64_t, std::byte*)>& read) {
  std::vector<std::byte> whole(tensor.row_bytes);
  ForRows(tensor, offset, out.size(),
          [&](int64_t stream, int64_t cell, size_t within, size_t position, size_t part) {
            const CellStore* store = KvCache::FindStore(tensor, stream);
            if (store == nullptr) {  // never written
              std::memset(out.data() + position, 0, part);
            } else if (part % tensor.row_bytes == 0) {
              read(*store, cell, static_cast<int64_t>(part / tensor.row_bytes),
                   out.data() + position);
            } else {
              read(*store, cell, 1, whole.data());
              std::memcpy(out.data() + position, whole.data() + within, part);
            }
          });
}

void LoadRows(KvTensor& tensor, int64_t stream, int64_t cell, std::span<const std::byte> rows) {
  const auto count = static_cast<int64_t>(rows.size() / tensor.row_bytes);
  if (AllBytesAre(rows, std::byte{0})) {
    if (CellStore* store = KvCache::FindStore(tensor, stream)) store->ClearCells(cell, count);
    return;
  }
  try {
    if (AllBytesAre(rows.first(tensor.row_bytes), kUnsaved)) {
      throw Error(ErrorCode::kUnsupported, "the row was not saved (its scheme cannot be saved)");
    }
    tensor.cache->Store(tensor, stream)
        .LoadRows(cell, count, rows.data(), tensor.cache->num_threads());
  } catch (const Error& error) {
    const std::string cause = std::string("the saved state cannot be loaded: ") + error.what() +
                              "; clear the cache and evaluate the prompt again";
    tensor.cache->SetDamage(cause);
    throw Error(error.code(), cause);
  }
}

}  // namespace

void SaveBytes(KvTensor& tensor, size_t offset, std::span<std::byte> out) {
  tensor.cache->Retire(tensor, tensor.cache->num_threads());  // what is restored is as what goes on
  ReadRows(tensor, offset, out,
           [&](const CellStore& store, int64_t cell, int64_t count, std::byte* rows) {
             try {
               store.SaveRows(cell, count, rows, tensor.cache->num_threads());
             } catch (const Error& error) {
               LogRefused(std::string("the state cannot be saved: ") + error.what());
               std::memset(rows, static_cast<int>(kUnsaved),
                           static_cast<size_t>(count) * tensor.row_bytes);
             }
           });
}

void DecodeBytes(KvTensor& tensor, size_t offset, std::span<std::byte> out) {
  std::vector<float> values(static_cast<size_t>(tensor.row_values));
  ReadRows(tensor, offset, out,
           [&](const CellStore& store, int64_t cell, int64_t count, std::byte* rows) {
             for (int64_t n = 0; n < count; ++n, rows += tensor.row_bytes) {
               store.ReadRow(cell + n, values.data());
               ggml_fp32_to_fp16_row(values.data(), reinterpret_cast<ggml_fp16_t*>(rows),
                                     tensor.row_values);
             }
           });
}

void LoadBytes(KvTensor& tensor, size_t offset, std::span<const std::byte> in) {
  ForRows(tensor, offset, in.size(),
          [&](int64_t stream, int64_t cell, size_t within, size_t position, size_t part) {
            const std::span<const std::byte> bytes = in.subspan(position, part);
            if (part % tensor.row_bytes == 0) {
              LoadRows(tensor, stream, cell, bytes);
              return;
            }
            const int64_t row = stream * tensor.num_cells + cell;
            if (within == 0) {
              tensor.partial.assign(tensor.row_bytes, std::byte{0});
              tensor.partial_row = row;
              tensor.partial_bytes = 0;
            }
            if (tensor.partial_row != row || tensor.partial_bytes != within) {
              throw Error(ErrorCode::kUnsupported,
                          tensor.name + ": row " + std::to_string(row) + " was written from byte " +
                              std::to_string(within) +
                              " on; rows must be written from their start");
            }
            std::memcpy(tensor.partial.data() + within, bytes.data(), part);
            tensor.partial_bytes += part;
            if (tensor.partial_bytes < tensor.row_bytes) return;
            tensor.partial_row = -1;
            LoadRows(tensor, stream, cell, tensor.partial);
          });
}

bool CopyRows(KvTensor& source, size_t source_offset, KvTensor& target, size_t target_offset,
              size_t bytes) {
  const size_t stream_bytes = source.stream_bytes();
  if (source.row_bytes != target.row_bytes || stream_bytes != target.stream_bytes() ||
      source.parsed.role != target.parsed.role || source.parsed.layer != target.parsed.layer ||
      source_offset % stream_bytes != target_offset % stream_bytes ||
      source_offset % source.row_bytes != 0 || bytes % source.row_bytes != 0 ||
      source_offset % stream_bytes + bytes > stream_bytes) {
    return false;
  }
  const auto first = static_cast<int64_t>(source_offset % stream_bytes / source.row_bytes);
  const auto count = static_cast<int64_t>(bytes / source.row_bytes);
  const auto target_stream = static_cast<int64_t>(target_offset / stream_bytes);
  source.cache->Retire(source, source.cache->num_threads());
  const CellStore* from =
      KvCache::FindStore(source, static_cast<int64_t>(source_offset / stream_bytes));
  if (from != nullptr) {
    target.cache->Store(target, target_stream).CopyFrom(*from, first, count);
  } else if (CellStore* to = KvCache::FindStore(target, target_stream)) {
    to->ClearCells(first, count);
  }
  return true;
}

}  // namespace polarquant::llama
