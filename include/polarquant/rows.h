// SPDX-License-Identifier: Apache-2.0
// Rows of keys or values as a host holds them.
#pragma once

#include <cstdint>

namespace polarquant {

enum class NumberType { kF32, kF16, kBF16 };

// Value i of kv_head h of row n is data[n * row_stride + h * head_stride + i], strides counted in
// values.
struct HostRows {
  const void* data = nullptr;
  NumberType type = NumberType::kF32;
  int64_t row_stride = 0;
  int64_t head_stride = 0;
};

}  // namespace polarquant
