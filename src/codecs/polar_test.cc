// SPDX-License-Identifier: Apache-2.0
// The recursive polar transform: its codebooks against known ones, codes against angles,
// distortion, golden records.
#include "codecs/polar.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "codecs/codecs_testing.h"
#include "polarquant/error.h"

namespace polarquant {
namespace {

using namespace codecs_testing;

TEST(AngleBook, HasTheKnownCentroids) {
  struct Known {
    int level, bits;
    std::vector<double> lower_half;
    double distortion;
  };
  const Known all[] = {
      {2, 1, {0.5}, 0.035398163},
      {2, 2, {0.309756117, 0.633980240}, 0.009909242},
      {2, 3, {0.188449608, 0.379996302, 0.548254940, 0.707229964}, 0.002636342},
      {3, 1, {0.583333333}, 0.020464524},
      {3, 2, {0.426249693, 0.674384998}, 0.006161797},
      {3, 3, {0.307516578, 0.473175544, 0.606067952, 0.726746549}, 0.001719528},
      {4, 1, {0.643154762}, 0.010857453},
      {4, 2, {0.524214091, 0.705909406}, 0.003393373},
      {4, 3, {0.425761282, 0.555650320, 0.654797058, 0.742870236}, 0.000972946},
      {5, 2, {0.598503222, 0.728952830}, 0.001769580},
      {6, 2, {0.652540529, 0.745423652}, 0.000901809},
  };
  for (const Known& known : all) {
    const AngleBook book = SolveAngleBook(known.level, known.bits);
    const size_t count = size_t{1} << known.bits;
    ASSERT_EQ(book.centroids.size(), count);
    ASSERT_EQ(book.thresholds.size(), count - 1);
    for (size_t i = 0; i < count / 2; ++i) {
      EXPECT_NEAR(book.centroids[i], known.lower_half[i], 1e-9) << known.level << known.bits;
      EXPECT_NEAR(book.centroids[i] + book.centroids[count - 1 - i], std::numbers::pi / 2, 1e-15);
    }
    EXPECT_NEAR(book.distortion, known.distortion, 1e-9);
  }
}

TEST(AngleBook, RefusesOtherLevelsAndWidths) {
  EXPECT_THROW(SolveAngleBook(1, 2), Error);
  EXPECT_THROW(SolveAngleBook(7, 2), Error);
  EXPECT_THROW(SolveAngleBook(2, 0), Error);
  EXPECT_THROW(SolveAngleBook(2, 5), Error);
}

// The direction of sixteen values with every angle replaced by its centroid, by the definition.
std::vector<double> CodedDirection(const std::vector<float>& x) {
  std::vector<std::vector<double>> angles;
  std::vector<double> radii(x.begin(), x.end());
  for (int level = 1; level <= 4; ++level) {
    std::vector<double> next;
    angles.emplace_back();
    for (size_t j = 0; j < radii.size(); j += 2) {
      double angle = std::atan2(radii[j + 1], radii[j]);
      if (level == 1) {
        if (angle < 0.0) angle += 2.0 * std::numbers::pi;
        angle = (std::floor(angle * 8.0 / std::numbers::pi) + 0.5) * std::numbers::pi / 8.0;
      } else {
        const std::vector<double> centroids = SolveAngleBook(level, 2).centroids;
        angle = *std::min_element(centroids.begin(), centroids.end(), [&](double a, double b) {
          return std::abs(a - angle) < std::abs(b - angle);
        });
      }
      angles.back().push_back(angle);
      next.push_back(std::hypot(radii[j], radii[j + 1]));
    }
    radii = next;
  }
  std::vector<double> direction = {1.0};
  for (size_t level = 4; level-- > 0;) {
    std::vector<double> next;
    for (size_t j = 0; j < direction.size(); ++j) {
      next.push_back(direction[j] * std::cos(angles[level][j]));
      next.push_back(direction[j] * std::sin(angles[level][j]));
    }
    direction = next;
  }
  return direction;
}

TEST(Polar, StoresTheNearestAnglesAndTheLeastSquaresRadius) {
  std::mt19937_64 generator(41);
  for (int trial = 0; trial < 200; ++trial) {
    const std::vector<float> row = GaussianRow(16, generator);
    const std::vector<float> decoded = Decode("polar", Encode("polar", row), 16);
    const std::vector<double> direction = CodedDirection(row);
    double radius = 0.0;
    for (size_t i = 0; i < 16; ++i) radius += direction[i] * static_cast<double>(row[i]);
    for (size_t i = 0; i < 16; ++i) {
      EXPECT_NEAR(decoded[i], radius * direction[i], 0.0006 * radius);  // an f16 scale
    }
  }
}

TEST(Polar, TurnsWithItsRowInEveryQuadrant) {
  for (const auto& [a, b] : {std::pair{1.0f, 0.3f}, std::pair{-0.3f, 1.0f}, std::pair{-1.0f, -0.3f},
                             std::pair{0.3f, -1.0f}}) {
    std::vector<float> row;
    for (int i = 0; i < 8; ++i) row.insert(row.end(), {a, b});
    const std::vector<float> decoded = Decode("polar", Encode("polar", row), 16);
    EXPECT_LT(SquaredError(row, decoded), 0.1 * 16 * 0.545);
    for (size_t i = 0; i < 16; ++i) EXPECT_EQ(decoded[i] > 0.0f, row[i] > 0.0f);
  }
}

TEST(Polar, TakesSixtyTwoBitsForSixteenValues) {
  const Codec& codec = FindCodec("polar");
  EXPECT_EQ(codec.record_bytes(128), 62u);
  EXPECT_EQ(codec.record_bytes(64), 31u);
  EXPECT_EQ(codec.record_bytes(80), 10u + 20u + 9u);  // rounded up to bytes
  EXPECT_EQ(codec.record_bytes(16), 2u + 4u + 2u);
}

// Of the paper's setting, radius as measured: 0.0321. The least-squares radius takes 1 % off.
TEST(Polar, HasTheKnownDistortionAtEveryHeadDim) {
  for (const int head_dim : {16, 64, 80, 112, 128, 256}) {
    const double distortion = GaussianDistortionOf("polar", head_dim, 200000, 42);
    EXPECT_NEAR(distortion / 0.0321, 1.0, 0.02) << head_dim;
    EXPECT_LT(distortion, 0.03207) << head_dim;
  }
}

TEST(Polar, WritesTheGoldenRecords) {
  EXPECT_EQ(Hex(Encode("polar", GoldenRow(16))), "c63c699225493816");
  EXPECT_EQ(Hex(Encode("polar", GoldenRow(80))),
            "c63ce83c033de83cc63c"
            "699225498de3388e92265992d4388ee328699225"
            "382d4e87e39699562a");
}

}  // namespace
}  // namespace polarquant
