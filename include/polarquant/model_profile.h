// SPDX-License-Identifier: Apache-2.0
// A model's profile: what its queries and keys look like, layer by layer, and the balance scales
// that follow (polarquant/key_profile.h). A property of the model, not of a text: made once from a
// few thousand tokens, kept in one small file.
//
// The file is in the safetensors format (any reader of it will do). Its metadata names the model;
// each layer N with keys of its own has the f32 tensors [num_kv_heads][head_dim]
//
//   layers.N.query_moment     E q^2, summed over the query heads of the kv_head
//   layers.N.key_moment       E k^2
//   layers.N.key_variance     E (k - mean of its page)^2
//   layers.N.mean             the mean key before RoPE, of every channel
//   layers.N.balance          the balance scale over key_variance
//
// as if RoPE kept the length of what it turns (Rope::magnitude 1); where the frequencies of RoPE
// are known, the f64 tensor [1][rope dims / 2]
//
//   layers.N.frequencies      radians a position
//
// and, if asked for, the f32 tensor [num_kv_heads * head_dim][head_dim]
//
//   layers.N.dense            the dense maps
//
// FORMAT.md has the rest. Plain data; functions are thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "polarquant/key_profile.h"
#include "polarquant/scheme.h"

namespace polarquant {

struct LayerProfile {
  int layer = 0;  // the model's own number
  int num_kv_heads = 0;
  int head_dim = 0;
  // As it was when keys were observed; frequencies are empty where they could not be known. A host
  // turns by its own.
  Rope rope;
  std::vector<float> query_moment, key_moment, key_variance;
  std::vector<float> mean;
  std::vector<float> balance;
  std::vector<float> dense;  // [num_kv_heads][head_dim][head_dim], or empty

  // E (k - its centre)^2, [num_kv_heads][head_dim], where `turns` is how fast RoPE turns:
  // key_variance with the page's mean, key_moment without a centre, and for a pair of the stepped
  // centre E |k|^2 - |D mean|^2, D its share of the step (math/stepped_centre.h). Pairs of an
  // unknown frequency count as if they had no centre.
  std::vector<float> Variance(const Normalisation& normalisation, const Rope& turns) const;
  // By how many dB the logit error of a kv_head's quantised keys falls, for the same codec, with
  // the frequencies seen when keys were observed.
  double GainDb(int kv_head, const Normalisation& normalisation) const;
  // For CellStore::Config, on a host that turns keys by `turns`: the balance scale is that over the
  // variance about this centre. Throws Error(kParameter) if the stepped centre needs frequencies
  // that `turns` does not say.
  KeyProfile KeysFor(const Normalisation& normalisation, const Rope& turns) const;

  bool operator==(const LayerProfile&) const = default;
};

struct ModelProfile {
  std::string model;         // its name, for people
  std::string architecture;  // as the model file says
  std::string fingerprint;   // of the model (hex); the same for all quantisations of its weights
  std::string text;          // what was read, for people
  int64_t tokens = 0;        // how much of it
  int page_tokens = 128;
  std::vector<LayerProfile> layers;  // ascending

  // Null if the layer has no keys of its own.
  const LayerProfile* Find(int layer) const;
  bool has_dense() const;  // maps for every layer

  // Throws Error(kHost) if the file cannot be read or written, Error(kFormat) if it is not a
  // profile, naming what is wrong.
  static ModelProfile Load(const std::string& path);
  void Save(const std::string& path) const;
  static ModelProfile Parse(std::string_view bytes);
  std::string Print() const;  // the file's bytes

  bool operator==(const ModelProfile&) const = default;
};

// The balance scale of one kv_head: (query_moment / key_variance)^(1/4), moments averaged over the
// pairs of RoPE, within a factor of 64 of the head's median, scaled to a geometric mean of 1.
// Channels that no query uses and no key fills get the median.
std::vector<float> BalanceScale(const Rope& rope, const float* query_moment,
                                const float* key_variance, int head_dim);

// The dense map of one kv_head from the second moments of its queries and centred keys, symmetric
// [head_dim][head_dim]: A = L^(-1/4) U^T S (key_profile.h), scaled so that keys keep their energy.
// Directions that nothing uses are bounded, so A is invertible whatever was observed.
std::vector<float> DenseMap(const std::vector<double>& query_moments,
                            const std::vector<double>& key_covariance, int head_dim);
// Of each of the maps one after another. Throws Error(kParameter) if the last one is cut short.
std::vector<float> InverseMaps(const std::vector<float>& maps, int head_dim);

// Collects the moments of one layer from queries and keys as attention sees them, after RoPE.
// Without the frequencies of RoPE the mean of the channels it turns stays 0.
class KeyObserver {
 public:
  // `dense`: whole second moments as well, for dense maps; head_dim times the work.
  KeyObserver(int layer, int num_kv_heads, int head_dim, Rope rope, bool dense = false);

  // `count` queries of all heads: q[n * stride + h * head_stride], num_q_heads a multiple of
  // num_kv_heads.
  void AddQueries(const float* queries, int count, int64_t stride, int num_q_heads,
                  int64_t head_stride);
  // The rows of one page, `stride` floats apart, each num_kv_heads * head_dim, and their positions,
  // which matter only with frequencies.
  void AddPage(const float* rows, int count, int64_t stride, const int32_t* positions);

  int64_t num_queries() const { return num_queries_; }
  int64_t num_keys() const { return num_keys_; }
  // Throws Error(kParameter) if it has seen fewer than `fewest_rows` keys or queries.
  LayerProfile Finish(int64_t fewest_rows = 256) const;

 private:
  int layer_, num_kv_heads_, head_dim_;
  Rope rope_;
  std::vector<double> queries_, keys_, within_;  // sums of squares
  std::vector<double> means_;                    // sums of keys before RoPE
  // Sums of products [num_kv_heads][head_dim][head_dim], the lower halves; empty unless dense.
  std::vector<double> query_products_, key_products_;
  int64_t num_queries_ = 0, num_keys_ = 0;
};

}  // namespace polarquant
