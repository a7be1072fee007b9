// SPDX-License-Identifier: Apache-2.0
// What the whole plug-in shares: settings, and the caches that are alive. Made when ggml loads us
// and never destroyed, because llama.cpp may free buffers after our static destructors.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "kv_cache.h"
#include "polarquant/policy.h"
#include "profiles.h"
#include "settings.h"

namespace polarquant::llama {

class Plugin {
 public:
  static void Create(Settings settings);
  static Plugin& Get();

  const Settings& settings() const { return settings_; }

  // The policy of every cache made from now on. Throws Error if a profile is missing or damaged.
  void Configure(Policy policy);
  Policy policy() const;

  // A llama_context starts its backends, then allocates its caches, on one thread: the buffers
  // allocated between two starts are the caches of one context (a model with sliding windows has
  // two).
  void BackendStarted();
  std::shared_ptr<KvCache> CacheForNewTensor();
  std::vector<std::shared_ptr<KvCache>> LiveCaches();

 private:
  explicit Plugin(Settings settings)
      : settings_(std::move(settings)),
        policy_(settings_.policy),
        profiles_(LoadProfiles(policy_)) {}

  const Settings settings_;
  mutable std::mutex mutex_;
  Policy policy_;
  Profiles profiles_;
  uint64_t generation_ = 0;  // counts Configure
  std::vector<std::weak_ptr<KvCache>> caches_;
};

}  // namespace polarquant::llama
