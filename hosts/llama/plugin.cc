// SPDX-License-Identifier: Apache-2.0
#include "plugin.h"

#include <utility>

namespace polarquant::llama {
namespace {

Plugin* the_plugin = nullptr;
// The cache that the next buffer allocated on this thread joins.
thread_local std::weak_ptr<KvCache> open_cache;

}  // namespace

void Plugin::Create(Settings settings) { the_plugin = new Plugin(std::move(settings)); }

Plugin& Plugin::Get() { return *the_plugin; }

void Plugin::Configure(Policy policy) {
  Profiles profiles = LoadProfiles(policy);
  const std::lock_guard lock(mutex_);
  policy_ = std::move(policy);
  profiles_ = std::move(profiles);
  ++generation_;
}

Policy Plugin::policy() const {
  const std::lock_guard lock(mutex_);
  return policy_;
}

void Plugin::BackendStarted() { open_cache.reset(); }

std::shared_ptr<KvCache> Plugin::CacheForNewTensor() {
  const std::lock_guard lock(mutex_);
  std::shared_ptr<KvCache> cache = open_cache.lock();
  if (cache != nullptr && !cache->in_use() && cache->generation() == generation_) return cache;
  cache = std::make_shared<KvCache>(policy_, profiles_, generation_);
  open_cache = cache;
  std::erase_if(caches_, [](const auto& entry) { return entry.expired(); });
  caches_.push_back(cache);
  return cache;
}

std::vector<std::shared_ptr<KvCache>> Plugin::LiveCaches() {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<KvCache>> live;
  for (const auto& entry : caches_) {
    if (auto cache = entry.lock()) live.push_back(std::move(cache));
  }
  return live;
}

}  // namespace polarquant::llama
