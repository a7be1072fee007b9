// SPDX-License-Identifier: Apache-2.0
// Stage 3/7, tests: rows, one codec there and back, and its figures. Codecs are named by schemes,
// of which only the codec and its options count: rows reach it as they are.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "codecs/codec.h"
#include "polarquant/error.h"

namespace polarquant::codecs_testing {

using Row = std::vector<float>;
using Record = std::vector<std::byte>;

inline Row GaussianRow(int head_dim, std::mt19937_64& generator) {
  std::normal_distribution<float> normal;
  Row row(static_cast<size_t>(head_dim));
  for (float& value : row) value = normal(generator);
  return row;
}

// Rows of N(0, 1): isotropic, so what rotates outside the codec changes nothing on average.
class GaussianRows {
 public:
  GaussianRows(int head_dim, uint64_t seed) : generator_(seed), head_dim_(head_dim) {}
  Row Next() { return GaussianRow(head_dim_, generator_); }

 private:
  std::mt19937_64 generator_;
  int head_dim_;
};

// 0.25 (3 i mod 17 - 8): what golden records are made of.
inline Row GoldenRow(int head_dim) {
  Row row(static_cast<size_t>(head_dim));
  for (int i = 0; i < head_dim; ++i) {
    row[static_cast<size_t>(i)] = 0.25f * static_cast<float>(3 * i % 17 - 8);
  }
  return row;
}

constexpr int kPageTokens = 128;

// A codec for rows of one head_dim, with the statistics of the rows it has learnt from; of none at
// first.
class Subject {
 public:
  Subject(const Scheme& scheme, int head_dim)
      : coder_(MakeCoder(scheme, {head_dim, kPageTokens})),
        header_(coder_->header_bytes()),
        head_dim_(head_dim) {
    Learn({});
  }
  Subject(std::string_view scheme, int head_dim) : Subject(Scheme::Parse(scheme), head_dim) {}

  void Learn(const std::vector<Row>& rows) {
    Row all;
    for (const Row& row : rows) all.insert(all.end(), row.begin(), row.end());
    coder_->Learn(all.data(), static_cast<int>(rows.size()), header_.data());
  }
  Record Encode(const Row& row) const {
    Record record(record_bytes() + 1, std::byte{0xa5});
    coder_->Encode(header_.data(), row.data(), record.data());
    if (record.back() != std::byte{0xa5}) throw std::logic_error("written past the record");
    record.pop_back();
    return record;
  }
  Row Decode(const Record& record) const {
    Row row(static_cast<size_t>(head_dim_));
    coder_->Decode(header_.data(), record.data(), row.data());
    return row;
  }
  Row RoundTrip(const Row& row) const { return Decode(Encode(row)); }

  const Coder& coder() const { return *coder_; }
  Record& header() { return header_; }
  size_t record_bytes() const { return coder_->record_bytes(); }
  // Of a page of 128 rows, everything counted.
  double bits_per_value() const {
    const int group = coder_->group_tokens() > 0 ? coder_->group_tokens() : kPageTokens;
    return 8.0 *
           (static_cast<double>(record_bytes()) + static_cast<double>(header_.size()) / group) /
           head_dim_;
  }

 private:
  std::unique_ptr<const Coder> coder_;
  Record header_;
  int head_dim_;
};

// Whether a codec takes a head_dim at all.
inline bool Takes(std::string_view scheme, int head_dim) {
  try {
    return Subject(scheme, head_dim).record_bytes() > 0;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUnsupported) throw;
    return false;
  }
}

// These learn from the row itself.
inline Record Encode(std::string_view scheme, const Row& row) {
  Subject subject(scheme, static_cast<int>(row.size()));
  subject.Learn({row});
  return subject.Encode(row);
}
inline Row RoundTrip(std::string_view scheme, const Row& row) {
  Subject subject(scheme, static_cast<int>(row.size()));
  subject.Learn({row});
  return subject.RoundTrip(row);
}
// Without statistics.
inline Row Decode(std::string_view scheme, const Record& record, int head_dim) {
  return Subject(scheme, head_dim).Decode(record);
}
inline double BitsPerValue(std::string_view scheme, int head_dim) {
  return Subject(scheme, head_dim).bits_per_value();
}

inline std::string Hex(const Record& bytes) {
  std::string text;
  for (const std::byte byte : bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    text += kDigits[std::to_integer<int>(byte) >> 4];
    text += kDigits[std::to_integer<int>(byte) & 15];
  }
  return text;
}

inline double Dot(const Row& a, const Row& b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

inline double SquaredError(const Row& a, const Row& b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    sum += difference * difference;
  }
  return sum;
}

struct Quality {
  double distortion;  // mean of |x - x'|^2 / |x|^2
  double cosine;      // mean
};

