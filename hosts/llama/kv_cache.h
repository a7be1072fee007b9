// SPDX-License-Identifier: Apache-2.0
// Stage 5, in the host: the caches of one llama_context. llama.cpp allocates one tensor for the
// keys and one for the values of a layer, [row_values, cells, streams]; each stream of each
// tensor is one CellStore over the tensor's own memory. Shapes of heads are not known when the
// tensors are allocated: they are learned from the first graph that views them, and the stores are
// made when first used, because only then all layers are there to be counted.
//
// Not thread-safe: hold mutex() around everything but the constructor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "ggml.h"
#include "graph.h"
#include "observer.h"
#include "polarquant/attention.h"
#include "polarquant/cell_store.h"
#include "polarquant/policy.h"
#include "profiles.h"

namespace polarquant::llama {

class KvCache;

// The keys or the values of one layer.
struct KvTensor {
  KvCache* cache = nullptr;
  std::string name;  // as llama.cpp calls it
  CacheName parsed;
  std::byte* base = nullptr;
  int64_t row_values = 0;  // num_kv_heads * head_dim
  size_t row_bytes = 0;
  int64_t num_cells = 0;  // of one stream
  int64_t num_streams = 1;
  int head_dim = 0;                                // 0 until learned
  std::optional<Rope> rope;                        // of keys; none until learned, or without RoPE
  std::string rope_trouble;                        // why frequencies are not known
  std::vector<std::unique_ptr<CellStore>> stores;  // by stream, null until used
  int64_t rows_written = 0;
  std::shared_ptr<const KeyProfile> learnt;  // of keys, where no profile was given

  int64_t write_epoch = -1;
  // By stream: cells whose exact copies may go, as the last attention showed. They go at the next
  // write: a layer that reuses another's cache must see the batch as the first reader did.
  std::vector<std::shared_ptr<const std::vector<int64_t>>> leaving;

  // A row of a loaded state that has arrived in part.
  int64_t partial_row = -1;
  size_t partial_bytes = 0;
  std::vector<std::byte> partial;

  size_t stream_bytes() const { return row_bytes * static_cast<size_t>(num_cells); }
};

// Sums over caches, for the status object.
struct CacheTotals {
  int caches = 0;
  int layers = 0;
  MemoryUse memory;
  // Of the fullest key tensor of each cache, all its streams.
  int64_t filled_cells = 0;
  int64_t exact_cells = 0;
};

class KvCache {
 public:
  KvCache(Policy policy, Profiles profiles, uint64_t generation);
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  std::mutex& mutex() { return mutex_; }
  const Policy& policy() const { return policy_; }
  uint64_t generation() const { return generation_; }
  bool in_use() const { return in_use_; }

  // Takes a freshly allocated cache tensor in; the caller owns what is returned and removes it
  // before freeing. Throws Error(kUnsupported) for what we cannot hold, naming the way out.
  std::unique_ptr<KvTensor> Adopt(const ggml_tensor* tensor, const CacheName& name);
  void Remove(KvTensor* tensor);

  // What a view of the tensor tells about its heads. Throws Error if it cannot be served.
  void Learn(KvTensor& tensor, int64_t head_dim);
  CellStore& Store(KvTensor& tensor, int64_t stream);
  // The positions of the rows of this round's batch: as the graph keeps them in `tensor`, for the
  // RoPE that turns the keys, or counted in the mask of the round's first attention. They are
  // copied when they are first seen: the graph may reuse that memory once all keys are turned.
  const std::vector<int32_t>& Positions(const ggml_tensor* tensor);
  // Whether codes depend on positions: a scheme subtracts a stepped centre.
  bool needs_positions() const { return needs_positions_; }
  // Null before anything told them.
  const std::vector<int32_t>* KnownPositions(int64_t count) const;
  void SetPositions(std::vector<int32_t> positions);
  static CellStore* FindStore(const KvTensor& tensor, int64_t stream);

