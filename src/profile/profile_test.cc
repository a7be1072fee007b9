// SPDX-License-Identifier: Apache-2.0
// From rows to moments, scales and means, and the profile's file.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <filesystem>
#include <random>

#include "math/rotating_centre.h"
#include "polarquant/error.h"
#include "polarquant/model_profile.h"

namespace polarquant {
namespace {

constexpr int kTokens = 128;

Rope TestRope(Rope::Pairing pairing, int dims) {
  Rope rope{pairing, dims, {}};
  for (int i = 0; i < dims / 2; ++i) rope.frequencies.push_back(std::pow(1e4, -2.0 * i / dims));
  return rope;
}

// Keys with a mean before RoPE and noise of channel-wise size, queries of channel-wise size.
struct World {
  World(Rope with, int kv_heads, int dim, unsigned seed)
      : rope(std::move(with)), num_kv_heads(kv_heads), head_dim(dim), random(seed) {
    for (int i = 0; i < kv_heads * dim; ++i) {
      mean.push_back(5.0f * normal(random));
      key_size.push_back(std::exp(normal(random)));
      query_size.push_back(std::exp(normal(random)));
    }
    for (int head = 0; head < kv_heads; ++head) {  // noise is the same in both channels of a pair
      for (int p = 0; p < rope.dims / 2; ++p) {
        const auto [a, b] = rope.Pair(p);
        const auto first = static_cast<size_t>(head * dim);
        key_size[first + static_cast<size_t>(b)] = key_size[first + static_cast<size_t>(a)];
      }
    }
  }

  std::vector<float> Keys(int first_position, int count, bool with_mean = true) {
    std::vector<float> rows;
    for (int t = 0; t < count; ++t) {
      for (size_t i = 0; i < mean.size(); ++i) rows.push_back(key_size[i] * normal(random));
    }
    for (int head = 0; with_mean && head < num_kv_heads; ++head) {
      const RotatingCentre centre(TurnTable::Share(rope, kTokens), Head(mean, head));
      for (int t = 0; t < count; ++t) {
        centre.AddTo(first_position + t, 1, 1.0f,
                     &rows[static_cast<size_t>((t * num_kv_heads + head) * head_dim)]);
      }
    }
    return rows;
  }
  std::span<const float> Head(const std::vector<float>& values, int head) const {
    return std::span(values).subspan(static_cast<size_t>(head * head_dim),
                                     static_cast<size_t>(head_dim));
  }

  LayerProfile Observe(int pages) {
    KeyObserver observer(3, num_kv_heads, head_dim, rope);
    for (int page = 0; page < pages; ++page) {
      const auto rows = Keys(page * kTokens, kTokens);
      std::vector<int32_t> positions;
      for (int t = 0; t < kTokens; ++t) positions.push_back(page * kTokens + t);
      observer.AddPage(rows.data(), kTokens, num_kv_heads * head_dim, positions.data());
      std::vector<float> queries;
      for (int t = 0; t < kTokens * 2; ++t) {  // two query heads a kv_head
        for (int h = 0; h < num_kv_heads; ++h) {
          for (int i = 0; i < head_dim; ++i) {
            queries.push_back(query_size[static_cast<size_t>(h * head_dim + i)] * normal(random));
          }
        }
      }
      // [token][2][kv_head]: heads of a group lie kv_heads apart here, so feed them one by one.
      for (int g = 0; g < 2; ++g) {
        observer.AddQueries(queries.data() + g * num_kv_heads * head_dim, kTokens,
                            2 * num_kv_heads * head_dim, num_kv_heads, head_dim);
      }
    }
    return observer.Finish();
  }

