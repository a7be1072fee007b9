// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page: the keys and the values of one sequence, appended to, forked and cut.
#include "polarquant/sequence_cache.h"

#include <algorithm>
#include <set>
#include <string>

#include "cache/row_formats.h"
#include "cache/sequence_cache_impl.h"
#include "polarquant/error.h"

namespace polarquant {
namespace {

const SequenceCache::Config& Checked(const SequenceCache::Config& config) {
  CheckLimits(config.num_kv_heads, config.window_tokens, config.sink_tokens);
  return config;
}

// The profile is not asked for before a page closes.
const KeyProfile* ProfileOf(const SequenceCache::Config& config) {
  if (config.profile) config.profile->Check(config.num_kv_heads, config.key_head_dim);
  return config.profile.get();
}

}  // namespace

SequenceCache::Impl::Impl(const Config& checked)
    : config(checked),
      keys({checked.key, Role::kKey, checked.key_head_dim, checked.num_kv_heads,
            checked.page_tokens},
           checked.sink_tokens, ProfileOf(checked)),
      values({checked.value, Role::kValue, checked.value_head_dim, checked.num_kv_heads,
              checked.page_tokens},
             checked.sink_tokens, nullptr) {}

bool SequenceCache::Impl::NeedsProfile() const {
  return config.key.normalisation.needs_profile() && config.profile == nullptr;
}

SequenceCache::SequenceCache(const Config& config)
    : impl_(std::make_unique<Impl>(Checked(config))) {}
SequenceCache::~SequenceCache() = default;
SequenceCache::SequenceCache(const SequenceCache& other)
    : impl_(std::make_unique<Impl>(*other.impl_)) {}
SequenceCache& SequenceCache::operator=(const SequenceCache& other) {
  if (this != &other) impl_ = std::make_unique<Impl>(*other.impl_);
  return *this;
}
SequenceCache::SequenceCache(SequenceCache&&) noexcept = default;
SequenceCache& SequenceCache::operator=(SequenceCache&&) noexcept = default;

const SequenceCache::Config& SequenceCache::config() const { return impl_->config; }
int64_t SequenceCache::length() const { return impl_->length; }
int64_t SequenceCache::first_token() const { return impl_->first_token; }
const PagedRows& SequenceCache::keys() const { return impl_->keys; }
const PagedRows& SequenceCache::values() const { return impl_->values; }

void SequenceCache::SetProfile(std::shared_ptr<const KeyProfile> profile) {
  if (!impl_->NeedsProfile()) {
    throw Error(ErrorCode::kParameter,
                impl_->config.profile
                    ? "the sequence cache has a profile already; pages are made with it"
                    : "scheme " + impl_->config.key.ToString() + " takes no profile");
  }
  if (profile == nullptr) throw Error(ErrorCode::kParameter, "there is no profile to set");
  impl_->keys.SetProfile(*profile);
  impl_->config.profile = std::move(profile);
}

bool SequenceCache::wants_profile() const {
  return impl_->NeedsProfile() && impl_->keys.HasUnsettled(impl_->Boundary());
}

void SequenceCache::Append(const HostRows& keys, const HostRows& values, int64_t count,
                           int num_threads) {
  CheckValue("count", count, 0, (int64_t{1} << 40) - impl_->length);
  if (count == 0) return;
  if (keys.data == nullptr || values.data == nullptr) {
    throw Error(ErrorCode::kParameter, "appending needs keys and values");
  }
  if (const SteppedCentre* centre = impl_->keys.centre(0); centre != nullptr && centre->turns()) {
    // A page is decoded and encoded whole.
    SteppedCentre::CheckPosition(impl_->length + count - 1 + impl_->config.page_tokens);
  }
  try {
    impl_->keys.Append(keys, count, num_threads);
    impl_->values.Append(values, count, num_threads);
  } catch (...) {
    impl_->keys.Truncate(impl_->length);
    impl_->values.Truncate(impl_->length);
    throw;
  }
  impl_->length += count;
}

void SequenceCache::Settle(int num_threads) {
  if (wants_profile()) {
    throw Error(ErrorCode::kParameter, "scheme " + impl_->config.key.ToString() +
                                           " needs the model's profile before its first page "
                                           "closes: set one, or use " +
                                           impl_->config.key.codec + ":center");
  }
  impl_->keys.Settle(impl_->Boundary(), num_threads);
  impl_->values.Settle(impl_->Boundary(), num_threads);
}

void SequenceCache::Truncate(int64_t length) {
  CheckValue("length", length, impl_->first_token, impl_->length);
  impl_->keys.Truncate(length);
  impl_->values.Truncate(length);
  impl_->length = length;
}

void SequenceCache::EvictFront(int64_t count) {
  CheckValue("count", count, 0, impl_->length - impl_->first_token);
  impl_->first_token += count;
  impl_->keys.DropBefore(impl_->first_token);
  impl_->values.DropBefore(impl_->first_token);
}

void SequenceCache::Clear() {
  impl_->keys.Clear();
  impl_->values.Clear();
  impl_->length = impl_->first_token = 0;
}

void SequenceCache::Read(Role role, int64_t first, int64_t count, float* rows, int64_t row_stride,
                         int64_t head_stride, int num_threads) const {
  CheckValue("first", first, impl_->first_token, impl_->length);
  CheckValue("count", count, 0, impl_->length - first);
  const SequenceRows& from = role == Role::kKey ? impl_->keys : impl_->values;
  from.Read(first, count, rows, row_stride, head_stride, num_threads);
}

AttentionCall SequenceCache::Call() const {
  AttentionCall call;
  call.keys = &impl_->keys;
  call.values = &impl_->values;
  call.first_cell = impl_->first_token - impl_->keys.FirstCell();
  call.num_cells = impl_->keys.num_cells();
  return call;
}

MemoryUse SequenceCache::memory() const {
  const SequenceCache* const self[] = {this};
  return MemoryOf(self);
}

MemoryUse SequenceCache::MemoryOf(std::span<const SequenceCache* const> caches) {
  MemoryUse use;
  std::set<const void*> seen;
  for (const SequenceCache* cache : caches) {
    use += cache->impl_->keys.Memory(cache->impl_->first_token, &seen);
    use += cache->impl_->values.Memory(cache->impl_->first_token, &seen);
    use.bookkeeping_bytes += sizeof(Impl) - 2 * sizeof(SequenceRows);
  }
  return use;
}

}  // namespace polarquant
