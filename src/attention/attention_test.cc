// SPDX-License-Identifier: Apache-2.0
// Attention over cell stores in every state, against the double-precision reference.
#include "polarquant/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "cache/random_profile.h"
#include "polarquant/cell_store.h"
#include "polarquant/error.h"
#include "util/half.h"

namespace polarquant {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr uint16_t kHalfHidden = 0xfc00;

struct Shape {
  std::string key = "turbo4", value = "turbo4";
  int dim_k = 64, dim_v = 64;
  int kv_heads = 2, group = 2;
  int64_t cells = 512, filled = 512;  // of the stores, and written
  int queries = 1;
  int window = 128, page_tokens = 128;
};

std::vector<float> Gaussian(std::mt19937& random, size_t count, float deviation) {
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> x(count);
  for (float& v : x) v = normal(random);
  return x;
}

// Both stores filled in batches, as a host does, with rows around a mean that is not zero.
struct Fixture {
  Shape shape;
  std::mt19937 random;
  std::unique_ptr<CellStore> keys, values;
  std::vector<float> queries;
  std::vector<uint16_t> mask;
  std::vector<float> sinks;
  AttentionCall call;

  explicit Fixture(const Shape& s, unsigned seed = 1) : shape(s), random(seed) {
    keys = Store(shape.key, Role::kKey, shape.dim_k);
    values = Store(shape.value, Role::kValue, shape.dim_v);
    for (int64_t first = 0; first < shape.filled; first += 97) {
      Write(first, std::min<int64_t>(97, shape.filled - first));
    }
    const int q_heads = shape.kv_heads * shape.group;
    queries = Gaussian(random, static_cast<size_t>(shape.queries * q_heads * shape.dim_k), 1.0f);
    call.keys = keys.get();
    call.values = values.get();
    call.num_cells = shape.filled;
    call.num_q_heads = q_heads;
    call.num_queries = shape.queries;
    call.queries = queries.data();
    call.query_head_stride = shape.dim_k;
    call.query_stride = static_cast<int64_t>(q_heads) * shape.dim_k;
    call.scale = 1.0f / std::sqrt(static_cast<float>(shape.dim_k));
    call.output_head_stride = shape.dim_v;
    call.output_stride = static_cast<int64_t>(q_heads) * shape.dim_v;
  }

  std::unique_ptr<CellStore> Store(const std::string& scheme, Role role, int head_dim) const {
    CellStore::Config config;
    config.scheme = Scheme::Parse(scheme);
    config.role = role;
    config.head_dim = head_dim;
    config.num_kv_heads = shape.kv_heads;
    config.num_cells = shape.cells;
    config.window_tokens = shape.window;
    config.page_tokens = shape.page_tokens;
    config.profile = RandomProfile(shape.kv_heads, head_dim, Rope::Pairing::kHalves, 5);
    return std::make_unique<CellStore>(config);
  }

  void Write(int64_t first, int64_t count) {
    std::vector<int64_t> cells(static_cast<size_t>(count));
    std::iota(cells.begin(), cells.end(), first);
    for (CellStore* store : {keys.get(), values.get()}) {
      const int64_t row = static_cast<int64_t>(shape.kv_heads) * store->config().head_dim;
      auto rows = Gaussian(random, static_cast<size_t>(count * row), 1.0f);
      for (size_t i = 0; i < rows.size(); ++i) rows[i] += i % 7 == 0 ? 2.0f : 0.25f;
      std::vector<int32_t> positions(cells.begin(), cells.end());
      for (size_t i = 0; i < cells.size(); ++i) {
        if (cells[i] / 128 == 1) positions[i] += static_cast<int32_t>(random() % 2);
        if (cells[i] / 128 == 2) positions[i] = static_cast<int32_t>(random() % 3000);
      }
      store->Write(cells, rows.data(), row, 1, positions.data());
      store->Settle(1);
    }
  }

