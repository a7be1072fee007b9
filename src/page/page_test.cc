// SPDX-License-Identifier: Apache-2.0
// Pages of every scheme: bytes, round trips, statistics, and how good they are.
#include "polarquant/page.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "codecs/codec.h"
#include "codecs/codecs_testing.h"
#include "math/rotation.h"
#include "page/page_testing.h"
#include "polarquant/error.h"
#include "util/half.h"

namespace polarquant {
namespace {

std::vector<float> RoundTrip(const PageFormat& format, const std::vector<float>& rows) {
  const int count = static_cast<int>(rows.size()) / format.head_dim();
  PageBytes page(format);
  format.EncodePage(rows.data(), count, page.get());
  std::vector<float> decoded(rows.size());
  format.DecodePage(page.get(), count, decoded.data());
  return decoded;
}

void CopyHeaders(const PageFormat& format, const PageBytes& from, PageBytes& to) {
  std::memcpy(to.get() + format.header_offset(), from.get() + format.header_offset(),
              format.headers_bytes());
}

TEST(PageFormat, HasTheSizesOfTheFormat) {
  const PageFormat plain(Scheme::Parse("turbo4"), Role::kKey, 128);
  EXPECT_EQ(plain.record_bytes(), 66u);
  EXPECT_EQ(plain.scales_offset(), 128u * 64);
  EXPECT_EQ(plain.header_offset(), 128u * 66);
  EXPECT_EQ(plain.header_bytes(), 0u);
  EXPECT_EQ(plain.page_bytes(), 128u * 66);
  EXPECT_DOUBLE_EQ(plain.bits_per_value(), 4.125);
  EXPECT_TRUE(plain.tiled());
  EXPECT_EQ(plain.code_bits(), 4);
  EXPECT_EQ(plain.scale_blocks(), 1);

  const PageFormat centred(Scheme::Parse("turbo4:center"), Role::kKey, 64);
  EXPECT_EQ(centred.header_offset(), 128u * 34);
  EXPECT_EQ(centred.header_bytes(), 66u);
  EXPECT_EQ(centred.page_bytes(), 128u * 34 + 128);  // 66 bytes, rounded up to 64s
  EXPECT_DOUBLE_EQ(centred.bits_per_value(), 4.375);

  const PageFormat split(Scheme::Parse("turbo3"), Role::kValue, 112, 256);
  EXPECT_EQ(split.scale_blocks(), 2);
  EXPECT_EQ(split.record_bytes(), 46u);
  EXPECT_EQ(split.scales_offset(), 256u * 42);

  const PageFormat blocks(Scheme::Parse("q4_0"), Role::kValue, 64, 64);
  EXPECT_FALSE(blocks.tiled());
  EXPECT_EQ(blocks.page_bytes(), 64u * 36);
  EXPECT_DOUBLE_EQ(PageFormat(Scheme::Parse("q8_0"), Role::kKey, 128).bits_per_value(), 8.5);
}

TEST(PageFormat, CountsWholeVectorsOfSixtyFourBytes) {
  ForEveryFormat({16, 32, 64, 80, 112, 128, 576}, [](const PageFormat& format) {
    EXPECT_EQ(format.page_bytes() % 64, 0u);
    EXPECT_GE(format.page_bytes(), format.header_offset() + format.headers_bytes());
    EXPECT_LT(format.page_bytes(), format.header_offset() + format.headers_bytes() + 64);
    const size_t rows = static_cast<size_t>(format.page_tokens());
    EXPECT_EQ(format.header_offset(), rows * format.record_bytes());
  });
}

std::string Refusal(const std::string& scheme, int head_dim, int page_tokens) {
  try {
    PageFormat(Scheme::Parse(scheme), Role::kKey, head_dim, page_tokens);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    return error.what();
  }
  return "";
}

TEST(PageFormat, RefusesWhatItCannotHold) {
  for (const int head_dim : {0, 8, 24, 72, 1040}) {
    const std::string message = Refusal("turbo4", head_dim, 128);
    EXPECT_NE(message.find(std::to_string(head_dim)), std::string::npos) << message;
  }
  for (const int page_tokens : {0, 1, 63, 96, 512, -128}) {
    const std::string message = Refusal("turbo4", 64, page_tokens);
    EXPECT_NE(message.find(std::to_string(page_tokens)), std::string::npos) << message;
    EXPECT_NE(message.find("64, 128 or 256"), std::string::npos) << message;
  }
  EXPECT_NE(Refusal("q8_0", 80, 128).find("multiple of 32"), std::string::npos);
  EXPECT_NE(Refusal("q4_0:center", 112, 128).find("multiple of 32"), std::string::npos);
  Scheme impossible;  // f16 rows are never rotated
  impossible.rotate = true;
  EXPECT_THROW(PageFormat(impossible, Role::kKey, 64), Error);
  impossible = Scheme();
  impossible.normalisation.center = true;
  EXPECT_THROW(PageFormat(impossible, Role::kKey, 64), Error);
  impossible = Scheme();
  impossible.codec = "turbo";
  EXPECT_THROW(PageFormat(impossible, Role::kKey, 64), Error);
}

TEST(PageFormat, RefusesRolesTheCodecDoesNotStore) {
  for (const CodecInfo& info : Codecs()) {
    const Scheme scheme = Scheme::Parse(info.name);
    for (const Role role : {Role::kKey, Role::kValue}) {
      if (Stores(scheme, role)) {
        EXPECT_EQ(PageFormat(scheme, role, 64).role(), role) << info.name;
        continue;
      }
      try {
        PageFormat(scheme, role, 64);
        FAIL() << info.name;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
        const std::string message = error.what();
        EXPECT_NE(message.find(std::string(info.name)), std::string::npos) << message;
        EXPECT_NE(message.find(role == Role::kKey ? "keys" : "values"), std::string::npos);
      }
    }
  }
  EXPECT_FALSE(Stores(Scheme::Parse("qjl"), Role::kValue));
}

// Measured over 400 pages of Gaussian rows; turbo_test holds these to theory and to exhaustive
// search. Columns as kTestedHeadDims.
constexpr int kTestedHeadDims[] = {64, 80, 96, 112, 128, 256};
struct ExpectedError {
  const char* codec;
  double by_head_dim[6];
};
constexpr ExpectedError kExpected[] = {
    {"f16", {4.31e-08, 4.31e-08, 4.31e-08, 4.31e-08, 4.31e-08, 4.31e-08}},
    {"bf16", {2.76e-06, 2.76e-06, 2.76e-06, 2.76e-06, 2.76e-06, 2.76e-06}},
    {"q8_0", {2.862e-05, 0.0, 2.866e-05, 0.0, 2.864e-05, 2.861e-05}},
    {"q4_0", {0.007374, 0.0, 0.007386, 0.0, 0.00738, 0.00737}},
    {"turbo1", {0.3577, 0.3585, 0.3599, 0.3568, 0.3603, 0.3619}},
    {"turbo2", {0.1111, 0.1123, 0.1133, 0.1103, 0.1142, 0.1158}},
    {"turbo3", {0.02943, 0.03029, 0.03094, 0.02945, 0.03173, 0.03298}},
    {"turbo4", {0.007008, 0.007316, 0.007557, 0.007167, 0.007891, 0.008528}},
    {"turbo5", {0.001746, 0.001818, 0.001877, 0.001782, 0.001958, 0.002126}},
    {"turbo6", {0.0004551, 0.0004733, 0.0004875, 0.0004622, 0.0005076, 0.0005473}},
    {"turbo7", {0.0001148, 0.0001195, 0.0001233, 0.0001168, 0.0001284, 0.0001389}},
    {"turbo8", {2.9e-05, 3.017e-05, 3.113e-05, 2.944e-05, 3.243e-05, 3.51e-05}}};

TEST(EveryCodec, HasItsDistortionAtEveryHeadDimAndRole) {
  for (const ExpectedError& expected : kExpected) {
    for (size_t d = 0; d < std::size(kTestedHeadDims); ++d) {
      const int head_dim = kTestedHeadDims[d];
      if (!codecs_testing::Takes(expected.codec, head_dim)) continue;
      for (const Role role : {Role::kKey, Role::kValue}) {
        Scheme scheme = Scheme::Parse(expected.codec);
        if (FindCodec(expected.codec).info.scale_rules) scheme.scale_rule = ScaleRule::kMse;
        const PageFormat format(scheme, role, head_dim);
        double sum = 0.0;
        constexpr int kPages = 24;
        for (int p = 0; p < kPages; ++p) {
          const uint64_t seed = 1000 + static_cast<uint64_t>(p) + (role == Role::kKey ? 0 : 500);
          const std::vector<float> rows = GaussianRows(128, head_dim, seed);
          sum += MeanError(rows, RoundTrip(format, rows), head_dim);
        }
        EXPECT_NEAR(sum / kPages / expected.by_head_dim[d], 1.0, 0.02)
            << expected.codec << " head_dim " << head_dim;
      }
    }
  }
}

TEST(EveryCodec, KeepsItsDistortionOnUnevenChannels) {
  for (const int head_dim : {64, 80, 96, 128}) {
    for (const int bits : {2, 3, 4}) {
      const std::string codec = "turbo" + std::to_string(bits);
      const PageFormat format(Scheme::Parse(codec), Role::kKey, head_dim);
      const std::vector<float> plain = GaussianRows(128, head_dim, 1);
      const double even = MeanError(plain, RoundTrip(format, plain), head_dim);
      std::mt19937_64 generator(2);
      std::normal_distribution<float> normal;
      for (const bool outlier : {false, true}) {
        std::vector<float> deviation(static_cast<size_t>(head_dim), 1.0f);
        if (outlier) {
          deviation[5] = 30.0f;
        } else {
          for (float& value : deviation) value = std::exp(normal(generator));
        }
        std::vector<float> rows = plain;
        for (size_t i = 0; i < rows.size(); ++i) {
          rows[i] *= deviation[i % static_cast<size_t>(head_dim)];
        }
        const double uneven = MeanError(rows, RoundTrip(format, rows), head_dim);
        EXPECT_LT(uneven, 1.12 * even) << codec << " head_dim " << head_dim;
        // One loud channel gives coordinates of nearly one size: easier, most of all at 2 bits.
        EXPECT_GT(uneven, 0.45 * even) << codec << " head_dim " << head_dim;
      }
    }
  }
}

TEST(EveryScheme, DecodesAlikeInBothRoles) {
  for (const std::string& text : Schemes()) {
    const Scheme scheme = Scheme::Parse(text);
    if (!Stores(scheme, Role::kKey) || !Stores(scheme, Role::kValue)) continue;
    for (const int head_dim : {64, 96, 128}) {
      const PageFormat keys(scheme, Role::kKey, head_dim), values(scheme, Role::kValue, head_dim);
      if (keys.record_bytes() != values.record_bytes()) continue;  // roles of different kinds
      const std::vector<float> rows = GaussianRows(128, head_dim, 3);
      EXPECT_EQ(RoundTrip(keys, rows), RoundTrip(values, rows)) << text;
    }
  }
}

// The whole page goes through the kernels of this CPU, the row through the codec's own code.
TEST(EveryScheme, EncodesARowAsItEncodesThePage) {
  ForEveryFormat({16, 32, 64, 80, 96, 112, 128, 256}, [](const PageFormat& format) {
    const std::vector<float> rows = GaussianRows(format.page_tokens(), format.head_dim(), 4);
    PageBytes page(format), patched(format);
    format.EncodePage(rows.data(), format.page_tokens(), page.get());
    const std::vector<float> others(rows.size(), 1.0f);
    format.EncodePage(others.data(), format.page_tokens(), patched.get());
    CopyHeaders(format, page, patched);
    for (int r = 0; r < format.page_tokens(); ++r) {
      format.EncodeRow(patched.get(), r, rows.data() + r * format.head_dim());
    }
    EXPECT_TRUE(page == patched);
  });
}

TEST(EveryScheme, DecodesARowAsItDecodesThePage) {
  ForEveryFormat({32, 80, 112, 128}, [](const PageFormat& format) {
    const int head_dim = format.head_dim();
    const std::vector<float> rows = GaussianRows(100, head_dim, 5);
    PageBytes page(format);
    format.EncodePage(rows.data(), 100, page.get());
    std::vector<float> all(rows.size()), codes(rows.size()), row(static_cast<size_t>(head_dim));
    std::vector<float> mean(row.size(), 0.0f);
    format.DecodePage(page.get(), 100, all.data());
    format.DecodeCodes(page.get(), 100, codes.data());
    const bool centred = format.scheme().normalisation.center;
    EXPECT_EQ(format.Mean(page.get(), mean.data()), centred);
    for (int r = 0; r < 100; ++r) {
      const float* expected = all.data() + r * head_dim;
      format.DecodeRow(page.get(), r, row.data());
      EXPECT_TRUE(std::equal(row.begin(), row.end(), expected));
      std::copy_n(codes.data() + r * head_dim, head_dim, row.data());
      if (format.scheme().rotate) Unrotate(row.data(), head_dim);
      for (size_t i = 0; i < row.size(); ++i) row[i] += mean[i];
      EXPECT_TRUE(std::equal(row.begin(), row.end(), expected));
    }
  });
}

TEST(EveryScheme, MovesRecordsBitExactly) {
  ForEveryFormat({32, 80, 112, 128}, [](const PageFormat& format) {
    const std::vector<float> rows = GaussianRows(format.page_tokens(), format.head_dim(), 6);
    PageBytes page(format), copy(format);
    format.EncodePage(rows.data(), format.page_tokens(), page.get());
    format.EncodePage(rows.data(), 0, copy.get());
    CopyHeaders(format, page, copy);
    std::vector<std::byte> record(format.record_bytes() + 1, std::byte{0x5a});
    for (int r = format.page_tokens() - 1; r >= 0; --r) {
      format.ReadRecord(page.get(), r, record.data());
      format.WriteRecord(copy.get(), r, record.data());
    }
    EXPECT_EQ(record.back(), std::byte{0x5a});
    EXPECT_TRUE(page == copy);
  });
}

TEST(EveryScheme, WritesTheSameBytesWhateverThePageHeld) {
  ForEveryFormat({32, 80, 112}, [](const PageFormat& format) {
    const std::vector<float> rows = GaussianRows(format.page_tokens(), format.head_dim(), 7);
    for (const int count : {0, 1, 63, 64, 65, format.page_tokens()}) {
      PageBytes first(format), second(format);
      std::memset(second.get(), 0xff, format.page_bytes());
      format.EncodePage(rows.data(), count, first.get());
      format.EncodePage(rows.data(), count, second.get());
      EXPECT_TRUE(first == second) << count;
      // Rows past the count are encoded zeros: the record of a zero row without a mean.
      if (count == format.page_tokens() || format.header_bytes() != 0) continue;
      const std::vector<float> zeros(static_cast<size_t>(format.head_dim()), 0.0f);
      format.EncodeRow(second.get(), format.page_tokens() - 1, zeros.data());
      EXPECT_TRUE(first == second) << count;
    }
  });
}

TEST(EveryScheme, SurvivesUglyInput) {
  const float ugly[] = {kNan,  kInfinity, -kInfinity, 1e38f, -1e38f, 0.0f,
                        -0.0f, 1e-40f,    65504.0f,   1.0f,  -1e-7f, 65519.0f};
  ForEveryFormat({16, 32, 80, 96, 128}, [&](const PageFormat& format) {
    const int head_dim = format.head_dim(), count = format.page_tokens();
    std::mt19937 generator(8);
    for (int trial = 0; trial < 4; ++trial) {
      std::vector<float> rows = GaussianRows(count, head_dim, 9);
      for (float& value : rows) {
        const bool replace = trial == 3 || generator() % (trial == 2 ? 2 : 50) == 0;
        if (replace) value = trial == 3 ? kNan : ugly[generator() % std::size(ugly)];
      }
      for (const float value : RoundTrip(format, rows)) {
        ASSERT_TRUE(std::isfinite(value));
        if (trial == 3) {
          ASSERT_EQ(value, 0.0f);  // NaN counts as 0
        }
      }
    }
  });
}

TEST(EveryScheme, StaysFiniteWithStatisticsOfNoRowsAndOfOthers) {
  ForEveryFormat({16, 80, 128}, [](const PageFormat& format) {
    const int head_dim = format.head_dim(), count = format.page_tokens();
    const uint64_t all[4] = {~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0}};
    for (const float size : {1e-38f, 1e-6f, 1.0f, 1e6f}) {
      std::vector<float> rows = GaussianRows(count, head_dim, 17), decoded(rows.size());
      for (float& value : rows) value *= size;
      const auto expect_finite = [&](const PageBytes& page) {
        format.DecodePage(page.get(), count, decoded.data());
        for (const float value : decoded) ASSERT_TRUE(std::isfinite(value)) << size;
      };
      PageBytes outside(format), patched(format);
      format.EncodePage(rows.data(), count, outside.get(), all);
      expect_finite(outside);
      const std::vector<float> others = GaussianRows(count, head_dim, 18);
      format.EncodePage(others.data(), count, patched.get());
      for (int r = 0; r < count; ++r) {
        format.EncodeRow(patched.get(), r, rows.data() + r * head_dim);
      }
      expect_finite(patched);
    }
  });
}

TEST(EveryScheme, TakesASingleTokenAndZeros) {
  ForEveryFormat({32, 64, 80, 96, 128}, [](const PageFormat& format) {
    const std::vector<float> row = GaussianRows(1, format.head_dim(), 10);
    // Any record says more than none; unbiased bits least, they leave more than half.
    EXPECT_LT(MeanError(row, RoundTrip(format, row), format.head_dim()), 0.9);
    const std::vector<float> zeros(static_cast<size_t>(format.head_dim() * 5), 0.0f);
    EXPECT_EQ(RoundTrip(format, zeros), zeros);
  });
}

TEST(EveryScheme, TakesNoTokenAtAll) {
  ForEveryFormat({32, 80, 96, 128},
                 [](const PageFormat& format) { EXPECT_TRUE(RoundTrip(format, {}).empty()); });
}

TEST(EveryScheme, ClampsInfinitiesAndCountsNanAsZero) {
  ForEveryFormat({32, 80, 96, 128}, [](const PageFormat& format) {
    std::vector<float> odd = GaussianRows(8, format.head_dim(), 11), even = odd;
    odd[3] = kNan;
    even[3] = 0.0f;
    odd[40] = kInfinity;
    even[40] = kMaxHalf;
    odd[60] = -1e30f;
    even[60] = -kMaxHalf;
    PageBytes first(format), second(format);
    format.EncodePage(odd.data(), 8, first.get());
    format.EncodePage(even.data(), 8, second.get());
    EXPECT_TRUE(first == second);
  });
}

TEST(Center, TakesAwayWhatAllRowsShare) {
  for (const int head_dim : {64, 80, 128}) {
    std::vector<float> rows = GaussianRows(128, head_dim, 12);
    const std::vector<float> noise = rows;
    const std::vector<float> shared = GaussianRows(1, head_dim, 13);
    for (size_t i = 0; i < rows.size(); ++i) {
      rows[i] += 10.0f * shared[i % static_cast<size_t>(head_dim)];
    }
    const auto squared_error = [&](const char* scheme) {
      const PageFormat format(Scheme::Parse(scheme), Role::kKey, head_dim);
      const std::vector<float> decoded = RoundTrip(format, rows);
      double error = 0.0;
      for (size_t i = 0; i < rows.size(); ++i) {
        error += std::pow(static_cast<double>(rows[i]) - decoded[i], 2);
      }
      return error / static_cast<double>(rows.size());
    };
    const double plain = squared_error("turbo4"), centred = squared_error("turbo4:center");
    EXPECT_GT(plain, 50.0 * centred) << head_dim;
    // What is left is the error of the noise alone, whose deviation is 1.
    EXPECT_LT(centred, 0.0095) << head_dim;
  }
}

TEST(Center, LeavesMarkedRowsOutOfTheMean) {
  const PageFormat format(Scheme::Parse("turbo4:center"), Role::kKey, 64);
  std::vector<float> rows = GaussianRows(128, 64, 14), others;
  uint64_t outside[2] = {uint64_t{1} << 2, uint64_t{1} << 63};
  for (const size_t r : {size_t{2}, size_t{127}}) {
    for (size_t i = 0; i < 64; ++i) rows[r * 64 + i] = 1000.0f;
  }
  for (size_t r = 0; r < 128; ++r) {
    if (r == 2 || r == 127) continue;
    others.insert(others.end(), rows.begin() + static_cast<std::ptrdiff_t>(r * 64),
                  rows.begin() + static_cast<std::ptrdiff_t>(r * 64 + 64));
  }
  PageBytes with(format), without(format), all(format);
  format.EncodePage(rows.data(), 128, with.get(), outside);
  format.EncodePage(others.data(), 126, without.get());
  format.EncodePage(rows.data(), 128, all.get());
  const auto header = [&](PageBytes& page) {
    const auto bytes = format.Header(static_cast<const std::byte*>(page.get()));
    return std::vector<std::byte>(bytes.begin(), bytes.end());
  };
  EXPECT_EQ(header(with), header(without));
  EXPECT_NE(header(with), header(all));
  std::vector<float> row(64);
  format.DecodeRow(with.get(), 2, row.data());  // encoded all the same
  EXPECT_LT(MeanError(std::vector<float>(64, 1000.0f), row, 64), 0.02);
}

TEST(PageFormat, StoresForeignBlocksAsTheyAre) {
  const std::vector<float> rows = GaussianRows(128, 64, 16);
  const PageFormat format(Scheme::Parse("q8_0:rotate=none"), Role::kKey, 64);
  PageBytes page(format);
  format.EncodePage(rows.data(), 128, page.get());
  const Codec& codec = FindCodec("q8_0");
  std::vector<std::byte> record(codec.record_bytes(64));
  for (int r = 0; r < 128; ++r) {
    codec.encode(rows.data() + r * 64, 64, ScaleRule::kMse, record.data());
    EXPECT_EQ(std::memcmp(page.get() + static_cast<size_t>(r) * record.size(), record.data(),
                          record.size()),
              0);
  }
}

// Rows without a library's normal distribution, so that every machine makes the same.
std::vector<float> PortableRows(int count, int head_dim) {
  std::vector<float> rows;
  uint32_t state = 1;
  for (int i = 0; i < count * head_dim; ++i) {
    int sum = 0;
    for (int k = 0; k < 4; ++k) {
      state = state * 1664525u + 1013904223u;
      sum += static_cast<int>(state >> 22) - 512;
    }
    rows.push_back(static_cast<float>(sum) / 256.0f + static_cast<float>(i % head_dim) / 32.0f);
  }
  return rows;
}

uint64_t Fingerprint(const PageBytes& page, size_t size) {  // FNV-1a
  uint64_t hash = 0xcbf29ce484222325u;
  for (size_t i = 0; i < size; ++i) {
    hash = (hash ^ std::to_integer<uint64_t>(page.get()[i])) * 0x100000001b3u;
  }
  return hash;
}

// Every compiler and instruction set must write these bytes; they change with the format only.
TEST(PageFormat, WritesTheGoldenPages) {
  struct Golden {
    const char* scheme;
    Role role;
    int head_dim;
    uint64_t fingerprint;
  };
  const Golden goldens[] = {
      {"turbo2:scale=mse", Role::kKey, 128, 0x7b97f11810ecd3b5u},
      {"turbo2:scale=mse", Role::kValue, 80, 0xf3563bd2363d91b2u},
      {"turbo3:scale=mse", Role::kKey, 64, 0x4d00d71902ee08f7u},
      {"turbo3:scale=mse", Role::kValue, 96, 0x299b1870cded2fa1u},
      {"turbo3:center:scale=mse", Role::kKey, 112, 0x395679f566be42b3u},
      {"turbo4:scale=mse", Role::kKey, 64, 0xfb3ea4ceafb19aedu},
      {"turbo4:scale=mse", Role::kValue, 128, 0xd2f3f9e16b676b91u},
      {"turbo4:center:scale=mse", Role::kKey, 128, 0xc795e7589ee5b620u},
      {"turbo4", Role::kKey, 80, 0xfb631352d09f11b5u},
      {"turbo1:scale=mse", Role::kKey, 64, 0x754a76dbf072153cu},
      {"turbo6:scale=mse", Role::kValue, 64, 0xf0e85b631601a410u},
      {"q8_0", Role::kKey, 64, 0xfd0afe911155ba00u},
      {"q4_0:center", Role::kValue, 128, 0xe0a0cd239cb7f099u},
      {"f16", Role::kKey, 80, 0x226ef35f1b9d44f8u},
  };
  for (const Golden& golden : goldens) {
    const PageFormat format(Scheme::Parse(golden.scheme), golden.role, golden.head_dim);
    const std::vector<float> rows = PortableRows(128, golden.head_dim);
    PageBytes page(format);
    format.EncodePage(rows.data(), 128, page.get());
    EXPECT_EQ(Fingerprint(page, format.page_bytes()), golden.fingerprint)
        << golden.scheme << " " << golden.head_dim << std::hex << " 0x"
        << Fingerprint(page, format.page_bytes());
  }
}

}  // namespace
}  // namespace polarquant
