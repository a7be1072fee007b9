// SPDX-License-Identifier: Apache-2.0
// What PageFormat offers to whoever multiplies queries with codes.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "polarquant/page.h"

namespace polarquant {
namespace {

std::vector<float> GaussianRows(int64_t count, int head_dim, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.2f, 1.0f);
  std::vector<float> rows(static_cast<size_t>(count * head_dim));
  for (float& value : rows) value = normal(random);
  return rows;
}

double Product(const float* a, const float* b, int count) {
  double sum = 0;
  for (int i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

TEST(Queries, MappedAndRotatedOnesHaveTheLogitsOfDecodedRows) {
  unsigned seed = 0;
  for (const char* name : {"turbo4", "turbo3:center", "turbo2:balanced", "q8_0:rotate=none",
                           "turbo4:balance", "f16", "zscore3", "trellis2:center"}) {
    for (const int head_dim : {64, 80, 112, 128}) {
      const Scheme scheme = Scheme::Parse(name);
      if (scheme.codec == "q8_0" && head_dim % 32 != 0) continue;
      std::vector<float> balance = GaussianRows(1, head_dim, ++seed);
      for (float& scale : balance) scale = std::exp(0.5f * scale);
      KeyMap map;
      if (scheme.normalisation.balance) map.balance = balance;
      const PageFormat format(scheme, Role::kKey, head_dim, 64, map);
      const std::vector<float> rows = GaussianRows(64, head_dim, ++seed);
      std::vector<float> queries = GaussianRows(3, head_dim, ++seed), plain = queries;
      auto* page = static_cast<std::byte*>(std::aligned_alloc(64, format.page_bytes()));
      format.EncodePage(rows.data(), 64, page);
      std::vector<float> decoded(rows.size()), codes(rows.size());
      format.DecodePage(page, 64, decoded.data());
      format.DecodeCodes(page, 64, codes.data());
      std::vector<float> mean(static_cast<size_t>(head_dim), 0.0f);
      format.Mean(page, mean.data());
      std::free(page);
      format.MapQueries(queries.data(), 3);
      format.RotateQueries(queries.data(), 3);
      for (int q = 0; q < 3; ++q) {
        const int at = q * head_dim;
        for (int row = 0; row < 64; ++row) {
          const double wanted =
              Product(plain.data() + at, decoded.data() + row * head_dim, head_dim);
          const double got = Product(queries.data() + at, codes.data() + row * head_dim, head_dim) +
                             Product(plain.data() + at, mean.data(), head_dim);
          ASSERT_NEAR(got, wanted, 2e-4 * head_dim) << name << " " << head_dim << " row " << row;
        }
      }
    }
  }
}

}  // namespace
}  // namespace polarquant
