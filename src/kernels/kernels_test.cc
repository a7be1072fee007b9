// SPDX-License-Identifier: Apache-2.0
// Every target against plain double arithmetic.
#include "kernels/kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "codecs/codec.h"
#include "codecs/pack.h"
#include "format/tile_layout.h"
#include "kernels/kernels_testing.h"
#include "math/rotation.h"
#include "polarquant/error.h"
#include "util/half.h"

namespace polarquant {
namespace {

const TileKernels& TilesOf(const Kernels& kernels, int bits) {
  return bits == 2 ? kernels.tile2 : bits == 3 ? kernels.tile3 : kernels.tile4;
}

// Steps of a target's integers from zero to the largest: half of one is its rounding error.
double StepsOf(const Kernels& kernels) {
  return std::string(kernels.target) == "scalar" ? 1e6 : 32639;
}

// The numbers of a page, [tokens][head_dim], by definition.
std::vector<double> Decode(const Codec& codec, LaneOrder order, int head_dim, int tokens,
                           const Page& page) {
  const int bits = codec.info.code_bits;
  std::vector<double> rows(static_cast<size_t>(tokens) * static_cast<size_t>(head_dim));
  size_t b = 0;
  for (const RotationBlock& block : RotationBlocks(head_dim)) {
    for (int t = 0; t < tokens; ++t) {
      const double scale = HalfToFloat(page.scales[b * static_cast<size_t>(tokens) + t]);
      for (int c = block.offset; c < block.offset + block.size; ++c) {
        const CodeAddress at = AddressOf(order, bits, head_dim, t, c);
        const unsigned code =
            GetCode(reinterpret_cast<const uint8_t*>(page.codes.data()) + at.segment_offset, bits,
                    at.lane_blocks, at.depth, at.lane, at.step);
        rows[static_cast<size_t>(t) * head_dim + c] =
            scale * static_cast<double>(codec.unit) * codec.centroids[code];
      }
    }
    ++b;
  }
  return rows;
}

struct AlignedBytes {
  explicit AlignedBytes(size_t size) : storage(size + 64) {}
  std::byte* data() {
    return storage.data() + (64 - reinterpret_cast<uintptr_t>(storage.data()) % 64) % 64;
  }
  std::vector<std::byte> storage;
};

TEST(TileKernels, ScoresAreTheDotProductsWithinHalfAStepOfTheIntegers) {
  std::mt19937 random(1);
  for (const Kernels* kernels : AllKernels()) {
    for (const int bits : {2, 3, 4}) {
      const Codec& codec = FindCodec("turbo" + std::to_string(bits));
      for (const int head_dim : kHeadDims) {
        const int rows = 1 + static_cast<int>(random() % 40), tokens = 64 << random() % 3;
        SCOPED_TRACE(testing::Message() << kernels->target << " bits " << bits << " head_dim "
                                        << head_dim << " rows " << rows << " tokens " << tokens);
        const Page page = RandomPage(random, bits, head_dim, tokens);
        const auto keys = Decode(codec, LaneOrder::kTokens, head_dim, tokens, page);
        const int64_t query_stride = head_dim + 16, stride = tokens + 16;
        auto queries = Gaussian(random, static_cast<size_t>(rows * query_stride));
        for (int i = 0; i < head_dim; ++i) queries[i] *= 1e8f;  // one large row, one of zeros
        if (rows > 1) std::fill_n(queries.begin() + query_stride, head_dim, 0.0f);
        const TileKernels& tile = TilesOf(*kernels, bits);
        AlignedBytes prepared(tile.prepared_bytes(rows, head_dim));
        tile.prepare(codec, queries.data(), query_stride, rows, head_dim, prepared.data());
        std::vector<float> logits(static_cast<size_t>(rows * stride), 77.0f);
        tile.score(codec, prepared.data(), rows, head_dim, page.codes.data(), page.scales.data(),
                   tokens, 4096, logits.data(), stride);
        for (int r = 0; r < rows; ++r) {
          const float* query = &queries[static_cast<size_t>(r * query_stride)];
          double largest = 0;
          for (int i = 0; i < head_dim; ++i)
            largest = std::max<double>(largest, std::abs(query[i]));
          for (int t = 0; t < tokens; ++t) {
            double dot = 0, size = 0;
            for (int i = 0; i < head_dim; ++i) {
              const double key = keys[static_cast<size_t>(t) * head_dim + i];
              dot += query[i] * key;
              size += std::abs(key);
            }
            const double bound = size * largest * (0.501 / StepsOf(*kernels) + 3e-6);
            ASSERT_NEAR(logits[static_cast<size_t>(r * stride + t)], dot, bound) << r << " " << t;
          }
          ASSERT_EQ(logits[static_cast<size_t>(r * stride + tokens)], 77.0f);
        }
      }
    }
  }
}

TEST(TileKernels, AccumulateAddsWeightedValuesWithinHalfAStepOfTheIntegers) {
  std::mt19937 random(2);
  for (const Kernels* kernels : AllKernels()) {
    for (const int bits : {2, 3, 4}) {
      const Codec& codec = FindCodec("turbo" + std::to_string(bits));
      for (const int head_dim : kHeadDims) {
        const int rows = 1 + static_cast<int>(random() % 40), tokens = 64 << random() % 3;
        SCOPED_TRACE(testing::Message() << kernels->target << " bits " << bits << " head_dim "
                                        << head_dim << " rows " << rows << " tokens " << tokens);
        const Page page = RandomPage(random, bits, head_dim, tokens);
        const auto values = Decode(codec, LaneOrder::kChannels, head_dim, tokens, page);
        const int64_t stride = tokens + 16, acc_stride = head_dim + 16;
        auto weights = Gaussian(random, static_cast<size_t>(rows * stride));
        for (float& w : weights) w = random() % 3 == 0 ? 0.0f : std::exp(4 * w - 10.0f);
        std::fill_n(weights.begin(), tokens, 0.0f);                   // a row of zeros
        if (rows > 1) weights[static_cast<size_t>(stride)] = 1e-38f;  // and a tiny one
        auto acc = Gaussian(random, static_cast<size_t>(rows * acc_stride));
        const auto before = acc;
        TilesOf(*kernels, bits)
            .accumulate(codec, weights.data(), stride, rows, head_dim, page.codes.data(),
                        page.scales.data(), tokens, -4096, acc.data(), acc_stride);
        const auto blocks = RotationBlocks(head_dim);
        for (int r = 0; r < rows; ++r) {
          for (size_t b = 0; b < blocks.size(); ++b) {
            double largest = 0;
            for (int t = 0; t < tokens; ++t) {
              const size_t scale = b * static_cast<size_t>(tokens) + t;
              largest = std::max<double>(largest, static_cast<double>(weights[r * stride + t]) *
                                                      HalfToFloat(page.scales[scale]));
            }
            for (int i = blocks[b].offset; i < blocks[b].offset + blocks[b].size; ++i) {
              const size_t at = static_cast<size_t>(r * acc_stride + i);
              double sum = before[at];
              for (int t = 0; t < tokens; ++t) {
                sum += weights[r * stride + t] * values[static_cast<size_t>(t) * head_dim + i];
              }
              const double bound =
                  largest * tokens * 127.0 * codec.unit * (0.501 / StepsOf(*kernels) + 2e-6) +
                  1e-6 * std::abs(before[at]) + 1e-25;
              ASSERT_NEAR(acc[at], sum, bound) << r << " " << i;
            }
          }
          const size_t end = static_cast<size_t>(r * acc_stride + head_dim);
          ASSERT_EQ(acc[end], before[end]);
        }
      }
    }
  }
}

TEST(TileKernels, NotANumberInAQueryReachesItsLogitsOnly) {
  std::mt19937 random(3);
  for (const Kernels* kernels : AllKernels()) {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), kInf}) {
      const Codec& codec = FindCodec("turbo4");
      const int head_dim = 64, rows = 3, tokens = 64;
      Page page = RandomPage(random, 4, head_dim, tokens);
      std::fill(page.scales.begin(), page.scales.end(), FloatToHalf(1.0f));
      auto queries = Gaussian(random, rows * head_dim);
      queries[head_dim + 5] = bad;
      AlignedBytes prepared(kernels->tile4.prepared_bytes(rows, head_dim));
      kernels->tile4.prepare(codec, queries.data(), head_dim, rows, head_dim, prepared.data());
      std::vector<float> logits(rows * tokens);
      kernels->tile4.score(codec, prepared.data(), rows, head_dim, page.codes.data(),
                           page.scales.data(), tokens, 0, logits.data(), tokens);
      for (int r = 0; r < rows; ++r) {
        for (int t = 0; t < tokens; ++t) {
          EXPECT_EQ(std::isfinite(logits[static_cast<size_t>(r * tokens + t)]), r != 1)
              << kernels->target;
        }
      }
    }
  }
}

