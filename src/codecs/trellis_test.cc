// SPDX-License-Identifier: Apache-2.0
// The trellis: its windows, Viterbi's algorithm against exhaustive search, where the tables come
// from, distortion against known figures, golden records.
#include "codecs/trellis.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string>
#include <vector>

#include "codecs/codecs_testing.h"
#include "codecs/trellis_training.h"
#include "util/half.h"

namespace polarquant {
namespace {

using namespace codecs_testing;

std::string NameOf(int bits) { return "trellis" + std::to_string(bits); }

double ErrorOf(int bits, const std::vector<float>& levels, const std::vector<float>& x,
               const std::vector<uint8_t>& codes) {
  std::vector<uint8_t> states(x.size());
  StatesOf(bits, codes.data(), static_cast<int>(x.size()), states.data());
  std::vector<float> decoded;
  for (const uint8_t state : states) decoded.push_back(levels[state]);
  return SquaredError(x, decoded);
}

TEST(Trellis, TablesAreWhatTrainingGives) {
  for (int bits = 1; bits <= kMaxTrellisBits; ++bits) {
    const TrellisTable trained = TrainTrellis(bits);
    const TrellisTable& table = TrellisTableOf(bits);
    EXPECT_EQ(trained.unit, table.unit);
    EXPECT_TRUE(std::equal(trained.levels, trained.levels + kTrellisStates, table.levels)) << bits;
    for (int s = 0; s < kTrellisStates; ++s) {
      EXPECT_EQ(table.levels[s], -table.levels[kTrellisStates - 1 - s]);
    }
  }
}

TEST(Trellis, StatesAreWindowsOfTheBitsOfTheRecord) {
  std::mt19937_64 generator(31);
  for (int bits = 1; bits <= kMaxTrellisBits; ++bits) {
    for (const int head_dim : {16, 48, 80, 128, 512}) {
      std::vector<std::byte> record = Encode(NameOf(bits), GaussianRow(head_dim, generator));
      const uint16_t half = FloatToHalf(0.75f);
      std::copy_n(reinterpret_cast<const std::byte*>(&half), sizeof half, record.begin());
      const std::vector<float> row = Decode(NameOf(bits), record, head_dim);
      const int ring = head_dim * bits;
      for (int t = 0; t < head_dim; ++t) {
        int state = 0;
        for (int i = 0; i < kTrellisStateBits; ++i) {
          const int at = (t * bits + i) % ring;
          const std::byte byte = record[2 + static_cast<size_t>(at / 8)];
          state |= (std::to_integer<int>(byte) >> (at % 8) & 1) << i;
        }
        const TrellisTable& table = TrellisTableOf(bits);
        ASSERT_EQ(row[static_cast<size_t>(t)], 0.75f * table.unit * table.levels[state]);
      }
    }
  }
}

// 16 channels of one bit. The first pass settles the seven bits that the ends have in common; of
// the 512 rings with these bits the second one finds the best.
TEST(Trellis, FindsTheBestOfTheRingsWithItsEnds) {
  const TrellisTable& table = TrellisTableOf(1);
  const std::vector<float> levels(table.levels, table.levels + kTrellisStates);
  std::mt19937_64 generator(32);
  for (int trial = 0; trial < 100; ++trial) {
    std::vector<float> x = GaussianRow(16, generator);
    for (float& value : x) value /= table.unit;
    std::vector<uint8_t> codes(16);
    EncodeTrellis(1, levels.data(), x.data(), 16, codes.data());
    const double error = ErrorOf(1, levels, x, codes);
    for (int others = 0; others < 512; ++others) {
      for (size_t i = 0; i < 9; ++i) codes[7 + i] = static_cast<uint8_t>(others >> i & 1);
      ASSERT_GE(ErrorOf(1, levels, x, codes), error * (1.0 - 1e-5));
    }
  }
}

TEST(Trellis, MirrorsARow) {
  std::mt19937_64 generator(33);
  for (int bits = 1; bits <= kMaxTrellisBits; ++bits) {
    const std::vector<float> levels(TrellisTableOf(bits).levels,
                                    TrellisTableOf(bits).levels + kTrellisStates);
    for (int trial = 0; trial < 20; ++trial) {
      std::vector<float> row = GaussianRow(96, generator), mirrored;
      for (float& value : row) {
        value *= 40.0f;
        mirrored.push_back(-value);
      }
      std::vector<uint8_t> codes(96), others(96);
      EncodeTrellis(bits, levels.data(), row.data(), 96, codes.data());
      EncodeTrellis(bits, levels.data(), mirrored.data(), 96, others.data());
      const double error = ErrorOf(bits, levels, row, codes);
      EXPECT_NEAR(ErrorOf(bits, levels, mirrored, others), error, 1e-4 * error);
    }
  }
}

// The untrained table, 256 quantiles of N(0, 1) in any order, has known figures.
TEST(Trellis, HasTheKnownDistortionOfShuffledQuantiles) {
  constexpr double kKnown[] = {0.3065, 0.0880, 0.0269, 0.00835};
  std::mt19937_64 generator(34);
  std::vector<float> levels;
  for (int i = 0; i < kTrellisStates; ++i) {
    double low = -10.0, high = 10.0;
    for (int step = 0; step < 60; ++step) {
      const double middle = 0.5 * (low + high);
      (0.5 * std::erfc(-middle / std::sqrt(2.0)) < (i + 0.5) / kTrellisStates ? low : high) =
          middle;
    }
    levels.push_back(static_cast<float>(high));
  }
  for (int bits = 1; bits <= kMaxTrellisBits; ++bits) {
    double error = 0.0;
    constexpr int kRows = 240;
    for (int r = 0; r < kRows; ++r) {
      if (r % 40 == 0) std::shuffle(levels.begin(), levels.end(), generator);
      const std::vector<float> row = GaussianRow(128, generator);
      std::vector<uint8_t> codes(128);
      EncodeTrellis(bits, levels.data(), row.data(), 128, codes.data());
      error += ErrorOf(bits, levels, row, codes);
    }
    EXPECT_NEAR(error / kRows / 128 / kKnown[bits - 1], 1.0, 0.04) << bits;
  }
}

// Brackets: trellis codes of 65536 states, and the untrained table of 256.
TEST(Trellis, HasItsDistortionOnGaussianRows) {
  constexpr int kHeadDims[] = {64, 80, 96, 112, 128, 256};
  constexpr double kExpected[][6] = {{0.2844, 0.2846, 0.2847, 0.2959, 0.2850, 0.2864},
                                     {0.07701, 0.07743, 0.07816, 0.07787, 0.07882, 0.07976},
                                     {0.02019, 0.02044, 0.02071, 0.02029, 0.02102, 0.02158},
                                     {0.005155, 0.005229, 0.005340, 0.005195, 0.005452, 0.005665}};
  constexpr double kLowest[] = {0.2732, 0.0694, 0.0178, 0.00459};
  constexpr double kHighest[] = {0.3065, 0.0880, 0.0269, 0.00835};
  for (int bits = 1; bits <= kMaxTrellisBits; ++bits) {
    for (size_t d = 0; d < std::size(kHeadDims); ++d) {
      const double distortion = GaussianDistortionOf(NameOf(bits), kHeadDims[d], 60000, 35);
      EXPECT_NEAR(distortion / kExpected[bits - 1][d], 1.0, 0.02)
          << bits << " head_dim " << kHeadDims[d] << " " << distortion;
      EXPECT_GT(distortion, kLowest[bits - 1]) << bits;
      EXPECT_LT(distortion, kHighest[bits - 1]) << bits;
    }
  }
}

TEST(Trellis, WritesTheGoldenRecords) {
  EXPECT_EQ(Hex(Encode("trellis1", GoldenRow(32))), "bd3ce9e3b4c6");
  EXPECT_EQ(Hex(Encode("trellis2", GoldenRow(32))), "0e3c75afea6c67bcaab3");
  EXPECT_EQ(Hex(Encode("trellis3", GoldenRow(32))), "0a3d8027d370b512abca8786ab95");
  EXPECT_EQ(Hex(Encode("trellis4", GoldenRow(32))), "6e3cdc5441e4fb90d05bcb4d15dd7625eb6a");
}

}  // namespace
}  // namespace polarquant
