// SPDX-License-Identifier: Apache-2.0
// zscore2 ... zscore5: the published cosines, small chunks, constant channels, padding, and what
// pooling the statistics of heads would do.
#include <gtest/gtest.h>

#include <cmath>

#include "codecs/codecs_testing.h"
#include "polarquant/error.h"
#include "util/half.h"

namespace polarquant {
namespace {

using namespace codecs_testing;

constexpr const char* kCodecs[] = {"zscore2", "zscore3", "zscore4", "zscore5"};

TEST(ZScore, HasTheCosinesOfThePullRequestAndOfTheory) {
  constexpr double kLeast[] = {0.80, 0.95, 0.98, 0.99};
  constexpr double kTheory[] = {0.939, 0.983, 0.995, 0.9987};
  const std::vector<Row> rows = GaussianPage(256, 128, 1);
  for (size_t b = 0; b < std::size(kCodecs); ++b) {
    const PageSubject subject(kCodecs[b], 128, Role::kKey, 256);
    const std::vector<Row> decoded = subject.RoundTrip(rows);
    double sum = 0.0;
    for (size_t r = 0; r < rows.size(); ++r) {
      const double cosine =
          Dot(rows[r], decoded[r]) / std::sqrt(Dot(rows[r], rows[r]) * Dot(decoded[r], decoded[r]));
      EXPECT_GT(cosine, kLeast[b]) << kCodecs[b];
      sum += cosine;
    }
    EXPECT_NEAR(sum / 256, kTheory[b], 0.002) << kCodecs[b];
  }
}

// Error over variance, of all channels together.
double ChunkDistortion(const PageSubject& subject, int count, int head_dim) {
  double error = 0.0, energy = 0.0;
  for (int chunk = 0; chunk < 4096 / count; ++chunk) {
    const std::vector<Row> rows = GaussianPage(count, head_dim, static_cast<uint64_t>(chunk));
    const std::vector<Row> decoded = subject.RoundTrip(rows);
    for (size_t c = 0; c < static_cast<size_t>(head_dim); ++c) {
      double sum = 0.0, square = 0.0, off = 0.0;
      for (size_t r = 0; r < rows.size(); ++r) {
        const double x = rows[r][c];
        sum += x;
        square += x * x;
        off += std::pow(x - static_cast<double>(decoded[r][c]), 2);
      }
      error += off;
      energy += square - sum * sum / count;
    }
  }
  return error / energy;
}

TEST(ZScore, HasItsDistortionInChunksOfAnySize) {
  constexpr double kOfTwo[] = {0.11753, 0.03680, 0.009724, 0.001968};
  constexpr double kOfMany[] = {0.117482, 0.034548, 0.009501, 0.002505};
  for (size_t b = 0; b < std::size(kCodecs); ++b) {
    const PageSubject subject(kCodecs[b], 128);
    // Two opposite rows that bfloat16 holds: z is +-1 exactly, and y a binomial grid.
    double two = 0.0;
    for (uint64_t seed = 0; seed < 1000; ++seed) {
      std::vector<Row> pair = GaussianPage(2, 128, seed);
      for (size_t c = 0; c < 128; ++c) {
        pair[0][c] = Bfloat16ToFloat(FloatToBfloat16(pair[0][c]));
        pair[1][c] = -pair[0][c];
      }
      two += DistortionOf(pair, subject.RoundTrip(pair)) / 1000.0;
    }
    EXPECT_NEAR(two / kOfTwo[b], 1.0, 0.02) << kCodecs[b];
    EXPECT_NEAR(ChunkDistortion(subject, 16, 128) / kOfMany[b], 1.0, 0.02) << kCodecs[b];
    EXPECT_NEAR(ChunkDistortion(subject, 128, 128) / kOfMany[b], 1.0, 0.02) << kCodecs[b];
  }
}

TEST(ZScore, KeepsASingleRowAndConstantChannels) {
  for (const char* codec : kCodecs) {
    const PageSubject subject(codec, 128);
    std::vector<Row> rows = GaussianPage(1, 128, 3);
    Row decoded = subject.RoundTrip(rows).front();
    for (size_t c = 0; c < 128; ++c) {
      EXPECT_NEAR(decoded[c], rows[0][c], 0x1p-8f * std::abs(rows[0][c]));
    }
    const std::vector<Row> halves(1, Row(128, 1.5f));  // exact in bfloat16: nothing deviates
    EXPECT_EQ(subject.RoundTrip(halves), halves);
    EXPECT_EQ(subject.RoundTrip(std::vector<Row>(5, Row(128, 0.0f))),
              std::vector<Row>(5, Row(128, 0.0f)));

    rows = GaussianPage(64, 128, 4);
    for (Row& row : rows) {
      row[0] = -3.0f;
      row[7] = 100.1f;  // not a bfloat16
    }
    for (const Row& row : subject.RoundTrip(rows)) {
      EXPECT_EQ(row[0], -3.0f);
      EXPECT_NEAR(row[7], 100.1f, 100.1f * 0x1p-8f);
    }
  }
}

TEST(ZScore, BalancesChannelsAndTakesTheirMeans) {
  std::vector<Row> rows = GaussianPage(128, 64, 5);
  const PageSubject subject("zscore3", 64);
  const auto error = [&](size_t channel) {
    const std::vector<Row> decoded = subject.RoundTrip(rows);
    double sum = 0.0;
    for (size_t r = 0; r < rows.size(); ++r) {
      sum += std::pow(static_cast<double>(rows[r][channel]) - decoded[r][channel], 2);
    }
    return sum / 128.0;
  };
  for (Row& row : rows) {
    row[3] = 20.0f * row[3] + 130.0f;
    row[4] = 0.01f * row[4] - 0.1f;
  }
  EXPECT_NEAR(error(3) / 400.0 / 0.0345, 1.0, 0.5);
  EXPECT_NEAR(error(4) / 1e-4 / 0.0345, 1.0, 0.5);
}

// The pull request gives all heads of a call the same statistics.
TEST(ZScore, LosesItsBalanceWhenHeadsArePooled) {
  constexpr int kHeads = 4, kTokens = 32;
  const PageSubject subject("zscore3", 64);
  std::vector<std::vector<Row>> heads;
  std::vector<Row> pooled;
  for (int h = 0; h < kHeads; ++h) {
    heads.push_back(GaussianPage(kTokens, 64, 10 + static_cast<uint64_t>(h)));
    const Row scale = GaussianPage(1, 64, 20 + static_cast<uint64_t>(h)).front();
    for (Row& row : heads.back()) {
      for (size_t c = 0; c < row.size(); ++c) row[c] *= std::exp(1.5f * scale[c]);
    }
    pooled.insert(pooled.end(), heads.back().begin(), heads.back().end());
  }
  const Record shared = subject.Learn(pooled);
  // Errors in deviations of each channel of each head, which is what queries can see of it.
  const auto distortion = [&](bool pool) {
    double error = 0.0, energy = 0.0;
    for (const std::vector<Row>& rows : heads) {
      const Record own = subject.Learn(rows);
      Row square(64), off(64);
      for (const Row& row : rows) {
        const Row decoded = subject.RoundTrip(pool ? shared : own, row);
        for (size_t c = 0; c < 64; ++c) {
          square[c] += row[c] * row[c];
          off[c] += (row[c] - decoded[c]) * (row[c] - decoded[c]);
        }
      }
      for (size_t c = 0; c < 64; ++c) error += static_cast<double>(off[c] / square[c]);
      energy += 64.0;
    }
    return error / energy;
  };
  EXPECT_NEAR(distortion(false) / 0.0345, 1.0, 0.15);
  EXPECT_GT(distortion(true), 5.0 * distortion(false));
}

TEST(ZScore, PadsToAPowerOfTwo) {
  struct Padded {
    int head_dim;
    double plain[4], scaled[4];
  };
  const Padded table[] = {
      {96, {0.09567, 0.02812, 0.00775, 0.00205}, {0.09227, 0.02632, 0.00717, 0.00188}},
      {80, {0.08822, 0.02609, 0.00717, 0.00189}, {0.08082, 0.02231, 0.00601, 0.00157}}};
  for (const Padded& padded : table) {
    for (size_t b = 0; b < std::size(kCodecs); ++b) {
      const PageSubject plain(kCodecs[b], padded.head_dim);
      const PageSubject scaled(std::string(kCodecs[b]) + ":pad=scaled", padded.head_dim);
      EXPECT_EQ(plain.coder().record_bytes(), 16 * (b + 2));
      EXPECT_NEAR(ChunkDistortion(plain, 128, padded.head_dim) / padded.plain[b], 1.0, 0.02);
      EXPECT_NEAR(ChunkDistortion(scaled, 128, padded.head_dim) / padded.scaled[b], 1.0, 0.02);
    }
  }
}

TEST(ZScore, HasTheSizesOfTheFormat) {
  const PageSubject subject("zscore3", 128);
  EXPECT_EQ(subject.coder().header_bytes(), 512u);
  EXPECT_EQ(subject.coder().group_tokens(), 0);
  EXPECT_DOUBLE_EQ(subject.bits_per_value(), 3.0 + 32.0 / 128.0);
  EXPECT_THROW(Scheme::Parse("zscore6"), Error);
  EXPECT_THROW(Scheme::Parse("zscore1"), Error);
  EXPECT_THROW(Scheme::Parse("zscore3:center"), Error);
  EXPECT_THROW(Scheme::Parse("zscore3:axis=1"), Error);
  EXPECT_EQ(Scheme::Parse("zscore3:pad=plain").ToString(), "zscore3");
}

TEST(ZScore, BoundsRowsThatStrayFromTheStatistics) {
  const PageSubject subject("zscore4", 64);
  std::vector<Row> rows = GaussianPage(128, 64, 6);
  const Record header = subject.Learn(rows);
  Row stray = GaussianPage(1, 64, 7).front();
  stray[9] = 65504.0f;
  const Row decoded = subject.RoundTrip(header, stray);
  for (const float value : decoded) EXPECT_LT(std::abs(value), 25.0f);
  EXPECT_EQ(subject.Learn({}), subject.Learn({}));
  for (const float value : subject.RoundTrip(subject.Learn({}), stray)) {
    EXPECT_TRUE(std::isfinite(value));
  }
}

TEST(ZScore, WritesTheGoldenBytes) {
  const std::vector<Row> rows = {GoldenRow(16), Row(16, 1.0f), Row(16, -0.3f)};
  const PageSubject subject("zscore3", 16);
  const Record header = subject.Learn(rows);
  EXPECT_EQ(Hex(header),
            "debe3cbe893da23e113f513fb3becdbd1a3ecd3e263f663f89be89bc6f3ef73e"
            "9d3f6c3f2a3f083f1d3f593f903f543f1a3f093f2e3f713f833f3e3f0e3f103f");
  EXPECT_EQ(Hex(subject.Encode(header, rows[0])), "91c865e299a5");
  const PageSubject padded("zscore5:pad=scaled", 48);
  EXPECT_EQ(Hex(padded.Encode(padded.Learn({}), GoldenRow(48))),
            "4d497a16a18bee45e8de2fc0d5e85a6e51ba1625"
            "ed226a17a186ee4528d80f99a5e95a6851ba1620");
}

}  // namespace
}  // namespace polarquant
