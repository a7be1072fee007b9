// SPDX-License-Identifier: Apache-2.0
#include "page_codec.h"

#include <Eigen/Core>
#include <algorithm>
#include <exception>
#include <span>

#include "polarquant/codec.h"
#include "polarquant/error.h"
#include "polarquant/key_profile.h"
#include "polarquant/model_profile.h"

namespace polarquant::python {
namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Rows = Eigen::Map<const Matrix>;
using StridedRows = Eigen::Map<Matrix, Eigen::Unaligned, Eigen::OuterStride<>>;

Role RoleOf(const std::string& role) {
  if (role == "key") return Role::kKey;
  if (role == "value") return Role::kValue;
  throw Error(ErrorCode::kParameter, "role is \"" + role + "\": it must be \"key\" or \"value\"");
}

PageFormat MakeFormat(const std::string& text, const std::string& role, int head_dim,
                      int page_tokens, const std::vector<float>& balance,
                      const std::vector<float>& dense) {
  const Scheme scheme = Scheme::Parse(text);
  const std::string name = "scheme " + scheme.ToString();
  if (scheme.normalisation.step != 0) {
    throw Error(ErrorCode::kUnsupported,
                name +
                    " subtracts a centre that turns with the position, which rows alone do not "
                    "have; use " +
                    scheme.codec + ":balance:center");
  }
  CheckHeadDim(head_dim);
  KeyProfile map;
  map.balance = balance;
  map.dense = dense;
  if (!dense.empty()) map.dense_inverse = InverseMaps(dense, head_dim);
  map.Check(1, head_dim);
  if (!balance.empty() && !scheme.normalisation.balance) {
    throw Error(ErrorCode::kParameter, name + " weighs no channels: it takes no balance scales");
  }
  if (!dense.empty() && !scheme.normalisation.dense) {
    throw Error(ErrorCode::kParameter, name + " maps no keys: it takes no dense map");
  }
  return PageFormat(scheme, RoleOf(role), head_dim, page_tokens,
                    {map.balance, map.dense, map.dense_inverse});
}

// How many combinations the leading dimensions have.
int64_t NumLeading(const std::vector<int64_t>& shape) {
  int64_t number = 1;
  for (size_t i = 0; i + 2 < shape.size(); ++i) number *= shape[i];
  return number;
}

// The row `row` of the leading index `leading`.
std::byte* RowAt(const View& view, int64_t leading, int64_t row) {
  const size_t last = view.shape.size() - 2;
  int64_t offset = row * view.strides[last];
  for (size_t i = last; i-- > 0; leading /= view.shape[i]) {
    offset += leading % view.shape[i] * view.strides[i];
  }
  return static_cast<std::byte*>(view.data) + offset * SizeOf(view.type);
}

// Calls work(0) to work(count - 1), in any order. What one of them throws is thrown here.
template <typename Work>
void ForEach(int64_t count, int num_threads, const Work& work) {
  std::exception_ptr thrown;
  const int team = static_cast<int>(std::clamp<int64_t>(count, 1, num_threads));
#pragma omp parallel for num_threads(team) schedule(dynamic)
  for (int64_t i = 0; i < count; ++i) {
    try {
      work(i);
    } catch (...) {
#pragma omp critical(polarquant_python_thrown)
      thrown = std::current_exception();
    }
  }
  if (thrown) std::rethrow_exception(thrown);
}

}  // namespace

PageCodec::PageCodec(const std::string& scheme, const std::string& role, int head_dim,
                     int page_tokens, const std::vector<float>& balance,
                     const std::vector<float>& dense)
    : format_(MakeFormat(scheme, role, head_dim, page_tokens, balance, dense)) {}

int64_t PageCodec::PagesOf(int64_t num_rows) const {
  return (num_rows + format_.page_tokens() - 1) / format_.page_tokens();
}

int64_t PageCodec::PagesOf(const std::vector<int64_t>& shape) const {
  return NumLeading(shape) * PagesOf(shape[shape.size() - 2]);
}

void PageCodec::Encode(const View& rows, std::byte* pages, int num_threads) const {
  const int64_t num_rows = rows.shape[rows.shape.size() - 2], pages_each = PagesOf(num_rows);
  const int64_t row_stride = rows.strides[rows.shape.size() - 2], head_dim = format_.head_dim();
  ForEach(PagesOf(rows.shape), num_threads, [&](int64_t page) {
    const int64_t leading = page / pages_each;
    const int64_t first = page % pages_each * format_.page_tokens();
    const int64_t count = std::min<int64_t>(format_.page_tokens(), num_rows - first);
    std::byte* to = pages + page * static_cast<int64_t>(format_.page_bytes());
    if (rows.type == NumberType::kF32 && (row_stride == head_dim || count == 1)) {
      format_.EncodePage(reinterpret_cast<const float*>(RowAt(rows, leading, first)),
                         static_cast<int>(count), to);
      return;
    }
    std::vector<float> floats(static_cast<size_t>(count * head_dim));
    for (int64_t i = 0; i < count; ++i) {
      ToFloats(RowAt(rows, leading, first + i), rows.type, head_dim, floats.data() + i * head_dim);
    }
    format_.EncodePage(floats.data(), static_cast<int>(count), to);
  });
}

