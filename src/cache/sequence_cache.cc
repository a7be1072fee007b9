// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page: the keys and the values of one sequence, appended to, forked and cut.
#include "polarquant/sequence_cache.h"

#include <algorithm>
#include <limits>
#include <numeric>
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

}  // namespace

SequenceCache::Impl::Impl(const Config& checked)
    : config(checked),
      keys({checked.key, Role::kKey, checked.key_head_dim, checked.num_kv_heads,
            checked.page_tokens, checked.target},
           checked.sink_tokens, checked.profile),
      values({checked.value, Role::kValue, checked.value_head_dim, checked.num_kv_heads,
              checked.page_tokens, checked.target},
             checked.sink_tokens, nullptr) {}

void SequenceCache::Impl::Retire(PageStore* rows, int64_t from, int64_t boundary) const {
  const int64_t tokens = config.page_tokens;
  for (int64_t cell = from - FirstCell(); cell < boundary - FirstCell();) {
    const int64_t page = cell / tokens, end = std::min(boundary - FirstCell(), (page + 1) * tokens);
    rows->Retire(page, PageBits::Range(static_cast<int>(cell - page * tokens),
                                       static_cast<int>(end - page * tokens)));
    cell = end;
  }
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

void SequenceCache::SetProfile(std::shared_ptr<const KeyProfile> profile, int num_threads) {
  if (!impl_->NeedsProfile()) {
    throw Error(ErrorCode::kParameter,
                impl_->config.profile
                    ? "the sequence cache has a profile already; rows are coded with it"
                    : "scheme " + impl_->config.key.ToString() + " takes no profile");
  }
  if (profile == nullptr) throw Error(ErrorCode::kParameter, "there is no profile to set");
  impl_->keys.SetProfile(profile, num_threads);
  impl_->config.profile = std::move(profile);
}

bool SequenceCache::wants_profile() const {
  return impl_->NeedsProfile() &&
         impl_->length - impl_->config.window_tokens - impl_->FirstCell() >=
             impl_->config.page_tokens;
}

void SequenceCache::Append(const HostRows& keys, const HostRows& values, int64_t count,
                           int num_threads) {
  CheckValue("count", count, 0, int64_t{kMaxPosition} + 1 - impl_->length);
  if (count == 0) return;
  if (keys.data == nullptr || values.data == nullptr) {
    throw Error(ErrorCode::kParameter, "appending needs keys and values");
  }
  const int64_t tokens = impl_->config.page_tokens, first = impl_->length - impl_->FirstCell();
  std::vector<PageStore::Run> runs;
  for (int64_t cell = first; cell < first + count;) {
    const int64_t page = cell / tokens, end = std::min(first + count, (page + 1) * tokens);
    runs.push_back(
        {page, static_cast<int>(cell - page * tokens), static_cast<int>(end - cell), cell - first});
    cell = end;
  }
  std::vector<int32_t> positions(static_cast<size_t>(count));
  std::iota(positions.begin(), positions.end(), static_cast<int32_t>(impl_->length));
  try {
    impl_->keys.Write(runs, keys, positions.data(), num_threads);
    impl_->values.Write(runs, values, positions.data(), num_threads);
  } catch (...) {
    impl_->keys.SetEnd(first);
    impl_->values.SetEnd(first);
    throw;
  }
  impl_->length += count;
}

void SequenceCache::Settle(int num_threads) {
  if (wants_profile()) {
    throw Error(ErrorCode::kParameter, "scheme " + impl_->config.key.ToString() +
                                           " needs the model's profile before rows leave the "
                                           "window: set one, or use " +
                                           impl_->config.key.codec + ":center");
  }
  const int64_t boundary = impl_->length - impl_->config.window_tokens;
  const int64_t from = std::max(impl_->retired, impl_->FirstCell());
  for (PageStore* rows : {&impl_->keys, &impl_->values}) {
    impl_->Retire(rows, from, boundary);
    rows->CloseRetired(std::numeric_limits<int>::max(), num_threads);
  }
  impl_->retired = std::max(boundary, impl_->retired);
}

void SequenceCache::Truncate(int64_t length) {
  CheckValue("length", length, impl_->first_token, impl_->length);
  impl_->keys.SetEnd(length - impl_->FirstCell());
  impl_->values.SetEnd(length - impl_->FirstCell());
  impl_->length = length;
  impl_->retired = std::min(impl_->retired, length);
}

void SequenceCache::EvictFront(int64_t count) {
  CheckValue("count", count, 0, impl_->length - impl_->first_token);
  impl_->first_token += count;
  const int64_t pages = impl_->first_token / impl_->config.page_tokens - impl_->first_page;
  impl_->keys.DropPages(pages);
  impl_->values.DropPages(pages);
  impl_->first_page += pages;
}

void SequenceCache::Clear() {
  impl_->keys.Clear();
  impl_->values.Clear();
  impl_->length = impl_->first_token = impl_->first_page = impl_->retired = 0;
}

void SequenceCache::Read(Role role, int64_t first, int64_t count, float* rows, int64_t row_stride,
                         int64_t head_stride, int num_threads) const {
  CheckValue("first", first, impl_->first_token, impl_->length);
  CheckValue("count", count, 0, impl_->length - first);
  const PageStore& from = role == Role::kKey ? impl_->keys : impl_->values;
  from.Read(first - impl_->FirstCell(), count, rows, row_stride, head_stride, num_threads);
}

AttentionCall SequenceCache::Call() const {
  AttentionCall call;
  call.keys = &impl_->keys;
  call.values = &impl_->values;
  call.first_cell = impl_->first_token - impl_->FirstCell();
  call.num_cells = impl_->keys.num_cells();
  return call;
}

MemoryUse SequenceCache::memory() const {
  const SequenceCache* const self[] = {this};
  return MemoryOf(self);
}

MemoryUse SequenceCache::MemoryOf(std::span<const SequenceCache* const> caches) {
  MemoryUse use;
  OsPages exact, codes;
  std::set<const void*> seen;
  for (const SequenceCache* cache : caches) {
    const Impl& impl = *cache->impl_;
    MemoryUse own;
    for (const PageStore* rows : {&impl.keys, &impl.values}) {
      rows->AddMemory(&own, &exact, &codes, &seen);
      const auto evicted = static_cast<int>(impl.first_token - impl.FirstCell());
      own.filled_cells -= evicted;  // in a page that stays
      if (evicted > 0) {
        own.exact_cells -= rows->pages()[0].exact.And(PageBits::First(evicted)).Count();
      }
      own.f16_bytes += static_cast<size_t>(impl.length - impl.first_token) * rows->row_bytes();
    }
    own.bookkeeping_bytes += sizeof(Impl) - 2 * sizeof(PageStore);
    use += own;
  }
  use.exact_bytes = exact.bytes();
  use.code_bytes = codes.bytes() - use.header_bytes;
  return use;
}

}  // namespace polarquant
