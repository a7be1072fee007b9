// SPDX-License-Identifier: Apache-2.0
// Stage 1/7 normalise, prepared: from observed moments to balance scales and centres.
#include "polarquant/model_profile.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <string>

#include "math/stepped_centre.h"
#include "polarquant/error.h"

namespace polarquant {
namespace {

using Complex = std::complex<double>;

constexpr double kWidest = 64.0;         // of a scale against the head's median
constexpr double kLeastVariance = 1e-6;  // of the moment: what a centre leaves at least

double Square(double x) { return x * x; }

// Averages over the pairs of RoPE, in place.
void AverageOverPairs(const Rope& rope, std::vector<double>& moments) {
  for (int i = 0; i < rope.dims / 2; ++i) {
    const auto [a, b] = rope.Pair(i);
    double& first = moments[static_cast<size_t>(a)];
    double& second = moments[static_cast<size_t>(b)];
    first = second = 0.5 * (first + second);
  }
}

// Adds the products of (row - mean) to the lower half of a head's matrix, if there is one.
void AddProducts(const float* row, const double* mean, int head_dim, int head,
                 std::vector<double>& products) {
  if (products.empty()) return;
  std::vector<double> x(row, row + head_dim);
  if (mean != nullptr) {
    for (int i = 0; i < head_dim; ++i) x[static_cast<size_t>(i)] -= mean[i];
  }
  double* matrix = products.data() + int64_t{head} * head_dim * head_dim;
  for (int i = 0; i < head_dim; ++i, matrix += head_dim) {
    for (int j = 0; j <= i; ++j) matrix[j] += x[static_cast<size_t>(i)] * x[static_cast<size_t>(j)];
  }
}

// The symmetric matrix of a head, of whose lower half the sums are.
std::vector<double> WholeMoments(const std::vector<double>& products, int head, int head_dim) {
  const auto dim = static_cast<size_t>(head_dim);
  const double* lower = products.data() + static_cast<size_t>(head) * dim * dim;
  std::vector<double> whole(dim * dim);
  for (size_t i = 0; i < dim; ++i) {
    for (size_t j = 0; j <= i; ++j) whole[i * dim + j] = whole[j * dim + i] = lower[i * dim + j];
  }
  return whole;
}

double MedianOf(std::vector<double> values) {
  if (values.empty()) return 1.0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

std::vector<float> BalanceScale(const Rope& rope, const float* query_moment,
                                const float* key_variance, int head_dim) {
  const auto dim = static_cast<size_t>(head_dim);
  std::vector<double> queries(query_moment, query_moment + dim);
  std::vector<double> keys(key_variance, key_variance + dim);
  AverageOverPairs(rope, queries);
  AverageOverPairs(rope, keys);
  const auto scale_of = [&](size_t i) { return std::sqrt(std::sqrt(queries[i] / keys[i])); };
  std::vector<double> known;
  for (size_t i = 0; i < dim; ++i) {
    if (queries[i] > 0 && keys[i] > 0) known.push_back(scale_of(i));
  }
  const double median = MedianOf(known);
  std::vector<double> scales(dim, median);
  double log_sum = 0.0;
  for (size_t i = 0; i < dim; ++i) {
    if (queries[i] > 0 || keys[i] > 0) {
      scales[i] =
          std::clamp(keys[i] > 0 ? scale_of(i) : INFINITY, median / kWidest, median * kWidest);
    }
    log_sum += std::log(scales[i]);
  }
  const double mean = std::exp(log_sum / static_cast<double>(dim));
  std::vector<float> result;
  result.reserve(dim);
  for (const double scale : scales) {
    result.push_back(static_cast<float>(std::clamp(scale / mean, 1.0 / 4096, 4096.0)));
  }
  return result;
}

std::vector<float> LayerProfile::Variance(const Normalisation& normalisation,
                                          const Rope& turns) const {
  if (normalisation.center) return key_variance;
  std::vector<float> variance = key_moment;
  if (normalisation.step == 0) return variance;
  const auto without = [&](size_t i, size_t j, double share) {  // of a pair, or of one channel
    const double moment = static_cast<double>(key_moment[i]) + static_cast<double>(key_moment[j]);
    const double centre = Square(share) * (Square(static_cast<double>(mean[i])) +
                                           Square(static_cast<double>(mean[j])));
    const double left = std::max(moment - centre, kLeastVariance * moment);
    variance[i] = variance[j] = static_cast<float>(0.5 * left);
  };
  const auto dim = static_cast<size_t>(head_dim);
  for (size_t first = 0; first < key_moment.size(); first += dim) {
    for (size_t p = 0; p < turns.frequencies.size(); ++p) {
      const auto [a, b] = turns.Pair(static_cast<int>(p));
      without(first + static_cast<size_t>(a), first + static_cast<size_t>(b),
              StepShare(turns.frequencies[p], normalisation.step));
    }
    for (size_t i = static_cast<size_t>(turns.dims); i < dim; ++i) without(first + i, first + i, 1);
  }
  return variance;
}

double LayerProfile::GainDb(int kv_head, const Normalisation& normalisation) const {
  const auto first = static_cast<size_t>(kv_head) * static_cast<size_t>(head_dim);
  const std::vector<float> noise = Variance(normalisation, rope);
  const std::vector<float> scales =
      BalanceScale(rope, &query_moment[first], &noise[first], head_dim);
  double query_sum = 0, plain_sum = 0, mapped_queries = 0, mapped_keys = 0;
  for (size_t i = first; i < first + static_cast<size_t>(head_dim); ++i) {
    const double scale = static_cast<double>(scales[i - first]);
    const double square = normalisation.balance ? Square(scale) : 1.0;
    query_sum += static_cast<double>(query_moment[i]);
    plain_sum += static_cast<double>(key_moment[i]);
    mapped_queries += static_cast<double>(query_moment[i]) / square;
    mapped_keys += static_cast<double>(noise[i]) * square;
  }
  const double before = query_sum * plain_sum, after = mapped_queries * mapped_keys;
  return before > 0 && after > 0 ? 10.0 * std::log10(before / after) : 0.0;
}

KeyProfile LayerProfile::KeysFor(const Normalisation& normalisation, const Rope& turns) const {
  if (normalisation.step != 0 && turns.frequencies.size() != static_cast<size_t>(turns.dims) / 2) {
    throw Error(ErrorCode::kParameter, "layer " + std::to_string(layer) +
                                           ": center=step needs the frequencies of RoPE, " +
                                           std::to_string(turns.dims / 2) + " of them, and " +
                                           std::to_string(turns.frequencies.size()) +
                                           " are known; use balance:center in its place");
  }
  KeyProfile keys{balance, mean, turns, dense,
                  normalisation.dense ? InverseMaps(dense, head_dim) : std::vector<float>()};
  if (normalisation.center) return keys;
  const std::vector<float> variance = Variance(normalisation, turns);
  keys.balance.clear();
  for (size_t first = 0; first < variance.size(); first += static_cast<size_t>(head_dim)) {
    const auto scales = BalanceScale(turns, &query_moment[first], &variance[first], head_dim);
    keys.balance.insert(keys.balance.end(), scales.begin(), scales.end());
  }
  return keys;
}

const LayerProfile* ModelProfile::Find(int layer) const {
  const auto found = std::ranges::find(layers, layer, &LayerProfile::layer);
  return found == layers.end() ? nullptr : &*found;
}

bool ModelProfile::has_dense() const {
  return std::ranges::none_of(layers, [](const auto& layer) { return layer.dense.empty(); });
}

KeyObserver::KeyObserver(int layer, int num_kv_heads, int head_dim, Rope rope, bool dense)
    : layer_(layer), num_kv_heads_(num_kv_heads), head_dim_(head_dim), rope_(std::move(rope)) {
  const size_t values = static_cast<size_t>(num_kv_heads) * static_cast<size_t>(head_dim);
  queries_.resize(values);
  keys_.resize(values);
  within_.resize(values);
  means_.resize(values);
  if (!dense) return;
  query_products_.resize(values * static_cast<size_t>(head_dim));
  key_products_.resize(values * static_cast<size_t>(head_dim));
}

void KeyObserver::AddQueries(const float* queries, int count, int64_t stride, int num_q_heads,
                             int64_t head_stride) {
  const int group = num_q_heads / num_kv_heads_;
  for (int n = 0; n < count; ++n) {
    for (int h = 0; h < num_q_heads; ++h) {
      const float* query = queries + n * stride + h * head_stride;
      double* sums = queries_.data() + int64_t{h / group} * head_dim_;
      for (int i = 0; i < head_dim_; ++i) sums[i] += Square(static_cast<double>(query[i]));
      AddProducts(query, nullptr, head_dim_, h / group, query_products_);
    }
  }
  num_queries_ += count;
}

void KeyObserver::AddPage(const float* rows, int count, int64_t stride, const int32_t* positions) {
  if (count == 0) return;
  const double share = 1.0 / count;
  const auto at = [&](int row, int channel) {
    return static_cast<double>(rows[row * stride + channel]);
  };
  std::vector<double> sums(queries_.size());
  for (size_t i = 0; i < sums.size(); ++i) {
    double squares = 0;
    for (int r = 0; r < count; ++r) {
      sums[i] += at(r, static_cast<int>(i));
      squares += Square(at(r, static_cast<int>(i)));
    }
    keys_[i] += squares;
    within_[i] += squares - Square(sums[i]) * share;
  }
  num_keys_ += count;
  if (!key_products_.empty()) {
    std::vector<double> means(sums);
    for (double& mean : means) mean *= share;
    for (int r = 0; r < count; ++r) {
      for (int head = 0; head < num_kv_heads_; ++head) {
        const int first = head * head_dim_;
        AddProducts(rows + r * stride + first, means.data() + first, head_dim_, head,
                    key_products_);
      }
    }
  }
  for (size_t i = 0; i < sums.size(); ++i) {
    if (static_cast<int>(i) % head_dim_ >= rope_.dims) means_[i] += sums[i];
  }
  std::vector<Complex> turns(static_cast<size_t>(count));
  for (size_t p = 0; p < rope_.frequencies.size(); ++p) {
    for (int r = 0; r < count; ++r) {
      turns[static_cast<size_t>(r)] = std::polar(1.0, -rope_.frequencies[p] * positions[r]);
    }
    const auto [a, b] = rope_.Pair(static_cast<int>(p));
    for (int head = 0; head < num_kv_heads_; ++head) {
      const int first = head * head_dim_;
      Complex unturned = 0;
      for (int r = 0; r < count; ++r) {
        unturned += Complex(at(r, first + a), at(r, first + b)) * turns[static_cast<size_t>(r)];
      }
      double* means = means_.data() + first;
      means[a] += unturned.real();
      means[b] += unturned.imag();
    }
  }
}

LayerProfile KeyObserver::Finish(int64_t fewest_rows) const {
  if (num_keys_ < fewest_rows || num_queries_ < fewest_rows) {
    throw Error(ErrorCode::kParameter,
                "layer " + std::to_string(layer_) + ": " + std::to_string(num_keys_) +
                    " keys and " + std::to_string(num_queries_) +
                    " queries were observed; a profile needs at least " +
                    std::to_string(fewest_rows) + " of each, give more text");
  }
  LayerProfile profile;
  profile.layer = layer_;
  profile.num_kv_heads = num_kv_heads_;
  profile.head_dim = head_dim_;
  profile.rope = rope_;
  profile.rope.magnitude = 1.0;
  const double keys = static_cast<double>(num_keys_), queries = static_cast<double>(num_queries_);
  for (size_t i = 0; i < keys_.size(); ++i) {
    const bool turned = static_cast<int>(i) % head_dim_ < rope_.dims;
    const double length = turned ? rope_.magnitude : 1.0, square = Square(length);
    profile.query_moment.push_back(static_cast<float>(queries_[i] / queries / square));
    profile.key_moment.push_back(static_cast<float>(keys_[i] / keys / square));
    profile.key_variance.push_back(static_cast<float>(within_[i] / keys / square));
    profile.mean.push_back(static_cast<float>(means_[i] / keys / length));
  }
  for (int head = 0; head < num_kv_heads_; ++head) {
    const auto first = static_cast<size_t>(head) * static_cast<size_t>(head_dim_);
    const auto scales = BalanceScale(profile.rope, &profile.query_moment[first],
                                     &profile.key_variance[first], head_dim_);
    profile.balance.insert(profile.balance.end(), scales.begin(), scales.end());
    if (query_products_.empty()) continue;
    const std::vector<float> map =
        DenseMap(WholeMoments(query_products_, head, head_dim_),
                 WholeMoments(key_products_, head, head_dim_), head_dim_);
    profile.dense.insert(profile.dense.end(), map.begin(), map.end());
  }
  return profile;
}

}  // namespace polarquant
