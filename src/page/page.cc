// SPDX-License-Identifier: Apache-2.0
// Stages 1 to 5 in one place, for any codec: sanitise, normalise, rotate, quantise, pack, page. And
// back. A page is its codes (records one after another, or tiles), then the scales of tile codecs,
// then the header; what is left of the last 64 bytes is zero. Rows are prepared a few at a time, in
// a scratch that fits the stack of any thread. Those of tile codecs go through the kernels of the
// CPU, the others through the codec itself.
#include "polarquant/page.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <string>
#include <vector>

#include "codecs/codec.h"
#include "kernels/kernels.h"
#include "math/normalise.h"
#include "math/rotation.h"
#include "polarquant/error.h"
#include "util/half.h"

namespace polarquant {
namespace {

constexpr size_t kPageAlignment = 64;           // of pages and their sizes: a vector, a cache line
constexpr size_t kMaxTileRecord = kMaxHeadDim;  // at most 4 bits a value and a scale per 16
constexpr int kScratchFloats = 4096;            // prepared rows: at least four, 64 of 64 channels

size_t RoundedUp(size_t bytes) {
  return (bytes + kPageAlignment - 1) / kPageAlignment * kPageAlignment;
}

const Scheme& Checked(const Scheme& scheme) {
  const std::string text = scheme.ToString();
  if (Scheme::Parse(text) == scheme) return scheme;
  throw Error(ErrorCode::kUnsupported,
              "codec " + scheme.codec +
                  " cannot be set, normalised, scaled or rotated as asked; nearest is " + text);
}

void CheckRole(const Scheme& scheme, const CodecInfo& codec, Role role) {
  if (role == Role::kKey ? !codec.keys : !codec.values) {
    throw Error(ErrorCode::kUnsupported, "codec " + scheme.codec + " stores no " +
                                             (role == Role::kKey ? "keys" : "values") +
                                             "; `polarquant schemes` lists the roles of each");
  }
  if (role == Role::kValue && scheme.sharpen != 100) {
    throw Error(ErrorCode::kUnsupported,
                "scheme " + scheme.ToString() + " is for keys: values have no logits to sharpen");
  }
  if (role == Role::kKey || !scheme.normalisation.needs_profile()) return;
  throw Error(ErrorCode::kUnsupported,
              "scheme " + scheme.ToString() +
                  " is for keys: it weighs them against queries; write KEYS/VALUES, for instance " +
                  scheme.ToString() + "/" + scheme.codec);
}

std::unique_ptr<const Coder> CheckedCoder(const Scheme& scheme, Role role, int head_dim,
                                          int page_tokens) {
  CheckHeadDim(head_dim);
  if (page_tokens != 64 && page_tokens != 128 && page_tokens != 256) {
    throw Error(ErrorCode::kUnsupported, "page_tokens " + std::to_string(page_tokens) +
                                             " is not supported: choose 64, 128 or 256");
  }
  return MakeCoder(scheme, {head_dim, page_tokens, role});
}

}  // namespace

struct PageFormat::Impl {
  Scheme scheme;
  Role role;
  int head_dim, page_tokens;
  const Codec& codec;
  const Kernels& kernels;
  std::unique_ptr<const Coder> coder;
  size_t record_bytes;
  int num_scales;     // of a tile codec's record
  int group_tokens;   // rows that share a header
  size_t mean_bytes;  // of a header, before the coder's part of it
  size_t codes_bytes, header_offset, header_bytes, page_bytes;
  std::vector<float> balance, inverse_balance;
  std::vector<float> dense, dense_inverse;

