// SPDX-License-Identifier: Apache-2.0
#include "kv_cache.h"

#include <unistd.h>

#include <algorithm>
#include <set>
#include <utility>

#include "polarquant/attention.h"
#include "polarquant/codec.h"
#include "polarquant/error.h"
#include "polarquant/page.h"
#include "status.h"

namespace polarquant::llama {

namespace {

bool SubtractsSteppedCentre(const Policy& policy) {
  return policy.key.normalisation.step != 0 ||
         std::any_of(policy.layers.begin(), policy.layers.end(),
                     [](const LayerRule& rule) { return rule.key.normalisation.step != 0; });
}

// A stepped centre turns as the model's keys do.
void RefuseUnknownFrequencies(const KvTensor& tensor, const Scheme& scheme) {
  const Rope rope = tensor.rope.value_or(Rope{});
  if (scheme.normalisation.step == 0 ||
      rope.frequencies.size() == static_cast<size_t>(rope.dims) / 2) {
    return;
  }
  const std::string cause = tensor.rope_trouble.empty()
                                ? "the frequencies of its RoPE are known once rows were written"
                                : tensor.rope_trouble;
  throw Error(ErrorCode::kUnsupported,
              tensor.name + ": center=step cannot serve this model: " + cause +
                  "; take the mean of pages instead, for instance " + scheme.codec +
                  (scheme.normalisation.balance ? ":balance:center" : ":center"));
}

}  // namespace

KvCache::KvCache(Policy policy, Profiles profiles, uint64_t generation)
    : policy_(std::move(policy)),
      profiles_(std::move(profiles)),
      learns_(policy_.needs_profile() && profiles_.empty()),
      needs_positions_(SubtractsSteppedCentre(policy_)),
      generation_(generation) {
  if (learns_) observer_.Start(false);
}

std::unique_ptr<KvTensor> KvCache::Adopt(const ggml_tensor* tensor, const CacheName& name) {
  const std::string title = std::string(tensor->name) + ": ";
  if (tensor->type != GGML_TYPE_F16) {
    throw Error(ErrorCode::kUnsupported,
                title + "the cache type is " + ggml_type_name(tensor->type) +
                    ", polarquant needs f16 there (it packs the rows itself); leave out -ctk/-ctv");
  }
  if (tensor->ne[0] % 16 != 0) {
    throw Error(ErrorCode::kUnsupported, title + "rows of " + std::to_string(tensor->ne[0]) +
                                             " values; polarquant needs a multiple of 16");
  }
  const size_t os_page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  if (tensor->ne[2] > 1 && tensor->nb[2] % os_page != 0) {
    throw Error(ErrorCode::kUnsupported,
                title + "streams of " + std::to_string(tensor->nb[2]) +
                    " bytes are no multiple of the OS page; use -kvu (one unified stream)");
  }
  // With multi-head latent attention values are a view of the keys and llama.cpp makes no value
  // tensor: two keys in a row tell.
  if (name.role == Role::kKey && !tensors_.empty() && tensors_.back()->parsed.role == Role::kKey &&
      tensors_.back()->parsed.tag == name.tag) {
    throw Error(ErrorCode::kUnsupported,
                std::string(tensors_.back()->name) +
                    ": keys without values (multi-head latent attention); polarquant cannot hold "
                    "this model's cache yet, run llama.cpp without it");
  }
  auto adopted = std::make_unique<KvTensor>();
  adopted->cache = this;
  adopted->name = tensor->name;
  adopted->parsed = name;
  adopted->base = static_cast<std::byte*>(tensor->data);
  adopted->row_values = tensor->ne[0];
  adopted->row_bytes = tensor->nb[1];
  adopted->num_cells = tensor->ne[1];
  adopted->num_streams = tensor->ne[2];
  adopted->stores.resize(static_cast<size_t>(adopted->num_streams));
  adopted->leaving.resize(static_cast<size_t>(adopted->num_streams));
  tensors_.push_back(adopted.get());
  return adopted;
}

void KvCache::Remove(KvTensor* tensor) { std::erase(tensors_, tensor); }

void KvCache::Learn(KvTensor& tensor, int64_t head_dim) {
  if (head_dim == tensor.head_dim) return;
  if (head_dim <= 0 || tensor.row_values % head_dim != 0) {
    throw Error(ErrorCode::kUnsupported,
                tensor.name + ": heads of " + std::to_string(head_dim) + " values in rows of " +
                    std::to_string(tensor.row_values) + " cannot be told apart");
  }
  CheckHeadDim(static_cast<int>(head_dim));
  if (tensor.head_dim != 0) {
    throw Error(ErrorCode::kUnsupported, tensor.name + ": read as heads of " +
                                             std::to_string(tensor.head_dim) + " and of " +
                                             std::to_string(head_dim) + " values");
  }
  tensor.head_dim = static_cast<int>(head_dim);
}

void KvCache::Resolve() {
  std::set<std::pair<int, std::string>> layers;
  for (const KvTensor* tensor : tensors_) layers.emplace(tensor->parsed.layer, tensor->parsed.tag);
  num_layers_ = 0;
  for (const auto& [layer, tag] : layers) layer_index_[{tag, layer}] = num_layers_++;
}

CellStore* KvCache::FindStore(const KvTensor& tensor, int64_t stream) {
  return tensor.stores[static_cast<size_t>(stream)].get();
}

std::shared_ptr<const KeyProfile> KvCache::ProfileOf(const KvTensor& tensor,
                                                     const CellStore::Config& config) {
  const auto model =
      MatchProfile(profiles_, tensor.parsed.layer, config.num_kv_heads, config.head_dim);
  const LayerProfile& layer = *model->Find(tensor.parsed.layer);
  const Rope rope = tensor.rope.value_or(Rope{});
  if (rope.pairing != layer.rope.pairing || rope.dims != layer.rope.dims) {
    throw Error(ErrorCode::kParameter, tensor.name + ": RoPE turns " + std::to_string(rope.dims) +
                                           " channels of a head here, and " +
                                           std::to_string(layer.rope.dims) +
                                           ", or others, in the profile of " + model->model +
                                           "; give the profile of this model");
  }
  RefuseUnknownFrequencies(tensor, config.scheme);
  auto keys = std::make_shared<KeyProfile>(layer.KeysFor(config.scheme.normalisation, rope));
  profiles_used_.insert(model->model);
  return keys;
}

const std::vector<int32_t>& KvCache::Positions(const ggml_tensor* tensor) {
  const std::pair<const void*, int64_t> now = {tensor->data, epoch_};
  if (positions_of_ != now) {
    const auto* first = static_cast<const int32_t*>(tensor->data);
    positions_.assign(first, first + ggml_nelements(tensor));
    positions_of_ = now;
  }
  return positions_;
}

const std::vector<int32_t>* KvCache::KnownPositions(int64_t count) const {
  const bool known =
      positions_of_.second == epoch_ && static_cast<int64_t>(positions_.size()) == count;
  return known ? &positions_ : nullptr;
}

void KvCache::SetPositions(std::vector<int32_t> positions) {
  positions_ = std::move(positions);
  positions_of_ = {nullptr, epoch_};
}

CellStore& KvCache::Store(KvTensor& tensor, int64_t stream) {
  std::unique_ptr<CellStore>& store = tensor.stores[static_cast<size_t>(stream)];
  if (store != nullptr) return *store;
  if (tensor.head_dim == 0) {
    throw Error(ErrorCode::kHost, tensor.name +
                                      ": used before any attention over it was announced, the "
                                      "shape of its heads is unknown");
  }
  const bool first = !in_use_;
  if (first) Resolve();
  CellStore::Config config;
  config.scheme = policy_.SchemeFor(
      tensor.parsed.role, layer_index_.at({tensor.parsed.tag, tensor.parsed.layer}), num_layers_);
  config.role = tensor.parsed.role;
  config.head_dim = tensor.head_dim;
  config.num_kv_heads = static_cast<int>(tensor.row_values / tensor.head_dim);
  config.num_cells = tensor.num_cells;
  config.page_tokens = policy_.page_tokens;
  config.window_tokens = policy_.window_tokens;
  config.sink_tokens = policy_.sink_tokens;
  config.max_partial_pages = policy_.max_partial_pages;
  if (config.scheme.normalisation.needs_profile()) {
    if (learns_) RefuseUnknownFrequencies(tensor, config.scheme);
    config.profile = learns_ ? tensor.learnt : ProfileOf(tensor, config);
  }
  store = std::make_unique<CellStore>(
      config, tensor.base + tensor.stream_bytes() * static_cast<size_t>(stream));
  if (first) {
    in_use_ = true;
    Announce();
  }
  return *store;
}

void KvCache::Retire(KvTensor& tensor, int num_threads) {
  for (size_t stream = 0; stream < tensor.stores.size(); ++stream) {
    const auto leaving = std::exchange(tensor.leaving[stream], nullptr);
    if (leaving == nullptr || tensor.stores[stream] == nullptr) continue;
    tensor.stores[stream]->Retire(*leaving, num_threads);
  }
}

void KvCache::Learn(KvTensor& tensor, int num_threads) {
  constexpr int64_t kPage = 128, kFewestRows = 96;  // a page, without its first tokens
  const auto found =
      std::ranges::find_if(tensor.stores, [](const auto& store) { return store != nullptr; });
  if (found == tensor.stores.end() || tensor.rows_written < kPage) return;
  const CellStore& store = **found;
  const Normalisation& normalisation = store.config().scheme.normalisation;
  if (!normalisation.needs_profile() || observer_.QueriesSeen(tensor) < kFewestRows) return;
  std::vector<int64_t> cells;
  std::vector<int32_t> positions;
  std::vector<float> rows;
  for (const auto& [cell, position] : store.ExactCells()) {
    cells.push_back(cell);
    positions.push_back(position);
    rows.resize(rows.size() + static_cast<size_t>(tensor.row_values));
    store.ReadRow(cell, rows.data() + rows.size() - static_cast<size_t>(tensor.row_values));
  }
  observer_.Keys(tensor, cells, rows.data(), tensor.row_values, positions.data());
  tensor.rows_written = 0;  // for another try, should this not be enough
  const auto seen = observer_.Seen(tensor, kFewestRows);
  if (!seen) return;
  tensor.learnt = std::make_shared<const KeyProfile>(
      seen->KeysFor(normalisation, tensor.rope.value_or(Rope{})));
  for (const auto& each : tensor.stores) {
    if (each != nullptr) each->SetProfile(tensor.learnt, num_threads);
  }
}

void KvCache::BeginWrite(KvTensor& tensor, int num_threads) {
  if (tensor.write_epoch == epoch_) {
    ++epoch_;
    leaving_.clear();
    plans_.clear();
  }
  tensor.write_epoch = epoch_;
  num_threads_ = num_threads;
  if (learning(tensor)) Learn(tensor, num_threads);
  Retire(tensor, num_threads);
}

void KvCache::AfterRead(KvTensor& keys, KvTensor& values, int64_t stream,
                        const SequenceCall& call) {
  const CellStore& with_codes =
      Store(keys, stream).exact_only() ? Store(values, stream) : Store(keys, stream);
  if (with_codes.exact_only() || call.mask == nullptr) return;
  const auto [entry, fresh] = leaving_.try_emplace({call.mask, call.num_cells});
  if (fresh) {
    entry->second = std::make_shared<const std::vector<int64_t>>(
        with_codes.LeavingWindow(call.mask, call.mask_stride, call.num_queries, call.num_cells));
  }
  for (KvTensor* tensor : {&keys, &values}) {
    tensor->leaving[static_cast<size_t>(stream)] = entry->second;
  }
}

void KvCache::RetireAll(int num_threads) {
  for (KvTensor* tensor : tensors_) Retire(*tensor, num_threads);
}

const AttentionPlan& KvCache::Plan(const KvTensor& keys, const void* mask_key,
                                   const AttentionBatch& batch, int num_threads) {
  if (keys.write_epoch != epoch_) plans_.clear();
  const SequenceCall& first = batch.sequences.front();
  const PagedRows::Shape& shape = first.keys->shape();
  const PlanKey key = {.mask_key = mask_key,
                       .mask = first.mask,
                       .num_cells = first.num_cells,
                       .num_sequences = static_cast<int>(batch.sequences.size()),
                       .num_queries = first.num_queries,
                       .num_q_heads = batch.num_q_heads,
                       .num_kv_heads = shape.num_kv_heads,
                       .page_tokens = shape.page_tokens};
  const auto known = plans_.find(key);
  if (known != plans_.end()) return known->second;
  return plans_.emplace(key, AttentionPlan(batch, Executor{num_threads})).first->second;
}

void KvCache::Clear(KvTensor& tensor) {
  for (auto& store : tensor.stores) {
    if (store != nullptr) store->Clear();
  }
  std::ranges::fill(tensor.leaving, nullptr);
  tensor.partial_row = -1;
  damage_.clear();
}

void KvCache::ReadRows(
    int64_t num_cells,
    const std::function<void(const KvTensor& tensor, const float* rows)>& take) const {
  for (const KvTensor* tensor : tensors_) {
    if (num_cells < 1 || num_cells > tensor->num_cells) {
      throw Error(ErrorCode::kParameter, tensor->name + ": " + std::to_string(num_cells) +
                                             " rows are asked for, it has " +
                                             std::to_string(tensor->num_cells) + " cells");
    }
    const CellStore* store = FindStore(*tensor, 0);
    if (store == nullptr) throw Error(ErrorCode::kHost, tensor->name + ": nothing was written");
    const auto row_values = static_cast<size_t>(tensor->row_values);
    std::vector<float> rows(static_cast<size_t>(num_cells) * row_values);
    for (int64_t cell = 0; cell < num_cells; ++cell) {
      store->ReadRow(cell, &rows[static_cast<size_t>(cell) * row_values]);
    }
    take(*tensor, rows.data());
  }
}

void KvCache::AddTo(CacheTotals& totals) {
  if (!in_use_) return;
  RetireAll(1);
  ++totals.caches;
  std::set<std::pair<std::string, int>> layers;
  MemoryUse fullest;
  for (const KvTensor* tensor : tensors_) {
    layers.emplace(tensor->parsed.tag, tensor->parsed.layer);
    MemoryUse memory;
    for (const auto& store : tensor->stores) {
      if (store != nullptr) memory += store->memory();
    }
    totals.memory += memory;
    if (tensor->parsed.role == Role::kKey && memory.filled_cells > fullest.filled_cells) {
      fullest = memory;
    }
  }
  totals.layers += static_cast<int>(layers.size());
  totals.filled_cells += fullest.filled_cells;
  totals.exact_cells += fullest.exact_cells;
}

std::string KvCache::KvText() const {
  return policy_.key.ToString() + "/" + policy_.value.ToString();
}

std::string KvCache::ProfileText() const {
  std::string text;
  for (const std::string& model : profiles_used_) {
    if (!text.empty()) text += ", ";
    text += model;
  }
  return text;
}

void KvCache::Announce() const {
  CacheFacts facts;
  facts.kv = KvText();
  facts.profile = ProfileText();
  facts.key = policy_.key.ToString();
  facts.value = policy_.value.ToString();
  facts.rules = static_cast<int>(policy_.layers.size());
  facts.layers = num_layers_;
  facts.window = policy_.window_tokens;
  facts.sinks = policy_.sink_tokens;
  facts.isa = DefaultTarget().name;
  double bits[2] = {0, 0};
  double values[2] = {0, 0};
  for (const KvTensor* tensor : tensors_) {
    if (tensor->parsed.role == Role::kKey) {
      facts.cells = std::max(facts.cells, tensor->num_cells * tensor->num_streams);
    }
    if (tensor->head_dim == 0) continue;
    const int role = tensor->parsed.role == Role::kKey ? 0 : 1;
    const Scheme& scheme =
        policy_.SchemeFor(tensor->parsed.role,
                          layer_index_.at({tensor->parsed.tag, tensor->parsed.layer}), num_layers_);
    const PageFormat format(scheme, tensor->parsed.role, tensor->head_dim, policy_.page_tokens);
    const auto row_values = static_cast<double>(tensor->row_values);
    if (!HasFastPath(scheme, tensor->head_dim)) facts.decoded.insert(scheme.codec);
    bits[role] += format.bits_per_value() * row_values;
    values[role] += row_values;
  }
  facts.key_bits = values[0] > 0 ? bits[0] / values[0] : 0;
  facts.value_bits = values[1] > 0 ? bits[1] / values[1] : 0;
  LogCache(facts);
}

}  // namespace polarquant::llama
