// SPDX-License-Identifier: Apache-2.0
// The same questions to every row of the table of codecs, the bytes of foreign formats, packing,
// and golden records.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "codecs/codec.h"
#include "codecs/codecs_testing.h"
#include "codecs/pack.h"
#include "polarquant/error.h"
#include "util/half.h"

namespace polarquant {
namespace {

using codecs_testing::Hex;
using codecs_testing::Record;
using codecs_testing::Row;
using codecs_testing::Subject;
using codecs_testing::Takes;

// By the least-squares rule, with the statistics of the row itself.
Subject SubjectOf(const Codec& codec, const Row& row, ScaleRule rule = ScaleRule::kMse) {
  Scheme scheme = Scheme::Parse(codec.info.name);
  scheme.scale_rule = rule;
  Subject subject(scheme, static_cast<int>(row.size()));
  subject.Learn({row});
  return subject;
}

Record Encode(const Codec& codec, const Row& row) { return SubjectOf(codec, row).Encode(row); }

Row RoundTrip(const Codec& codec, const Row& row) { return SubjectOf(codec, row).RoundTrip(row); }

TEST(CodecTable, NamesEveryCodecOnceInOneOrder) {
  const std::vector<std::string> expected = {
      "f32",        "f16",      "bf16",      "q8_0",     "q4_0",     "turbo1",     "turbo2",
      "turbo3",     "turbo4",   "turbo5",    "turbo6",   "turbo7",   "turbo8",     "turbo2.5",
      "turbo3.5",   "turbo2s8", "turbo3s8",  "turbo4s8", "mixed2",   "mixed2.5",   "mixed3",
      "mixed4",     "e8-2",     "e8-3",      "e8p",      "trellis1", "trellis2",   "trellis3",
      "trellis4",   "polar",    "ropepolar", "fp8_e4m3", "int2",     "int4",       "turbo2_0",
      "turbo3_0",   "turbo4_0", "qjl",       "qjl2",     "qjl4",     "turboprod2", "turboprod3",
      "turboprod4", "equator",  "zscore2",   "zscore3",  "zscore4",  "zscore5",    "kivi2",
      "kivi4",      "dual2",    "dual3",     "dual4",    "dual5"};
  std::vector<std::string> names;
  for (const CodecInfo& info : Codecs()) {
    names.emplace_back(info.name);
    EXPECT_FALSE(info.summary.empty());
    EXPECT_FALSE(info.source.empty());
    EXPECT_TRUE(info.keys || info.values);
    EXPECT_EQ(&FindCodec(info.name), &CodecTable()[names.size() - 1]);
  }
  EXPECT_EQ(names, expected);
}

TEST(CodecTable, RefusesAnUnknownNameAndListsTheOthers) {
  try {
    FindCodec("turbo9");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kFormat);
    const std::string message = error.what();
    EXPECT_NE(message.find("turbo9"), std::string::npos);
    for (const CodecInfo& info : Codecs()) {
      EXPECT_NE(message.find(std::string(info.name)), std::string::npos) << info.name;
    }
  }
}

TEST(CodecTable, HasTheRecordSizesOfTheFormat) {
  const auto bytes = [](std::string_view name, int head_dim) {
    return FindCodec(name).record_bytes(head_dim);
  };
  EXPECT_EQ(bytes("f32", 128), 512u);
  EXPECT_EQ(bytes("f16", 80), 160u);
  EXPECT_EQ(bytes("bf16", 128), 256u);
  EXPECT_EQ(bytes("q8_0", 64), 68u);
  EXPECT_EQ(bytes("q4_0", 128), 72u);
  for (int bits = 1; bits <= 8; ++bits) {
    const std::string name = "turbo" + std::to_string(bits);
    const size_t width = static_cast<size_t>(bits);
    EXPECT_EQ(bytes(name, 128), 2 + 16 * width);
    EXPECT_EQ(bytes(name, 80), 2 + 10 * width);
    EXPECT_EQ(bytes(name, 112), 4 + 14 * width);  // two blocks: 96 + 16
    EXPECT_EQ(FindCodec(name).scales_per_row(1024), 2);
    EXPECT_EQ(FindCodec(name).info.code_bits, bits);
  }
}

TEST(CodecTable, TilesTheWidthsThatHaveInt8Centroids) {
  for (const Codec& codec : CodecTable()) {
    const bool tiled =
        codec.info.name == "turbo2" || codec.info.name == "turbo3" || codec.info.name == "turbo4";
    EXPECT_EQ(codec.layout == PageLayout::kTiles, tiled) << codec.info.name;
    EXPECT_EQ(codec.centroids != nullptr, tiled) << codec.info.name;
    EXPECT_GT(codec.unit, 0.0f);
  }
}

TEST(GgmlBlocks, RefuseHeadDimsThatAreNoMultipleOf32) {
  for (const char* name : {"q8_0", "q4_0"}) {
    for (const int head_dim : {16, 48, 80, 112}) {
      try {
        FindCodec(name).record_bytes(head_dim);
        FAIL() << name << " took " << head_dim;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
        const std::string message = error.what();
        EXPECT_NE(message.find(name), std::string::npos) << message;
        EXPECT_NE(message.find(std::to_string(head_dim)), std::string::npos) << message;
        EXPECT_NE(message.find("32"), std::string::npos) << message;
      }
    }
  }
}

// Rows that have broken quantisers before.
struct UglyRow {
  const char* name;
  std::vector<float> (*make)(int head_dim);
};
std::vector<float> Filled(int head_dim, float value) {
  return std::vector<float>(static_cast<size_t>(head_dim), value);
}
std::vector<float> OneHot(int head_dim, float value) {
  std::vector<float> row = Filled(head_dim, 0.0f);
  row[static_cast<size_t>(head_dim) / 2] = value;
  return row;
}
const UglyRow kUglyRows[] = {
    {"zeros", [](int d) { return Filled(d, 0.0f); }},
    {"negative zeros", [](int d) { return Filled(d, -0.0f); }},
    {"ones", [](int d) { return Filled(d, 1.0f); }},
    {"largest halves", [](int d) { return Filled(d, kMaxHalf); }},
    {"twice the largest halves", [](int d) { return Filled(d, -2.0f * kMaxHalf); }},
    {"a rotated row of largest halves", [](int d) { return OneHot(d, 2.1e6f); }},
    {"one hot", [](int d) { return OneHot(d, 1.0f); }},
    {"one largest half", [](int d) { return OneHot(d, -kMaxHalf); }},
    {"f16 subnormals", [](int d) { return Filled(d, 6e-8f); }},
    {"below f16", [](int d) { return Filled(d, 1e-9f); }},
    {"squares underflow", [](int d) { return Filled(d, 1e-25f); }},
    {"f32 subnormals", [](int d) { return Filled(d, 1e-42f); }},
    {"one f32 subnormal", [](int d) { return OneHot(d, 1e-45f); }},
    {"everything at once",
     [](int d) {
       std::vector<float> row = Filled(d, 1e-30f);
       row[0] = kMaxHalf;
       row[1] = -1.0f;
       row[2] = 1e-7f;
       return row;
     }},
};

TEST(EveryCodec, SurvivesUglyRows) {
  for (const Codec& codec : CodecTable()) {
    for (const int head_dim : {16, 32, 64, 80, 96, 112, 128, 256, 1024}) {
      if (!Takes(codec.info.name, head_dim)) continue;
      for (const UglyRow& ugly : kUglyRows) {
        for (const ScaleRule rule : {ScaleRule::kMse, ScaleRule::kNorm, ScaleRule::kUnbiased}) {
          const std::vector<float> row = ugly.make(head_dim);
          const Subject subject = SubjectOf(codec, row, rule);
          const Record record = subject.Encode(row);
          EXPECT_EQ(record, SubjectOf(codec, row, rule).Encode(row)) << "not deterministic";
          float largest = 0.0f;
          for (const float value : row) largest = std::max(largest, std::abs(value));
          for (const float value : subject.Decode(record)) {
            ASSERT_TRUE(std::isfinite(value)) << codec.info.name << " " << ugly.name;
            if (largest == 0.0f) {
              ASSERT_EQ(value, 0.0f) << codec.info.name;
            }
            // No value grows far beyond its row: the unbiased scale of one sign bit on a one-hot
            // row, sqrt(head_dim) / 0.8 deviations, is the worst.
            ASSERT_LE(std::abs(value), 1.26f * static_cast<float>(head_dim) * largest + 1e-6f)
                << codec.info.name << " " << ugly.name;
          }
        }
      }
    }
  }
}

TEST(EveryCodec, TakesLargeRowsAsItTakesSmallOnes) {
  std::mt19937_64 generator(11);
  std::normal_distribution<float> normal;
  for (const Codec& codec : CodecTable()) {
    std::vector<float> row(128);
    for (float& value : row) value = normal(generator);
    for (const float factor : {0x1p-6f, 0x1p12f}) {  // exact in f16 scales
      std::vector<float> scaled = row;
      for (float& value : scaled) value *= factor;
      const std::vector<float> plain = RoundTrip(codec, row);
      const std::vector<float> large = RoundTrip(codec, scaled);
      for (size_t i = 0; i < row.size(); ++i) {
        // f16 numbers of headers may come to lie among the subnormals.
        const float expected = plain[i] * factor;
        EXPECT_NEAR(large[i], expected, std::max(4e-7f * std::abs(expected), 0x1p-24f))
            << codec.info.name;
      }
    }
  }
}

// Least squares has the least error, equal norms keep the norm, unbiased ones keep <x',x> = |x|^2:
// of the channels that are coded at all.
TEST(EveryCodec, HonoursTheScaleRulesItTakes) {
  for (const Codec& codec : CodecTable()) {
    if (!codec.info.scale_rules) continue;
    codecs_testing::GaussianRows rows(128, 16);
    for (int r = 0; r < 10; ++r) {
      Row row = rows.Next();
      const Subject subject = SubjectOf(codec, row);
      Row ever(row.size());  // what other rows are ever decoded to, in sum
      for (int other = 0; other < 40; ++other) {
        const Row some = subject.RoundTrip(rows.Next());
        for (size_t i = 0; i < row.size(); ++i) ever[i] += std::abs(some[i]);
      }
      const auto decoded = [&](ScaleRule rule) {
        return SubjectOf(codec, row, rule).RoundTrip(row);
      };
      const Row mse = decoded(ScaleRule::kMse), norm = decoded(ScaleRule::kNorm);
      const Row unbiased = decoded(ScaleRule::kUnbiased);
      using codecs_testing::Dot, codecs_testing::SquaredError;
      for (size_t i = 0; i < row.size(); ++i) {  // `decoded` has had the whole row
        if (ever[i] == 0.0f) row[i] = 0.0f;
      }
      const double energy = Dot(row, row), slack = 1e-5 * energy;
      EXPECT_LE(SquaredError(row, mse), SquaredError(row, norm) + slack) << codec.info.name;
      EXPECT_LE(SquaredError(row, norm), SquaredError(row, unbiased) + slack) << codec.info.name;
      EXPECT_NEAR(Dot(norm, norm) / energy, 1.0, 2e-3) << codec.info.name;
      EXPECT_NEAR(Dot(unbiased, row) / energy, 1.0, 1e-3) << codec.info.name;
    }
  }
}

TEST(EveryCodec, DecodesAnyBytesInsideItsBuffers) {
  std::mt19937_64 generator(12);
  for (const Codec& codec : CodecTable()) {
    for (const int head_dim : {32, 64, 96, 128, 1024}) {
      Subject subject(codec.info.name, head_dim);
      Record record(subject.record_bytes());
      for (int trial = 0; trial < 20; ++trial) {
        for (std::byte& byte : record) byte = static_cast<std::byte>(generator() & 0xff);
        for (std::byte& byte : subject.header()) byte = static_cast<std::byte>(generator() & 0xff);
        EXPECT_EQ(subject.Decode(record).size(), static_cast<size_t>(head_dim));
      }
    }
  }
}

TEST(PlainCodecs, KeepWhatTheyCanHold) {
  const std::vector<float> row = {0.0f,      -0.0f, 1.0f, -2.5f, 65504.0f,  6e-8f,
                                  0.333333f, 1e-3f, 7.0f, 8.0f,  -65504.0f, 0x1p-14f,
                                  3.0f,      5.0f,  6.0f, 9.0f};
  EXPECT_EQ(RoundTrip(FindCodec("f32"), row), row);
  const std::vector<float> half = RoundTrip(FindCodec("f16"), row);
  const std::vector<float> brain = RoundTrip(FindCodec("bf16"), row);
  for (size_t i = 0; i < row.size(); ++i) {
    EXPECT_NEAR(half[i], row[i], std::abs(row[i]) * 0x1p-11f + 0x1p-25f);
    EXPECT_NEAR(brain[i], row[i], std::abs(row[i]) * 0x1p-8f);
  }
  EXPECT_EQ(Hex(Encode(FindCodec("f16"), std::vector<float>(16, 1.0f))).substr(0, 8), "003c003c");
  EXPECT_EQ(Hex(Encode(FindCodec("bf16"), std::vector<float>(16, -2.0f))).substr(0, 8), "00c000c0");
  EXPECT_EQ(Hex(Encode(FindCodec("f32"), std::vector<float>(16, 1.0f))).substr(0, 8), "0000803f");
}

TEST(GgmlBlocks, Q8HasTheBytesOfTheFormat) {
  std::vector<float> row(32);
  for (size_t i = 0; i < 32; ++i) row[i] = static_cast<float>(static_cast<int>(i) - 16);
  row[0] = -127.0f;  // d = 1
  row[1] = 0.5f;     // a half: away from zero
  row[2] = -2.5f;
  EXPECT_EQ(Hex(Encode(FindCodec("q8_0"), row)),
            "003c"  // f16 1
            "8101fdf3f4f5f6f7f8f9fafbfcfdfeff"
            "000102030405060708090a0b0c0d0e0f");
  EXPECT_EQ(Hex(Encode(FindCodec("q8_0"), std::vector<float>(32, 0.0f))), std::string(68, '0'));
}

TEST(GgmlBlocks, Q4HasTheBytesOfTheFormat) {
  std::vector<float> row(32, 0.0f);
  row[0] = -8.0f;  // the extreme: d = 1, code 0
  row[1] = 7.0f;   // code 15
  row[2] = 8.0f;   // as large but later: code 16, clipped to 15
  row[3] = 0.5f;   // code 9: rounds up
  row[16] = -1.0f;
  row[19] = 2.4f;
  EXPECT_EQ(Hex(Encode(FindCodec("q4_0"), row)), "003c708f8fa9888888888888888888888888");
  for (float& value : row) value = -value;  // the scale is signed
  EXPECT_EQ(Hex(Encode(FindCodec("q4_0"), row)), "00bc708f8fa9888888888888888888888888");
  const std::vector<float> decoded = RoundTrip(FindCodec("q4_0"), row);
  EXPECT_EQ(decoded[0], 8.0f);
  EXPECT_EQ(decoded[1], -7.0f);
  EXPECT_EQ(decoded[16], 1.0f);
  // ggml divides 0 by -8: the scale of a zero block is -0.
  EXPECT_EQ(Hex(Encode(FindCodec("q4_0"), std::vector<float>(32, 0.0f))),
            "0080" + std::string(32, '8'));
}

TEST(GgmlBlocks, HaveThePublishedDistortion) {
  std::mt19937_64 generator(13);
  std::normal_distribution<float> normal;
  for (const auto& [name, expected] : {std::pair{"q4_0", 0.00738}, std::pair{"q8_0", 2.86e-5}}) {
    double error = 0.0, energy = 0.0;
    for (int r = 0; r < 4000; ++r) {
      std::vector<float> row(128);
      for (float& value : row) value = normal(generator);
      const std::vector<float> decoded = RoundTrip(FindCodec(name), row);
      for (size_t i = 0; i < row.size(); ++i) {
        error += std::pow(static_cast<double>(row[i]) - decoded[i], 2);
        energy += static_cast<double>(row[i]) * row[i];
      }
    }
    EXPECT_NEAR(error / energy / expected, 1.0, 0.02) << name;
  }
}

TEST(Pack, RoundTripsAtEveryWidthAndLength) {
  std::mt19937_64 generator(14);
  for (int bits = 1; bits <= 8; ++bits) {
    for (const int count : {1, 2, 7, 8, 9, 16, 80, 112, 127, 128, 1024}) {
      std::vector<uint8_t> codes(static_cast<size_t>(count));
      for (uint8_t& code : codes) code = static_cast<uint8_t>(generator() & ((1u << bits) - 1u));
      std::vector<std::byte> packed(PackedBytes(count, bits) + 1, std::byte{0xa5});
      PackCodes(codes.data(), count, bits, packed.data());
      EXPECT_EQ(packed.back(), std::byte{0xa5});
      // Bit j of the stream is bit j % 8 of byte j / 8, and code i starts at bit i * bits.
      for (int i = 0; i < count; ++i) {
        for (int b = 0; b < bits; ++b) {
          const int position = i * bits + b;
          const int bit = std::to_integer<int>(packed.data()[position / 8]) >> (position % 8) & 1;
          ASSERT_EQ(bit, codes.data()[i] >> b & 1);
        }
      }
      std::vector<uint8_t> unpacked(codes.size());
      UnpackCodes(packed.data(), count, bits, unpacked.data());
      EXPECT_EQ(unpacked, codes) << bits << " bits, " << count << " codes";
    }
  }
}

// Rows 0.25 * (3 i mod 17 - 8): the bytes are the format; they change with its version only.
TEST(Turbo, WritesTheGoldenRecords) {
  std::vector<float> row(32);
  for (size_t i = 0; i < 32; ++i) {
    row[i] = 0.25f * static_cast<float>(static_cast<int>(3 * i % 17) - 8);
  }
  const char* golden[8] = {"4a3d38ce719c",
                           "5f3c904ef9a4433ae593",
                           "093b88e823ab1fb146441f59fd88",
                           "033c3186db4297ec52a81d63b82d74c92e85",
                           "7d3c04b16875496ede6d16a4992016ad2ec9cdbbcd82",
                           "823c09948d2cbd4c9cf9da8d05a6720265234b2f1367be766381",
                           "1d3c104fecb85d53483867f89d5101ab66882776dcae29249c33fccea880",
                           "223c213d638eb6d62949719cc2de335680a9cc213d638eb6d62949719cc2de335680"};
  for (int bits = 1; bits <= 8; ++bits) {
    EXPECT_EQ(Hex(Encode(FindCodec("turbo" + std::to_string(bits)), row)), golden[bits - 1]);
  }
}

TEST(Turbo, WritesZerosAsTheFirstPositiveCode) {
  const std::vector<float> zeros(16, 0.0f);
  EXPECT_EQ(Hex(Encode(FindCodec("turbo1"), zeros)), "0000ffff");
  EXPECT_EQ(Hex(Encode(FindCodec("turbo2"), zeros)), "0000aaaaaaaa");
  EXPECT_EQ(Hex(Encode(FindCodec("turbo4"), zeros)), "00008888888888888888");
  EXPECT_EQ(Hex(Encode(FindCodec("turbo8"), zeros)),
            "0000"
            "80808080808080808080808080808080");
}

TEST(Turbo, IsSymmetric) {
  std::mt19937_64 generator(15);
  std::normal_distribution<float> normal;
  for (int bits = 1; bits <= 8; ++bits) {
    const Codec& codec = FindCodec("turbo" + std::to_string(bits));
    for (int r = 0; r < 50; ++r) {
      std::vector<float> row(80), mirrored(80);
      for (size_t i = 0; i < row.size(); ++i) {
        row[i] = normal(generator);
        mirrored[i] = -row[i];
      }
      const std::vector<float> plain = RoundTrip(codec, row);
      const std::vector<float> negated = RoundTrip(codec, mirrored);
      for (size_t i = 0; i < row.size(); ++i) EXPECT_EQ(plain[i], -negated[i]);
    }
  }
}

}  // namespace
}  // namespace polarquant
