// SPDX-License-Identifier: Apache-2.0
// From rows to moments, scales and means, and the profile's file.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <filesystem>
#include <random>

#include "math/stepped_centre.h"
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

  std::vector<float> Keys(int first_position, int count) {
    std::vector<float> rows;
    for (int t = 0; t < count; ++t) {
      for (size_t i = 0; i < mean.size(); ++i) rows.push_back(key_size[i] * normal(random));
    }
    for (int t = 0; t < count; ++t) {
      for (int head = 0; head < num_kv_heads; ++head) {
        AddMean(first_position + t, head,
                &rows[static_cast<size_t>((t * num_kv_heads + head) * head_dim)]);
      }
    }
    return rows;
  }
  // row += RoPE_position(mean), with RoPE's magnitude.
  void AddMean(int position, int head, float* row) const {
    const float* of_head = mean.data() + head * head_dim;
    for (int p = 0; p < rope.dims / 2; ++p) {
      const auto [a, b] = rope.Pair(p);
      const auto turned =
          std::complex<double>(of_head[a], of_head[b]) *
          std::polar(rope.magnitude, rope.frequencies[static_cast<size_t>(p)] * position);
      row[a] += static_cast<float>(turned.real());
      row[b] += static_cast<float>(turned.imag());
    }
    for (int i = rope.dims; i < head_dim; ++i) row[i] += of_head[i];
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

TEST(KeyObserver, FindsTheMeanBeforeRope) {
  for (const auto& [pairing, dims] : {std::pair(Rope::Pairing::kAdjacent, 64),
                                      {Rope::Pairing::kHalves, 64},
                                      {Rope::Pairing::kHalves, 24},
                                      {Rope::Pairing::kNone, 0}}) {
    World world(TestRope(pairing, dims), 2, 64, 7);
    const LayerProfile profile = world.Observe(24);
    EXPECT_EQ(profile.rope, world.rope);
    for (size_t i = 0; i < world.mean.size(); ++i) {
      const double noise = world.key_size[i] / std::sqrt(24.0 * kTokens);
      EXPECT_NEAR(profile.mean[i], world.mean[i], 6 * noise + 1e-3) << i << " of " << dims;
    }
  }
}

TEST(KeyObserver, LeavesTheMagnitudeOfRopeOut) {
  Rope rope = TestRope(Rope::Pairing::kHalves, 48);
  World plain(rope, 1, 64, 7);
  rope.magnitude = 1.3;
  World longer(rope, 1, 64, 7);
  for (size_t i = 0; i < 48; ++i) {  // noise and queries are turned as well
    longer.key_size[i] *= 1.3f;
    longer.query_size[i] *= 1.3f;
  }
  const LayerProfile a = plain.Observe(8), b = longer.Observe(8);
  EXPECT_EQ(b.rope.magnitude, 1.0);
  for (size_t i = 0; i < 64; ++i) {
    EXPECT_NEAR(a.mean[i], b.mean[i], 1e-4);
    EXPECT_NEAR(b.query_moment[i] / a.query_moment[i], 1.0, 1e-5);
    EXPECT_NEAR(b.key_moment[i] / a.key_moment[i], 1.0, 1e-4);
    EXPECT_NEAR(b.key_variance[i] / a.key_variance[i], 1.0, 1e-4);
  }
}

TEST(LayerProfile, VarianceAboutTheSteppedCentreIsThatOfTheRowsLessTheirCentres) {
  for (const int step : {16, 64, 128}) {
    World world(TestRope(Rope::Pairing::kAdjacent, 40), 1, 64, 8);
    const LayerProfile profile = world.Observe(24);
    std::vector<double> measured(64);
    const int count = 24 * kTokens;
    std::vector<float> rows = world.Keys(0, count);
    const SteppedCentre centre(StepTable::Share(world.rope, step), profile.mean);
    centre.AddTo(0, count, -1.0f, rows.data());
    for (size_t i = 0; i < rows.size(); ++i) {
      measured[i % 64] += static_cast<double>(rows[i]) * rows[i] / count;
    }
    const auto variance = profile.Variance({.step = step}, world.rope);
    for (int p = 0; p < 20; ++p) {
      const auto [a, b] = world.rope.Pair(p);
      const double both = measured[static_cast<size_t>(a)] + measured[static_cast<size_t>(b)];
      EXPECT_NEAR(variance[static_cast<size_t>(a)] / (0.5 * both), 1.0, 0.2) << p;
      EXPECT_EQ(variance[static_cast<size_t>(a)], variance[static_cast<size_t>(b)]);
    }
    for (size_t i = 40; i < 64; ++i) EXPECT_NEAR(variance[i] / measured[i], 1.0, 0.2) << i;
    EXPECT_EQ(profile.Variance({}, world.rope), profile.key_moment);
    EXPECT_EQ(profile.Variance({.center = true}, world.rope), profile.key_variance);
  }
}

TEST(LayerProfile, GivesTheBalanceOfTheCentreAskedFor) {
  World world(TestRope(Rope::Pairing::kHalves, 48), 2, 64, 8);
  const LayerProfile profile = world.Observe(8);
  EXPECT_EQ(profile.KeysFor({.center = true, .balance = true}, {}).balance, profile.balance);
  for (const Normalisation& asked : {Normalisation{.balance = true},
                                     {.balance = true, .step = 16},
                                     {.balance = true, .step = 64}}) {
    const KeyProfile keys = profile.KeysFor(asked, world.rope);
    const auto variance = profile.Variance(asked, world.rope);
    for (size_t first : {0, 64}) {
      const auto scales =
          BalanceScale(world.rope, &profile.query_moment[first], &variance[first], 64);
      for (size_t i = 0; i < 64; ++i) EXPECT_EQ(keys.balance[first + i], scales[i]);
    }
    EXPECT_EQ(keys.mean, profile.mean);
    EXPECT_EQ(keys.rope, world.rope);
    keys.Check(2, 64);
  }
  Rope unknown = world.rope;
  unknown.frequencies.clear();
  EXPECT_NO_THROW(profile.KeysFor({.balance = true}, unknown));
  EXPECT_THROW(profile.KeysFor({.step = 64}, unknown), Error);
}

TEST(LayerProfile, StaysPositiveWhereTheMeanIsAllThereIs) {
  LayerProfile profile;
  profile.num_kv_heads = 1;
  profile.head_dim = 4;
  profile.query_moment = {1, 1, 0, 1};
  profile.key_moment = {4, 4, 0, 9};
  profile.mean = {2, 2, 0, -3};
  for (const float v : profile.Variance({.step = 64}, {})) EXPECT_TRUE(v >= 0.0f && v < 1e-4f);
  profile.balance.assign(4, 1.0f);
  profile.KeysFor({.balance = true, .step = 64}, {}).Check(1, 4);
}

TEST(LayerProfile, PredictsTheGainOfEachStep) {
  World world(TestRope(Rope::Pairing::kHalves, 64), 1, 64, 8);
  const LayerProfile profile = world.Observe(16);
  const double centred = profile.GainDb(0, {.center = true});
  const double balanced = profile.GainDb(0, {.center = true, .balance = true});
  const double stepped = profile.GainDb(0, {.balance = true, .step = 16});
  EXPECT_EQ(profile.GainDb(0, {}), 0.0);
  EXPECT_GT(centred, 1.0);
  EXPECT_GT(balanced, centred + 0.5);
  EXPECT_GT(stepped, balanced + 0.3);
  EXPECT_GT(stepped, profile.GainDb(0, {.balance = true, .step = 64}));
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

TEST(ProfileFile, MayNotKnowTheFrequencies) {
  ModelProfile profile = SomeProfile();
  for (LayerProfile& layer : profile.layers) layer.rope.frequencies.clear();
  EXPECT_EQ(ModelProfile::Parse(profile.Print()), profile);
  profile.layers[0].rope.frequencies.assign(5, 1.0);  // of 12
  EXPECT_THROW(ModelProfile::Parse(profile.Print()), Error);
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
  const size_t at = other.find("\"version\":\"2\"");
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
