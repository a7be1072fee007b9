// SPDX-License-Identifier: Apache-2.0
// The lattice E8 and its codecs: nearest points against exhaustive search, the numbering of points,
// distortion against known figures, golden records.
#include "codecs/e8.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "codecs/codecs_testing.h"
#include "util/half.h"

namespace polarquant {
namespace {

using namespace codecs_testing;

using Point = std::array<float, kE8Dim>;

double Distance(const float* a, const float* b) {
  double sum = 0.0;
  for (int i = 0; i < kE8Dim; ++i) sum += std::pow(static_cast<double>(a[i]) - b[i], 2);
  return sum;
}

bool InE8(const float* point) {
  const float offset = point[0] - std::floor(point[0]);
  if (offset != 0.0f && offset != 0.5f) return false;
  float sum = 0.0f;
  for (int i = 0; i < kE8Dim; ++i) {
    if (point[i] - std::floor(point[i]) != offset) return false;
    sum += point[i];
  }
  return std::fmod(sum, 2.0f) == 0.0f;
}

// The vectors of E8 of squared norm 0, 2 and 4, by trying all coordinates up to 2 in halves.
std::vector<Point> ShortVectors() {
  std::vector<Point> all;
  for (const float offset : {0.0f, 0.5f}) {
    const int radix = offset == 0.0f ? 5 : 4;
    for (int number = 0; number < std::pow(radix, kE8Dim); ++number) {
      Point point;
      float norm = 0.0f;
      for (int i = 0, rest = number; i < kE8Dim; ++i, rest /= radix) {
        point[static_cast<size_t>(i)] = static_cast<float>(rest % radix - 2) + offset;
        norm += point[static_cast<size_t>(i)] * point[static_cast<size_t>(i)];
      }
      if (norm <= 4.0f && InE8(point.data())) all.push_back(point);
    }
  }
  return all;
}

TEST(E8, NearestPointIsTheNearest) {
  const std::vector<Point> shorts = ShortVectors();
  ASSERT_EQ(shorts.size(), 1u + 240u + 2160u);
  std::mt19937_64 generator(21);
  for (int trial = 0; trial < 300; ++trial) {
    const std::vector<float> x = GaussianRow(kE8Dim, generator);
    Point nearest;
    NearestE8(E8Lattice::kStrict, x.data(), kWholeLattice, nearest.data());
    EXPECT_TRUE(InE8(nearest.data()));
    const double distance = Distance(x.data(), nearest.data());
    for (const Point& vector : shorts) {
      Point other = nearest;
      for (size_t i = 0; i < kE8Dim; ++i) other[i] += vector[i];
      ASSERT_GE(Distance(x.data(), other.data()), distance - 1e-6);
    }
  }
}

TEST(E8, HasTheSecondMomentOfTheLattice) {
  std::mt19937_64 generator(22);
  std::uniform_real_distribution<float> uniform(-8.0f, 8.0f);
  double sum = 0.0;
  constexpr int kTrials = 200000;
  for (int trial = 0; trial < kTrials; ++trial) {
    Point x, nearest;
    for (float& value : x) value = uniform(generator);
    NearestE8(E8Lattice::kStrict, x.data(), kWholeLattice, nearest.data());
    sum += Distance(x.data(), nearest.data());
  }
  EXPECT_NEAR(sum / kTrials / kE8Dim / 0.0716821, 1.0, 0.005);
}

// The mean over Gaussian rows of |x - x'|^2 / |x|^2 when they are rounded to the lattice in the
// box. step(row) is the unit.
template <typename Step>
double LatticeDistortion(int head_dim, float bound, const Step& step,
                         E8Lattice lattice = E8Lattice::kStrict) {
  std::mt19937_64 generator(23);
  double sum = 0.0;
  constexpr int kRows = 12000;
  for (int r = 0; r < kRows; ++r) {
    const std::vector<float> row = GaussianRow(head_dim, generator);
    const float unit = step(row);
    double error = 0.0, energy = 0.0;
    for (size_t i = 0; i < row.size(); i += kE8Dim) {
      Point x, point;
      for (size_t k = 0; k < kE8Dim; ++k) x[k] = row[i + k] / unit;
      NearestE8(lattice, x.data(), bound, point.data());
      error += Distance(x.data(), point.data());
      energy += Distance(x.data(), Point{}.data());
    }
    sum += error / energy;
  }
  return sum / kRows;
}

double FixedStepDistortion(float deviations) {
  return LatticeDistortion(128, kWholeLattice, [&](const std::vector<float>& row) {
    const double energy = SquaredError(row, std::vector<float>(row.size(), 0.0f));
    return deviations * static_cast<float>(std::sqrt(energy / 128.0));
  });
}

double LargestMagnitudeDistortion(int head_dim, float bound,
                                  E8Lattice lattice = E8Lattice::kStrict) {
  const auto step = [&](const std::vector<float>& row) {
    float largest = 0.0f;
    for (const float value : row) largest = std::max(largest, std::abs(value));
    return largest / bound;
  };
  return LatticeDistortion(head_dim, bound, step, lattice);
}

TEST(E8, HasTheKnownDistortionAtFixedAndAtLargestMagnitudeScales) {
  EXPECT_NEAR(FixedStepDistortion(1.0835f) / 0.08424, 1.0, 0.01);
  EXPECT_NEAR(FixedStepDistortion(0.5165f) / 0.01914, 1.0, 0.01);
  EXPECT_NEAR(LargestMagnitudeDistortion(128, 2.0f) / 0.1448, 1.0, 0.02);
  EXPECT_NEAR(LargestMagnitudeDistortion(128, 4.0f) / 0.0362, 1.0, 0.02);
  EXPECT_NEAR(LargestMagnitudeDistortion(64, 2.0f) / 0.1225, 1.0, 0.02);
  EXPECT_NEAR(LargestMagnitudeDistortion(64, 4.0f) / 0.0307, 1.0, 0.02);
}

// nexusquant's points, nearest ones, at its own scale.
TEST(E8, HasTheKnownDistortionOfNexusPoints) {
  for (const auto& [head_dim, bound, expected] : {std::tuple{128, 2.0f, 0.1363},
                                                  {128, 4.0f, 0.0340},
                                                  {64, 2.0f, 0.1159},
                                                  {64, 4.0f, 0.0290}}) {
    const double distortion = LargestMagnitudeDistortion(head_dim, bound, E8Lattice::kNexus);
    EXPECT_NEAR(distortion / expected, 1.0, 0.02) << head_dim << " " << bound;
  }
}

// A record of head_dim 16 with scale 1: two points, the first one with this number.
Point PointNumbered(const std::string& codec, uint32_t number) {
  std::vector<std::byte> record(Subject(codec, 16).record_bytes());
  const uint16_t one = FloatToHalf(1.0f);
  std::memcpy(record.data(), &one, sizeof one);
  std::memcpy(record.data() + sizeof one, &number, std::min<size_t>(4, record.size() - sizeof one));
  const std::vector<float> row = Decode(codec, record, 16);
  Point point;
  std::copy_n(row.begin(), kE8Dim, point.begin());
  return point;
}

TEST(E8, NumbersEveryPointOfTheBoxOnce) {
  constexpr uint32_t kPoints = 195313 + 32768;
  std::set<Point> points;
  for (uint32_t number = 0; number < kPoints; ++number) {
    const Point point = PointNumbered("e8-2", number);
    ASSERT_TRUE(InE8(point.data())) << number;
    for (const float value : point) ASSERT_LE(std::abs(value), 2.0f);
    points.insert(point);
  }
  EXPECT_EQ(points.size(), kPoints);
  std::mt19937_64 generator(24);
  for (int trial = 0; trial < 20000; ++trial) {
    const Point point =
        PointNumbered("e8-3", static_cast<uint32_t>(generator() % (21523361 + 8388608)));
    ASSERT_TRUE(InE8(point.data()));
    for (const float value : point) ASSERT_LE(std::abs(value), 4.0f);
  }
}

TEST(E8, NumbersEveryNexusPointOfTheBoxOnce) {
  constexpr uint32_t kIntegers = 195313, kPoints = kIntegers + 65536;
  std::set<Point> points;
  for (uint32_t number = 0; number < kPoints; ++number) {
    const Point point = PointNumbered("e8-2:lattice=nexus", number);
    for (const float value : point) ASSERT_LE(std::abs(value), 2.0f);
    ASSERT_EQ(point[0] == std::floor(point[0]), number < kIntegers);
    points.insert(point);
  }
  EXPECT_EQ(points.size(), kPoints);
  EXPECT_EQ(Subject("e8-2:lattice=nexus", 128).record_bytes(), Subject("e8-2", 128).record_bytes());
  EXPECT_EQ(Subject("e8-3:lattice=nexus", 128).record_bytes(), 2u + 52);  // 26 bits for eight
  std::mt19937_64 generator(30);
  for (int trial = 0; trial < 300; ++trial) {
    const Row row = GaussianRow(16, generator);
    const Row decoded = RoundTrip("e8-3:lattice=nexus", row);
    EXPECT_EQ(RoundTrip("e8-3:lattice=nexus", decoded), decoded);
  }
}

TEST(E8, NearestPointOfTheBoxIsTheNearest) {
  std::vector<Point> points;
  for (uint32_t number = 0; number < 195313 + 32768; ++number) {
    points.push_back(PointNumbered("e8-2", number));
  }
  std::mt19937_64 generator(25);
  for (int trial = 0; trial < 60; ++trial) {
    std::vector<float> x = GaussianRow(kE8Dim, generator);
    for (float& value : x) value *= static_cast<float>(1 + trial % 3);
    Point nearest;
    NearestE8(E8Lattice::kStrict, x.data(), 2.0f, nearest.data());
    const double distance = Distance(x.data(), nearest.data());
    for (const Point& point : points) {
      ASSERT_GE(Distance(x.data(), point.data()), distance - 1e-5);
    }
  }
}

TEST(E8, KeepsPointsThatFitExactly) {
  std::mt19937_64 generator(26);
  for (int trial = 0; trial < 500; ++trial) {
    for (const auto& [codec, count, bound] :
         {std::tuple{"e8-2", 228081u, 2.0f}, std::tuple{"e8-3", 29911969u, 4.0f}}) {
      std::vector<float> row;
      for (int group = 0; group < 8; ++group) {
        const Point point = PointNumbered(codec, static_cast<uint32_t>(generator() % count));
        row.insert(row.end(), point.begin(), point.end());
      }
      // The scale of the largest magnitude is 1, so the row is one of the candidates.
      const float largest = *std::max_element(row.begin(), row.end());
      const float smallest = *std::min_element(row.begin(), row.end());
      if (std::max(largest, -smallest) != bound) continue;
      EXPECT_EQ(Decode(codec, Encode(codec, row), 64), row) << codec;
    }
  }
}

struct Expected {
  const char* codec;
  int head_dim;
  double distortion;
  double lowest, highest;  // that is credible
};

// Lowest: the same lattice with an ideal entropy coder at this rate (e8-2: 2.25 bits, e8-3: 3.125)
// or trellis codes of 65536 states (e8p). Highest: the published scale rules.
TEST(E8, HasItsDistortionOnGaussianRows) {
  for (const Expected& expected :
       {Expected{"e8-2", 64, 0.07574, 0.059, 0.1225}, Expected{"e8-2", 80, 0.07666, 0.059, 0.1448},
        Expected{"e8-2", 112, 0.07543, 0.059, 0.1448},
        Expected{"e8-2", 128, 0.07811, 0.059, 0.1448},
        Expected{"e8-2", 256, 0.07939, 0.059, 0.1681},
        Expected{"e8-3", 64, 0.02482, 0.0163, 0.0307},
        Expected{"e8-3", 80, 0.02547, 0.0163, 0.0362},
        Expected{"e8-3", 112, 0.02500, 0.0163, 0.0362},
        Expected{"e8-3", 128, 0.02654, 0.0163, 0.0362},
        Expected{"e8-3", 256, 0.02746, 0.0163, 0.0419},
        Expected{"e8-2:lattice=nexus", 128, 0.0763, 0.059, 0.1363},
        Expected{"e8-3:lattice=nexus", 128, 0.02565, 0.0163, 0.0340},
        Expected{"e8p", 64, 0.08614, 0.0694, 0.0916}, Expected{"e8p", 80, 0.08704, 0.0694, 0.0916},
        Expected{"e8p", 112, 0.08575, 0.0694, 0.0916},
        Expected{"e8p", 128, 0.08854, 0.0694, 0.0916},
        Expected{"e8p", 256, 0.08975, 0.0694, 0.0916}}) {
    const double distortion = GaussianDistortionOf(std::string(expected.codec) + ":scale=mse",
                                                   expected.head_dim, 150000, 27);
    EXPECT_NEAR(distortion / expected.distortion, 1.0, 0.02)
        << expected.codec << " head_dim " << expected.head_dim;
    EXPECT_GT(distortion, expected.lowest) << expected.codec;
    EXPECT_LT(distortion, expected.highest) << expected.codec;
  }
}

std::vector<Point> PointsOfE8p() {
  std::vector<Point> points(65536);
  for (size_t word = 0; word < points.size(); ++word) {
    PointOfE8p(static_cast<uint16_t>(word), points[word].data());
  }
  return points;
}

TEST(E8p, HasThePointsOfItsDefinition) {
  const std::vector<Point> points = PointsOfE8p();
  EXPECT_EQ(std::set<Point>(points.begin(), points.end()).size(), points.size());
  size_t by_norm[13] = {};
  for (size_t word = 0; word < points.size(); ++word) {
    const float shift = word < 32768 ? 0.25f : -0.25f;
    Point base = points[word];
    float norm = 0.0f;
    for (float& value : base) {
      value -= shift;
      norm += value * value;
      EXPECT_LE(std::abs(value), 2.5f);
    }
    EXPECT_TRUE(InE8(base.data()) && base[0] != std::floor(base[0]));
    ASSERT_LE(norm, 12.0f);
    ++by_norm[static_cast<size_t>(norm)];
  }
  // Patterns, signs and shifts: 1 + 8 + 28 + (56 + 8) + (70 + 56) and 29 of norm 12.
  EXPECT_EQ(by_norm[2], 1u * 256);
  EXPECT_EQ(by_norm[4], 8u * 256);
  EXPECT_EQ(by_norm[6], 28u * 256);
  EXPECT_EQ(by_norm[8], 64u * 256);
  EXPECT_EQ(by_norm[10], 126u * 256);
  EXPECT_EQ(by_norm[12], 29u * 256);
}

TEST(E8p, FindsTheNearestOfAllPoints) {
  const std::vector<Point> points = PointsOfE8p();
  std::mt19937_64 generator(28);
  for (int trial = 0; trial < 300; ++trial) {
    std::vector<float> x = GaussianRow(kE8Dim, generator);
    if (trial % 3 == 2) x[2] *= 4.0f;
    Point found;
    PointOfE8p(NearestE8p(x.data()), found.data());
    const double distance = Distance(x.data(), found.data());
    for (const Point& point : points) {
      ASSERT_GE(Distance(x.data(), point.data()), distance - 1e-5);
    }
  }
}

TEST(E8p, HasTheKnownDistortionAtFixedScales) {
  for (const auto& [step, expected] : {std::pair{0.965, 0.0916}, std::pair{1.0, 0.0920}}) {
    std::mt19937_64 generator(29);
    double error = 0.0;
    constexpr int kGroups = 40000;
    for (int g = 0; g < kGroups; ++g) {
      std::vector<float> x = GaussianRow(kE8Dim, generator);
      for (float& value : x) value /= static_cast<float>(step);
      Point point;
      PointOfE8p(NearestE8p(x.data()), point.data());
      error += Distance(x.data(), point.data()) * step * step / kE8Dim;
    }
    EXPECT_NEAR(error / kGroups / expected, 1.0, 0.01) << step;
  }
}

TEST(E8, WritesTheGoldenRecords) {
  EXPECT_EQ(Hex(Encode("e8-2:scale=mse", GoldenRow(32))), "233b36b53c38e8f5885e55");
  EXPECT_EQ(Hex(Encode("e8-3:scale=mse", GoldenRow(32))), "a03972c46f655690bdc88c0d55fb04");
  EXPECT_EQ(Hex(Encode("e8p:scale=mse", GoldenRow(32))), "593c92c72b71d98e4d63");
  EXPECT_EQ(Hex(Encode("e8-2", GoldenRow(32))), "733b36b53c38e8f5885e55");
  EXPECT_EQ(Hex(Encode("e8-3", GoldenRow(32))), "b63972c46f655690bdc88c0d55fb04");
  EXPECT_EQ(Hex(Encode("e8p", GoldenRow(32))), "aa3c92c72b71d98e4d63");
  EXPECT_EQ(Hex(Encode("e8-2:lattice=nexus", GoldenRow(32))), "733b36b53c38e8f5885e55");
  EXPECT_EQ(Hex(Encode("e8-3:lattice=nexus", GoldenRow(32))), "b63972c48fc9ac20f3223358a8da27");
}

}  // namespace
}  // namespace polarquant