  Impl(const Scheme& s, Role r, int d, int tokens, const KeyMap& map, const Target& target)
      : scheme(Checked(s)),
        role(r),
        head_dim(d),
        page_tokens(tokens),
        codec(FindCodec(s.codec)),
        kernels(*target.kernels),
        coder(CheckedCoder(scheme, r, d, tokens)),
        record_bytes(coder->record_bytes()),
        num_scales(tiled() ? codec.scales_per_row(d) : 0),
        group_tokens(coder->group_tokens() > 0 ? coder->group_tokens() : tokens),
        mean_bytes(centred() ? MeanBytes(d) : 0),
        codes_bytes(num_rows() * (record_bytes - num_scales * sizeof(uint16_t))),
        header_offset(num_rows() * record_bytes),
        header_bytes(mean_bytes + coder->header_bytes()),
        page_bytes(RoundedUp(header_offset + num_groups() * header_bytes)) {
    assert(!centred() || num_groups() == 1);  // codec.h
    CheckRole(scheme, codec.info, role);
    if (scheme.normalisation.balance) {
      balance.assign(map.balance.begin(), map.balance.end());
      for (const float s_i : balance) inverse_balance.push_back(1.0f / s_i);
    }
    if (scheme.normalisation.dense) {
      dense.assign(map.dense.begin(), map.dense.end());
      dense_inverse.assign(map.dense_inverse.begin(), map.dense_inverse.end());
    }
  }

  size_t num_rows() const { return static_cast<size_t>(page_tokens); }
  size_t num_groups() const { return static_cast<size_t>(page_tokens / group_tokens); }
  bool tiled() const { return codec.layout == PageLayout::kTiles; }
  bool centred() const { return scheme.normalisation.center; }
  int bits() const { return codec.info.code_bits; }

  size_t HeaderOffset(int index) const {
    return header_offset + static_cast<size_t>(index / group_tokens) * header_bytes;
  }
  // The coder's part of a row's header.
  const std::byte* StatisticsOf(const std::byte* page, int index) const {
    return page + HeaderOffset(index) + mean_bytes;
  }

  std::byte* RecordAt(std::byte* page, int index) const {
    return page + static_cast<size_t>(index) * record_bytes;
  }
  const std::byte* RecordAt(const std::byte* page, int index) const {
    return page + static_cast<size_t>(index) * record_bytes;
  }

  bool lanes_are_tokens() const { return role == Role::kKey; }
  uint16_t* ScalesOf(std::byte* page) const {
    return reinterpret_cast<uint16_t*>(page + codes_bytes);
  }
  const uint16_t* ScalesOf(const std::byte* page) const {
    return reinterpret_cast<const uint16_t*>(page + codes_bytes);
  }

  void CheckCount(int64_t count) const { CheckWithin("count", count, page_tokens); }
  void CheckIndex(int64_t index) const { CheckWithin("index", index, page_tokens - 1); }
  void CheckRows(int64_t first, int64_t count) const {
    CheckWithin("first", first, page_tokens);
    CheckWithin("count", count, page_tokens - first);
  }

  // Calls visit(first, count) for runs of rows that the scratch holds, from `begin` to `end`.
  template <typename Visit>
  void VisitRuns(int begin, int end, const Visit& visit) const {
    const int most = kScratchFloats / head_dim;
    for (int first = begin; first < end; first += most) visit(first, std::min(most, end - first));
  }

  // Rows that are prepared and rotated, [count][head_dim], to the page; and back.
  void EncodeRotated(std::byte* page, int first, int count, const float* rows_rot) const {
    if (tiled()) {
      kernels.encode_rows(codec, rows_rot, first, count, page_tokens, head_dim, scheme.scale_rule,
                          lanes_are_tokens(), page, ScalesOf(page));
      return;
    }
    for (int r = first; r < first + count; ++r, rows_rot += head_dim) {
      coder->Encode(StatisticsOf(page, r), rows_rot, RecordAt(page, r));
    }
  }

  void DecodeRotated(const std::byte* page, int index, float* row_rot) const {
    if (!tiled()) {
      coder->Decode(StatisticsOf(page, index), RecordAt(page, index), row_rot);
      return;
    }
    std::byte record[kMaxTileRecord];
    ReadRecords(page, index, 1, record, record_bytes);
    coder->Decode(StatisticsOf(page, index), record, row_rot);
  }

  // Records to and from the places a page keeps its parts at.
  void ReadRecords(const std::byte* page, int first, int count, std::byte* records,
                   size_t stride) const {
    if (tiled()) {
      kernels.read_records(codec, page, ScalesOf(page), page_tokens, head_dim, lanes_are_tokens(),
                           first, count, records, stride);
      return;
    }
    for (int r = first; r < first + count; ++r, records += stride) {
      std::memcpy(records, RecordAt(page, r), record_bytes);
    }
  }
  void WriteRecords(std::byte* page, int first, int count, const std::byte* records,
                    size_t stride) const {
    if (tiled()) {
      kernels.write_records(codec, records, stride, first, count, page_tokens, head_dim,
                            lanes_are_tokens(), page, ScalesOf(page));
      return;
    }
    for (int r = first; r < first + count; ++r, records += stride) {
      std::memcpy(RecordAt(page, r), records, record_bytes);
    }
  }

