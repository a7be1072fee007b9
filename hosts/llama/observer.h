// SPDX-License-Identifier: Apache-2.0
// Watches queries and keys of an exact cache on their way through us, for a model's profile
// (polarquant/model_profile.h). One for the whole process serves `polarquant tune`; a cache whose
// scheme needs a profile that nobody gave has one of its own, and learns from the first page of the
// first prompt. Thread-safe.
#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "polarquant/attention.h"
#include "polarquant/model_profile.h"

namespace polarquant::llama {

struct KvTensor;

class Observer {
 public:
  static Observer& Get();

  // Whether anybody wants to know: what prepares the calls below is not done for nothing.
  bool active() const { return active_; }
  void Start(bool dense);
  // Ends, and writes what was seen to `path`: a profile without the model's name. Throws Error.
  void Finish(const std::string& path);

  // Rows as they are written: `positions` may be null (no RoPE, or one we do not know); cells then
  // stand for them.
  void Keys(const KvTensor& tensor, std::span<const int64_t> cells, const float* rows,
            int64_t stride, const int32_t* positions);
  void Queries(const KvTensor& tensor, const AttentionCall& call);

  int64_t QueriesSeen(const KvTensor& tensor);
  // What was seen of one layer so far; none before there are `fewest_rows` keys and queries.
  std::optional<LayerProfile> Seen(const KvTensor& tensor, int64_t fewest_rows);

 private:
  KeyObserver& Of(const KvTensor& tensor);

  std::mutex mutex_;
  std::atomic<bool> active_ = false;  // changes under the mutex
  bool dense_ = false;
  std::map<int, KeyObserver> layers_;
};

}  // namespace polarquant::llama
