// SPDX-License-Identifier: Apache-2.0
// Host: C. Sequence caches in a file.
#include <memory>
#include <string>

#include "checks.h"
#include "handles.h"

using namespace polarquant;
using namespace polarquant::c;

namespace {

SavedSequences SavedOf(const pq_sequence_cache* const* caches, size_t count, const char* host,
                       size_t host_bytes) {
  SavedSequences saved;
  if (host_bytes > 0) saved.host.assign(&Needed(host, "host"), host_bytes);
  if (count > 0) Needed(caches, "caches");
  for (size_t i = 0; i < count; ++i) {  // forks: nothing is copied
    saved.caches.push_back(Needed(caches[i], "a cache of caches").cache);
  }
  return saved;
}

}  // namespace

pq_status pq_sequence_cache_save(const char* path, const pq_sequence_cache* const* caches,
                                 size_t count, const char* host, size_t host_bytes) {
  return Guard([&] {
    Needed(path, "path");
    SavedOf(caches, count, host, host_bytes).Save(path);
  });
}

pq_status pq_sequence_cache_print(const pq_sequence_cache* const* caches, size_t count,
                                  const char* host, size_t host_bytes, void* bytes, size_t capacity,
                                  size_t* needed) {
  return Guard([&] {
    const std::string printed = SavedOf(caches, count, host, host_bytes).Print();
    if (needed != nullptr) *needed = printed.size();
    if (printed.size() > capacity) {
      Refuse("capacity is " + std::to_string(capacity) + "; the caches take " +
             std::to_string(printed.size()) + " bytes");
    }
    printed.copy(&Needed(static_cast<char*>(bytes), "bytes"), printed.size());
  });
}

pq_status pq_saved_sequences_load(const char* path, pq_saved_sequences** saved) {
  return Create(saved, "saved", [&] {
    return std::make_unique<pq_saved_sequences>(
        pq_saved_sequences{SavedSequences::Load(&Needed(path, "path"))});
  });
}

pq_status pq_saved_sequences_parse(const void* bytes, size_t num_bytes,
                                   pq_saved_sequences** saved) {
  return Create(saved, "saved", [&] {
    const char* text = &Needed(static_cast<const char*>(bytes), "bytes");
    return std::make_unique<pq_saved_sequences>(
        pq_saved_sequences{SavedSequences::Parse({text, num_bytes})});
  });
}

pq_status pq_saved_sequences_destroy(pq_saved_sequences* saved) { return Destroy(saved); }

pq_status pq_saved_sequences_count(const pq_saved_sequences* saved, size_t* count) {
  return Guard([&] { Needed(count, "count") = Needed(saved, "saved").saved.caches.size(); });
}

pq_status pq_saved_sequences_host(const pq_saved_sequences* saved, const char** host,
                                  size_t* host_bytes) {
  return Guard([&] {
    const std::string& text = Needed(saved, "saved").saved.host;
    Needed(host, "host");
    Needed(host_bytes, "host_bytes") = text.size();
    *host = text.c_str();
  });
}

pq_status pq_saved_sequences_fork(const pq_saved_sequences* saved, size_t index,
                                  pq_sequence_cache** cache) {
  return Create(cache, "cache", [&] {
    const auto& caches = Needed(saved, "saved").saved.caches;
    if (index >= caches.size()) {
      Refuse("index is " + std::to_string(index) + "; there are " + std::to_string(caches.size()) +
             " caches, counted from 0");
    }
    return std::make_unique<pq_sequence_cache>(pq_sequence_cache{caches[index]});
  });
}
