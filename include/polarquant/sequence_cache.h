// SPDX-License-Identifier: Apache-2.0
// Stage 5, the sequence cache: the keys and the values of one layer and one sequence, for hosts
// that have no cells of their own. Rows are appended and coded at once; the newest `window_tokens`
// and the first `sink_tokens` also lie exact (f16), and attention prefers those. Only schemes with
// statistics of a page (polarquant/cell_store.h) keep rows exact until their page can close.
//
//   SequenceCache cache(config);
//   cache.Append(keys, values, count, threads);       // the rows of a prompt, or of one token
//   AttentionCall call = cache.Call();                // what it holds; the caller adds the queries
//   Attend(call, threads);                            // reads the new rows exact
//   cache.Settle(threads);                            // then retires what has left the window
//
// A copy is a fork: it shares every page, and a page is copied when one of its owners writes to it.
// Tokens may be dropped from the end at any position and from the front; nothing is encoded twice.
// Of schemes with statistics, a page that the end falls into keeps its codes, and rows appended
// there later are exact until they leave the window, and then join it with the statistics it has.
//
// Not thread-safe for one object; different objects may be used at the same time, also while they
// share pages. Functions that take num_threads use that many threads themselves.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "polarquant/attention.h"
#include "polarquant/key_profile.h"
#include "polarquant/paged_rows.h"
#include "polarquant/rows.h"

namespace polarquant {

class SequenceCache {
 public:
  struct Config {
    Scheme key, value;
    int key_head_dim = 0;
    int value_head_dim = 0;
    int num_kv_heads = 0;
    int page_tokens = 128;
    int window_tokens = 128;
    int sink_tokens = 16;
    // For keys with `balance`, `dense` or `center=step` (the position of a row is its number in the
    // sequence). May come later: SetProfile.
    std::shared_ptr<const KeyProfile> profile;
    // Who codes the rows; null: DefaultTarget().
    const Target* target = nullptr;
  };

  // Throws Error for a configuration outside the limits, naming the value.
  explicit SequenceCache(const Config& config);
  ~SequenceCache();
  SequenceCache(const SequenceCache&);  // forks
  SequenceCache& operator=(const SequenceCache&);
  SequenceCache(SequenceCache&&) noexcept;
  SequenceCache& operator=(SequenceCache&&) noexcept;

  const Config& config() const;
  // Tokens appended and not truncated; those evicted from the front are counted.
  int64_t length() const;
  // Tokens evicted from the front: the first token held.
  int64_t first_token() const;

  // What the keys are coded with, frozen from now on. Throws Error(kParameter) if there is a
  // profile, if the scheme takes none, or if it does not fit.
  void SetProfile(std::shared_ptr<const KeyProfile> profile, int num_threads = 1);
  // Whether a page has left the window that cannot close for want of a profile. Settle then throws.
  bool wants_profile() const;

  // Rounded to f16 (NaN to 0, infinities and overflow to +-65504).
  void Append(const HostRows& keys, const HostRows& values, int64_t count, int num_threads);
  // Retires what has left the window. Call it after attention has read what was appended.
  void Settle(int num_threads);

  // Drops the tokens from `length` on. Throws Error(kParameter) unless it is in
  // [first_token(), length()].
  void Truncate(int64_t length);
  // Drops the first `count` tokens held, sinks too; memory goes by whole pages.
  void EvictFront(int64_t count);
  void Clear();

  // Tokens [first, first + count) as attention sees them, f32, value i of kv_head h of token
  // first + n at rows[n * row_stride + h * head_stride + i].
  void Read(Role role, int64_t first, int64_t count, float* rows, int64_t row_stride,
            int64_t head_stride, int num_threads) const;

  // keys, values, num_cells and first_cell set; cell first_cell is first_token(). Good until the
  // cache changes.
  AttentionCall Call() const;
  const PagedRows& keys() const;
  const PagedRows& values() const;

  MemoryUse memory() const;
  // Of several together, what they share counted once.
  static MemoryUse MemoryOf(std::span<const SequenceCache* const> caches);

 private:
  friend struct SequenceFile;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Several caches (the layers and sequences of a model) in one file, with a text of the host's own.
// Pages and profiles that caches share are stored once and shared again. FORMAT.md gives every
// byte; a checksum covers all of it. The file is written beside its place and renamed: a crash
// leaves the old one.
struct SavedSequences {
  std::string host;  // for instance JSON; not looked at
  std::vector<SequenceCache> caches;

  void Save(const std::string& path) const;
  // Throws Error(kHost) if the file cannot be read, Error(kFormat) if it is no such file or of a
  // version to come, Error(kCorruption) if it is damaged.
  static SavedSequences Load(const std::string& path);
  std::string Print() const;  // the file's bytes
  static SavedSequences Parse(std::string_view bytes);
};

}  // namespace polarquant
