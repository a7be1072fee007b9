// SPDX-License-Identifier: Apache-2.0
// Estimators of inner products: whether <q, x'> is right on average over the signs of a sketch and
// over rows, and how far it strays.
#pragma once

#include "codecs/codecs_testing.h"

namespace polarquant::codecs_testing {

struct Estimates {
  double ratio;           // of the sums of estimates and of true products
  double standard_error;  // of that ratio
};

// Queries that see their rows: q = x + noise. Changing the signs of channels in x and q alike is a
// new draw of the sketch's signs for the same products.
inline Estimates EstimateProducts(std::string_view codec, int head_dim, int num_rows, int draws) {
  GaussianRows rows(head_dim, 8000 + static_cast<uint64_t>(head_dim));
  std::mt19937_64 signs(9000);
  double exact = 0.0, deviation = 0.0, squares = 0.0;
  for (int r = 0; r < num_rows; ++r) {
    Row row = rows.Next(), query = rows.Next();
    for (size_t i = 0; i < row.size(); ++i) query[i] += row[i];
    const double product = Dot(query, row);
    for (int draw = 0; draw < draws; ++draw) {
      for (size_t i = 0; i < row.size(); ++i) {
        if ((signs() & 1) == 0) continue;
        row[i] = -row[i];
        query[i] = -query[i];
      }
      const double error = Dot(query, RoundTrip(codec, row)) - product;
      exact += product;
      deviation += error;
      squares += error * error;
    }
  }
  return {1.0 + deviation / exact, std::sqrt(squares) / exact};
}

// A row and a query seen after a fresh Haar rotation: two random orthonormal directions, put
// together so that norms and the product stay. The mean of <q, x'> / <q, x> over many of them.
inline double MeanRatioOverRotations(std::string_view scheme, int head_dim, int rotations) {
  GaussianRows rows(head_dim, 8800 + static_cast<uint64_t>(head_dim));
  constexpr float kAlong = 0.8f, kAcross = 0.6f;  // the query, beside the row
  double sum = 0.0;
  for (int r = 0; r < rotations; ++r) {
    Row row = rows.Next(), across = rows.Next(), query(row.size());
    const double length = std::sqrt(Dot(row, row));
    for (float& value : row) value = static_cast<float>(value / length);
    const double along = Dot(row, across);
    for (size_t i = 0; i < row.size(); ++i) across[i] -= static_cast<float>(along * row[i]);
    const float norm = static_cast<float>(std::sqrt(Dot(across, across)));
    for (size_t i = 0; i < row.size(); ++i) {
      query[i] = kAlong * row[i] + kAcross * across[i] / norm;
    }
    sum += Dot(query, RoundTrip(scheme, row)) / static_cast<double>(kAlong);
  }
  return sum / rotations;
}

// d E[(<q,x'> - <q,x>)^2] / (|q|^2 |x|^2) for q independent of x.
inline double ProductVariance(std::string_view codec, int head_dim, int num_rows = 20000) {
  GaussianRows rows(head_dim, 8500 + static_cast<uint64_t>(head_dim));
  double sum = 0.0;
  for (int r = 0; r < num_rows; ++r) {
    const Row row = rows.Next(), query = rows.Next();
    const double error = Dot(query, RoundTrip(codec, row)) - Dot(query, row);
    sum += error * error / (Dot(query, query) * Dot(row, row));
  }
  return head_dim * sum / num_rows;
}

}  // namespace polarquant::codecs_testing
