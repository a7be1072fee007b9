// SPDX-License-Identifier: Apache-2.0
// The stepped centre against a plain loop over RoPE.
#include "math/stepped_centre.h"

#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <random>
#include <thread>
#include <vector>

#include "polarquant/error.h"

namespace polarquant {
namespace {

constexpr int kDim = 48;
constexpr int32_t kLast = std::numeric_limits<int32_t>::max();

struct Case {
  Rope rope;
  std::vector<float> mean;
};

// All pairings, all of a head, part of it or none, usual frequencies and any; some that stand still
// or turn by whole and nearly whole turns.
std::vector<Case> Cases() {
  std::mt19937 random(1);
  std::normal_distribution<double> normal;
  std::vector<Case> cases;
  for (const auto pairing : {Rope::Pairing::kAdjacent, Rope::Pairing::kHalves}) {
    for (const int dims : {kDim, 20}) {
      for (const bool usual : {true, false}) {
        Rope rope{pairing, dims, {}};
        for (int i = 0; i < dims / 2; ++i) {
          rope.frequencies.push_back(usual ? std::pow(1e4, -2.0 * i / dims) : 3.0 * normal(random));
        }
        if (!usual) {
          rope.frequencies[0] = 0.0;
          rope.frequencies[1] = 4.0 * std::acos(-1.0);
          rope.frequencies[2] = 2.0 * std::acos(-1.0) - 1e-10;
          rope.frequencies[3] = std::acos(-1.0);
          rope.magnitude = 1.25;
        }
        cases.push_back({rope, {}});
      }
    }
  }
  cases.push_back({Rope{}, {}});
  for (Case& each : cases) {
    for (int i = 0; i < kDim; ++i) each.mean.push_back(static_cast<float>(normal(random)));
  }
  return cases;
}

// The mean over the step of position of RoPE_t(mean), term by term.
std::vector<double> PlainCentre(const Case& of, int64_t step_index, int step) {
  std::vector<double> centre(of.mean.begin(), of.mean.end());
  for (int p = 0; p < of.rope.dims / 2; ++p) {
    const auto [a, b] = of.rope.Pair(p);
    const long double turn = 2.0L * std::acos(-1.0L);
    std::complex<double> sum = 0;
    for (int64_t t = step_index * step; t < (step_index + 1) * step; ++t) {
      const long double phase =
          static_cast<long double>(of.rope.frequencies[static_cast<size_t>(p)]) *
          static_cast<long double>(t);
      sum += std::polar(of.rope.magnitude / step,
                        static_cast<double>(phase - turn * std::round(phase / turn)));
    }
    sum *= std::complex<double>(of.mean[static_cast<size_t>(a)], of.mean[static_cast<size_t>(b)]);
    centre[static_cast<size_t>(a)] = sum.real();
    centre[static_cast<size_t>(b)] = sum.imag();
  }
  return centre;
}

TEST(SteppedCentre, IsTheMeanOfTheTurnedMeanOverTheStep) {
  for (const Case& each : Cases()) {
    for (const int step : {16, 64, 128}) {
      const SteppedCentre centre(StepTable::Share(each.rope, step), each.mean);
      for (const int64_t position : {int64_t{0}, int64_t{63}, int64_t{64}, int64_t{8191},
                                     int64_t{131072}, int64_t{100000000}, int64_t{kLast}}) {
        const auto expected = PlainCentre(each, position / step, step);
        std::vector<float> row(kDim, 0.0f), at(kDim);
        centre.AddTo(static_cast<int32_t>(position), 1, 1.0f, row.data());
        centre.At(each.rope.dims > 0 ? centre.StepAt(position) : 0, at.data());
        EXPECT_EQ(row, at);
        for (size_t i = 0; i < kDim; ++i) {
          // What whole turns of a fast pair leave uncertain grows with the position.
          const double close = 1e-5 + 1e-14 * static_cast<double>(position);
          EXPECT_NEAR(row[i], expected[i], close) << i << " at " << position << " step " << step;
        }
      }
    }
  }
}

TEST(SteppedCentre, GivesTheSameBitsHoweverRowsAreGrouped) {
  for (const Case& each : Cases()) {
    const SteppedCentre centre(StepTable::Share(each.rope, 64), each.mean);
    for (const int first : {0, 5, 120, 4000, 128 * 64 - 3}) {
      std::vector<float> together(300 * kDim, 0.5f), single = together;
      centre.AddTo(first, 300, -1.0f, together.data());
      for (int t = 0; t < 300; ++t) {
        centre.AddTo(first + t, 1, -1.0f, &single[static_cast<size_t>(t * kDim)]);
      }
      EXPECT_EQ(together, single);
    }
  }
}

TEST(SteppedCentre, TableTimesWeightsIsTheProductWithTheCentre) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  for (const Case& each : Cases()) {
    const SteppedCentre centre(StepTable::Share(each.rope, 32), each.mean);
    StepTable& table = centre.table();
    EXPECT_EQ(table.num_terms() % 16, 0);
    EXPECT_GT(table.num_terms(), each.rope.dims);
    std::vector<float> queries(3 * kDim), weights(static_cast<size_t>(3 * table.num_terms()), 7.0f);
    for (float& x : queries) x = normal(random);
    centre.Weigh(queries.data(), 3, weights.data());
    for (const int64_t index : {0, 1, 127, 128, 40000}) {
      std::vector<float> row(kDim);
      centre.At(index, row.data());
      for (size_t q = 0; q < 3; ++q) {
        double expected = 0, got = 0;
        for (size_t i = 0; i < kDim; ++i) {
          expected += static_cast<double>(queries[q * kDim + i]) * static_cast<double>(row[i]);
        }
        for (int k = 0; k < table.num_terms(); ++k) {
          got += static_cast<double>(
                     weights[q * static_cast<size_t>(table.num_terms()) + static_cast<size_t>(k)]) *
                 static_cast<double>(table.Row(index)[k]);
        }
        EXPECT_NEAR(got, expected, 1e-4);
      }
    }
  }
}

TEST(SteppedCentre, RefusesPositionsBeforeTheFirst) {
  const Case some = Cases().front(), still = Cases().back();
  std::vector<float> row(kDim);
  const SteppedCentre centre(StepTable::Share(some.rope, 64), some.mean);
  try {
    centre.AddTo(-7, 1, 1.0f, row.data());
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("-7"), std::string::npos) << error.what();
  }
  EXPECT_THROW(centre.AddTo(kLast, 2, 1.0f, row.data()), Error);
  // Where nothing turns positions say nothing.
  EXPECT_NO_THROW(
      SteppedCentre(StepTable::Share(still.rope, 64), still.mean).AddTo(-7, 1, 1.0f, row.data()));
  EXPECT_EQ(row, still.mean);
}