  Rope rope;
  int num_kv_heads, head_dim;
  std::vector<float> mean, key_size, query_size;
  std::mt19937 random;
  std::normal_distribution<float> normal;
};

TEST(RotatingCentre, TurnsTheMeanAsRopeTurnsARow) {
  for (const auto pairing : {Rope::Pairing::kAdjacent, Rope::Pairing::kHalves}) {
    World world(TestRope(pairing, 24), 1, 32, 3);
    const RotatingCentre centre(TurnTable::Share(world.rope, 64), world.mean);
    for (const int position : {0, 1, 63, 64, 1000, 131071}) {
      std::vector<float> row(32, 0.0f);
      centre.AddTo(position, 1, 1.0f, row.data());
      for (int p = 0; p < 12; ++p) {
        const auto [a, b] = world.rope.Pair(p);
        const std::complex<double> mean(world.mean[static_cast<size_t>(a)],
                                        world.mean[static_cast<size_t>(b)]);
        const auto turned =
            mean * std::polar(1.0, world.rope.frequencies[static_cast<size_t>(p)] * position);
        EXPECT_NEAR(row[static_cast<size_t>(a)], turned.real(), 2e-4);
        EXPECT_NEAR(row[static_cast<size_t>(b)], turned.imag(), 1e-4);
      }
      for (size_t i = 24; i < 32; ++i) EXPECT_EQ(row[i], 0.0f);
    }
  }
}

TEST(RotatingCentre, GivesTheSameBitsHoweverRowsAreGrouped) {
  World world(TestRope(Rope::Pairing::kHalves, 64), 1, 64, 4);
  const RotatingCentre centre(TurnTable::Share(world.rope, 128), world.mean);
  for (const int first : {-70, 0, 5, 120, 4000}) {
    std::vector<float> together(300 * 64, 0.5f), single = together;
    centre.AddTo(first, 300, -1.0f, together.data());
    for (int t = 0; t < 300; ++t) centre.AddTo(first + t, 1, -1.0f, &single[size_t(t) * 64]);
    EXPECT_EQ(together, single);
  }
}

TEST(RotatingCentre, TableTimesWeightsIsTheProductWithTheCentre) {
  World world(TestRope(Rope::Pairing::kAdjacent, 48), 1, 64, 5);
  std::fill_n(world.mean.begin(), 10, 0.0f);  // pairs that are left out
  const RotatingCentre centre(TurnTable::Share(world.rope, 128), world.mean);
  std::vector<float> query(64);
  for (float& x : query) x = world.normal(world.random);
  const TurnTable& table = centre.table();
  std::vector<float> weights(static_cast<size_t>(table.num_terms()));
  for (const int first : {0, 128, 777, 100000}) {
    centre.Weigh(first, query.data(), 1, weights.data());
    for (int t = 0; t < 128; ++t) {
      std::vector<float> row(64, 0.0f);
      centre.AddTo(first + t, 1, 1.0f, row.data());
      double expected = 0, got = 0;
      for (size_t i = 0; i < 64; ++i) expected += static_cast<double>(query[i]) * row[i];
      for (int k = 0; k < table.num_terms(); ++k) {
        got += static_cast<double>(weights[static_cast<size_t>(k)]) * table.Row(t)[k];
      }
      EXPECT_NEAR(got, expected, 2e-4);
    }
  }
}

TEST(BalanceScale, IsTheFourthRootOfTheMomentsRatio) {
  const std::vector<float> queries = {16, 1, 1, 1}, keys = {1, 1, 1, 1};
  const auto scale = BalanceScale({}, queries.data(), keys.data(), 4);
  for (int i = 1; i < 4; ++i) EXPECT_NEAR(scale[0] / scale[static_cast<size_t>(i)], 2.0, 1e-5);
  double log_sum = 0;
  for (const float s : scale) log_sum += std::log(s);
  EXPECT_NEAR(log_sum, 0.0, 1e-5);
}

TEST(BalanceScale, IsTheSameForBothChannelsOfAPair) {
  std::mt19937 random(1);
  std::vector<float> queries(32), keys(32);
  for (auto* list : {&queries, &keys}) {
    for (float& x : *list) x = std::exp(std::normal_distribution<float>()(random));
  }
  for (const auto pairing : {Rope::Pairing::kAdjacent, Rope::Pairing::kHalves}) {
    const Rope rope{pairing, 20, {}};
    const auto scale = BalanceScale(rope, queries.data(), keys.data(), 32);
    for (int p = 0; p < 10; ++p) {
      const auto [a, b] = rope.Pair(p);
      EXPECT_EQ(scale[static_cast<size_t>(a)], scale[static_cast<size_t>(b)]);
    }
    EXPECT_NE(scale[30], scale[31]);
  }
}

TEST(BalanceScale, StaysFiniteWhereNothingIsUsedOrFilled) {
  const std::vector<float> queries = {0, 0, 1, 1, 1e30f, 1}, keys = {0, 1, 0, 1, 1e-30f, 1};
  const auto scale = BalanceScale({}, queries.data(), keys.data(), 6);
  for (const float s : scale) EXPECT_TRUE(s > 0 && std::isfinite(s)) << s;
  EXPECT_NEAR(scale[0], scale[3], 1e-6);
  EXPECT_LT(scale[1], scale[0]);
  EXPECT_GT(scale[2], scale[0]);
  const std::vector<float> none(6, 0.0f);
  for (const float s : BalanceScale({}, none.data(), none.data(), 6)) EXPECT_EQ(s, 1.0f);
}

TEST(KeyObserver, FindsTheMeanOfFastPairsAndLeavesSlowOnesToThePage) {
  for (const auto pairing : {Rope::Pairing::kAdjacent, Rope::Pairing::kHalves}) {
    World world(TestRope(pairing, 64), 2, 64, 7);
    const LayerProfile profile = world.Observe(24);
    int found = 0;
    for (int head = 0; head < 2; ++head) {
      for (int p = 0; p < 32; ++p) {
        const auto pair = world.rope.Pair(p);
        for (const int channel : {pair.first, pair.second}) {
          const auto i = static_cast<size_t>(head * 64 + channel);
          const double noise = world.key_size[i] / std::sqrt(24.0 * kTokens);
          if (world.rope.frequencies[static_cast<size_t>(p)] < 1e-3) {
            EXPECT_EQ(profile.mean[i], 0.0f);
          } else if (profile.mean[i] != 0.0f) {
            ++found;
            EXPECT_NEAR(profile.mean[i], world.mean[i], 8 * noise + 1e-3) << p;
          }
          const double expected = world.key_size[i] * world.key_size[i];
          if (p < 8) {
            EXPECT_NEAR(profile.turned_variance[i] / expected, 1.0, 0.15) << p;
          }
          EXPECT_LE(profile.turned_variance[i], profile.key_variance[i] * 1.2);
        }
      }
    }
    EXPECT_GT(found, 30);
  }
}

TEST(KeyObserver, PredictsTheGainOfEachStep) {
  World world(TestRope(Rope::Pairing::kHalves, 64), 1, 64, 8);
  const LayerProfile profile = world.Observe(16);
  const double centred = profile.GainDb(0, {.center = true});
  const double balanced = profile.GainDb(0, {.center = true, .balance = true});
  const double turned = profile.GainDb(0, {.center = true, .balance = true, .rope = true});
  EXPECT_EQ(profile.GainDb(0, {}), 0.0);
  EXPECT_GT(centred, 1.0);
  EXPECT_GT(balanced, centred + 0.5);
  EXPECT_GT(turned, balanced + 1.0);
}

TEST(KeyObserver, RefusesTooFewRows) {
  World world({}, 1, 32, 9);
  EXPECT_THROW(world.Observe(1), Error);
}

// Random symmetric moments of rank `rank`.
std::vector<double> RandomMoments(int head_dim, int rank, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  const auto dim = static_cast<size_t>(head_dim);
  std::vector<double> moments(dim * dim);
  for (int r = 0; r < rank; ++r) {
    std::vector<double> x(dim);
    for (size_t i = 0; i < dim; ++i) x[i] = normal(random) * std::exp2(-static_cast<double>(i) / 8);
    for (size_t i = 0; i < dim * dim; ++i) moments[i] += x[i / dim] * x[i % dim];
  }
  return moments;
}

// left * middle * left^T
std::vector<double> Sandwich(const std::vector<float>& left, const std::vector<double>& middle,
                             size_t dim, bool transposed) {
  std::vector<double> result(dim * dim);
  const auto at = [&](size_t i, size_t j) {
    return static_cast<double>(transposed ? left[j * dim + i] : left[i * dim + j]);
  };
  for (size_t i = 0; i < dim; ++i) {
    for (size_t j = 0; j < dim; ++j) {
      for (size_t k = 0; k < dim; ++k) {
        for (size_t l = 0; l < dim; ++l) {
          result[i * dim + j] += at(i, k) * middle[k * dim + l] * at(j, l);
        }
      }
    }
  }
  return result;
}

TEST(DenseMap, MapsThatAreCutShortAreRefused) {
  EXPECT_THROW(InverseMaps(std::vector<float>(16 * 16 - 1, 1.0f), 16), Error);
}

TEST(DenseMap, GivesQueriesAndKeysTheSameDiagonalMoment) {
  constexpr size_t kDim = 16;
  const auto queries = RandomMoments(kDim, 64, 1), keys = RandomMoments(kDim, 64, 2);
  const std::vector<float> map = DenseMap(queries, keys, kDim);
  const auto mapped_keys = Sandwich(map, keys, kDim, false);
  const auto mapped_queries = Sandwich(InverseMaps(map, kDim), queries, kDim, true);
  const double ratio = mapped_queries[0] / mapped_keys[0];  // the map's scale is free
  double product = 0, energy = 0, keys_energy = 0;
  for (size_t i = 0; i < kDim; ++i) {
    for (size_t j = 0; j < kDim; ++j) {
      const double k = mapped_keys[i * kDim + j], q = mapped_queries[i * kDim + j];
      const double size = std::sqrt(mapped_keys[i * kDim + i] * mapped_keys[j * kDim + j]);
      EXPECT_NEAR(k / size, i == j ? 1.0 : 0.0, 1e-3) << i << " " << j;
      EXPECT_NEAR(q / (size * ratio), i == j ? 1.0 : 0.0, 1e-3) << i << " " << j;
    }
    product += mapped_keys[i * kDim + i];
    energy += mapped_queries[i * kDim + i];
    keys_energy += keys[i * kDim + i];
  }
  EXPECT_NEAR(product / keys_energy, 1.0, 1e-5);
  // What the noise of logits is proportional to: lower than without a map, and than with the best
  // diagonal one.
  double plain_queries = 0, diagonal = 0;
  for (size_t i = 0; i < kDim; ++i) {
    plain_queries += queries[i * kDim + i];
    diagonal += std::sqrt(queries[i * kDim + i] * keys[i * kDim + i]);
  }
  EXPECT_LT(product * energy, 0.999 * diagonal * diagonal);
  EXPECT_LT(diagonal * diagonal, plain_queries * keys_energy * 1.0001);
}

TEST(DenseMap, CanBeInvertedWhateverIsMissing) {
  constexpr int kDim = 32;
  const std::vector<double> nothing(kDim * kDim);
  const auto few = RandomMoments(kDim, 3, 3), many = RandomMoments(kDim, 64, 4);
  for (const auto& [queries, keys] :
       {std::pair(nothing, nothing), std::pair(few, many), std::pair(many, few),
        std::pair(nothing, many), std::pair(few, nothing)}) {
    const std::vector<float> map = DenseMap(queries, keys, kDim), inverse = InverseMaps(map, kDim);
    for (int i = 0; i < kDim; ++i) {
      for (int j = 0; j < kDim; ++j) {
        double sum = 0;
        for (int k = 0; k < kDim; ++k) {
          sum += static_cast<double>(map[static_cast<size_t>(i * kDim + k)]) *
                 static_cast<double>(inverse[static_cast<size_t>(k * kDim + j)]);
        }
        ASSERT_NEAR(sum, i == j ? 1.0 : 0.0, 2e-2);
      }
    }
  }
}

ModelProfile SomeProfile() {
  World world(TestRope(Rope::Pairing::kHalves, 24), 2, 32, 11);
  ModelProfile profile{"a \"model\"", "llama", "00ff", "essay.txt", 4096, 128, {}};
  for (const int layer : {0, 2, 11}) {
    profile.layers.push_back(world.Observe(4));
    profile.layers.back().layer = layer;
  }
  return profile;
}

TEST(ProfileFile, ReadsWhatItWrote) {
  const ModelProfile profile = SomeProfile();
  EXPECT_EQ(ModelProfile::Parse(profile.Print()), profile);
  const std::string path = testing::TempDir() + "a.profile";
  profile.Save(path);
  EXPECT_EQ(ModelProfile::Load(path), profile);
  std::filesystem::remove(path);
  EXPECT_EQ(profile.Find(2), &profile.layers[1]);
  EXPECT_FALSE(profile.has_dense());
  EXPECT_EQ(profile.Find(3), nullptr);
}

TEST(ProfileFile, KeepsDenseMaps) {
  ModelProfile profile = SomeProfile();
  for (LayerProfile& layer : profile.layers) {
    for (int head = 0; head < layer.num_kv_heads; ++head) {
      const auto map = DenseMap(RandomMoments(32, 64, 5), RandomMoments(32, 64, 6), 32);
      layer.dense.insert(layer.dense.end(), map.begin(), map.end());
    }
  }
  EXPECT_TRUE(profile.has_dense());
  EXPECT_EQ(ModelProfile::Parse(profile.Print()), profile);
  profile.layers[1].dense[5] = INFINITY;
  EXPECT_THROW(ModelProfile::Parse(profile.Print()), Error);
}

TEST(ProfileFile, RefusesEveryTruncationAndSurvivesEveryFlippedByte) {
  const std::string bytes = SomeProfile().Print();
  for (size_t length = 0; length < bytes.size(); length += 1 + length / 16) {
    EXPECT_THROW(ModelProfile::Parse(std::string_view(bytes).substr(0, length)), Error) << length;
  }
  std::mt19937 random(2);
  for (int i = 0; i < 4000; ++i) {
    std::string damaged = bytes;
    damaged[random() % damaged.size()] ^= static_cast<char>(1 + random() % 255);
    try {
      const ModelProfile profile = ModelProfile::Parse(damaged);
      for (const LayerProfile& layer : profile.layers) {
        for (const float scale : layer.balance) ASSERT_TRUE(scale > 0 && std::isfinite(scale));
      }
    } catch (const Error&) {
    }
  }
}

TEST(ProfileFile, RefusesPlacesThatAreNoCounts) {
  std::string bytes = SomeProfile().Print();
  const std::string before = "\"data_offsets\":[0,";
  const size_t at = bytes.find(before);
  ASSERT_NE(at, std::string::npos);
  bytes[at + before.size() + 1] = 'e';  // 512 becomes 5e2
  try {
    ModelProfile::Parse(bytes);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("no count"), std::string::npos) << error.what();
  }
}

TEST(ProfileFile, SaysWhyItIsRefused) {
  const auto message = [](const std::string& path) -> std::string {
    try {
      ModelProfile::Load(path);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(message("/nowhere/x").find("/nowhere/x"), std::string::npos);
  std::string other = SomeProfile().Print();
  const size_t at = other.find("\"version\":\"1\"");
  ASSERT_NE(at, std::string::npos);
  other[at + 11] = '9';
  try {
    ModelProfile::Parse(other);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("version is 9"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace polarquant