  void UseMask() {
    call.mask_stride = call.num_cells + 24;  // what lies beyond the cells says nothing
    mask.assign(static_cast<size_t>(shape.queries * call.mask_stride), 0);
    call.mask = mask.data();
  }
  uint16_t& MaskAt(int query, int64_t cell) {
    return mask[static_cast<size_t>(query * call.mask_stride + cell)];
  }
  void UseCausalMask() {
    UseMask();
    for (int n = 0; n < shape.queries; ++n) {
      const int64_t seen = call.num_cells - shape.queries + n + 1;
      for (int64_t c = std::max<int64_t>(seen, 0); c < call.num_cells; ++c) {
        MaskAt(n, c) = kHalfHidden;
      }
    }
  }

  struct Result {
    std::vector<float> output, lse;
  };
  Result Run(int num_threads) {  // 0: the reference
    const size_t rows = static_cast<size_t>(shape.queries * call.num_q_heads);
    Result result{std::vector<float>(rows * static_cast<size_t>(shape.dim_v), 77.0f),
                  std::vector<float>(rows, 77.0f)};
    call.output = result.output.data();
    call.lse = result.lse.data();
    if (num_threads == 0) {
      AttendReference(call);
    } else {
      Attend(call, num_threads);
    }
    return result;
  }

  // Against the reference, on one to four threads.
  void Check() {
    SCOPED_TRACE(testing::Message()
                 << shape.key << "/" << shape.value << " dims " << shape.dim_k << "/" << shape.dim_v
                 << " kv_heads " << shape.kv_heads << " group " << shape.group << " filled "
                 << shape.filled << " queries " << shape.queries << " on " << DefaultTarget().name);
    const Result expected = Run(0);
    double power = 0.0;
    for (const float x : expected.output) power += static_cast<double>(x) * x;
    const double rms = std::sqrt(power / static_cast<double>(expected.output.size()));
    for (const int threads : {1, 2, 3, 4}) {
      const Result result = Run(threads);
      for (size_t i = 0; i < expected.output.size(); ++i) {
        ASSERT_NEAR(result.output[i], expected.output[i], 5e-4 * rms) << i << " of " << threads;
      }
      for (size_t i = 0; i < expected.lse.size(); ++i) {
        if (std::isinf(expected.lse[i])) {
          ASSERT_EQ(result.lse[i], expected.lse[i]);
        } else {
          ASSERT_NEAR(result.lse[i], expected.lse[i], 5e-4 * (1.0 + std::abs(expected.lse[i])));
        }
      }
    }
  }
};

TEST(Attention, EveryPairOfSchemesMatchesTheReference) {
  const char* schemes[] = {"turbo2",
                           "turbo3",
                           "turbo4",
                           "turbo4:center",
                           "turbo3:center",
                           "turbo5",
                           "q8_0",
                           "q4_0",
                           "q8_0:rotate=none",
                           "f16",
                           "bf16",
                           "turbo4:balanced",
                           "turbo3:balanced:step=16",
                           "q8_0:balance:rotate=none",
                           "turbo4:dense",
                           "turbo3:center:sharpen=120",
                           "turbo5:sharpen=80",
                           "mixed3:balanced",
                           "turbo5:center=step",
                           "zscore3",
                           "kivi2",
                           "dual3:center"};
  unsigned seed = 0;
  for (const char* key : schemes) {
    for (const char* value : schemes) {
      ++seed;
      const Scheme of_values = Scheme::Parse(value);
      if (of_values.normalisation.needs_profile() || of_values.sharpen != 100) continue;
      Fixture f({.key = key,
                 .value = value,
                 .filled = 512 - static_cast<int64_t>(seed % 5) * 13,
                 .queries = seed % 3 == 0 ? 9 : 1},
                seed);
      f.UseCausalMask();
      f.Check();
    }
  }
}

TEST(Attention, HeadDimsAndGroupsOfAllKindsMatchTheReference) {
  const int dims[][2] = {{64, 64},   {80, 80},   {96, 96},  {112, 112}, {128, 128}, {256, 256},
                         {192, 128}, {576, 512}, {128, 64}, {16, 48},   {144, 176}};
  unsigned seed = 0;
  for (const auto& dim : dims) {
    for (const int group : {1, 3, 4, 7, 8}) {
      ++seed;
      Fixture f({.key = seed % 2 == 0 ? "turbo4:center" : "turbo3",
                 .value = seed % 3 == 0 ? "turbo2" : "turbo4",
                 .dim_k = dim[0],
                 .dim_v = dim[1],
                 .kv_heads = group > 4 ? 1 : 2,
                 .group = group,
                 .cells = 384,
                 .filled = 384,
                 .queries = group == 3 ? 40 : 2,
                 .window = 64},
                seed);
      f.UseCausalMask();
      f.Check();
    }
  }
}

TEST(Attention, PagesOf64And256TokensMatchTheReference) {
  for (const int page_tokens : {64, 256}) {
    for (const char* key : {"turbo4:center", "turbo2", "turbo3:center=step"}) {
      for (const int queries : {1, 33}) {
        Fixture f({.key = key,
                   .value = "turbo3",
                   .dim_k = 112,
                   .dim_v = 80,
                   .cells = 1024,
                   .filled = 900,
                   .queries = queries,
                   .page_tokens = page_tokens});
        f.UseCausalMask();
        f.Check();
      }
    }
  }
}

TEST(Attention, LongPromptsAreSplitOverTheirBlocks) {
  for (const char* scheme : {"turbo4:center", "f16", "turbo6"}) {
    Fixture f({.key = scheme, .value = scheme, .group = 3, .queries = 300, .window = 64});
    f.UseCausalMask();
    for (int n = 0; n < 300; ++n) f.MaskAt(n, n % 200) = kHalfHidden;
    f.Check();
  }
}

TEST(Attention, WithoutAMaskAllCellsAreSeen) {
  for (const int64_t filled : {1, 5, 64, 127, 128, 129, 300, 511}) {
    Fixture f({.key = "turbo4:center", .value = "turbo4:center", .filled = filled, .window = 0});
    f.Check();
  }
}

TEST(Attention, RandomMasksHideCellsRowsAndWholePages) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    Fixture f({.key = seed % 2 == 0 ? "turbo4" : "turbo4:center",
               .value = seed % 3 == 0 ? "q8_0" : "turbo3:center",
               .queries = static_cast<int>(1 + seed * 3 % 25)},
              seed);
    f.UseMask();
    for (int n = 0; n < f.shape.queries; ++n) {
      const unsigned density = f.random() % 4;
      for (int64_t c = 0; c < f.call.num_cells; ++c) {
        const bool hidden = density == 0 || f.random() % 4 < density || c / 128 == seed % 4;
        if (hidden) f.MaskAt(n, c) = kHalfHidden;
      }
    }
    if (f.shape.queries > 1) {  // one row sees nothing, one a single cell
      for (int64_t c = 0; c < f.call.num_cells; ++c) {
        f.MaskAt(0, c) = kHalfHidden;
        f.MaskAt(1, c) = c == 200 ? 0 : kHalfHidden;
      }
    }
    f.Check();
    if (f.shape.queries > 1) {
      const auto result = f.Run(2);
      for (int i = 0; i < f.shape.dim_v; ++i)
        EXPECT_EQ(result.output[static_cast<size_t>(i)], 0.0f);
      EXPECT_EQ(result.lse[0], -kInf);
    }
  }
}

