// SPDX-License-Identifier: Apache-2.0
// Watches queries and keys of an exact cache on their way through us, for a model's profile
// (polarquant/model_profile.h). Thread-safe.
#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "kv_cache.h"
#include "polarquant/attention.h"
#include "polarquant/model_profile.h"

namespace polarquant::llama {

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

 private:
  KeyObserver& Of(const KvTensor& tensor);

  std::mutex mutex_;
  std::atomic<bool> active_ = false;  // changes under the mutex
  bool dense_ = false;
  std::map<int, KeyObserver> layers_;
};

}  // namespace polarquant::llama
