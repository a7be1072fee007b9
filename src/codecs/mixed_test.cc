// SPDX-License-Identifier: Apache-2.0
// mixed2 ... mixed4 and turbo2s8 ... turbo4s8: codecs that learn from the page.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "codecs/codecs_testing.h"

namespace polarquant {
namespace {

using namespace codecs_testing;

constexpr int kHeadDim = 64;
constexpr int kPageTokens = 128;

struct Page {
  std::vector<float> rows;  // [kPageTokens][kHeadDim]
  Row RowAt(int index) const {
    return Row(rows.begin() + index * kHeadDim, rows.begin() + (index + 1) * kHeadDim);
  }
};

// Channel i has the deviation of(i).
template <typename Deviation>
Page PageOf(uint64_t seed, const Deviation& of) {
  GaussianRows gaussian(kHeadDim, seed);
  Page page;
  for (int r = 0; r < kPageTokens; ++r) {
    const Row row = gaussian.Next();
    for (int i = 0; i < kHeadDim; ++i) page.rows.push_back(row[static_cast<size_t>(i)] * of(i));
  }
  return page;
}

// A codec that has seen the page.
struct Learned {
  std::unique_ptr<const Coder> coder;
  Record header;

  Learned(std::string_view scheme, const Page& page)
      : coder(MakeCoder(Scheme::Parse(scheme), {kHeadDim, kPageTokens})),
        header(coder->header_bytes()) {
    coder->Learn(page.rows.data(), static_cast<int>(page.rows.size()) / kHeadDim, header.data());
  }
  Record Encode(const Row& row) const {
    Record record(coder->record_bytes(), std::byte{0xa5});
    coder->Encode(header.data(), row.data(), record.data());
    return record;
  }
  Row RoundTrip(const Row& row) const {
    Row decoded(row.size());
    coder->Decode(header.data(), Encode(row).data(), decoded.data());
    return decoded;
  }
  double Distortion(const Page& page) const {
    double error = 0, energy = 0;
    for (int r = 0; r < kPageTokens; ++r) {
      const Row row = page.RowAt(r);
      error += SquaredError(row, RoundTrip(row));
      energy += Dot(row, row);
    }
    return error / energy;
  }
};

float Even(int) { return 1.0f; }
float Falling(int channel) { return std::exp2(-static_cast<float>(channel) / 12.0f); }

TEST(Mixed, OnEvenChannelsItIsTurbo) {
  for (const auto& [mixed, turbo] : {std::pair("mixed2", "turbo2"), std::pair("mixed3", "turbo3"),
                                     std::pair("mixed4", "turbo4")}) {
    for (const char* rule : {":scale=mse", ""}) {
      const Page page = PageOf(1, Even);
      const std::string scheme = std::string(mixed) + rule;
      const double ratio =
          Learned(scheme, page).Distortion(page) / Learned(turbo, page).Distortion(page);
      EXPECT_GT(ratio, 0.85) << scheme;
      EXPECT_LT(ratio, 1.15) << scheme;
    }
  }
}

// Deviations over five octaves: the ideal gain, arithmetic over geometric mean of the variances, is
// 15 dB; blocks, whole bits and the least of 0 bits leave two thirds of it.
TEST(Mixed, OnUnevenChannelsItGainsSixDecibelsAndMore) {
  const Page page = PageOf(2, Falling);
  for (const auto& [mixed, turbo] : {std::pair("mixed2", "turbo2"), std::pair("mixed3", "turbo3"),
                                     std::pair("mixed4", "turbo4")}) {
    const double gain =
        Learned(turbo, page).Distortion(page) / Learned(mixed, page).Distortion(page);
    EXPECT_GT(10 * std::log10(gain), 6.0) << mixed;
  }
}

// Balanced rows: noise is weighed by the energy of the queries there, so the strong channels get
// still more, at the price of the plain error.
TEST(Mixed, BalancedRowsPreferWhereQueriesAre) {
  const Page page = PageOf(3, Falling);
  const auto weighed = [&](const char* scheme) {
    const Learned learned(scheme, page);
    double sum = 0;
    for (int r = 0; r < kPageTokens; ++r) {
      const Row row = page.RowAt(r), decoded = learned.RoundTrip(row);
      for (int i = 0; i < kHeadDim; ++i) {
        const double error = static_cast<double>(row[static_cast<size_t>(i)]) -
                             static_cast<double>(decoded[static_cast<size_t>(i)]);
        sum += error * error * Falling(i) * Falling(i);
      }
    }
    return sum;
  };
  EXPECT_LT(weighed("mixed2:balanced"), 0.9 * weighed("mixed2"));
}

TEST(Mixed, RecordsHaveTheBitsTheyClaim) {
  const Page page = PageOf(4, Falling);
  EXPECT_EQ(Learned("mixed2", page).coder->record_bytes(), 2u + 16);
  EXPECT_EQ(Learned("mixed2.5", page).coder->record_bytes(), 2u + 20);
  EXPECT_EQ(Learned("mixed3", page).coder->record_bytes(), 2u + 24);
  EXPECT_EQ(Learned("mixed4", page).coder->record_bytes(), 2u + 32);
  EXPECT_EQ(Learned("mixed4", page).coder->header_bytes(), 24u + 12);
}

TEST(Mixed, PagesThatTeachNothing) {
  const Page zeros = {std::vector<float>(kPageTokens * kHeadDim)};
  GaussianRows gaussian(kHeadDim, 5);
  const Row row = gaussian.Next();
  for (const Page& page : {zeros, Page()}) {
    const Learned learned("mixed3", page);
    EXPECT_EQ(learned.RoundTrip(Row(kHeadDim)), Row(kHeadDim));
    EXPECT_LT(SquaredError(row, learned.RoundTrip(row)), 0.06 * Dot(row, row));
  }
}

TEST(Mixed, DamagedHeadersDecodeToZeros) {
  const Page page = PageOf(9, Falling);
  Learned learned("mixed2", page);
  const Row row = page.RowAt(0);
  for (const uint8_t damage : {uint8_t{0x07}, uint8_t{0xff}, uint8_t{0x01}}) {
    Learned damaged("mixed2", page);
    damaged.header[0] ^= std::byte{damage};  // a class of 15 or 17 channels, or a width of 7
    EXPECT_EQ(damaged.RoundTrip(row), Row(kHeadDim)) << int{damage};
  }
  std::fill_n(learned.header.begin(), 24, std::byte{0xb6});  // 6 bits for every channel
  EXPECT_EQ(learned.RoundTrip(row), Row(kHeadDim));
}

TEST(Mixed, GoldenBytes) {
  Page page;
  for (int r = 0; r < 4; ++r) {
    for (int i = 0; i < kHeadDim; ++i) {
      page.rows.push_back(static_cast<float>((3 * i + 5 * r) % 17 - 8) * (i < 16 ? 1.0f : 0.125f));
    }
  }
  const Learned learned("mixed2", page);
  EXPECT_EQ(Hex(learned.header),
            "6ddbb66ddbb64992244992244992244992244992244992240130003c003c003c003c003c");
  EXPECT_EQ(Hex(learned.Encode(page.RowAt(0))), "f044e0a5e03cdb8fae6e3d193656b19c676c");
}

// Under the least-squares scale a row's error is at right angles to its code, so that of the scale
// adds: (2^(1/64) - 1)^2 / 3.
TEST(ByteScales, LoseNextToNothing) {
  for (int bits = 2; bits <= 4; ++bits) {
    const std::string turbo = "turbo" + std::to_string(bits);
    double added = 0;
    for (uint64_t seed = 0; seed < 8; ++seed) {
      const Page page = PageOf(100 + seed, Even);
      const Learned plain(turbo + ":scale=mse", page), bytes(turbo + "s8:scale=mse", page);
      added += (bytes.Distortion(page) - plain.Distortion(page)) / 8;
    }
    EXPECT_NEAR(added, 0.00004, 0.00001) << bits;
  }
}

TEST(ByteScales, HoldRowsFarFromThePagesOwn) {
  const Page page = PageOf(7, Even);
  const Learned learned("turbo4s8", page);
  const Row row = page.RowAt(3);
  for (const float factor : {1.5f, 1.0f, 0.1f, 0.02f}) {
    Row scaled = row;
    for (float& value : scaled) value *= factor;
    EXPECT_LT(SquaredError(scaled, learned.RoundTrip(scaled)), 0.015 * Dot(scaled, scaled))
        << factor;
  }
  EXPECT_EQ(learned.RoundTrip(Row(kHeadDim)), Row(kHeadDim));
}

TEST(ByteScales, ARecordIsAByteShorter) {
  const Page page = PageOf(8, Even);
  EXPECT_EQ(Learned("turbo4s8", page).coder->record_bytes(), 1u + 32);
  EXPECT_EQ(Learned("turbo4s8", page).coder->header_bytes(), 2u);
  EXPECT_EQ(
      Hex(Learned("turbo4s8", page).Encode(Row(kHeadDim))), "00" + [] {
        std::string middle;
        for (int i = 0; i < 32; ++i) middle += "88";
        return middle;
      }());
}

}  // namespace
}  // namespace polarquant