TEST(TileKernels, ChannelSegmentsNeverCrossRotationBlocks) {
  for (int head_dim = kMinHeadDim; head_dim <= kMaxHeadDim; head_dim += 16) {
    for (const RotationBlock& block : RotationBlocks(head_dim)) {
      for (int c = block.offset; c < block.offset + block.size; c += 16) {
        const Segment segment = ChannelSegment(c / 16, head_dim / 16);
        ASSERT_GE(segment.first_block * 16, block.offset) << head_dim;
        ASSERT_LE((segment.first_block + segment.lane_blocks) * 16, block.offset + block.size)
            << head_dim;
      }
    }
  }
}

template <typename Element>
void CheckRows(const Kernels& kernels, std::mt19937& random) {
  for (const int head_dim : kHeadDims) {
    const int rows = 1 + static_cast<int>(random() % 40);
    const int count = 1 + static_cast<int>(random() % 200);
    SCOPED_TRACE(testing::Message() << kernels.target << " head_dim " << head_dim << " rows "
                                    << rows << " count " << count);
    const int64_t row_stride = 2 * head_dim, stride = count + 3, acc_stride = head_dim + 16;
    const auto queries = Gaussian(random, static_cast<size_t>(rows * head_dim));
    const auto numbers = Gaussian(random, static_cast<size_t>(count * row_stride));
    std::vector<Element> cells(numbers.size());
    for (size_t i = 0; i < cells.size(); ++i) {
      cells[i] = sizeof(Element) == 2 ? static_cast<Element>(FloatToHalf(numbers[i]))
                                      : static_cast<Element>(numbers[i]);
    }
    const auto cell = [&](int t, int i) -> double {
      const Element e = cells[static_cast<size_t>(t * row_stride + i)];
      return sizeof(Element) == 2 ? HalfToFloat(static_cast<uint16_t>(e)) : static_cast<double>(e);
    };
    std::vector<float> logits(static_cast<size_t>(rows * stride), 77.0f);
    auto acc = Gaussian(random, static_cast<size_t>(rows * acc_stride));
    const auto before = acc;
    auto weights = Gaussian(random, static_cast<size_t>(rows * stride));
    for (float& w : weights) w = std::abs(w);
    if constexpr (sizeof(Element) == 2) {
      kernels.score_f16(queries.data(), head_dim, rows, head_dim, cells.data(), row_stride, count,
                        logits.data(), stride);
      kernels.accumulate_f16(weights.data(), stride, rows, head_dim, cells.data(), row_stride,
                             count, acc.data(), acc_stride);
    } else {
      kernels.score_f32(queries.data(), head_dim, rows, head_dim, cells.data(), row_stride, count,
                        logits.data(), stride);
      kernels.accumulate_f32(weights.data(), stride, rows, head_dim, cells.data(), row_stride,
                             count, acc.data(), acc_stride);
    }
    for (int r = 0; r < rows; ++r) {
      for (int t = 0; t < count; ++t) {
        double dot = 0, size = 0;
        for (int i = 0; i < head_dim; ++i) {
          const double term = queries[static_cast<size_t>(r * head_dim + i)] * cell(t, i);
          dot += term;
          size += std::abs(term);
        }
        ASSERT_NEAR(logits[static_cast<size_t>(r * stride + t)], dot, 2e-6 * size) << r << " " << t;
      }
      ASSERT_EQ(logits[static_cast<size_t>(r * stride + count)], 77.0f);
      for (int i = 0; i < head_dim; ++i) {
        const size_t at = static_cast<size_t>(r * acc_stride + i);
        double sum = before[at], size = std::abs(sum);
        for (int t = 0; t < count; ++t) {
          const double term = weights[static_cast<size_t>(r * stride + t)] * cell(t, i);
          sum += term;
          size += std::abs(term);
        }
        ASSERT_NEAR(acc[at], sum, 4e-6 * size) << r << " " << i;
      }
      const size_t end = static_cast<size_t>(r * acc_stride + head_dim);
      ASSERT_EQ(acc[end], before[end]);
    }
  }
}

