// SPDX-License-Identifier: Apache-2.0
// The trellis: its windows, Viterbi's algorithm against exhaustive search, where the tables come
// from, distortion against known figures, golden records.
#include "codecs/trellis.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "codecs/codecs_testing.h"
#include "codecs/trellis_training.h"
#include "util/half.h"

namespace polarquant {
namespace {

using namespace codecs_testing;

std::string NameOf(int bits) { return "trellis" + std::to_string(bits); }

double ErrorOf(const Trellis& trellis, const std::vector<float>& x,
               const std::vector<uint8_t>& codes) {
  std::vector<uint16_t> states(x.size());
  StatesOf(trellis, codes.data(), static_cast<int>(x.size()), states.data());
  std::vector<float> decoded;
  for (const uint16_t state : states) decoded.push_back(trellis.levels[state]);
  return SquaredError(x, decoded);
}

// Its mean squared error on N(0, 1), without any scale. The sample is all quantiles in some order,
// which leaves less to chance than so many draws.
double PlainDistortion(const Trellis& trellis, int size, int rows, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<float> sample = NormalQuantiles(size * rows);
  std::shuffle(sample.begin(), sample.end(), generator);
  double error = 0.0;
  std::vector<uint8_t> codes(static_cast<size_t>(size));
  for (auto at = sample.begin(); at != sample.end(); at += size) {
    const std::vector<float> row(at, at + size);
    EncodeTrellis(trellis, row.data(), size, codes.data());
    error += ErrorOf(trellis, row, codes);
  }
  return error / rows / size;
}

TEST(Trellis, TablesAreWhatTrainingGives) {
  for (int bits = 1; bits <= kMaxTrellisBits; ++bits) {
    const TrellisTable trained = TrainTrellis(bits);
    const TrellisTable& table = TrellisTableOf(bits);
    EXPECT_EQ(trained.unit, table.unit);
    EXPECT_TRUE(std::equal(trained.levels, trained.levels + kTrainedStates, table.levels)) << bits;
    for (int s = 0; s < kTrainedStates; ++s) {
      EXPECT_EQ(table.levels[s], -table.levels[kTrainedStates - 1 - s]);
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
        for (int i = 0; i < kTrainedStateBits; ++i) {
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
  const std::vector<float> levels(table.levels, table.levels + kTrainedStates);
  const Trellis trellis = {1, kTrainedStateBits, levels.data()};
  std::mt19937_64 generator(32);
  for (int trial = 0; trial < 100; ++trial) {
    std::vector<float> x = GaussianRow(16, generator);
    for (float& value : x) value /= table.unit;
    std::vector<uint8_t> codes(16);
    EncodeTrellis(trellis, x.data(), 16, codes.data());
    const double error = ErrorOf(trellis, x, codes);
    for (int others = 0; others < 512; ++others) {
      for (size_t i = 0; i < 9; ++i) codes[7 + i] = static_cast<uint8_t>(others >> i & 1);
      ASSERT_GE(ErrorOf(trellis, x, codes), error * (1.0 - 1e-5));
    }
  }
}

TEST(Trellis, MirrorsARow) {
  std::mt19937_64 generator(33);
  for (int bits = 1; bits <= kMaxTrellisBits; ++bits) {
    const std::vector<float> levels(TrellisTableOf(bits).levels,
                                    TrellisTableOf(bits).levels + kTrainedStates);
    const Trellis trellis = {bits, kTrainedStateBits, levels.data()};
    for (int trial = 0; trial < 20; ++trial) {
      std::vector<float> row = GaussianRow(96, generator), mirrored;
      for (float& value : row) {
        value *= 40.0f;
        mirrored.push_back(-value);
      }
      std::vector<uint8_t> codes(96), others(96);
      EncodeTrellis(trellis, row.data(), 96, codes.data());
      EncodeTrellis(trellis, mirrored.data(), 96, others.data());
      const double error = ErrorOf(trellis, row, codes);
      EXPECT_NEAR(ErrorOf(trellis, mirrored, others), error, 1e-4 * error);
    }
  }
}

// The untrained table, 256 quantiles of N(0, 1) in any order, has known figures.
TEST(Trellis, HasTheKnownDistortionOfShuffledQuantiles) {
  constexpr double kKnown[] = {0.3065, 0.0880, 0.0269, 0.00835};
  std::mt19937_64 generator(34);
  std::vector<float> levels;
  for (int i = 0; i < kTrainedStates; ++i) {
    double low = -10.0, high = 10.0;
    for (int step = 0; step < 60; ++step) {
      const double middle = 0.5 * (low + high);
      (0.5 * std::erfc(-middle / std::sqrt(2.0)) < (i + 0.5) / kTrainedStates ? low : high) =
          middle;
    }
    levels.push_back(static_cast<float>(high));
  }
  for (int bits = 1; bits <= kMaxTrellisBits; ++bits) {
    double error = 0.0;
    constexpr int kRows = 1000;
    for (int r = 0; r < kRows; ++r) {
      if (r % 2 == 0) std::shuffle(levels.begin(), levels.end(), generator);
      const std::vector<float> row = GaussianRow(128, generator);
      std::vector<uint8_t> codes(128);
      EncodeTrellis({bits, kTrainedStateBits, levels.data()}, row.data(), 128, codes.data());
      error += ErrorOf({bits, kTrainedStateBits, levels.data()}, row, codes);
    }
    EXPECT_NEAR(error / kRows / 128 / kKnown[bits - 1], 1.0, 0.02) << bits;
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
      const double distortion =
          GaussianDistortionOf(NameOf(bits) + ":scale=mse", kHeadDims[d], 60000, 35);
      EXPECT_NEAR(distortion / kExpected[bits - 1][d], 1.0, 0.02)
          << bits << " head_dim " << kHeadDims[d] << " " << distortion;
      EXPECT_GT(distortion, kLowest[bits - 1]) << bits;
      EXPECT_LT(distortion, kHighest[bits - 1]) << bits;
    }
  }
}

// Blocks of 256, quantiles in many orders: these matter for few states, and with many bits. The
// sample is all quantiles, so its tails are there however few rows there are.
TEST(Trellis, HasThePublishedTable) {
  struct Known {
    int state_bits, rows, rows_an_order;
    double distortions[4], of_one_bit_with_gain;
  };
  for (const Known& known : {Known{8, 960, 2, {0.3058, 0.0873, 0.0265, 0.00829}, 0.3025},
                             Known{10, 480, 2, {0.2910, 0.0783, 0.0221, 0.00644}, 0.2886},
                             Known{12, 200, 10, {0.2819, 0.0734, 0.0197, 0.00541}, 0.2797},
                             Known{16, 64, 16, {0.2755, 0.0694, 0.0178, 0.00459}, 0.2732}}) {
    constexpr int kSize = 256;
    std::mt19937_64 generator(38);
    std::vector<float> sample = NormalQuantiles(kSize * known.rows);
    std::shuffle(sample.begin(), sample.end(), generator);
    SplitMix64 orders(39);
    for (int bits = 1; bits <= kMaxTrellisBits; ++bits) {
      std::vector<float> levels;
      double error = 0.0, with_gain = 0.0;
      for (int r = 0; r < known.rows; ++r) {
        if (r % known.rows_an_order == 0) levels = ShuffledQuantiles(known.state_bits, orders);
        const Row row(sample.begin() + r * kSize, sample.begin() + (r + 1) * kSize);
        const Trellis trellis = {bits, known.state_bits, levels.data()};
        std::vector<uint8_t> codes(kSize);
        std::vector<uint16_t> states(kSize);
        EncodeTrellis(trellis, row.data(), kSize, codes.data());
        StatesOf(trellis, codes.data(), kSize, states.data());
        Row decoded;
        for (const uint16_t state : states) decoded.push_back(levels[state]);
        error += SquaredError(row, decoded);
        with_gain += Dot(row, row) - std::pow(Dot(row, decoded), 2) / Dot(decoded, decoded);
      }
      const double values = static_cast<double>(sample.size());
      const double expected = known.distortions[bits - 1];
      EXPECT_NEAR(error / values / expected, 1.0, 0.02) << bits << " " << known.state_bits;
      if (bits > 1) continue;
      EXPECT_NEAR(with_gain / values / known.of_one_bit_with_gain, 1.0, 0.02) << known.state_bits;
    }
  }
}

// The encoder is exact, so this is about the codes: quantiles in blocks of 128, 1MAD in blocks of
// 256. The order of quantiles is worth 1.5 % for 2^10 states and less for more; 2^16 states are
// slow, and few rows leave some doubt.
TEST(Trellis, HasTheKnownDistortionsOfMoreStates) {
  struct Known {
    int state_bits, size, rows;
    double quantiles[4], computed[4];
    double tolerance;
  };
  for (const Known& known : {Known{10, 128, 600, {0.2927, 0.0789, 0.0225, 0.00646}, {}, 0.025},
                             Known{12, 128, 250, {0.2855, 0.0741, 0.0199, 0.00541}, {}, 0.02},
                             Known{8, 256, 960, {}, {0, 0.0871, 0.0261, 0.00789}, 0.02},
                             Known{10, 256, 600, {}, {0, 0.0787, 0.0219, 0.00629}, 0.025},
                             Known{12, 256, 120, {}, {0, 0.0752, 0.0200, 0.00557}, 0.02},
                             Known{16, 256, 12, {}, {0, 0, 0.0183, 0}, 0.04}}) {
    SplitMix64 generator(static_cast<uint64_t>(known.state_bits));
    const std::vector<float> quantiles = ShuffledQuantiles(known.state_bits, generator);
    std::vector<float> computed;
    for (uint32_t s = 0; s < quantiles.size(); ++s) computed.push_back(ComputedLevel(s));
    for (int bits = 1; bits <= kMaxTrellisBits; ++bits) {
      const auto check = [&](const std::vector<float>& levels, double expected) {
        if (expected == 0.0) return;
        const Trellis trellis = {bits, known.state_bits, levels.data()};
        const double distortion = PlainDistortion(trellis, known.size, known.rows, 36);
        EXPECT_NEAR(distortion / expected, 1.0, known.tolerance)
            << bits << " bits, 2^" << known.state_bits << " states: " << distortion;
      };
      check(quantiles, known.quantiles[bits - 1]);
      check(computed, known.computed[bits - 1]);
    }
  }
}

TEST(Trellis, ComputesLevelsOfUnitVariance) {
  double sum = 0.0, squares = 0.0;
  for (uint32_t s = 0; s < 65536; ++s) {
    sum += ComputedLevel(s);
    squares += static_cast<double>(ComputedLevel(s)) * ComputedLevel(s);
  }
  EXPECT_NEAR(sum / 65536, 0.0, 0.01);
  EXPECT_NEAR(squares / 65536, 1.0, 0.005);
}

// What the search for a step and its scale take off, and what states are worth.
TEST(Trellis, GainsFromMoreStates) {
  struct Expected {
    const char* scheme;
    int rows;
    double distortion;
  };
  for (const Expected& expected :
       {Expected{"trellis2:states=10", 100, 0.0760}, Expected{"trellis2:states=12", 50, 0.0714},
        Expected{"trellis2:states=16", 6, 0.0667}, Expected{"trellis3:states=10", 100, 0.0205},
        Expected{"trellis2:code=computed", 300, 0.0830},
        Expected{"trellis2:states=12:code=computed", 50, 0.0723}}) {
    const double distortion = GaussianDistortionOf(std::string(expected.scheme) + ":scale=mse", 128,
                                                   128 * expected.rows, 37);
    EXPECT_NEAR(distortion / expected.distortion, 1.0, 0.01)
        << expected.scheme << " " << distortion;
    EXPECT_DOUBLE_EQ(BitsPerValue(expected.scheme, 128), expected.scheme[7] - '0' + 0.125);
  }
}

TEST(Trellis, ClosesTheSmallestRings) {
  for (const auto& [scheme, head_dim, highest] : {std::tuple{"trellis1:states=16", 32, 0.42},
                                                  {"trellis2:states=16", 16, 0.16},
                                                  {"trellis3:states=12", 16, 0.03},
                                                  {"trellis4:states=12", 16, 0.008}}) {
    EXPECT_LT(QualityOf(std::string(scheme) + ":scale=mse", head_dim, 100).distortion, highest)
        << scheme;
  }
  EXPECT_TRUE(Takes("trellis1", 16));
  for (const auto& [scheme, head_dim] :
       {std::pair{"trellis1:states=10", 16}, {"trellis1:states=16", 112}}) {
    EXPECT_FALSE(Takes(scheme, head_dim)) << scheme;
  }
}

TEST(Trellis, WritesTheGoldenRecords) {
  EXPECT_EQ(Hex(Encode("trellis1:states=10:scale=mse", GoldenRow(32))), "ca3cc138afb8");
  EXPECT_EQ(Hex(Encode("trellis2:states=12:code=computed:scale=mse", GoldenRow(32))),
            "0b3dda6b31145a0c2c54");
  EXPECT_EQ(Hex(Encode("trellis3:states=16:scale=mse", GoldenRow(32))),
            "013ddcc901e461be3d7f5459660c");
  EXPECT_EQ(Hex(Encode("trellis1", GoldenRow(32))), "e63ee9e3b4c6");
  EXPECT_EQ(Hex(Encode("trellis2", GoldenRow(32))), "663c75afea6c67bcaab3");
  EXPECT_EQ(Hex(Encode("trellis3", GoldenRow(32))), "1f3d8027d370b512abca8786ab95");
  EXPECT_EQ(Hex(Encode("trellis4", GoldenRow(32))), "723cdc5441e4fb90d05bcb4d15dd7625eb6a");
  EXPECT_EQ(Hex(Encode("trellis1:scale=mse", GoldenRow(32))), "bd3ce9e3b4c6");
  EXPECT_EQ(Hex(Encode("trellis2:scale=mse", GoldenRow(32))), "0e3c75afea6c67bcaab3");
  EXPECT_EQ(Hex(Encode("trellis3:scale=mse", GoldenRow(32))), "0a3d8027d370b512abca8786ab95");
  EXPECT_EQ(Hex(Encode("trellis4:scale=mse", GoldenRow(32))),
            "6e3cdc5441e4fb90d05bcb4d15dd7625eb6a");
}

}  // namespace
}  // namespace polarquant