  // A new round of writing begins when a tensor written in this round is written again. What has
  // left the window since the last write goes.
  void BeginWrite(KvTensor& tensor, int num_threads);
  // Where no profile was given: keys are kept exact and watched, and once a page of them and their
  // queries were seen, what they say is frozen and the keys are coded.
  bool learning(const KvTensor& tensor) const {
    return learns_ && tensor.parsed.role == Role::kKey && tensor.learnt == nullptr;
  }
  Observer& observer() { return observer_; }
  // What attention of this round has to do, planned once for all layers that are alike: whose mask
  // is the same tensor in the same memory, with the same lengths and heads.
  const AttentionPlan& Plan(const KvTensor& keys, const void* mask_key, const AttentionBatch& batch,
                            int num_threads);
  // After attention over a stream: what its mask shows to have left the window, found once a round
  // for all layers that read the same cells under the same mask. Null: the stream is one sequence.
  void AfterRead(KvTensor& keys, KvTensor& values, int64_t stream, const SequenceCall& call);
  void RetireAll(int num_threads);
  void Retire(KvTensor& tensor, int num_threads);
  int num_threads() const { return num_threads_; }  // of the last write

  void Clear(KvTensor& tensor);
  void AddTo(CacheTotals& totals);

  // Hands out the first `num_cells` rows of each tensor's first stream as attention reads them,
  // [num_cells][row_values]. Throws Error(kParameter) if a tensor has fewer, Error(kHost) if
  // nothing was ever written to one.
  void ReadRows(int64_t num_cells,
                const std::function<void(const KvTensor& tensor, const float* rows)>& take) const;

  // Why nothing is computed on this cache, or empty. A refusal is for good (a model or a way of
  // running it that cannot be served); damage, a state that could not be loaded, lasts until the
  // rows are cleared.
  const std::string& refusal() const { return refusal_.empty() ? damage_ : refusal_; }
  void SetDamage(std::string cause) { damage_ = std::move(cause); }
  void SetRefusal(std::string cause) { refusal_ = std::move(cause); }

  std::string KvText() const;       // "turbo4:center/turbo4"
  std::string ProfileText() const;  // of the models, empty if no profile is used

 private:
  void Resolve();
  std::shared_ptr<const KeyProfile> ProfileOf(const KvTensor& tensor,
                                              const CellStore::Config& config);
  void Learn(KvTensor& tensor, int num_threads);  // if enough was seen
  void Announce() const;

  std::mutex mutex_;
  const Policy policy_;
  const Profiles profiles_;
  const bool learns_, needs_positions_;
  Observer observer_;
  std::set<std::string> profiles_used_;
  const uint64_t generation_;
  std::vector<KvTensor*> tensors_;
  std::map<std::pair<std::string, int>, int> layer_index_;  // (tag, layer) counted from 0
  int num_layers_ = 0;
  bool in_use_ = false;
  std::string refusal_, damage_;
  int64_t epoch_ = 0;
  int num_threads_ = 1;
  std::pair<const void*, int64_t> positions_of_ = {nullptr, -1};  // memory and epoch
  std::vector<int32_t> positions_;
  // Of this epoch: by mask and number of cells.
  std::map<std::pair<const void*, int64_t>, std::shared_ptr<const std::vector<int64_t>>> leaving_;
  struct PlanKey {
    const void *mask_key, *mask;
    int64_t num_cells;
    int num_sequences, num_queries, num_q_heads, num_kv_heads, page_tokens;
    auto Tied() const {
      return std::tie(mask_key, mask, num_cells, num_sequences, num_queries, num_q_heads,
                      num_kv_heads, page_tokens);
    }
    bool operator<(const PlanKey& other) const { return Tied() < other.Tied(); }
  };
  std::map<PlanKey, AttentionPlan> plans_;  // of this epoch
};

}  // namespace polarquant::llama