TEST(RowKernels, ExactAndDecodedRowsAreScoredAndAccumulatedToFloatRounding) {
  std::mt19937 random(4);
  for (const Kernels* kernels : AllKernels()) {
    CheckRows<uint16_t>(*kernels, random);
    CheckRows<float>(*kernels, random);
  }
}

TEST(RowKernels, BlocksOfGgmlDecodeAsTheirCodecDoes) {
  std::mt19937 random(5);
  for (const Kernels* kernels : AllKernels()) {
    for (const char* name : {"q8_0", "q4_0"}) {
      const Codec& codec = FindCodec(name);
      for (const int head_dim : {32, 64, 96, 128, 256}) {
        const int count = 7;
        const size_t bytes = codec.record_bytes(head_dim);
        const auto rows = Gaussian(random, static_cast<size_t>(count * head_dim), 3.0f);
        std::vector<std::byte> records(bytes * count);
        std::vector<float> expected(rows.size()), decoded(rows.size());
        for (int r = 0; r < count; ++r) {
          codec.encode(&rows[static_cast<size_t>(r * head_dim)], head_dim, ScaleRule::kMse,
                       &records[r * bytes]);
          codec.decode(&records[r * bytes], head_dim, &expected[static_cast<size_t>(r * head_dim)]);
        }
        (std::string(name) == "q8_0" ? kernels->decode_q8_0 : kernels->decode_q4_0)(
            records.data(), count, head_dim, decoded.data());
        EXPECT_EQ(decoded, expected) << kernels->target << " " << name << " " << head_dim;
      }
    }
  }
}

