// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "math/lane_sum-inl.h"
#include "math/lloyd_max.h"
#include "math/normalise.h"
#include "math/rotation.h"
#include "polarquant/codec.h"
#include "polarquant/error.h"

namespace polarquant {
namespace {

std::vector<float> GaussianRow(int head_dim, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> row(static_cast<size_t>(head_dim));
  for (float& value : row) value = normal(generator);
  return row;
}

double Dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

std::vector<int> AllHeadDims() {
  std::vector<int> all;
  for (int d = kMinHeadDim; d <= kMaxHeadDim; d += kMinHeadDim) all.push_back(d);
  return all;
}

std::vector<int> BlockSizes(int head_dim) {
  std::vector<int> sizes;
  for (const RotationBlock& block : RotationBlocks(head_dim)) sizes.push_back(block.size);
  return sizes;
}

TEST(Hadamard, IsItsOwnInverseUpToItsSize) {
  for (int size = 16; size <= kMaxHeadDim; size *= 2) {
    std::vector<float> x(static_cast<size_t>(size)), y(x.size());
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 7) - 2.0f;
    y = x;
    Hadamard(y.data(), size);
    EXPECT_EQ(y[0], std::accumulate(x.begin(), x.end(), 0.0f)) << size;
    Hadamard(y.data(), size);
    for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(y[i], static_cast<float>(size) * x[i]) << size;
  }
}

TEST(Rotation, CoversEveryHeadDimWithBlocksFromTheList) {
  const std::vector<int> allowed = {16, 32, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512};
  for (const int d : AllHeadDims()) {
    int offset = 0;
    for (const RotationBlock& block : RotationBlocks(d)) {
      EXPECT_EQ(block.offset, offset);
      EXPECT_TRUE(std::find(allowed.begin(), allowed.end(), block.size) != allowed.end())
          << block.size << " in " << d;
      offset += block.size;
    }
    EXPECT_EQ(offset, d);
  }
}

TEST(Rotation, UsesOneBlockWhereItCanAndTheLargestFirstElsewhere) {
  for (const int d : {16, 32, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512}) {
    EXPECT_EQ(BlockSizes(d), std::vector<int>{d});
  }
  EXPECT_EQ(BlockSizes(112), (std::vector<int>{96, 16}));
  EXPECT_EQ(BlockSizes(144), (std::vector<int>{128, 16}));
  EXPECT_EQ(BlockSizes(240), (std::vector<int>{192, 48}));
  EXPECT_EQ(BlockSizes(576), (std::vector<int>{512, 64}));
  EXPECT_EQ(BlockSizes(1024), (std::vector<int>{512, 512}));
}

TEST(Rotation, RefusesOtherHeadDimsByNameAndLimit) {
  for (const int d : {-16, 0, 8, 15, 17, 72, 1000, 1040}) {
    try {
      RotationPlanOf(d);
      FAIL() << d << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
      const std::string message = error.what();
      EXPECT_NE(message.find(std::to_string(d)), std::string::npos) << message;
      EXPECT_NE(message.find("1024"), std::string::npos) << message;
    }
  }
}

TEST(Rotation, IsOrthonormal) {
  for (const int d : {16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 256, 320, 384, 512}) {
    std::vector<std::vector<float>> images;  // of the unit vectors
    for (int i = 0; i < d; ++i) {
      std::vector<float> unit(static_cast<size_t>(d), 0.0f);
      unit[static_cast<size_t>(i)] = 1.0f;
      Rotate(unit.data(), d);
      images.push_back(unit);
    }
    double worst = 0.0;
    for (size_t i = 0; i < images.size(); ++i) {
      for (size_t j = 0; j <= i; ++j) {
        worst = std::max(worst, std::abs(Dot(images[i], images[j]) - (i == j ? 1.0 : 0.0)));
      }
    }
    EXPECT_LT(worst, 1e-6) << d;
  }
}

TEST(Rotation, UndoesItselfAndKeepsNormsAndProducts) {
  for (const int d : AllHeadDims()) {
    const std::vector<float> x = GaussianRow(d, 1), q = GaussianRow(d, 2);
    std::vector<float> x_rot = x, q_rot = q;
    Rotate(x_rot.data(), d);
    Rotate(q_rot.data(), d);
    const double x_norm = std::sqrt(Dot(x, x)), q_norm = std::sqrt(Dot(q, q));
    EXPECT_NEAR(std::sqrt(Dot(x_rot, x_rot)) / x_norm, 1.0, 1e-6) << d;
    EXPECT_NEAR(Dot(x_rot, q_rot), Dot(x, q), 1e-5 * x_norm * q_norm) << d;
    Unrotate(x_rot.data(), d);
    std::vector<float> error(x.size());
    for (size_t i = 0; i < x.size(); ++i) error[i] = x_rot[i] - x[i];
    EXPECT_LT(std::sqrt(Dot(error, error)) / x_norm, 1e-6) << d;
  }
}

// The definition, in double: y[a'][c'] = n^-1/2 sum P[a'][a] (-1)^popcount(c & c') s[a][c] x[a][c].
TEST(Rotation, EqualsItsDefinitionSummedPlainly) {
  for (const int d : {16, 48, 80, 112, 128, 320, 384}) {
    const std::vector<float> x = GaussianRow(d, 3);
    std::vector<float> y = x;
    Rotate(y.data(), d);
    const RotationPlan& plan = RotationPlanOf(d);
    for (const RotationBlock& block : plan.blocks) {
      const int width = block.size / block.order;
      for (int out = 0; out < block.size; ++out) {
        double sum = 0.0;
        for (int in = 0; in < block.size; ++in) {
          const int parity =
              __builtin_popcount(static_cast<unsigned>((in % width) & (out % width)));
          double sign = parity % 2 == 0 ? 1.0 : -1.0;
          if (block.order > 1) {
            const float* paley = PaleyMatrix(block.order, Transposed::kNo);
            sign *= static_cast<double>(paley[out / width * block.order + in / width]);
          }
          const int channel = block.offset + in;
          sum += sign * static_cast<double>(plan.factors[channel]) * x.data()[channel];
        }
        EXPECT_NEAR(y.data()[block.offset + out], sum, 1e-5) << d << " " << out;
      }
    }
  }
}

TEST(Rotation, HasPaleysMatricesAndTheirTransposes) {
  const auto row_text = [](int order, int row) {
    std::string text;
    for (int column = 0; column < order; ++column) {
      text += PaleyMatrix(order, Transposed::kNo)[row * order + column] > 0.0f ? '+' : '-';
    }
    return text;
  };
  EXPECT_EQ(row_text(12, 0), "++++++++++++");
  EXPECT_EQ(row_text(12, 1), "-+-+---+++-+");
  EXPECT_EQ(row_text(12, 2), "-++-+---+++-");
  EXPECT_EQ(row_text(20, 0), "++++++++++++++++++++");
  EXPECT_EQ(row_text(20, 1), "-+-++----+-+-++++--+");
  EXPECT_EQ(row_text(20, 2), "-++-++----+-+-++++--");
  for (const int order : {12, 20}) {
    const float* plain = PaleyMatrix(order, Transposed::kNo);
    const float* transposed = PaleyMatrix(order, Transposed::kYes);
    for (int i = 0; i < order; ++i) {
      for (int j = 0; j < order; ++j) {
        EXPECT_EQ(plain[i * order + j], transposed[j * order + i]);
        float product = 0.0f;
        for (int k = 0; k < order; ++k) product += plain[i * order + k] * plain[j * order + k];
        EXPECT_EQ(product, i == j ? static_cast<float>(order) : 0.0f);
      }
    }
  }
}

TEST(Rotation, SpreadsAConstantAndASingleSpike) {
  for (const int d : {64, 80, 96, 128, 256}) {
    std::vector<float> ones(static_cast<size_t>(d), 1.0f), spike(static_cast<size_t>(d), 0.0f);
    spike[0] = 1.0f;
    Rotate(ones.data(), d);
    Rotate(spike.data(), d);
    float largest = 0.0f;
    for (const float value : ones) largest = std::max(largest, std::abs(value));
    EXPECT_LT(largest, 5.0f) << d;  // without signs it would be sqrt(d) in one channel
    const float expected = 1.0f / std::sqrt(static_cast<float>(d));
    for (const float value : spike) EXPECT_NEAR(std::abs(value), expected, 1e-6f);
  }
}

// The signs are part of the format: a change here is a change of every stored page.
TEST(Rotation, HasTheSignsOfTheFormat) {
  const auto signs = [](int d) {
    std::string text;
    for (int i = 0; i < 16; ++i) text += RotationPlanOf(d).factors[i] > 0.0f ? '+' : '-';
    return text;
  };
  EXPECT_EQ(signs(64), "+++-++-+--+--+-+");
  EXPECT_EQ(signs(128), "---+--+-+-+-+++-");
  int negatives = 0;
  for (int i = 0; i < 1024; ++i) negatives += RotationPlanOf(1024).factors[i] < 0.0f ? 1 : 0;
  EXPECT_NEAR(negatives, 512, 64);
}

TEST(LloydMax, EqualsThePublishedTables) {
  const std::vector<std::vector<double>> centroids = {
      {0.797884560803},
      {0.452780034636, 1.510417608499},
      {0.245094178944, 0.756005281206, 1.343909278505, 2.151945704537},
      {0.128395029851, 0.388048299490, 0.656759118532, 0.942340456487, 1.256231197347,
       1.618046386022, 2.069017226531, 2.732589570995},
      {0.065889659771, 0.198051829669, 0.331378305760, 0.466699522977, 0.604933624009,
       0.747135703688, 0.894565117388, 1.048783319923, 1.211804380609, 1.386340339587,
       1.576228078612, 1.787233217703, 2.028728399395, 2.317739404195, 2.691119577377,
       3.260732493401}};
  for (size_t b = 0; b < centroids.size(); ++b) {
    const LloydMax solved = SolveLloydMax(static_cast<int>(b) + 1);
    const size_t half = centroids[b].size();
    ASSERT_EQ(solved.centroids.size(), 2 * half);
    for (size_t i = 0; i < half; ++i) {
      EXPECT_NEAR(solved.centroids[half + i], centroids[b][i], 1e-11);
    }
  }
  const LloydMax four = SolveLloydMax(4);
  EXPECT_NEAR(four.thresholds[8], 0.258221664671, 1e-11);
  EXPECT_NEAR(four.thresholds[14], 2.400803398763, 1e-11);
}

// Simpson's rule on (x - nearest centroid)^2 phi(x), cell by cell: knows nothing of the solver.
double IntegratedDistortion(const std::vector<double>& centroids) {
  double total = 0.0;
  for (size_t i = 0; i < centroids.size(); ++i) {
    const double a = i == 0 ? -12.0 : 0.5 * (centroids[i - 1] + centroids[i]);
    const double b = i + 1 == centroids.size() ? 12.0 : 0.5 * (centroids[i] + centroids[i + 1]);
    const int steps = 2000;
    const double width = (b - a) / steps;
    for (int s = 0; s <= steps; ++s) {
      const double x = a + width * s;
      const double weight = s == 0 || s == steps ? 1.0 : s % 2 == 1 ? 4.0 : 2.0;
      const double error = x - centroids[i];
      total += weight * width / 3.0 * error * error * std::exp(-0.5 * x * x);
    }
  }
  return total / std::sqrt(2.0 * std::acos(-1.0));
}

TEST(LloydMax, HasThePublishedDistortionAtEveryWidth) {
  const double expected[] = {0.363380227632, 0.117481847829, 0.034547760789, 0.009501008008,
                             0.002504668356, 0.000644239665, 0.000163478230, 0.000041185083};
  const double outermost[] = {0.797885, 1.510418, 2.151946, 2.732590,
                              3.260732, 3.744101, 4.189694, 4.603536};
  for (int b = 1; b <= kMaxCodeBits; ++b) {
    const LloydMax solved = SolveLloydMax(b);
    EXPECT_NEAR(IntegratedDistortion(solved.centroids), expected[b - 1], 1e-9) << b;
    EXPECT_NEAR(GaussianDistortion(solved.centroids, solved.thresholds), expected[b - 1], 1e-9);
    EXPECT_NEAR(solved.centroids.back(), outermost[b - 1], 1e-6) << b;
  }
}

TEST(LloydMax, IsSymmetricToTheLastBitAndAscending) {
  for (int b = 1; b <= kMaxCodeBits; ++b) {
    const LloydMax solved = SolveLloydMax(b);
    const size_t n = solved.centroids.size();
    ASSERT_EQ(n, size_t{1} << b);
    ASSERT_EQ(solved.thresholds.size(), n - 1);
    EXPECT_EQ(solved.thresholds[n / 2 - 1], 0.0);
    for (size_t i = 0; i < n; ++i) {
      EXPECT_EQ(solved.centroids[i], -solved.centroids[n - 1 - i]);
      if (i + 1 < n) {
        EXPECT_LT(solved.centroids[i], solved.thresholds[i]);
        EXPECT_LT(solved.thresholds[i], solved.centroids[i + 1]);
        EXPECT_EQ(solved.thresholds[i], -solved.thresholds[n - 2 - i]);
      }
    }
  }
}

TEST(LloydMax, LosesLittleOnTheInt8Grid) {
  for (int b = 1; b <= 4; ++b) {
    const Int8Codebook book = SolveInt8Codebook(b);
    const size_t n = book.steps.size();
    ASSERT_EQ(n, size_t{1} << b);
    std::vector<double> centroids;
    for (size_t i = 0; i < n; ++i) {
      EXPECT_EQ(book.steps[i], -book.steps[n - 1 - i]);
      EXPECT_LE(std::abs(book.steps[i]), 127);
      centroids.push_back(static_cast<double>(book.unit) * book.steps[i]);
    }
    const LloydMax exact = SolveLloydMax(b);
    const double optimum = GaussianDistortion(exact.centroids, exact.thresholds);
    EXPECT_LT(IntegratedDistortion(centroids), optimum * 1.0006) << b;
  }
}

TEST(LloydMax, HasTheCodebooksOfTheFormat) {
  EXPECT_EQ(SolveInt8Codebook(2).steps, (std::vector<signed char>{-120, -36, 36, 120}));
  EXPECT_EQ(SolveInt8Codebook(3).steps,
            (std::vector<signed char>{-114, -71, -40, -13, 13, 40, 71, 114}));
  EXPECT_EQ(SolveInt8Codebook(4).steps,
            (std::vector<signed char>{-104, -79, -62, -48, -36, -25, -15, -5, 5, 15, 25, 36, 48, 62,
                                      79, 104}));
}

TEST(LloydMax, RefusesWidthsThereAreNone) {
  EXPECT_THROW(SolveLloydMax(0), Error);
  EXPECT_THROW(SolveLloydMax(9), Error);
  EXPECT_THROW(SolveInt8Codebook(5), Error);
}

TEST(LaneSum, AddsInTheOrderOfTheFormat) {
  std::vector<float> x = GaussianRow(96, 5);
  double exact = 0.0;
  for (const float value : x) exact += static_cast<double>(value) * value;
  EXPECT_NEAR(SquaredNorm(x.data(), 96), exact, 1e-5 * exact);
  const auto fold = [](const std::vector<float>& sums) {
    Lanes lanes;
    std::memcpy(lanes.part, sums.data(), sizeof lanes.part);
    return FoldLanes(lanes);
  };
  std::vector<float> kept(kSumLanes, 0.0f), lost(kSumLanes, 0.0f);
  kept[0] = 0x1p24f;
  kept[4] = -0x1p24f;  // meets lane 0 in the second fold
  kept[1] = 1.0f;
  EXPECT_EQ(fold(kept), 1.0f);
  lost[0] = 0x1p25f;
  lost[8] = 1.0f;  // swallowed in the first fold
  lost[4] = -0x1p25f;
  EXPECT_EQ(fold(lost), 0.0f);
}

TEST(PageMean, IsWithinHalfAStepOfTheExactMean) {
  for (const int d : {16, 80, 128, 1024}) {
    const int count = 100;
    const std::vector<float> rows = GaussianRow(count * d, 7);
    std::vector<float> mean(static_cast<size_t>(d)), stored(static_cast<size_t>(d));
    MeanOfRows(rows.data(), count, d, nullptr, mean.data());
    std::vector<std::byte> header(MeanBytes(d));
    StoreMean(mean.data(), d, header.data());
    LoadMean(header.data(), d, stored.data());
    float largest = 0.0f;
    for (const float value : mean) largest = std::max(largest, std::abs(value));
    for (int i = 0; i < d; ++i) {
      double exact = 0.0;
      for (int r = 0; r < count; ++r) exact += rows.data()[r * d + i];
      const size_t channel = static_cast<size_t>(i);
      EXPECT_NEAR(mean[channel], exact / count, 1e-6);
      EXPECT_NEAR(stored[channel], mean[channel], largest / 127.0f * 0.56f);
    }
  }
}

TEST(PageMean, LeavesOutMarkedRows) {
  const int d = 16, count = 70;
  std::vector<float> rows(static_cast<size_t>(count * d), 1.0f);
  uint64_t outside[2] = {};
  for (const int r : {0, 3, 63, 64, 69}) {
    outside[r / 64] |= uint64_t{1} << (r % 64);
    for (int i = 0; i < d; ++i) rows.data()[r * d + i] = 1e4f;
  }
  float mean[16];
  MeanOfRows(rows.data(), count, d, outside, mean);
  for (const float value : mean) EXPECT_NEAR(value, 1.0f, 1e-6f);
  outside[0] = outside[1] = ~uint64_t{0};
  MeanOfRows(rows.data(), count, d, outside, mean);
  for (const float value : mean) EXPECT_EQ(value, 0.0f);
}

TEST(PageMean, SurvivesTheEndsOfTheRange) {
  const float huge[16] = {kMaxHalf, -kMaxHalf, 1.0f, -1.0f};
  const float tiny[16] = {1e-9f, -1e-9f};
  const float zero[16] = {};
  for (const float* mean : {huge, tiny, zero}) {
    std::byte header[18];
    float stored[16];
    StoreMean(mean, 16, header);
    LoadMean(header, 16, stored);
    for (int i = 0; i < 16; ++i) {
      EXPECT_TRUE(std::isfinite(stored[i]));
      EXPECT_LE(std::abs(stored[i] - mean[i]), std::max(std::abs(mean[0]) / 127.0f * 0.56f, 1e-8f));
    }
  }
}

}  // namespace
}  // namespace polarquant
