// SPDX-License-Identifier: Apache-2.0
#include "kv_cache.h"

#include <unistd.h>

#include <algorithm>
#include <set>

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

}  // namespace

KvCache::KvCache(Policy policy, Profiles profiles, uint64_t generation)
    : policy_(std::move(policy)),
      needs_positions_(SubtractsSteppedCentre(policy_)),
      profiles_(std::move(profiles)),
      generation_(generation) {}

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
  adopted->unsettled.assign(static_cast<size_t>(adopted->num_streams), 0);
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
  const Normalisation& normalisation = config.scheme.normalisation;
  if (normalisation.step != 0 && rope.frequencies.size() != static_cast<size_t>(rope.dims) / 2) {
    const std::string cause = tensor.rope_trouble.empty()
                                  ? "the frequencies of its RoPE are known once rows were written"
                                  : tensor.rope_trouble;
    throw Error(ErrorCode::kUnsupported,
                tensor.name + ": center=step cannot serve this model: " + cause +
                    "; take the mean of pages instead, for instance " + config.scheme.codec +
                    (normalisation.balance ? ":balance:center" : ":center"));
  }
  auto keys = std::make_shared<KeyProfile>(layer.KeysFor(normalisation, rope));
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
  if (config.scheme.normalisation.needs_profile()) config.profile = ProfileOf(tensor, config);
  store = std::make_unique<CellStore>(
      config, tensor.base + tensor.stream_bytes() * static_cast<size_t>(stream));
  if (first) {
    in_use_ = true;
    Announce();
  }
  return *store;
}

void KvCache::Settle(KvTensor& tensor, int num_threads) {
  for (size_t stream = 0; stream < tensor.stores.size(); ++stream) {
    if (tensor.unsettled[stream] == 0) continue;
    tensor.unsettled[stream] = 0;
    if (tensor.stores[stream] != nullptr) tensor.stores[stream]->Settle(num_threads);
  }
}

void KvCache::AfterLoad(KvTensor& tensor, int64_t stream, int64_t cell) {
  const std::pair<const KvTensor*, int64_t> series = {&tensor, stream};
  if (loading_ != series) {
    loading_ = series;
    loaded_rows_ = 0;
  }
  if (loaded_rows_++ < policy_.sink_tokens) Store(tensor, stream).PinSinks({&cell, 1});
}

void KvCache::BeginWrite(KvTensor& tensor, int num_threads) {
  loading_ = {nullptr, 0};
  if (tensor.write_epoch == epoch_) {
    ++epoch_;
    sinks_.clear();
  }
  tensor.write_epoch = epoch_;
  tensor.reads_expected = std::max(tensor.reads_expected, tensor.reads_now);
  tensor.reads_now = 0;
  Settle(tensor, num_threads);
}

void KvCache::AfterRead(KvTensor& tensor, int64_t first_stream, int64_t num_streams,
                        int num_threads) {
  for (int64_t stream = first_stream; stream < first_stream + num_streams; ++stream) {
    tensor.unsettled[static_cast<size_t>(stream)] = 1;
  }
  if (tensor.write_epoch >= 0) ++tensor.reads_now;
  if (tensor.reads_expected > 0 && tensor.reads_now >= tensor.reads_expected) {
    Settle(tensor, num_threads);
  }
}

void KvCache::SettleAll(int num_threads) {
  for (KvTensor* tensor : tensors_) Settle(*tensor, num_threads);
}

const std::vector<int64_t>& KvCache::Sinks(const void* mask_key, const uint16_t* mask,
                                           int64_t stride, int num_queries, int64_t num_cells) {
  const auto [entry, fresh] = sinks_.try_emplace({mask_key, num_cells});
  if (fresh) {
    entry->second = SinksOfMask(mask, stride, num_queries, num_cells, policy_.sink_tokens);
  }
  return entry->second;
}

void KvCache::Clear(KvTensor& tensor) {
  for (auto& store : tensor.stores) {
    if (store != nullptr) store->Clear();
  }
  tensor.partial_row = -1;
  loading_ = {nullptr, 0};
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
  SettleAll(1);
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
  facts.isa = ActiveTarget();
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