TEST(Softmax, LogitsAreScaledCappedAndMasked) {
  std::mt19937 random(6);
  for (const Kernels* kernels : AllKernels()) {
    for (int round = 0; round < 200; ++round) {
      const int count = 1 + static_cast<int>(random() % 150);
      const float scale = 0.125f, softcap = round % 2 == 0 ? 0.0f : 50.0f;
      const float slope = round % 3 == 0 ? 1.0f : 0.37f;
      const auto x = Gaussian(random, static_cast<size_t>(count), round % 5 == 0 ? 5000.0f : 20.0f);
      std::vector<uint16_t> mask(static_cast<size_t>(count));
      for (uint16_t& m : mask) {
        const unsigned kind = random() % 4;
        m = FloatToHalf(kind == 0 ? -kInf : kind == 1 ? -3.5f : kind == 2 ? 2.25f : 0.0f);
      }
      const bool masked = round % 4 != 0;
      auto y = x;
      const float max = kernels->shape_logits(y.data(), count, scale, softcap, slope,
                                              masked ? mask.data() : nullptr);
      double expected_max = -kInf;
      for (size_t i = 0; i < y.size(); ++i) {
        double e = static_cast<double>(scale) * x[i];
        if (softcap != 0) e = softcap * std::tanh(e / softcap);
        const double m = masked ? HalfToFloat(mask[i]) : 0.0;
        e += slope * m;
        expected_max = std::max(expected_max, e);
        if (std::isinf(e)) {
          ASSERT_EQ(y[i], -kInf);
        } else {
          ASSERT_NEAR(y[i], e, 1e-6 * (std::abs(e) + std::abs(slope * m)) + 1e-12) << x[i];
        }
      }
      ASSERT_EQ(max, *std::max_element(y.begin(), y.end()));
      if (!std::isinf(expected_max)) {
        ASSERT_NEAR(max, expected_max, 1e-6 * 700);
      }
    }
  }
}