TEST(Attention, NothingSeenAtAllGivesZeros) {
  Fixture f({.queries = 3});
  f.UseMask();
  std::fill(f.mask.begin(), f.mask.end(), kHalfHidden);
  for (const int threads : {1, 4}) {
    const auto result = f.Run(threads);
    for (const float x : result.output) EXPECT_EQ(x, 0.0f);
    for (const float x : result.lse) EXPECT_EQ(x, -kInf);
  }
  f.call.mask = nullptr;
  f.call.num_cells = 0;
  for (const float x : f.Run(2).output) EXPECT_EQ(x, 0.0f);
}

TEST(Attention, AdditiveMasksAlibiSoftcapAndSinksMatchTheReference) {
  for (unsigned seed = 1; seed <= 24; ++seed) {
    Fixture f({.key = seed % 2 == 0 ? "turbo4" : "turbo4:center",
               .value = "turbo4",
               .kv_heads = 3,
               .group = seed % 4 == 0 ? 4 : 3,
               .queries = seed % 5 == 0 ? 20 : 2},
              seed);
    f.UseMask();
    for (uint16_t& m : f.mask) {
      m = FloatToHalf(-0.01f * static_cast<float>(f.random() % 500));
      if (f.random() % 8 == 0) m = kHalfHidden;
    }
    if (seed % 2 == 1) f.call.max_bias = 8.0f;
    if (seed % 3 != 0) f.call.softcap = seed % 3 == 1 ? 30.0f : 2.0f;
    if (seed % 4 >= 2) {
      f.sinks = Gaussian(f.random, static_cast<size_t>(f.call.num_q_heads), 4.0f);
      f.call.sinks = f.sinks.data();
    }
    f.Check();
  }
}