// Visits rows that `next` gives, page by page, and what comes back of each.
template <typename Next, typename Visit>
void VisitPages(std::string_view scheme, int head_dim, int num_rows, const Next& next,
                const Visit& visit) {
  Subject subject(scheme, head_dim);
  for (int done = 0; done < num_rows; done += kPageTokens) {
    std::vector<Row> rows;
    for (int r = done; r < std::min(done + kPageTokens, num_rows); ++r) rows.push_back(next());
    subject.Learn(rows);
    for (const Row& row : rows) visit(row, subject.RoundTrip(row));
  }
}

inline Quality QualityOf(std::string_view scheme, int head_dim, int num_rows = 4000) {
  GaussianRows rows(head_dim, 7000 + static_cast<uint64_t>(head_dim));
  Quality sum = {0.0, 0.0};
  VisitPages(
      scheme, head_dim, num_rows, [&] { return rows.Next(); },
      [&](const Row& row, const Row& decoded) {
        const double xx = Dot(row, row), yy = Dot(decoded, decoded);
        sum.distortion += SquaredError(row, decoded) / xx;
        sum.cosine += Dot(row, decoded) / std::sqrt(xx * yy);
      });
  return {sum.distortion / num_rows, sum.cosine / num_rows};
}

// |x - x'|^2 / |x|^2 of all rows together.
template <typename Next>
double DistortionOf(std::string_view scheme, int head_dim, int num_rows, const Next& next) {
  double error = 0.0, energy = 0.0;
  VisitPages(scheme, head_dim, num_rows, next, [&](const Row& row, const Row& decoded) {
    error += SquaredError(row, decoded);
    energy += Dot(row, row);
  });
  return error / energy;
}

// The same of Gaussian rows of `values` numbers in all.
inline double GaussianDistortionOf(std::string_view scheme, int head_dim, int values,
                                   uint64_t seed) {
  std::mt19937_64 generator(seed);
  return DistortionOf(scheme, head_dim, (values + head_dim - 1) / head_dim,
                      [&] { return GaussianRow(head_dim, generator); });
}

inline std::vector<Row> GaussianPage(int count, int head_dim, uint64_t seed) {
  GaussianRows source(head_dim, seed);
  std::vector<Row> rows;
  for (int r = 0; r < count; ++r) rows.push_back(source.Next());
  return rows;
}

// A codec with statistics, for pages of rows.
class PageSubject {
 public:
  PageSubject(std::string_view scheme, int head_dim, Role role = Role::kKey, int page_tokens = 128)
      : coder_(MakeCoder(Scheme::Parse(scheme), {head_dim, page_tokens, role})),
        head_dim_(static_cast<size_t>(head_dim)),
        page_tokens_(page_tokens) {}
  const Coder& coder() const { return *coder_; }
  Record Learn(std::span<const Row> rows) const {
    Record header(coder_->header_bytes(), std::byte{0xa5});
    Row together;
    for (const Row& row : rows) together.insert(together.end(), row.begin(), row.end());
    coder_->Learn(together.data(), static_cast<int>(rows.size()), header.data());
    return header;
  }
  Record Encode(const Record& header, const Row& row) const {
    Record record(coder_->record_bytes(), std::byte{0xa5});
    coder_->Encode(header.data(), row.data(), record.data());
    return record;
  }
  Row Decode(const Record& header, const Record& record) const {
    Row row(head_dim_);
    coder_->Decode(header.data(), record.data(), row.data());
    return row;
  }
  Row RoundTrip(const Record& header, const Row& row) const {
    return Decode(header, Encode(header, row));
  }
  // Every row with the statistics of its group.
  std::vector<Row> RoundTrip(std::span<const Row> rows) const {
    const auto group = static_cast<size_t>(coder_->group_tokens());
    const size_t step = group == 0 ? rows.size() : group;
    std::vector<Row> decoded;
    for (size_t first = 0; first < rows.size(); first += step) {
      const auto together = rows.subspan(first, std::min(step, rows.size() - first));
      const Record header = Learn(together);
      for (const Row& row : together) decoded.push_back(RoundTrip(header, row));
    }
    return decoded;
  }
  double bits_per_value() const {
    const int group = coder_->group_tokens() == 0 ? page_tokens_ : coder_->group_tokens();
    const double bytes = static_cast<double>(coder_->record_bytes()) +
                         static_cast<double>(coder_->header_bytes()) / group;
    return 8.0 * bytes / static_cast<double>(head_dim_);
  }

 private:
  std::unique_ptr<const Coder> coder_;
  size_t head_dim_;
  int page_tokens_;
};

// |x - x'|^2 / |x|^2 over all rows.
inline double DistortionOf(std::span<const Row> rows, std::span<const Row> decoded) {
  double error = 0.0, energy = 0.0;
  for (size_t r = 0; r < rows.size(); ++r) {
    error += SquaredError(rows[r], decoded[r]);
    energy += Dot(rows[r], rows[r]);
  }
  return error / energy;
}

}  // namespace polarquant::codecs_testing
