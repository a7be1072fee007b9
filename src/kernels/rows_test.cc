// SPDX-License-Identifier: Apache-2.0
// What every target must do with the same bits: prepare, rotate, encode, decode, move records.
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "codecs/codec.h"
#include "codecs/pack.h"
#include "format/tile_layout.h"
#include "kernels/kernels.h"
#include "kernels/kernels_testing.h"
#include "math/rotation.h"

namespace polarquant {
namespace {

// Rows of every kind: Gaussian, zeros, tiny, huge, one spike, constant.
std::vector<float> UglyRows(std::mt19937& random, int count, int head_dim) {
  auto rows = Gaussian(random, static_cast<size_t>(count * head_dim));
  for (int r = 0; r < count; ++r) {
    float* row = &rows[static_cast<size_t>(r * head_dim)];
    constexpr float kSizes[] = {1.0f, 0.0f, 1e-7f, 1e-30f, 1e4f, 3e4f, 1.0f, 1.0f, 1e-3f};
    const size_t kind = random() % std::size(kSizes);
    for (int i = 0; i < head_dim; ++i) row[i] *= kSizes[kind];
    if (kind == 6) std::fill_n(row, head_dim, 2.5f);
    if (kind == 7) {
      std::fill_n(row, head_dim, 0.0f);
      row[random() % static_cast<size_t>(head_dim)] = -60000.0f;
    }
  }
  return rows;
}

TEST(Encoding, EveryTargetWritesTheBytesOfTheScalarOne) {
  std::mt19937 random(9);
  for (const Kernels* kernels : AllKernels()) {
    for (const int bits : {2, 3, 4}) {
      const Codec& codec = FindCodec("turbo" + std::to_string(bits));
      for (const int head_dim : kHeadDims) {
        for (const ScaleRule rule : {ScaleRule::kMse, ScaleRule::kNorm, ScaleRule::kUnbiased}) {
          for (const bool lanes_are_tokens : {true, false}) {
            const int tokens = 64 << random() % 2;
            const auto rows = UglyRows(random, tokens, head_dim);
            const size_t bytes =
                static_cast<size_t>(tokens / kTileTokens) * TileBytes(bits, head_dim);
            const size_t num_scales = RotationBlocks(head_dim).size() * static_cast<size_t>(tokens);
            Page expected{std::vector<std::byte>(bytes), std::vector<uint16_t>(num_scales)};
            Page page{std::vector<std::byte>(bytes, std::byte{0xa5}),
                      std::vector<uint16_t>(num_scales)};
            ScalarKernels().encode_rows(codec, rows.data(), 0, tokens, tokens, head_dim, rule,
                                        lanes_are_tokens, expected.codes.data(),
                                        expected.scales.data());
            kernels->encode_rows(codec, rows.data(), 0, tokens, tokens, head_dim, rule,
                                 lanes_are_tokens, page.codes.data(), page.scales.data());
            ASSERT_EQ(page.scales, expected.scales)
                << kernels->target << " " << bits << " " << head_dim;
            ASSERT_EQ(page.codes, expected.codes)
                << kernels->target << " " << bits << " " << head_dim << " " << lanes_are_tokens;
          }
        }
      }
    }
  }
}

TEST(Encoding, EveryTargetPutsAnyRowsAndRecordsWhereTheScalarOneDoes) {
  std::mt19937 random(13);
  for (const Kernels* kernels : AllKernels()) {
    for (const int bits : {2, 3, 4}) {
      const Codec& codec = FindCodec("turbo" + std::to_string(bits));
      for (const int head_dim : kHeadDims) {
        for (const bool lanes_are_tokens : {true, false}) {
          const int tokens = 64 << random() % 3;
          const int first = static_cast<int>(random() % static_cast<unsigned>(tokens));
          const int count = static_cast<int>(random() % static_cast<unsigned>(tokens - first + 1));
          SCOPED_TRACE(testing::Message() << kernels->target << " bits " << bits << " head_dim "
                                          << head_dim << " rows " << count << " from " << first
                                          << " of " << tokens << " " << lanes_are_tokens);
          const Page before = RandomPage(random, bits, head_dim, tokens);
          Page expected = before, page = before;
          const auto rows = UglyRows(random, count, head_dim);
          ScalarKernels().encode_rows(codec, rows.data(), first, count, tokens, head_dim,
                                      ScaleRule::kUnbiased, lanes_are_tokens, expected.codes.data(),
                                      expected.scales.data());
          kernels->encode_rows(codec, rows.data(), first, count, tokens, head_dim,
                               ScaleRule::kUnbiased, lanes_are_tokens, page.codes.data(),
                               page.scales.data());
          ASSERT_EQ(page.scales, expected.scales);
          ASSERT_EQ(page.codes, expected.codes);

          const size_t stride = codec.record_bytes(head_dim) + random() % 3;
          std::vector<std::byte> records(static_cast<size_t>(count) * stride, std::byte{0x5a});
          auto expected_records = records;
          ScalarKernels().read_records(codec, before.codes.data(), before.scales.data(), tokens,
                                       head_dim, lanes_are_tokens, first, count,
                                       expected_records.data(), stride);
          kernels->read_records(codec, before.codes.data(), before.scales.data(), tokens, head_dim,
                                lanes_are_tokens, first, count, records.data(), stride);
          ASSERT_EQ(records, expected_records);
          kernels->write_records(codec, records.data(), stride, first, count, tokens, head_dim,
                                 lanes_are_tokens, page.codes.data(), page.scales.data());
          ASSERT_EQ(page.scales, before.scales);
          ASSERT_EQ(page.codes, before.codes);
        }
      }
    }
  }
}

TEST(Preparing, EveryTargetGivesTheBitsOfTheScalarOne) {
  std::mt19937 random(14);
  for (const Kernels* kernels : AllKernels()) {
    for (const int head_dim : kHeadDims) {
      const int count = 3;
      auto rows = UglyRows(random, count, head_dim);
      constexpr float kOdd[] = {kInf, -kInf, std::numeric_limits<float>::quiet_NaN(), -0.0f, 1e38f};
      for (const float odd : kOdd) rows[random() % rows.size()] = odd;
      const auto mean = UglyRows(random, 1, head_dim), balance = UglyRows(random, 1, head_dim);
      for (const float* m : {static_cast<const float*>(nullptr), mean.data()}) {
        for (const float* b : {static_cast<const float*>(nullptr), balance.data()}) {
          auto expected = rows, prepared = rows;
          ScalarKernels().prepare_rows(rows.data(), count, head_dim, m, b, expected.data());
          kernels->prepare_rows(prepared.data(), count, head_dim, m, b, prepared.data());
          ASSERT_EQ(std::memcmp(prepared.data(), expected.data(), rows.size() * sizeof(float)), 0)
              << kernels->target << " " << head_dim;
        }
      }
    }
  }
}

TEST(Decoding, EveryTargetGivesTheBitsOfTheCodecItself) {
  std::mt19937 random(12);
  for (const Kernels* kernels : AllKernels()) {
    for (const int bits : {2, 3, 4}) {
      const Codec& codec = FindCodec("turbo" + std::to_string(bits));
      for (const int head_dim : kHeadDims) {
        for (const bool lanes_are_tokens : {true, false}) {
          const int tokens = 64 << random() % 3;
          const int count = static_cast<int>(random() % static_cast<unsigned>(tokens + 1));
          SCOPED_TRACE(testing::Message() << kernels->target << " bits " << bits << " head_dim "
                                          << head_dim << " rows " << count << " of " << tokens);
          const Page page = RandomPage(random, bits, head_dim, tokens);
          const auto width = static_cast<size_t>(head_dim);
          std::vector<float> rows(static_cast<size_t>(count + 1) * width, 77.0f);
          auto expected = rows;
          kernels->decode_tiles(codec, page.codes.data(), page.scales.data(), tokens, head_dim,
                                lanes_are_tokens, count, rows.data());
          for (int t = 0; t < count; ++t) {
            std::vector<std::byte> record(codec.record_bytes(head_dim));
            std::vector<uint8_t> codes(width);
            const size_t num_scales = RotationBlocks(head_dim).size();
            for (size_t b = 0; b < num_scales; ++b) {
              std::memcpy(&record[2 * b], &page.scales[b * tokens + t], 2);
            }
            for (int c = 0; c < head_dim; ++c) {
              const CodeAddress at =
                  AddressOf(lanes_are_tokens ? LaneOrder::kTokens : LaneOrder::kChannels, bits,
                            head_dim, t, c);
              codes[static_cast<size_t>(c)] = static_cast<uint8_t>(
                  GetCode(reinterpret_cast<const uint8_t*>(page.codes.data()) + at.segment_offset,
                          bits, at.lane_blocks, at.depth, at.lane, at.step));
            }
            PackCodes(codes.data(), head_dim, bits, &record[2 * num_scales]);
            codec.decode(record.data(), head_dim, &expected[static_cast<size_t>(t) * width]);
          }
          ASSERT_EQ(std::memcmp(rows.data(), expected.data(), rows.size() * sizeof(float)), 0);
        }
      }
    }
  }
}

TEST(Rotation, EveryTargetRotatesToTheSameBitsAndBack) {
  std::mt19937 random(10);
  for (const Kernels* kernels : AllKernels()) {
    for (int head_dim = kMinHeadDim; head_dim <= kMaxHeadDim; head_dim += 16) {
      const int count = 5;
      const int64_t stride = head_dim + 7;
      const auto rows = UglyRows(random, count, static_cast<int>(stride));
      auto expected = rows, rotated = rows;
      for (int r = 0; r < count; ++r) Rotate(&expected[static_cast<size_t>(r * stride)], head_dim);
      kernels->rotate(rotated.data(), stride, count, head_dim);
      ASSERT_EQ(std::memcmp(rotated.data(), expected.data(), rows.size() * sizeof(float)), 0)
          << kernels->target << " " << head_dim;
      for (int r = 0; r < count; ++r) {
        Unrotate(&expected[static_cast<size_t>(r * stride)], head_dim);
      }
      kernels->unrotate(rotated.data(), stride, count, head_dim);
      ASSERT_EQ(std::memcmp(rotated.data(), expected.data(), rows.size() * sizeof(float)), 0)
          << kernels->target << " " << head_dim;
    }
  }
}

}  // namespace
}  // namespace polarquant
