// SPDX-License-Identifier: Apache-2.0
// turbo2_0, turbo3_0, turbo4_0: the fork's own bytes, its padding, and what its tables reach.
#include <gtest/gtest.h>

#include "codecs/codecs_testing.h"

namespace polarquant {
namespace {

using namespace codecs_testing;

Row Ramp(int head_dim) {
  Row row(static_cast<size_t>(head_dim));
  for (int i = 0; i < head_dim; ++i) {
    row[static_cast<size_t>(i)] = static_cast<float>(i) / 128.0f - 0.5f;
  }
  return row;
}

// Blocks that the fork's own encoder wrote for the ramp.
constexpr char kRamp2[] = "e142a964612e1d7a621799125c55a51635d554cea09ace6bf6112a66aeeec96e62cb";
constexpr char kRamp3[] =
    "b942038a961c7ba5c57b3265e9ee5ab86aaffdd90535d986a8664089588d97d9c593"
    "4e7472151a021c84b0bc7b0d57ff7ab5";
constexpr char kRamp4[] =
    "e2420000a6883228143bfa0ce526bd3e1b5a3f2793851b12e153637243db4a27241e"
    "55e46256ecf221a8cca7ecf1be3848ee1304a8293d38f9bcfbe8b6d1eb6c1c798fe2";

TEST(TurboBlocks, HaveTheBytesOfTheFork) {
  EXPECT_EQ(Hex(Encode("turbo2_0", Ramp(128))), kRamp2);
  EXPECT_EQ(Hex(Encode("turbo3_0", Ramp(128))), kRamp3);
  EXPECT_EQ(Hex(Encode("turbo4_0", Ramp(128))), kRamp4);
  const Row zeros(128, 0.0f);
  std::string middle;
  for (int i = 0; i < 32; ++i) middle += "aa";
  EXPECT_EQ(Hex(Encode("turbo2_0", zeros)), "0000" + middle);
  EXPECT_EQ(Hex(Encode("turbo3_0", zeros)), std::string(68, '0') + std::string(32, 'f'));
  EXPECT_EQ(Hex(Encode("turbo4_0", zeros)), std::string(8, '0') + std::string(128, '8'));
}

TEST(TurboBlocks, DecodeTheForksBlocksWithTheForksError) {
  const Row ramp = Ramp(128);
  const double energy = Dot(ramp, ramp);
  for (const auto& [codec, expected] :
       {std::pair{"turbo2_0", 0.117951}, std::pair{"turbo3_0", 0.029900},
        std::pair{"turbo4_0", 0.015607}}) {
    const Row decoded = RoundTrip(codec, ramp);
    double error = 0.0;
    for (size_t i = 0; i < ramp.size(); ++i) {
      error += std::pow(static_cast<double>(ramp[i]) - decoded[i], 2);
    }
    EXPECT_NEAR(error / energy, expected, 2e-5) << codec;
    EXPECT_NEAR(Dot(decoded, decoded) / energy, 1.0, 1.1e-3) << codec;  // norms are kept
  }
}

TEST(TurboBlocks, PadAHeadToWholeBlocks) {
  for (const auto& [head_dim, blocks] :
       {std::pair{16, 1u}, {64, 1u}, {80, 1u}, {128, 1u}, {192, 2u}, {576, 5u}, {1024, 8u}}) {
    EXPECT_EQ(Subject("turbo2_0", head_dim).record_bytes(), 34u * blocks);
    EXPECT_EQ(Subject("turbo3_0", head_dim).record_bytes(), 50u * blocks);
    EXPECT_EQ(Subject("turbo4_0", head_dim).record_bytes(), 68u * blocks);
  }
  for (const char* codec : {"turbo2_0", "turbo3_0", "turbo4_0"}) {
    Row padded = Ramp(64);
    const Record record = Encode(codec, padded);
    const Row decoded = RoundTrip(codec, padded);
    padded.resize(128, 0.0f);
    EXPECT_EQ(record, Encode(codec, padded)) << codec;
    Row whole = RoundTrip(codec, padded);
    whole.resize(64);
    EXPECT_EQ(decoded, whole) << codec;
  }
}

TEST(TurboBlocks, HaveThePublishedDistortions) {
  // Padding 64 to 128 gains nothing for its bits: half of a Hadamard matrix's columns make the
  // second half of the rotated block repeat the first, up to signs.
  struct Expected {
    const char* codec;
    double at_128, at_64, bits;
  };
  for (const Expected& expected :
       {Expected{"turbo2_0", 0.1189, 0.1159, 2.125}, Expected{"turbo3_0", 0.0338, 0.03276, 3.125},
        Expected{"turbo4_0", 0.0181, 0.01692, 4.25}}) {
    EXPECT_NEAR(QualityOf(expected.codec, 128).distortion / expected.at_128, 1.0, 0.02)
        << expected.codec;
    EXPECT_NEAR(QualityOf(expected.codec, 64).distortion / expected.at_64, 1.0, 0.02)
        << expected.codec;
    EXPECT_DOUBLE_EQ(BitsPerValue(expected.codec, 128), expected.bits);
    EXPECT_DOUBLE_EQ(BitsPerValue(expected.codec, 64), 2.0 * expected.bits);
  }
}

TEST(TurboBlocks, HaveARightTableToo) {
  EXPECT_NEAR(QualityOf("turbo4_0:table=lloyd", 128).distortion / 0.00919, 1.0, 0.02);
  EXPECT_LT(QualityOf("turbo4_0:table=lloyd", 64).distortion, 0.0093);
  EXPECT_DOUBLE_EQ(BitsPerValue("turbo4_0:table=lloyd", 128), 4.25);
  EXPECT_THROW(Scheme::Parse("turbo3_0:table=lloyd"), Error);
  EXPECT_EQ(Hex(Encode("turbo4_0:table=lloyd", Ramp(128))),
            "7f42000097884448355ae91bc637ab5d2a694d4795863a24c365747454b95947452c"
            "66d57367cbe33298ab97daf3ac4858cd252598395b48d9aafac8a7b3ca7a3a798fc4");
}

}  // namespace
}  // namespace polarquant
