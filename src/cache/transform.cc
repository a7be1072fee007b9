// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page: changing rows where they lie, as a K-shift does. The only way a code is ever
// encoded again.
#include <algorithm>
#include <string>
#include <unordered_map>
#include <vector>

#include "cache/cell_store_impl.h"
#include "cache/half_rows.h"
#include "polarquant/error.h"
#include "util/parallel.h"

namespace polarquant {

void CellStore::Impl::TransformPage(int64_t page, const PageBits& slots,
                                    const std::function<void(int64_t cell, float* row)>& change,
                                    const std::function<int32_t(int64_t cell)>& shift) {
  PageState& state = *pages[static_cast<size_t>(page)];
  std::vector<float> row(row_values);
  state.exact.And(slots).ForEach([&](int slot) {
    const int64_t cell = CellOf(page, slot);
    HalvesToFloats(ExactRow(cell), row_values, row.data());
    change(cell, row.data());
    FloatsToHalves(row.data(), row_values, ExactRow(cell));
  });
  const auto move = [&] {
    if (!state.positions) return;
    state.written.And(slots).ForEach([&](int slot) {
      const int32_t position = state.positions->At(slot) + shift(CellOf(page, slot));
      state.positions->Set(slot, position, false, page_tokens);
    });
    state.positions->Compact();
  };
  const PageBits changed = state.coded().And(slots);
  if (!changed.Any()) return move();

  // [num_kv_heads][page_tokens][head_dim], the whole page as attention sees it.
  std::vector<float> rows(num_kv_heads * page_tokens * head_dim);
  const auto part = [&](size_t head, int slot) {
    return rows.data() + (head * page_tokens + static_cast<size_t>(slot)) * head_dim;
  };
  for (size_t head = 0; head < num_kv_heads; ++head) DecodeCells(page, head, part(head, 0));
  changed.ForEach([&](int slot) {
    for (size_t head = 0; head < num_kv_heads; ++head) {
      std::copy_n(part(head, slot), head_dim, row.data() + head * head_dim);
    }
    change(CellOf(page, slot), row.data());
    for (size_t head = 0; head < num_kv_heads; ++head) {
      std::copy_n(row.data() + head * head_dim, head_dim, part(head, slot));
    }
  });

  move();

  const bool afresh = changed == state.coded();
  for (size_t head = 0; head < num_kv_heads; ++head) {
    if (afresh) {
      EncodeHead(page, head, part(head, 0));
    } else {
      PatchHead(page, head, changed, part(head, 0));
    }
  }
  if (afresh) {
    state.mixed.reset();
  } else if (state.mixed) {
    changed.ForEach([&](int slot) { state.mixed->index[static_cast<size_t>(slot)] = 0; });
    TidyMixed(state);
  }
}

void CellStore::Transform(std::span<const int64_t> cells,
                          const std::function<void(int64_t cell, float* row)>& change,
                          int num_threads, const int32_t* shifts) {
  Impl& impl = *impl_;
  impl.CheckCells(cells);
  if (impl.needs_positions() && shifts == nullptr) {
    throw Error(ErrorCode::kParameter, "scheme " + impl.config.scheme.ToString() +
                                           " needs to know by how much every position changes");
  }
  std::unordered_map<int64_t, int32_t> shift_of;
  if (impl.needs_positions()) {
    for (size_t i = 0; i < cells.size(); ++i) {
      const PageState* state = impl.Find(impl.PageOf(cells[i]));
      const int slot = impl.SlotOf(cells[i]);
      if (state == nullptr || !state->written.Test(slot)) continue;
      SteppedCentre::CheckPosition(int64_t{state->positions->At(slot)} + shifts[i]);
      shift_of[cells[i]] = shifts[i];
    }
  }
  const auto shift = [&](int64_t cell) { return shift_of.at(cell); };
  auto groups = impl.ByPage(cells);
  std::erase_if(groups, [&](const auto& group) { return impl.Find(group.page) == nullptr; });
  const int team = static_cast<int>(std::min<size_t>(groups.size(), std::max(num_threads, 1)));
  Parallel(team, [&](int thread, int threads) {
    const Share share = ShareOf(static_cast<int64_t>(groups.size()), thread, threads);
    for (int64_t i = share.begin; i < share.end; ++i) {
      const auto& group = groups[static_cast<size_t>(i)];
      impl.TransformPage(group.page, group.slots, change, shift);
    }
  });
}

}  // namespace polarquant