TEST(Attention, ASinkAloneLeavesZerosAndItsOwnLogSumExp) {
  Fixture f({.queries = 1});
  f.UseMask();
  std::fill(f.mask.begin(), f.mask.end(), kHalfHidden);
  f.sinks.assign(static_cast<size_t>(f.call.num_q_heads), 1.5f);
  f.call.sinks = f.sinks.data();
  const auto result = f.Run(2);
  for (const float x : result.output) EXPECT_EQ(x, 0.0f);
  for (const float x : result.lse) EXPECT_FLOAT_EQ(x, 1.5f);
}

TEST(Attention, PeakedAndHugeLogitsStayFiniteAndRight) {
  for (const float size : {30.0f, 1000.0f}) {
    for (const char* scheme : {"turbo4", "turbo3:center", "f16", "q8_0"}) {
      Fixture f({.key = scheme, .value = scheme, .queries = 2});
      for (float& q : f.queries) q *= size;
      const auto expected = f.Run(0);
      // One cell takes nearly all weight; where two compete, logits of a thousand rounded to f32
      // and to the steps of the integers move it: the bound grows with them.
      for (const int threads : {1, 3}) {
        const auto result = f.Run(threads);
        for (size_t i = 0; i < expected.output.size(); ++i) {
          ASSERT_NEAR(result.output[i], expected.output[i], 2e-4 * size) << scheme;
        }
      }
    }
  }
}

TEST(Attention, RowsOfZerosGiveTheMeanOfTheValues) {
  Fixture f({.key = "turbo4", .value = "turbo4:center"});
  std::fill(f.queries.begin(), f.queries.end(), 0.0f);
  f.Check();
}

TEST(Attention, ExactSinksAndRewrittenCellsWinOverCodes) {
  for (const char* key : {"turbo4", "turbo4:center", "turbo5:center", "q4_0"}) {
    for (const char* value : {"turbo3", "turbo4:center", "q8_0"}) {
      for (const int queries : {1, 24}) {
        Fixture f({.key = key, .value = value, .queries = queries, .window = 128});
        f.Write(10, 5);  // of codes: exact again, and sinks
        f.Write(60, 9);
        f.Write(200, 1);
        const PageView view = f.keys->View(0, 0);
        ASSERT_NE(view.page, nullptr);
        ASSERT_NE(view.exact[0], 0u);
        f.UseCausalMask();
        f.Check();
        f.Write(384, 128);  // what was written again leaves the window again
        f.Check();
      }
    }
  }
}

TEST(Attention, NotANumberInAQueryReachesItsOutputAndNoOther) {
  for (const char* scheme : {"turbo4", "turbo4:center", "q8_0", "f16"}) {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), kInf}) {
      Fixture f({.key = scheme, .value = scheme, .queries = 2});
      f.queries[64 + 7] = bad;  // of the second head of the first query
      for (const int threads : {0, 1, 3}) {
        const auto result = f.Run(threads);
        for (size_t i = 0; i < result.output.size(); ++i) {
          ASSERT_EQ(std::isnan(result.output[i]), i / 64 == 1) << scheme << " " << i;
        }
      }
    }
  }
}