  // Stages 1 and 2 of `count` rows, and back in place. `mean` may be null.
  void Prepare(const float* rows, int count, const float* mean, float* prepared) const {
    const float* factors = scheme.normalisation.balance ? balance.data() : nullptr;
    kernels.prepare_rows(rows, count, head_dim, mean, factors, prepared);
    TransformRows(dense, Transposed::kNo, prepared, count);
    if (scheme.rotate) kernels.rotate(prepared, head_dim, count, head_dim);
  }
  void Unmap(float* rows, int count) const {
    if (scheme.rotate) kernels.unrotate(rows, head_dim, count, head_dim);
    TransformRows(dense_inverse, Transposed::kNo, rows, count);
    MultiplyRows(inverse_balance, rows, count);
  }
  void MultiplyRows(const std::vector<float>& factors, float* rows, int count) const {
    if (!scheme.normalisation.balance) return;
    CheckBalance(factors);
    for (int r = 0; r < count; ++r, rows += head_dim) {
      for (int i = 0; i < head_dim; ++i) rows[i] *= factors[static_cast<size_t>(i)];
    }
  }
  void CheckBalance(const std::vector<float>& factors) const {
    if (!scheme.normalisation.balance) return;
    CheckMap("balance scales", factors.size(), static_cast<size_t>(head_dim));
  }

  // The coder's statistics of each group: of its prepared rows [count][head_dim], without those
  // marked in `outside`.
  void LearnAll(std::byte* page, const float* rows, int count, const uint64_t* outside) const {
    if (coder->header_bytes() == 0) return;
    const auto dim = static_cast<size_t>(head_dim);
    std::vector<float> inside;
    for (int first = 0; first < page_tokens; first += group_tokens) {
      inside.clear();
      for (int r = first; r < std::min(first + group_tokens, count); ++r) {
        if (outside != nullptr && ((outside[r / 64] >> (r % 64)) & 1) != 0) continue;
        const float* row = rows + static_cast<size_t>(r) * dim;
        inside.insert(inside.end(), row, row + dim);
      }
      coder->Learn(inside.data(), static_cast<int>(inside.size() / dim),
                   page + HeaderOffset(first) + mean_bytes);
    }
  }

  // rows = matrix * row, or its transpose * row, for each row; in double.
  void TransformRows(const std::vector<float>& matrix, Transposed transposed, float* rows,
                     int count) const {
    if (!scheme.normalisation.dense) return;
    const auto dim = static_cast<size_t>(head_dim);
    CheckMap("values of the dense map", matrix.size(), dim * dim);
    const size_t across = transposed == Transposed::kYes ? dim : 1;
    const size_t down = transposed == Transposed::kYes ? 1 : dim;
    float row[kMaxHeadDim];
    for (int r = 0; r < count; ++r, rows += dim) {
      for (size_t i = 0; i < dim; ++i) {
        double sum = 0.0;
        for (size_t j = 0; j < dim; ++j) {
          sum += static_cast<double>(matrix[i * down + j * across]) * static_cast<double>(rows[j]);
        }
        row[i] = static_cast<float>(sum);
      }
      std::copy_n(row, dim, rows);
    }
  }
  void CheckMap(const char* what, size_t given, size_t needed) const {
    if (given == needed) return;
    throw Error(ErrorCode::kParameter, "scheme " + scheme.ToString() + " needs " +
                                           std::to_string(needed) + " " + what + ", " +
                                           std::to_string(given) +
                                           " were given; take them from the model's profile");
  }