TEST(StepTable, IsSharedWhileSomebodyHoldsIt) {
  const Rope rope = Cases().front().rope;
  const auto table = StepTable::Share(rope, 64);
  EXPECT_EQ(StepTable::Share(rope, 64), table);
  EXPECT_NE(StepTable::Share(rope, 32), table);
  EXPECT_NE(StepTable::Share(Rope{}, 64), table);
  Rope without = rope;
  without.frequencies.clear();
  EXPECT_THROW(StepTable(without, 64), Error);
}

TEST(StepTable, GrowsFromManyThreadsAndNeverMoves) {
  const Rope rope = Cases().front().rope;
  StepTable table(rope, 16), plain(rope, 16);
  const size_t empty = table.bytes();
  const float* first = table.Row(0);
  constexpr int kThreads = 4, kRows = 5000;
  std::vector<std::vector<const float*>> seen(kThreads);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kRows; ++i) seen[t].push_back(table.Row(i));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(table.Row(0), first);
  for (size_t t = 1; t < kThreads; ++t) EXPECT_EQ(seen[t], seen[0]);
  for (int i = 0; i < kRows; i += 77) {
    for (int k = 0; k < table.num_terms(); ++k) {
      ASSERT_EQ(seen[0][static_cast<size_t>(i)][k], plain.Row(i)[k]);
    }
    if (i % StepTable::kChunkRows != 0) {
      EXPECT_EQ(table.Row(i), table.Row(i - 1) + table.num_terms());
    }
  }
  EXPECT_GT(table.bytes(), empty);
}

}  // namespace
}  // namespace polarquant