TEST(Attention, StridesOfQueriesAndOutputsAreTheCallers) {
  Fixture f({.queries = 3});
  const auto expected = f.Run(2);
  // Heads outermost, with gaps.
  const int64_t row = 64 + 8, heads = f.call.num_q_heads;
  std::vector<float> queries(static_cast<size_t>(heads * 3 * row), 99.0f);
  for (int64_t n = 0; n < 3; ++n) {
    for (int64_t h = 0; h < heads; ++h) {
      std::copy_n(f.queries.begin() + (n * heads + h) * 64, 64,
                  queries.begin() + (h * 3 + n) * row);
    }
  }
  std::vector<float> output(queries.size(), 55.0f);
  AttentionCall call = f.call;
  call.queries = queries.data();
  call.query_stride = row;
  call.query_head_stride = 3 * row;
  call.output = output.data();
  call.output_stride = row;
  call.output_head_stride = 3 * row;
  call.lse = nullptr;
  Attend(call, 2);
  for (int64_t n = 0; n < 3; ++n) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < row; ++i) {
        const float x = output[static_cast<size_t>((h * 3 + n) * row + i)];
        EXPECT_EQ(x,
                  i < 64 ? expected.output[static_cast<size_t>((n * heads + h) * 64 + i)] : 55.0f);
      }
    }
  }
}

TEST(Attention, PartsWithTheirLogSumExpMergeToTheWhole) {
  Fixture f({.queries = 1});
  const auto whole = f.Run(1);
  f.UseMask();
  for (int64_t c = 0; c < f.call.num_cells; ++c) f.MaskAt(0, c) = c < 300 ? 0 : kHalfHidden;
  const auto first = f.Run(1);
  for (int64_t c = 0; c < f.call.num_cells; ++c) f.MaskAt(0, c) = c < 300 ? kHalfHidden : 0;
  const auto second = f.Run(1);
  for (size_t h = 0; h < whole.lse.size(); ++h) {
    const double a = std::exp(first.lse[h] - whole.lse[h]);
    const double b = std::exp(second.lse[h] - whole.lse[h]);
    EXPECT_NEAR(a + b, 1.0, 1e-4);
    for (size_t i = 0; i < 64; ++i) {
      EXPECT_NEAR(a * first.output[h * 64 + i] + b * second.output[h * 64 + i],
                  whole.output[h * 64 + i], 1e-4);
    }
  }
}

TEST(Attention, CallsThatDoNotFitAreRefusedWithTheValues) {
  Fixture f({.queries = 2});
  std::vector<float> output(4096);
  f.call.output = output.data();
  const auto refused = [&](AttentionCall call, const std::string& word) {
    for (const int threads : {0, 1}) {
      try {
        threads == 0 ? AttendReference(call) : Attend(call, threads);
        ADD_FAILURE() << "accepted: " << word;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kParameter);
        EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
      }
    }
  };
  const auto with = [&](auto change) {
    AttentionCall call = f.call;
    change(call);
    return call;
  };
  refused(with([](AttentionCall& c) { c.num_q_heads = 5; }), "num_q_heads is 5");
  refused(with([](AttentionCall& c) { c.num_cells = 513; }), "num_cells is 513");
  refused(with([](AttentionCall& c) { c.values = nullptr; }), "values");
  refused(with([](AttentionCall& c) { c.queries = nullptr; }), "queries");
  refused(with([](AttentionCall& c) { c.values = c.keys; }), "keys as values");
  refused(with([](AttentionCall& c) { c.keys = c.values; }), "values as keys");
  refused(with([](AttentionCall& c) { std::swap(c.keys, c.values); }), "values as keys");
  refused(with([](AttentionCall& c) { c.softcap = -1.0f; }), "softcap");
  f.UseMask();
  refused(with([](AttentionCall& c) { c.mask_stride = 100; }), "mask_stride is 100");
  EXPECT_THROW(Attend(f.call, 0), Error);
  Shape other = f.shape;
  other.cells = 1024;
  Fixture g(other);
  refused(with([&](AttentionCall& c) { c.values = g.values.get(); }), "1024");
}

TEST(FastPath, CoversTileCodecsHalvesAndGgmlBlocksUnlessScalar) {
  const bool simd = std::string(DefaultTarget().name) != "scalar";
  for (const char* scheme :
       {"turbo2", "turbo3", "turbo4", "turbo4:center", "f16", "q8_0", "q4_0"}) {
    EXPECT_EQ(HasFastPath(Scheme::Parse(scheme), 128), simd) << scheme;
  }
  EXPECT_FALSE(HasFastPath(Scheme::Parse("turbo6"), 128));
  EXPECT_THROW(HasFastPath(Scheme::Parse("turbo4"), 100), Error);
}

}  // namespace
}  // namespace polarquant