 private:
  void CheckWithin(const char* what, int64_t value, int64_t most) const {
    if (value >= 0 && value <= most) return;
    throw Error(ErrorCode::kParameter, std::string(what) + " " + std::to_string(value) +
                                           " is outside 0.." + std::to_string(most) +
                                           ": pages have " + std::to_string(page_tokens) + " rows");
  }
};

PageFormat::PageFormat(const Scheme& scheme, Role role, int head_dim, int page_tokens,
                       const KeyMap& map, const Target& target)
    : impl_(std::make_unique<Impl>(scheme, role, head_dim, page_tokens, map, target)) {}
PageFormat::~PageFormat() = default;
PageFormat::PageFormat(PageFormat&&) noexcept = default;
PageFormat& PageFormat::operator=(PageFormat&&) noexcept = default;

const Scheme& PageFormat::scheme() const { return impl_->scheme; }
const Codec& PageFormat::codec() const { return impl_->codec; }
Role PageFormat::role() const { return impl_->role; }
int PageFormat::head_dim() const { return impl_->head_dim; }
int PageFormat::page_tokens() const { return impl_->page_tokens; }
size_t PageFormat::record_bytes() const { return impl_->record_bytes; }
size_t PageFormat::header_bytes() const { return impl_->header_bytes; }
int PageFormat::group_tokens() const { return impl_->group_tokens; }
size_t PageFormat::headers_bytes() const { return impl_->num_groups() * impl_->header_bytes; }
size_t PageFormat::page_bytes() const { return impl_->page_bytes; }
bool PageFormat::tiled() const { return impl_->tiled(); }
int PageFormat::code_bits() const { return impl_->bits(); }
int PageFormat::scale_blocks() const { return impl_->num_scales; }
size_t PageFormat::scales_offset() const { return impl_->codes_bytes; }
size_t PageFormat::header_offset() const { return impl_->header_offset; }

double PageFormat::bits_per_value() const {
  const double values = static_cast<double>(page_tokens()) * head_dim();
  return 8.0 * static_cast<double>(page_bytes()) / values;
}

void PageFormat::EncodePage(const float* rows, int count, std::byte* page,
                            const uint64_t* outside) const {
  const Impl& f = *impl_;
  f.CheckCount(count);
  f.CheckBalance(f.balance);
  std::memset(page + f.header_offset, 0, f.page_bytes - f.header_offset);
  const auto dim = static_cast<size_t>(f.head_dim);
  const auto row_at = [&](int r) { return rows + static_cast<size_t>(r) * dim; };
  float mean[kMaxHeadDim], scratch[kScratchFloats];
  if (f.centred()) {
    MeanOfRows(rows, count, f.head_dim, outside, mean);
    StoreMean(mean, f.head_dim, page + f.header_offset);
    LoadMean(page + f.header_offset, f.head_dim, mean);
  }
  const float* subtracted = f.centred() ? mean : nullptr;
  if (f.coder->header_bytes() > 0) {  // learns from all rows before it encodes one
    std::vector<float> prepared(static_cast<size_t>(count) * dim);
    f.Prepare(rows, count, subtracted, prepared.data());
    f.LearnAll(page, prepared.data(), count, outside);
    f.EncodeRotated(page, 0, count, prepared.data());
  } else {
    f.VisitRuns(0, count, [&](int first, int run) {
      f.Prepare(row_at(first), run, subtracted, scratch);
      f.EncodeRotated(page, first, run, scratch);
    });
  }
  if (count == f.page_tokens) return;
  std::fill_n(scratch, kScratchFloats, 0.0f);
  f.VisitRuns(count, f.page_tokens,
              [&](int first, int run) { f.EncodeRotated(page, first, run, scratch); });
}

void PageFormat::EncodeRows(std::byte* page, int first, int count, const float* rows) const {
  const Impl& f = *impl_;
  f.CheckRows(first, count);
  f.CheckBalance(f.balance);
  float mean[kMaxHeadDim], scratch[kScratchFloats];
  const float* subtracted = Mean(page, mean) ? mean : nullptr;
  f.VisitRuns(first, first + count, [&](int at, int run) {
    f.Prepare(rows + static_cast<int64_t>(at - first) * f.head_dim, run, subtracted, scratch);
    f.EncodeRotated(page, at, run, scratch);
  });
}

void PageFormat::DecodePage(const std::byte* page, int count, float* rows) const {
  const Impl& f = *impl_;
  DecodeCodes(page, count, rows);
  f.Unmap(rows, count);
  if (!f.centred()) return;
  float mean[kMaxHeadDim];
  LoadMean(page + f.header_offset, f.head_dim, mean);
  for (int r = 0; r < count; ++r) {
    float* row = rows + static_cast<int64_t>(r) * f.head_dim;
    for (int i = 0; i < f.head_dim; ++i) row[i] += mean[i];
  }
}

void PageFormat::EncodeRow(std::byte* page, int index, const float* row) const {
  impl_->CheckIndex(index);
  EncodeRows(page, index, 1, row);
}

void PageFormat::LearnGroup(std::byte* page, int index, const float* rows, int count) const {
  const Impl& f = *impl_;
  f.CheckIndex(index);
  f.CheckCount(count);
  f.CheckBalance(f.balance);
  std::vector<float> prepared(static_cast<size_t>(count) * static_cast<size_t>(f.head_dim));
  f.Prepare(rows, count, nullptr, prepared.data());
  f.coder->Learn(prepared.data(), count, page + f.HeaderOffset(index) + f.mean_bytes);
}

void PageFormat::DecodeRow(const std::byte* page, int index, float* row) const {
  const Impl& f = *impl_;
  f.CheckIndex(index);
  float mean[kMaxHeadDim];
  f.DecodeRotated(page, index, row);
  f.Unmap(row, 1);
  if (!Mean(page, mean)) return;
  for (int i = 0; i < f.head_dim; ++i) row[i] += mean[i];
}

void PageFormat::ReadRecord(const std::byte* page, int index, std::byte* record) const {
  impl_->CheckIndex(index);
  impl_->ReadRecords(page, index, 1, record, impl_->record_bytes);
}

void PageFormat::WriteRecord(std::byte* page, int index, const std::byte* record) const {
  impl_->CheckIndex(index);
  impl_->WriteRecords(page, index, 1, record, impl_->record_bytes);
}

void PageFormat::ReadRecords(const std::byte* page, int first, int count, std::byte* records,
                             size_t stride) const {
  impl_->CheckRows(first, count);
  impl_->ReadRecords(page, first, count, records, stride);
}

void PageFormat::WriteRecords(std::byte* page, int first, int count, const std::byte* records,
                              size_t stride) const {
  impl_->CheckRows(first, count);
  impl_->WriteRecords(page, first, count, records, stride);
}

std::span<const std::byte> PageFormat::Header(const std::byte* page, int index) const {
  impl_->CheckIndex(index);
  return {page + impl_->HeaderOffset(index), impl_->header_bytes};
}

std::span<std::byte> PageFormat::Header(std::byte* page, int index) const {
  impl_->CheckIndex(index);
  return {page + impl_->HeaderOffset(index), impl_->header_bytes};
}

void PageFormat::DecodeCodes(const std::byte* page, int count, float* rows_rot) const {
  const Impl& f = *impl_;
  f.CheckCount(count);
  if (f.tiled()) {
    f.kernels.decode_tiles(f.codec, page, f.ScalesOf(page), f.page_tokens, f.head_dim,
                           f.lanes_are_tokens(), count, rows_rot);
    return;
  }
  for (int r = 0; r < count; ++r) {
    f.DecodeRotated(page, r, rows_rot + static_cast<int64_t>(r) * f.head_dim);
  }
}

bool PageFormat::Mean(const std::byte* page, float* mean) const {
  if (impl_->centred()) LoadMean(page + impl_->header_offset, impl_->head_dim, mean);
  return impl_->centred();
}

// <q, k> = <A^-T q, A k>.
void PageFormat::MapQueries(float* queries, int count) const {
  if (!impl_->inverse_balance.empty()) impl_->MultiplyRows(impl_->inverse_balance, queries, count);
  if (impl_->dense_inverse.empty()) return;
  impl_->TransformRows(impl_->dense_inverse, Transposed::kYes, queries, count);
}

// <q, k> = <R q, R k>.
void PageFormat::RotateQueries(float* queries, int count) const {
  const Impl& f = *impl_;
  if (f.scheme.rotate) f.kernels.rotate(queries, f.head_dim, count, f.head_dim);
}

size_t PageFormat::map_bytes() const {
  const size_t values = impl_->balance.size() + impl_->dense.size();
  return 2 * values * sizeof(float);
}

}  // namespace polarquant
