// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. The file of captured rows: safetensors, with the tensors
// layer.N.key and layer.N.value [kv_head][token][head_dim] (FORMAT.md). Files made by others are
// read as well, in f32 or f16.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "polarquant/scheme.h"

namespace polarquant::cli {

struct CapturedRows {
  int layer = 0;  // the model's own number
  Role role = Role::kKey;
  int num_kv_heads = 0;
  int64_t num_tokens = 0;
  int head_dim = 0;
};

// Rows to be written: f16, which is what an exact cache holds.
struct CapturedHalves : CapturedRows {
  std::vector<uint16_t> values;
};
struct CapturedFloats : CapturedRows {
  std::vector<float> values;
};

// `metadata` are texts about the model and what it read. Throws Error(kHost) if the file cannot be
// written.
void SaveCapture(const std::string& path, const std::map<std::string, std::string>& metadata,
                 const std::vector<CapturedHalves>& tensors);

// The tensors of one role, by layer. Throws Error(kHost) if the file cannot be read, and
// Error(kFormat), naming what is wrong, if it is not such a file or holds a value that is not
// finite.
std::vector<CapturedFloats> LoadCapture(const std::string& path, Role role);

}  // namespace polarquant::cli
