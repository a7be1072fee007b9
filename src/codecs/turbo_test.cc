// SPDX-License-Identifier: Apache-2.0
// How good the turbo codecs are: against published figures, against exhaustive search, and the
// scale rules against each other. Rows are isotropic, so the codec is tested without the rotation.
#include "codecs/turbo.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "codecs/codec.h"
#include "codecs/pack.h"
#include "codecs/turbo-inl.h"
#include "math/lloyd_max.h"
#include "math/rotation.h"
#include "util/half.h"

namespace polarquant {
namespace {

const Codec& Turbo(int bits) { return FindCodec("turbo" + std::to_string(bits)); }

class RowSource {
 public:
  RowSource(int head_dim, uint64_t seed) : generator_(seed), head_dim_(head_dim) {}
  std::vector<float> Next() {
    std::vector<float> row(static_cast<size_t>(head_dim_));
    for (float& value : row) value = normal_(generator_);
    return row;
  }

 private:
  std::mt19937_64 generator_;
  std::normal_distribution<float> normal_;
  int head_dim_;
};

double SquaredError(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::pow(static_cast<double>(a[i]) - b[i], 2);
  return sum;
}

double Energy(const std::vector<float>& a) {
  return SquaredError(a, std::vector<float>(a.size(), 0.0f));
}

struct Coded {
  std::vector<float> decoded;
  std::vector<uint8_t> codes;
};

Coded RoundTrip(const Codec& codec, const std::vector<float>& row, ScaleRule rule) {
  const int head_dim = static_cast<int>(row.size());
  std::vector<std::byte> record(codec.record_bytes(head_dim));
  codec.encode(row.data(), head_dim, rule, record.data());
  Coded coded{std::vector<float>(row.size()), std::vector<uint8_t>(row.size())};
  codec.decode(record.data(), head_dim, coded.decoded.data());
  const size_t scale_bytes = 2 * static_cast<size_t>(codec.scales_per_row(head_dim));
  UnpackCodes(record.data() + scale_bytes, head_dim, codec.info.code_bits, coded.codes.data());
  return coded;
}

// The relative error of `row` if its codes stood for scale * centroid, scale chosen by `pick` from
// |x|^2, <c,x>, |c|^2, with the exact Lloyd-Max centroids.
template <typename Pick>
double ErrorWithScale(const std::vector<float>& row, const std::vector<uint8_t>& codes,
                      const std::vector<double>& centroids, const Pick& pick) {
  double xx = 0.0, cx = 0.0, cc = 0.0;
  for (size_t i = 0; i < row.size(); ++i) {
    const double c = centroids[codes[i]];
    xx += static_cast<double>(row[i]) * row[i];
    cx += c * row[i];
    cc += c * c;
  }
  const double scale = pick(xx, cx, cc);
  return (xx - 2.0 * scale * cx + scale * scale * cc) / xx;
}

// The codes of the encoder's inner loop when it does not search: one step, the block's deviation.
std::vector<uint8_t> CodesOfDeviation(int bits, const std::vector<float>& row) {
  const TurboBook& book = TurboBookOf(bits);
  const double deviation = std::sqrt(Energy(row) / static_cast<double>(row.size()));
  std::vector<uint8_t> codes(row.size());
  AssignCodes<0>(book, row.data(), static_cast<int>(row.size()),
                 static_cast<float>(deviation) * book.unit, codes.data());
  return codes;
}

// Codes found by comparing with every centroid.
std::vector<uint8_t> NearestCodes(const std::vector<float>& row, double scale,
                                  const std::vector<double>& centroids) {
  std::vector<uint8_t> codes;
  for (const float value : row) {
    size_t best = 0;
    for (size_t k = 1; k < centroids.size(); ++k) {
      if (std::abs(value - scale * centroids[k]) < std::abs(value - scale * centroids[best])) {
        best = k;
      }
    }
    codes.push_back(static_cast<uint8_t>(best));
  }
  return codes;
}

// E|u - u'|^2 of random unit vectors coded with their norm stored (exact integrals over the
// marginal of the sphere), bits 1..8.
struct SphereDistortion {
  int head_dim;
  double by_bits[8];
};
constexpr SphereDistortion kSphere[] = {
    {64,
     {0.3583873608, 0.1145257568, 0.0333908341, 0.0091315176, 0.0023992271, 0.0006159629,
      0.0001561451, 0.0000393168}},
    {80,
     {0.3593889984, 0.1151145735, 0.0336200584, 0.0092044717, 0.0024200035, 0.0006215284,
      0.0001575876, 0.0000396842}},
    {96,
     {0.3600559102, 0.1155077931, 0.0337734768, 0.0092533700, 0.0024339409, 0.0006252636,
      0.0001585560, 0.0000399309}},
    {128,
     {0.3608885937, 0.1160000703, 0.0339659258, 0.0093147880, 0.0024514602, 0.0006299608,
      0.0001597739, 0.0000402412}},
    {256,
     {0.3621356178, 0.1167400388, 0.0342560036, 0.0094075294, 0.0024779422, 0.0006370651,
      0.0001616166, 0.0000407107}},
};

// The codebook of one channel of a random unit vector, whose density is (1 - x^2)^((d - 3) / 2), by
// Lloyd's iteration on sums over a fine grid. Ascending and symmetric, as everywhere.
struct SphereBook {
  std::vector<double> centroids;
  double distortion;  // head_dim times the mean squared error
};
SphereBook SolveSphereBook(int head_dim, int bits) {
  constexpr size_t kCells = 1 << 16;  // of the positive half
  std::vector<double> mass(kCells + 1), moment(kCells + 1);
  for (size_t i = 0; i < kCells; ++i) {
    const double x = (static_cast<double>(i) + 0.5) / kCells;
    const double density = std::pow(1.0 - x * x, 0.5 * (head_dim - 3));
    mass[i + 1] = mass[i] + density;
    moment[i + 1] = moment[i] + density * x;
  }
  const auto below = [](const std::vector<double>& sums, double x) {
    const size_t cell = std::min(static_cast<size_t>(x * kCells), kCells - 1);
    const double part = x * kCells - static_cast<double>(cell);
    return sums[cell] + part * (sums[cell + 1] - sums[cell]);
  };
  const std::vector<double> start = SolveLloydMax(bits).centroids;
  const size_t half = start.size() / 2;
  std::vector<double> positive;
  for (size_t k = 0; k < half; ++k) positive.push_back(start[half + k] / std::sqrt(head_dim));
  double explained = 0.0;
  for (int iteration = 0; iteration < 1000; ++iteration) {
    explained = 0.0;
    double low = 0.0;
    for (size_t k = 0; k < half; ++k) {
      const double high = k + 1 < half ? 0.5 * (positive[k] + positive[k + 1]) : 1.0;
      const double weight = below(mass, high) - below(mass, low);
      positive[k] = (below(moment, high) - below(moment, low)) / weight;
      explained += weight / mass.back() * positive[k] * positive[k];
      low = high;
    }
  }
  SphereBook book{{}, 1.0 - head_dim * explained};
  for (size_t k = half; k-- > 0;) book.centroids.push_back(-positive[k]);
  book.centroids.insert(book.centroids.end(), positive.begin(), positive.end());
  return book;
}

// The centroids nearest to the channels of a row: the paper's codes, without any search.
std::vector<double> Nearest(const std::vector<float>& row, const std::vector<double>& centroids) {
  std::vector<double> nearest;
  for (const float value : row) {
    const auto above = std::lower_bound(centroids.begin() + 1, centroids.end() - 1, value);
    nearest.push_back(value - above[-1] < above[0] - value ? above[-1] : above[0]);
  }
  return nearest;
}

std::vector<float> UnitRow(RowSource* rows) {
  std::vector<float> row = rows->Next();
  const double norm = std::sqrt(Energy(row));
  for (float& value : row) value = static_cast<float>(value / norm);
  return row;
}

// The rows of a random orthogonal matrix: Gram and Schmidt's of Gaussian ones, twice for rounding.
std::vector<std::vector<float>> HaarRotation(int head_dim, uint64_t seed) {
  RowSource gaussian(head_dim, seed);
  std::vector<std::vector<float>> rows;
  while (static_cast<int>(rows.size()) < head_dim) {
    std::vector<float> row = gaussian.Next();
    for (int pass = 0; pass < 2; ++pass) {
      for (const std::vector<float>& other : rows) {
        const float dot = std::inner_product(row.begin(), row.end(), other.begin(), 0.0f);
        for (size_t i = 0; i < row.size(); ++i) row[i] -= dot * other[i];
      }
    }
    const double norm = std::sqrt(Energy(row));
    for (float& value : row) value = static_cast<float>(value / norm);
    rows.push_back(row);
  }
  return rows;
}

TEST(Sphere, HasThePublishedCodebooks) {
  for (const SphereDistortion& expected : kSphere) {
    for (int bits = 1; bits <= 5; ++bits) {
      const double distortion = SolveSphereBook(expected.head_dim, bits).distortion;
      EXPECT_NEAR(distortion, expected.by_bits[bits - 1], 1e-8) << expected.head_dim << bits;
    }
  }
  struct Known {
    int head_dim, bits;
    std::vector<double> positive;
  };
  for (const Known& known :
       {Known{64, 1, {0.1001259082}}, Known{64, 2, {0.0565148688, 0.1874968494}},
        Known{64, 3, {0.0304691789, 0.0938322632, 0.1661678589, 0.2639139308}},
        Known{64,
              4,
              {0.0159190226, 0.0480897832, 0.0813117685, 0.1164867523, 0.1549255278, 0.1988561411,
               0.2529137282, 0.3307963114}},
        Known{128, 1, {0.0706615727}}, Known{128, 2, {0.0399915952, 0.1330415202}},
        Known{128, 3, {0.0216043106, 0.0665856080, 0.1181397670, 0.1883971860}},
        Known{128,
              4,
              {0.0113024966, 0.0341515707, 0.0577722988, 0.0828284573, 0.1102883690, 0.1418051968,
               0.1808359638, 0.2376638268}}}) {
    const SphereBook book = SolveSphereBook(known.head_dim, known.bits);
    for (size_t k = 0; k < known.positive.size(); ++k) {
      EXPECT_NEAR(book.centroids[known.positive.size() + k], known.positive[k], 2e-8);
    }
  }
}

TEST(Sphere, PlainCodesHaveTheDistortionOfTheoryAfterEitherRotation) {
  for (const SphereDistortion& expected : kSphere) {
    const int head_dim = expected.head_dim;
    std::vector<SphereBook> books;
    for (int bits = 1; bits <= 5; ++bits) books.push_back(SolveSphereBook(head_dim, bits));
    const std::vector<std::vector<float>> matrix = HaarRotation(head_dim, 900);
    RowSource rows(head_dim, 901);
    constexpr int kRows = 4000;
    double hadamard[5] = {}, haar[5] = {};
    for (int r = 0; r < kRows; ++r) {
      const std::vector<float> row = UnitRow(&rows);
      std::vector<float> fast = row, dense;
      Rotate(fast.data(), head_dim);
      for (const std::vector<float>& other : matrix) {
        dense.push_back(std::inner_product(row.begin(), row.end(), other.begin(), 0.0f));
      }
      for (size_t b = 0; b < books.size(); ++b) {
        const auto error = [&](const std::vector<float>& rotated) {
          const std::vector<double> codes = Nearest(rotated, books[b].centroids);
          double sum = 0.0;
          for (size_t i = 0; i < codes.size(); ++i) sum += std::pow(rotated[i] - codes[i], 2);
          return sum;
        };
        hadamard[b] += error(fast);
        haar[b] += error(dense);
      }
    }
    for (size_t b = 0; b < books.size(); ++b) {
      EXPECT_NEAR(hadamard[b] / kRows / expected.by_bits[b], 1.0, 0.01) << head_dim << " " << b + 1;
      EXPECT_NEAR(haar[b] / kRows / expected.by_bits[b], 1.0, 0.01) << head_dim << " " << b + 1;
    }
  }
}

// head_dim 128. Scales are of a unit row: the median of least squares, equal norms, unbiased; what
// is left of the row by <x,x'>: plain scale 1, equal norms, least squares.
TEST(Sphere, PlainCodesHaveThePublishedScales) {
  struct Expected {
    double plain, errors[3], scales[3], left[3], cosine;
  };
  constexpr Expected kExpected[5] = {{0.36074,
                                      {0.36040, 0.40093, 0.56688},
                                      {1.0007, 1.2509, 1.5636},
                                      {0.6392, 0.7995, 0.6396},
                                      0.79953},
                                     {0.11595,
                                      {0.11517, 0.11876, 0.13050},
                                      {1.0000, 1.0654, 1.1298},
                                      {0.8844, 0.9406, 0.8848},
                                      0.94062},
                                     {0.03396,
                                      {0.03351, 0.03380, 0.03471},
                                      {0.9999, 1.0168, 1.0340},
                                      {0.9661, 0.9831, 0.9665},
                                      0.98310},
                                     {0.009316,
                                      {0.009148, 0.009171, 0.009238},
                                      {0.9996, 1.0040, 1.0085},
                                      {0.9907, 0.9954, 0.9909},
                                      0.99542},
                                     {0.002453,
                                      {0.002404, 0.002406, 0.002411},
                                      {0.9997, 1.0009, 1.0020},
                                      {0.9976, 0.9988, 0.9976},
                                      0.99880}};
  for (int bits = 1; bits <= 5; ++bits) {
    const Expected& expected = kExpected[bits - 1];
    const std::vector<double> centroids = SolveSphereBook(128, bits).centroids;
    RowSource rows(128, 910);
    constexpr size_t kRows = 4000;
    double plain = 0.0, errors[3] = {}, left[3] = {}, cosine = 0.0;
    std::vector<double> scales[3];
    for (size_t r = 0; r < kRows; ++r) {
      const std::vector<float> row = UnitRow(&rows);
      const std::vector<double> codes = Nearest(row, centroids);
      const double cx = std::inner_product(codes.begin(), codes.end(), row.begin(), 0.0);
      const double cc = std::inner_product(codes.begin(), codes.end(), codes.begin(), 0.0);
      const double rules[3] = {cx / cc, 1.0 / std::sqrt(cc), 1.0 / cx};
      double error[3];
      for (int rule = 0; rule < 3; ++rule) {
        error[rule] = 1.0 - 2.0 * rules[rule] * cx + rules[rule] * rules[rule] * cc;
        errors[rule] += error[rule] / kRows;
        scales[rule].push_back(rules[rule]);
      }
      EXPECT_LE(error[0], error[1] + 1e-12);
      EXPECT_LE(error[1], error[2] + 1e-12);
      plain += (1.0 - 2.0 * cx + cc) / kRows;
      left[0] += cx / kRows;
      left[1] += cx / std::sqrt(cc) / kRows;
      left[2] += cx * cx / cc / kRows;
      cosine += cx / std::sqrt(cc) / kRows;
    }
    EXPECT_NEAR(plain / expected.plain, 1.0, 0.015) << bits;
    EXPECT_NEAR(cosine, expected.cosine, 0.001) << bits;
    for (int rule = 0; rule < 3; ++rule) {
      std::nth_element(scales[rule].begin(), scales[rule].begin() + kRows / 2, scales[rule].end());
      EXPECT_NEAR(errors[rule] / expected.errors[rule], 1.0, 0.015) << bits << " " << rule;
      EXPECT_NEAR(scales[rule][kRows / 2] / expected.scales[rule], 1.0, 0.015) << bits << rule;
      EXPECT_NEAR(left[rule] / expected.left[rule], 1.0, 0.015) << bits << " " << rule;
    }
  }
}

TEST(Turbo, CodesUnitVectorsAsTheTheoryOfTheSphereSays) {
  for (const SphereDistortion& expected : kSphere) {
    for (int bits = 1; bits <= 8; ++bits) {
      const std::vector<double> centroids = SolveLloydMax(bits).centroids;
      RowSource rows(expected.head_dim, 100 + static_cast<uint64_t>(bits));
      constexpr int kRows = 4000;
      double sum = 0.0, searched = 0.0;
      for (int r = 0; r < kRows; ++r) {
        const std::vector<float> row = rows.Next();
        sum += ErrorWithScale(
            row, CodesOfDeviation(bits, row), centroids,
            [&](double xx, double, double) { return std::sqrt(xx / expected.head_dim); });
        if (r % 4 != 0) continue;
        const Coded coded = RoundTrip(Turbo(bits), row, ScaleRule::kMse);
        searched += 4.0 * SquaredError(row, coded.decoded) / Energy(row);
      }
      // The table is for codebooks made for the sphere; those of N(0, 1) lose up to 2 % at 64.
      const double theory = expected.by_bits[bits - 1];
      EXPECT_GT(sum / kRows, 0.99 * theory) << expected.head_dim << " bits " << bits;
      EXPECT_LT(sum / kRows, 1.02 * theory) << expected.head_dim << " bits " << bits;
      EXPECT_LT(searched / kRows, 1.005 * theory) << expected.head_dim << " bits " << bits;
    }
  }
}

TEST(Turbo, HasThePublishedErrorsOfTheScaleRules) {
  // head_dim 128, codes of the deviation: least squares, equal norms, unbiased.
  const double expected[5][3] = {{0.36040, 0.40093, 0.56688},
                                 {0.11517, 0.11876, 0.13050},
                                 {0.03351, 0.03380, 0.03471},
                                 {0.009148, 0.009171, 0.009238},
                                 {0.002404, 0.002406, 0.002411}};
  constexpr int kRows = 4000;
  for (int bits = 1; bits <= 5; ++bits) {
    const std::vector<double> centroids = SolveLloydMax(bits).centroids;
    RowSource rows(128, 200 + static_cast<uint64_t>(bits));
    double error[3] = {}, searched[3] = {};
    for (int r = 0; r < kRows; ++r) {
      const std::vector<float> row = rows.Next();
      const std::vector<uint8_t> codes = CodesOfDeviation(bits, row);
      error[0] += ErrorWithScale(row, codes, centroids,
                                 [](double, double cx, double cc) { return cx / cc; });
      error[1] += ErrorWithScale(row, codes, centroids,
                                 [](double xx, double, double cc) { return std::sqrt(xx / cc); });
      error[2] += ErrorWithScale(row, codes, centroids,
                                 [](double xx, double cx, double) { return xx / cx; });
      for (const ScaleRule rule : {ScaleRule::kMse, ScaleRule::kNorm, ScaleRule::kUnbiased}) {
        searched[static_cast<int>(rule)] +=
            SquaredError(row, RoundTrip(Turbo(bits), row, rule).decoded) / Energy(row);
      }
    }
    for (int rule = 0; rule < 3; ++rule) {
      EXPECT_NEAR(error[rule] / kRows / expected[bits - 1][rule], 1.0, 0.015) << bits;
      // The search can only help: by nothing for signs, by a seventh at 4 bits.
      EXPECT_LT(searched[rule], 1.001 * error[rule]) << bits;
      EXPECT_GT(searched[rule], 0.75 * error[rule]) << bits;
    }
  }
}

TEST(Turbo, FindsNearlyTheBestStepThereIs) {
  // Every step on a fine grid, codes by brute force, the exact codebook: nothing of the codec.
  for (const int head_dim : {16, 64, 80, 96, 128, 256}) {
    for (int bits = 1; bits <= 5; ++bits) {
      const std::vector<double> centroids = SolveLloydMax(bits).centroids;
      RowSource rows(head_dim, 300 + static_cast<uint64_t>(bits));
      double best_sum = 0.0, sum = 0.0, alone = 0.0;
      for (int r = 0; r < 40; ++r) {
        const std::vector<float> row = rows.Next();
        const auto error_of = [&](const std::vector<uint8_t>& codes) {
          return ErrorWithScale(row, codes, centroids,
                                [](double, double cx, double cc) { return cx / cc; });
        };
        const double rms = std::sqrt(Energy(row) / head_dim);
        double best = 1.0;
        for (int percent = 60; percent < 150; ++percent) {
          best = std::min(best, error_of(NearestCodes(row, 0.01 * percent * rms, centroids)));
        }
        best_sum += best;
        alone += error_of(CodesOfDeviation(bits, row));
        const Coded coded = RoundTrip(Turbo(bits), row, ScaleRule::kMse);
        sum += SquaredError(row, coded.decoded) / Energy(row);
      }
      EXPECT_GT(sum, 0.99 * best_sum) << "head_dim " << head_dim << " bits " << bits;
      EXPECT_LT(sum - best_sum, 0.25 * (alone - best_sum) + 0.002 * alone)
          << "head_dim " << head_dim << " bits " << bits;
    }
  }
}

TEST(Turbo, OrdersTheScaleRulesOnEveryRow) {
  for (const int head_dim : {64, 96, 128}) {
    for (int bits = 1; bits <= 8; ++bits) {
      RowSource rows(head_dim, 400 + static_cast<uint64_t>(bits));
      for (int r = 0; r < 500; ++r) {
        const std::vector<float> row = rows.Next();
        double error[3] = {};
        for (const ScaleRule rule : {ScaleRule::kMse, ScaleRule::kNorm, ScaleRule::kUnbiased}) {
          error[static_cast<int>(rule)] =
              SquaredError(row, RoundTrip(Turbo(bits), row, rule).decoded) / Energy(row);
        }
        constexpr double kHalfRounding = 3e-7;  // (2^-11)^2: the scales are f16
        EXPECT_LE(error[0], error[1] + kHalfRounding) << bits;
        EXPECT_LE(error[1], error[2] + kHalfRounding) << bits;
      }
    }
  }
}

TEST(Turbo, KeepsNormsWithTheNormRule) {
  for (int bits = 1; bits <= 8; ++bits) {
    RowSource rows(80, 500);
    for (int r = 0; r < 100; ++r) {
      const std::vector<float> row = rows.Next();
      const std::vector<float> decoded = RoundTrip(Turbo(bits), row, ScaleRule::kNorm).decoded;
      EXPECT_NEAR(Energy(decoded) / Energy(row), 1.0, 1.1e-3);
    }
  }
}

TEST(Turbo, KeepsExpectedInnerProductsWithTheUnbiasedRule) {
  for (int bits = 1; bits <= 4; ++bits) {
    RowSource rows(128, 600 + static_cast<uint64_t>(bits));
    double unbiased = 0.0, squares = 0.0, error = 0.0, exact = 0.0;
    for (int r = 0; r < 4000; ++r) {
      const std::vector<float> row = rows.Next(), noise = rows.Next();
      const std::vector<float> fair = RoundTrip(Turbo(bits), row, ScaleRule::kUnbiased).decoded;
      const std::vector<float> shrunk = RoundTrip(Turbo(bits), row, ScaleRule::kMse).decoded;
      for (size_t i = 0; i < row.size(); ++i) {
        const double query = static_cast<double>(row[i]) + noise[i];
        exact += query * row[i];
        unbiased += query * fair[i];
        squares += query * shrunk[i];
      }
      error += SquaredError(row, shrunk);
    }
    EXPECT_NEAR(unbiased / exact, 1.0, 0.01) << bits;
    // Least squares shrinks by exactly its distortion.
    EXPECT_NEAR(squares / exact, 1.0 - error / (4000.0 * 128.0), 0.01) << bits;
  }
}

TEST(Turbo, PicksTheNearestCentroid) {
  for (int bits = 1; bits <= 8; ++bits) {
    const TurboBook& book = TurboBookOf(bits);
    std::vector<double> centroids(book.centroids, book.centroids + (1 << bits));
    for (double& centroid : centroids) centroid *= static_cast<double>(book.unit);
    RowSource rows(128, 700 + static_cast<uint64_t>(bits));
    int differences = 0;
    for (int r = 0; r < 20; ++r) {
      const std::vector<float> row = rows.Next();
      const std::vector<uint8_t> nearest =
          NearestCodes(row, std::sqrt(Energy(row) / 128.0), centroids);
      const std::vector<uint8_t> codes = CodesOfDeviation(bits, row);
      for (size_t i = 0; i < codes.size(); ++i) differences += codes[i] != nearest[i] ? 1 : 0;
    }
    EXPECT_LE(differences, 2) << bits;  // only where f32 and double differ on a threshold
  }
}

TEST(Turbo, GivesEveryBlockItsOwnScale) {
  // 112 = 96 + 16: a thousandfold louder block must not drown the other.
  std::vector<float> row = RowSource(112, 800).Next();
  for (size_t i = 0; i < 96; ++i) row[i] *= 1000.0f;
  const std::vector<float> decoded = RoundTrip(Turbo(4), row, ScaleRule::kMse).decoded;
  double error = 0.0, energy = 0.0;
  for (size_t i = 96; i < 112; ++i) {
    error += std::pow(static_cast<double>(row[i]) - decoded[i], 2);
    energy += static_cast<double>(row[i]) * row[i];
  }
  EXPECT_LT(error / energy, 0.02);
}

TEST(Turbo, HasExactThresholdsOnTheInt8Grid) {
  for (int bits = 1; bits <= 4; ++bits) {
    const TurboBook& book = TurboBookOf(bits);
    for (int k = 0; k + 1 < 1 << bits; ++k) {
      EXPECT_EQ(2.0f * book.thresholds[k], book.centroids[k] + book.centroids[k + 1]);
      EXPECT_EQ(std::round(book.centroids[k]), book.centroids[k]);
    }
    EXPECT_EQ(book.thresholds[(1 << (bits - 1)) - 1], 0.0f);
  }
}

}  // namespace
}  // namespace polarquant
