// SPDX-License-Identifier: Apache-2.0
// ropepolar: published distortions, ranges that straddle, degenerate ranges, scores by tables,
// golden records.
#include "codecs/ropepolar.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "codecs/codecs_testing.h"

namespace polarquant {
namespace {

using namespace codecs_testing;

std::string Widths(int radius, int angle) {
  return "ropepolar:radius=" + std::to_string(radius) + ":angle=" + std::to_string(angle);
}

TEST(RopePolar, HasThePublishedDistortions) {
  struct Expected {
    int radius, angle;
    double distortion;
  };
  for (const Expected& expected :
       {Expected{4, 4, 0.01451}, Expected{3, 5, 0.00996}, Expected{3, 4, 0.01955},
        Expected{4, 3, 0.05256}, Expected{2, 2, 0.2246}, Expected{3, 3, 0.05756},
        Expected{2, 4, 0.03938}, Expected{2, 3, 0.07723}}) {
    const std::string scheme = Widths(expected.radius, expected.angle);
    for (const char* pairs : {"", ":pairs=adjacent"}) {
      const double paper = GaussianDistortionOf(scheme + pairs + ":arc=paper", 128, 400000, 51);
      EXPECT_NEAR(paper / expected.distortion, 1.0, 0.03) << scheme << " " << paper;
    }
    // The widest gap of 128 angles all around is no larger than chance: the shortest arc gains
    // its share of the circle, squared.
    const double shortest = GaussianDistortionOf(scheme, 128, 400000, 51);
    EXPECT_LT(shortest, expected.distortion) << scheme;
    EXPECT_GT(shortest, 0.9 * expected.distortion) << scheme;
  }
}

TEST(RopePolar, PacksExactlyTheBitsOfAPair) {
  for (const auto& [scheme, bytes] : {std::pair{Widths(4, 4), 64u},
                                      {Widths(1, 1), 16u},
                                      {Widths(3, 4), 56u},
                                      {Widths(7, 1), 64u}}) {
    const Subject subject(scheme, 128);
    EXPECT_EQ(subject.record_bytes(), bytes) << scheme;
    EXPECT_EQ(subject.coder().header_bytes(), 512u);
    EXPECT_EQ(subject.coder().group_tokens(), 128);
  }
  EXPECT_DOUBLE_EQ(BitsPerValue("ropepolar", 128), 4.25);
  EXPECT_DOUBLE_EQ(BitsPerValue(Widths(2, 3), 64), 2.75);
  const Scheme scheme = Scheme::Parse("ropepolar");
  EXPECT_EQ(MakeCoder(scheme, {64, 64})->group_tokens(), 64);
  EXPECT_EQ(MakeCoder(scheme, {64, 256})->group_tokens(), 128);
}

TEST(RopePolar, RefusesMoreThanEightBitsAPair) {
  try {
    Subject(Widths(5, 4), 64);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    const std::string message = error.what();
    for (const char* word : {"radius=5", "9 bits", "8 is the most"}) {
      EXPECT_NE(message.find(word), std::string::npos) << message;
    }
  }
}

// Keys whose pairs have a direction of their own, and little noise: every fourth one points along
// 0, where angles jump from 2 pi to 0.
std::vector<Row> PointingRows(int head_dim, uint64_t seed) {
  std::vector<Row> rows;
  GaussianRows noise(head_dim, seed);
  for (int r = 0; r < kPageTokens; ++r) {
    rows.push_back(noise.Next());
    const size_t half = rows.back().size() / 2;
    for (size_t j = 0; j < half; ++j) {
      const double angle = std::numbers::pi / 2 * static_cast<double>(j % 4);
      float &x = rows.back()[j], &y = rows.back()[j + half];
      x = 0.1f * x + static_cast<float>(5.0 * std::cos(angle));
      y = 0.1f * y + static_cast<float>(5.0 * std::sin(angle));
    }
  }
  return rows;
}

double PageError(std::string_view scheme, const std::vector<Row>& rows) {
  size_t next = 0;
  return DistortionOf(scheme, static_cast<int>(rows[0].size()), static_cast<int>(rows.size()),
                      [&] { return rows[next++]; });
}

TEST(RopePolar, LosesNothingWhereAnglesStraddleZero) {
  const std::vector<Row> rows = PointingRows(64, 52);
  const double shortest = PageError("ropepolar", rows),
               paper = PageError("ropepolar:arc=paper", rows);
  EXPECT_LT(shortest, 3e-5);
  EXPECT_GT(paper, 100.0 * shortest);  // a quarter of the pairs have the whole circle
}

TEST(RopePolar, DecodesRangesWithoutWidthAsTheirValue) {
  // A page of one row, and of equal rows: f16 rounding is all there is.
  Row row = GaussianRows(64, 53).Next();
  row[3] = row[35] = 0.0f;  // a pair at the origin
  for (const char* arc : {"ropepolar", "ropepolar:arc=paper"}) {
    Subject subject(arc, 64);
    for (const size_t count : {1u, 5u}) {
      subject.Learn(std::vector<Row>(count, row));
      const Record record = subject.Encode(row);
      EXPECT_EQ(record, Record(32));
      EXPECT_LT(SquaredError(row, subject.Decode(record)) / Dot(row, row), 1e-6);
      EXPECT_EQ(subject.Decode(record)[3], 0.0f);
    }
  }
}

TEST(RopePolar, GivesRowsFromOutsideTheNearerEnd) {
  Subject subject("ropepolar", 16);
  std::vector<Row> rows(2, Row(16, 0.0f));
  for (size_t j = 0; j < 8; ++j) {
    rows[0][j] = 1.0f;      // radius 1, angle 0
    rows[1][j + 8] = 2.0f;  // radius 2, angle pi / 2
  }
  subject.Learn(rows);
  Row outside(16, 0.0f);
  outside[0] = 4.0f;  // too long, angle a little below 0
  outside[8] = -1.0f;
  outside[1] = -0.25f;  // too short, angle a little beyond pi / 2
  outside[9] = 0.5f;
  const Record record = subject.Encode(outside);
  EXPECT_EQ(Hex(record).substr(0, 4), "f00f");
}

TEST(RopePolar, ScoresByTablesWhatItScoresByDecoding) {
  for (const std::string& text : {Widths(4, 4), Widths(3, 5) + ":pairs=adjacent", Widths(2, 3)}) {
    for (const int head_dim : {48, 128}) {
      const Scheme scheme = Scheme::Parse(text);
      Subject subject(scheme, head_dim);
      GaussianRows source(head_dim, 54);
      std::vector<Row> rows;
      for (int r = 0; r < kPageTokens; ++r) rows.push_back(source.Next());
      subject.Learn(rows);
      const Row query = source.Next();
      Record records;
      for (const Row& row : rows) {
        const Record record = subject.Encode(row);
        records.insert(records.end(), record.begin(), record.end());
      }
      std::vector<float> scores(rows.size());
      ScoreRopePolar(RopePolarShapeOf(scheme, head_dim), subject.header().data(), query.data(),
                     records.data(), kPageTokens, scores.data());
      for (size_t r = 0; r < rows.size(); ++r) {
        EXPECT_NEAR(scores[r], Dot(query, subject.RoundTrip(rows[r])), 1e-4) << text;
      }
    }
  }
}

TEST(RopePolar, WritesTheGoldenRecords) {
  std::vector<Row> rows;
  for (int r = 0; r < 3; ++r) {
    rows.push_back(GoldenRow(16));
    for (float& value : rows.back()) value *= 1.0f + 0.5f * static_cast<float>(r);
    std::rotate(rows.back().begin(), rows.back().begin() + r, rows.back().end());
  }
  struct Golden {
    const char *scheme, *header, *record;
  };
  for (const auto& [scheme, header, record] :
       {Golden{"ropepolar",
               "08406b29ce3f422d633d5f31c93d422d633d85304d45de3108402b2f4d45dc30"
               "363fca2e484279319e3fc529ff40c332003f9030ff402e30003d182fff403131",
               "0946bd609ff300fc"},
        Golden{"ropepolar:radius=2:angle=3:pairs=adjacent",
               "793cf6345b4117307938f23a353c81320840083852435937793c2e3312408132"
               "7938283c0c3c1730b840913536436137803c6b30483e1234003aef3b483e0037",
               "367197b8b9"}}) {
    Subject subject(scheme, 16);
    subject.Learn(rows);
    EXPECT_EQ(Hex(subject.header()), header) << scheme;
    EXPECT_EQ(Hex(subject.Encode(rows[1])), record) << scheme;
  }
}

}  // namespace
}  // namespace polarquant
