// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <numeric>

#include "bench.h"
#include "polarquant/attention.h"
#include "polarquant/cell_store.h"

namespace polarquant::bench {
namespace {

class Own : public Contestant {
 public:
  Own(const std::string& schemes, const Workload& workload, const Inputs& inputs)
      : workload_(workload) {
    const auto [key, value] = Scheme::ParsePair(schemes);
    for (int layer = 0; layer < workload.layers; ++layer) {
      keys_.push_back(Fill(key, Role::kKey, inputs.keys, layer == 0 ? nullptr : keys_[0].get()));
      values_.push_back(
          Fill(value, Role::kValue, inputs.values, layer == 0 ? nullptr : values_[0].get()));
    }
    const int64_t row = static_cast<int64_t>(workload.q_heads) * workload.head_dim;
    outputs_.resize(static_cast<size_t>(workload.layers * workload.num_queries * row));
    call_.num_cells = workload.depth;
    call_.num_q_heads = workload.q_heads;
    call_.num_queries = workload.num_queries;
    call_.queries = inputs.queries.data();
    call_.query_stride = call_.output_stride = row;
    call_.query_head_stride = call_.output_head_stride = workload.head_dim;
    call_.mask = inputs.mask.data();
    call_.mask_stride = workload.depth;
    call_.scale = 1.0f / std::sqrt(static_cast<float>(workload.head_dim));
  }

  void Run() override {
    for (int layer = 0; layer < workload_.layers; ++layer) {
      const auto l = static_cast<size_t>(layer);
      call_.keys = keys_[l].get();
      call_.values = values_[l].get();
      call_.output = outputs_.data() + layer * workload_.num_queries * call_.output_stride;
      Attend(call_, workload_.threads);
    }
  }
  size_t LayerBytes() const override {
    const MemoryUse k = keys_[0]->memory(), v = values_[0]->memory();
    return k.total() + v.total() - k.bookkeeping_bytes - v.bookkeeping_bytes;
  }
  std::vector<float> Output() const override {
    return {outputs_.begin(), outputs_.begin() + workload_.num_queries * call_.output_stride};
  }

 private:
  std::unique_ptr<CellStore> Fill(const Scheme& scheme, Role role, const std::vector<float>& rows,
                                  const CellStore* copy) const {
    CellStore::Config config;
    config.scheme = scheme;
    config.role = role;
    config.head_dim = workload_.head_dim;
    config.num_kv_heads = workload_.kv_heads;
    config.num_cells = workload_.depth;
    auto store = std::make_unique<CellStore>(config);
    if (copy != nullptr) {
      store->CopyFrom(*copy, 0, workload_.depth);
      return store;
    }
    const int64_t row = static_cast<int64_t>(workload_.kv_heads) * workload_.head_dim;
    for (int64_t first = 0; first < workload_.depth; first += 512) {
      std::vector<int64_t> cells(
          static_cast<size_t>(std::min<int64_t>(512, workload_.depth - first)));
      std::iota(cells.begin(), cells.end(), first);
      store->Write(cells, rows.data() + first * row, row, workload_.threads);
      store->Settle(workload_.threads);
    }
    return store;
  }

  Workload workload_;
  std::vector<std::unique_ptr<CellStore>> keys_, values_;
  std::vector<float> outputs_;
  AttentionCall call_;
};

}  // namespace

std::unique_ptr<Contestant> OwnAttention(const std::string& schemes, const Workload& workload,
                                         const Inputs& inputs) {
  return std::make_unique<Own>(schemes, workload, inputs);
}

}  // namespace polarquant::bench