void PageCodec::Decode(const std::byte* pages, const View& rows, int num_threads) const {
  const int64_t num_rows = rows.shape[rows.shape.size() - 2], pages_each = PagesOf(num_rows);
  const int64_t head_dim = format_.head_dim();
  ForEach(PagesOf(rows.shape), num_threads, [&](int64_t page) {
    const int64_t leading = page / pages_each;
    const int64_t first = page % pages_each * format_.page_tokens();
    const int64_t count = std::min<int64_t>(format_.page_tokens(), num_rows - first);
    std::vector<float> floats(static_cast<size_t>(count * head_dim));
    format_.DecodePage(pages + page * static_cast<int64_t>(format_.page_bytes()),
                       static_cast<int>(count), floats.data());
    for (int64_t i = 0; i < count; ++i) {
      FromFloats(floats.data() + i * head_dim, head_dim, rows.type,
                 RowAt(rows, leading, first + i));
    }
  });
}

// <q, k> = <R A^-T q, R A (k - mean)> + <q, mean>: the queries are turned once, and the codes are
// never turned back.
void PageCodec::Score(const View& queries, const std::byte* pages, float scale, const View& logits,
                      int num_threads) const {
  const size_t rows_at = queries.shape.size() - 2;
  const int64_t num_queries = queries.shape[rows_at], num_rows = logits.shape[rows_at + 1];
  const int64_t num_leading = NumLeading(queries.shape), pages_each = PagesOf(num_rows);
  const int64_t head_dim = format_.head_dim(), floats_each = num_queries * head_dim;
  if (num_queries == 0) return;
  std::vector<float> plain(static_cast<size_t>(num_leading * floats_each));
  for (int64_t i = 0; i < num_leading * num_queries; ++i) {
    ToFloats(RowAt(queries, i / num_queries, i % num_queries), queries.type, head_dim,
             plain.data() + i * head_dim);
  }
  std::vector<float> turned = plain;
  format_.MapQueries(turned.data(), static_cast<int>(num_leading * num_queries));
  format_.RotateQueries(turned.data(), static_cast<int>(num_leading * num_queries));
  scale *= static_cast<float>(format_.scheme().sharpen) / 100.0f;
  ForEach(num_leading * pages_each, num_threads, [&](int64_t page) {
    const int64_t leading = page / pages_each;
    const int64_t first = page % pages_each * format_.page_tokens();
    const int64_t count = std::min<int64_t>(format_.page_tokens(), num_rows - first);
    const std::byte* from = pages + page * static_cast<int64_t>(format_.page_bytes());
    Matrix codes(count, head_dim);
    format_.DecodeCodes(from, static_cast<int>(count), codes.data());
    auto* to = reinterpret_cast<float*>(RowAt(logits, leading, 0)) + first;
    StridedRows block(to, num_queries, count, Eigen::OuterStride<>(logits.strides[rows_at]));
    block.noalias() =
        Rows(turned.data() + leading * floats_each, num_queries, head_dim) * codes.transpose();
    Eigen::VectorXf mean(head_dim);
    if (format_.Mean(from, mean.data())) {
      block.colwise() += Rows(plain.data() + leading * floats_each, num_queries, head_dim) * mean;
    }
    if (scale != 1.0f) block *= scale;
  });
}

void PageCodec::ReadRecords(const std::byte* pages, int64_t num_leading, int64_t num_rows,
                            std::byte* records, int num_threads) const {
  const int64_t pages_each = PagesOf(num_rows);
  const auto page_bytes = static_cast<int64_t>(format_.page_bytes());
  const auto record_bytes = static_cast<int64_t>(format_.record_bytes());
  ForEach(num_leading * num_rows, num_threads, [&](int64_t row) {
    const int64_t page = row / num_rows * pages_each + row % num_rows / format_.page_tokens();
    format_.ReadRecord(pages + page * page_bytes,
                       static_cast<int>(row % num_rows % format_.page_tokens()),
                       records + row * record_bytes);
  });
}

}  // namespace polarquant::python