TEST(Softmax, ExponentialsAreWithinAMillionthAndHiddenCellsAreZero) {
  std::mt19937 random(7);
  for (const Kernels* kernels : AllKernels()) {
    std::vector<float> x;
    for (int i = 0; i <= 20000; ++i) x.push_back(-86.9f * static_cast<float>(i) / 20000.0f);
    x.push_back(-90.0f);
    x.push_back(-1e30f);
    x.push_back(-kInf);
    auto y = x;
    for (float& v : y) v += 3.0f;
    std::vector<double> expected;
    double total = 0;
    for (const float v : y) {
      expected.push_back(std::exp(static_cast<double>(v - 3.0f)));
      total += expected.back();
    }
    const float sum = kernels->exp_sum(y.data(), static_cast<int>(y.size()), 3.0f);
    EXPECT_NEAR(sum, total, 1e-5 * total) << kernels->target;
    for (size_t i = 0; i < y.size(); ++i) {
      ASSERT_NEAR(y[i], expected[i], 1e-6 * expected[i] + 2e-38) << kernels->target << " " << x[i];
    }
    EXPECT_EQ(y.back(), 0.0f);
    EXPECT_EQ(y[y.size() - 2], 0.0f);
    for (int count = 1; count < 40; ++count) {
      std::vector<float> hidden(static_cast<size_t>(count), -kInf);
      EXPECT_EQ(kernels->exp_sum(hidden.data(), count, -kInf), 0.0f);
      EXPECT_EQ(hidden, std::vector<float>(static_cast<size_t>(count), 0.0f));
      std::vector<float> zeros(static_cast<size_t>(count), 0.0f);
      EXPECT_NEAR(kernels->exp_sum(zeros.data(), count, 0.0f), count, 1e-4);
      kernels->scale_row(zeros.data(), count, 0.5f);
      EXPECT_NEAR(zeros.back(), 0.5f, 1e-6);
    }
  }
}

TEST(Conversions, HalvesAreThoseOfUtilHalf) {
  for (const Kernels* kernels : AllKernels()) {
    std::vector<uint16_t> halves;
    for (int h = 0; h < 65536; ++h) {
      if ((h & 0x7c00) != 0x7c00 || (h & 0x3ff) == 0) halves.push_back(static_cast<uint16_t>(h));
    }
    halves.pop_back();  // an odd number of them
    std::vector<float> floats(halves.size());
    kernels->half_to_float(halves.data(), static_cast<int64_t>(halves.size()), floats.data());
    for (size_t i = 0; i < halves.size(); ++i) ASSERT_EQ(floats[i], HalfToFloat(halves[i]));

    std::mt19937 random(8);
    std::vector<float> any = {0.0f,     -0.0f,    65504.0f,
                              65519.0f, 65520.0f, -1e30f,
                              kInf,     -kInf,    std::numeric_limits<float>::quiet_NaN(),
                              1e-8f,    -3e-8f,   6.1e-5f};
    for (int i = 0; i < 5000; ++i)
      any.push_back(std::bit_cast<float>(static_cast<uint32_t>(random())));
    for (int i = 0; i < 5000; ++i) {
      any.push_back(std::ldexp(static_cast<float>(random() % 65536) - 32768.0f,
                               static_cast<int>(random() % 40) - 38));
    }
    std::vector<uint16_t> out(any.size());
    kernels->float_to_half(any.data(), static_cast<int64_t>(any.size()), out.data());
    for (size_t i = 0; i < any.size(); ++i) {
      ASSERT_EQ(out[i], FloatToHalf(Sanitise(any[i]))) << kernels->target << " " << any[i];
    }
  }
}

TEST(Dispatch, UnknownTargetsAreRefusedByName) {
  EXPECT_THROW(TargetNamed("sse9"), Error);
  EXPECT_STREQ(TargetNamed("scalar").name, "scalar");
  EXPECT_STREQ(Targets().back().name, "scalar");
  EXPECT_EXIT(
      {
        setenv("POLARQUANT_ISA", "sse9", 1);
        try {
          DefaultTarget();
        } catch (const Error& error) {
          const std::string message = error.what();
          const bool clear = error.code() == ErrorCode::kParameter &&
                             message.find("sse9") != std::string::npos &&
                             message.find("scalar") != std::string::npos;
          std::exit(clear ? 7 : 1);
        }
        std::exit(0);
      },
      testing::ExitedWithCode(7), "");
  EXPECT_EXIT(
      {
        setenv("POLARQUANT_ISA", "scalar", 1);
        std::exit(std::string(DefaultTarget().name) == "scalar" ? 7 : 1);
      },
      testing::ExitedWithCode(7), "");
}

}  // namespace
}  // namespace polarquant
