// SPDX-License-Identifier: Apache-2.0
#include "cold_coding.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace polarquant::cli {
namespace {

TEST(Histogram, KnowsTheEntropyOfAFairAndOfALoadedCoin) {
  const std::byte fair[] = {std::byte{0b01010101}};
  Histogram even;
  even.AddPacked(fair, 1, 8);
  EXPECT_DOUBLE_EQ(even.entropy_bits(), 1);
  const std::byte loaded[] = {std::byte{0b00010001}};
  Histogram uneven;
  uneven.AddPacked(loaded, 1, 8);
  EXPECT_NEAR(uneven.entropy_bits(), 0.25 * 2 + 0.75 * std::log2(4.0 / 3), 1e-12);
}

TEST(Histogram, ReadsCodesAcrossBytes) {
  // 3-bit codes 0 to 7 in turn, least significant bit first.
  const std::byte bytes[] = {std::byte{0x88}, std::byte{0xc6}, std::byte{0xfa}};
  Histogram codes;
  codes.AddPacked(bytes, 3, 8);
  EXPECT_DOUBLE_EQ(codes.entropy_bits(), 3);
}

TEST(Histogram, OneByteOverAndOverHasNoEntropy) {
  Histogram same;
  same.AddBytes(std::vector<std::byte>(100, std::byte{7}));
  EXPECT_EQ(same.entropy_bits(), 0);
}

TEST(Zstd, NeverClaimsMoreThanItGives) {
  std::mt19937 random(1);
  std::vector<std::byte> noise(10000);
  for (std::byte& byte : noise) byte = static_cast<std::byte>(random() & 0xff);
  EXPECT_GE(ZstdBytes(noise), noise.size());
  EXPECT_LT(ZstdBytes(std::vector<std::byte>(10000)), 100u);
  EXPECT_GT(ZstdBytes({}), 0u);  // a frame has a header
}

}  // namespace
}  // namespace polarquant::cli
