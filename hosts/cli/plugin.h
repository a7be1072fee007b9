// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. Our llama.cpp plug-in inside this process: found, loaded and
// talked to through polarquant/llama_control.h.
#pragma once

#include <ggml-backend.h>

#include <cstdint>
#include <functional>
#include <string>

#include "polarquant/llama_control.h"
#include "polarquant/policy.h"

namespace polarquant::cli {

// Sends llama.cpp's log to nowhere, or to standard error; remembers its last complaint.
void SetUpLlama(bool verbose);
// The last error llama.cpp or ggml logged since the last call, as one line; empty if none.
std::string TakeComplaint();

// The plug-in's file: `wanted` if given, else beside the executable, in ../lib (build tree) or in
// ../lib/polarquant (installed). Throws Error(kHost) naming the places looked at.
std::string FindPlugin(const std::string& wanted);

// Sums over all live caches of this process.
struct PluginStatus {
  double kv_resident_bytes = 0;
  double exact_bytes = 0;
  double code_bytes = 0;
  double header_bytes = 0;
  double bookkeeping_bytes = 0;
  double f16_bytes = 0;
  int64_t filled_cells = 0;
  int64_t layers_owned = 0;
  int64_t attention_calls = 0;
  std::string isa;
  std::string error;
};

class Plugin {
 public:
  // Throws Error(kHost) with the cause if ggml cannot load it.
  explicit Plugin(const std::string& path);

  ggml_backend_dev_t device() const { return device_; }
  const std::string& path() const { return path_; }
  // The policy of every cache created from now on.
  void Configure(const Policy& policy) const;
  PluginStatus Status() const;
  // Collects moments of queries and keys, and writes them as a profile.
  void Observe(bool dense) const;
  void Observed(const std::string& path) const;

  // One layer's keys or values, f32 [cells][num_kv_heads][head_dim].
  struct LayerRows {
    int layer;
    Role role;
    int num_kv_heads, head_dim;
    const float* rows;  // valid during the call
  };
  // The first rows of every layer of all live caches, as attention reads them.
  void Rows(int64_t num_cells, const std::function<void(const LayerRows&)>& take) const;

 private:
  std::string path_;
  ggml_backend_dev_t device_ = nullptr;
  polarquant_configure_t configure_ = nullptr;
  polarquant_status_t status_ = nullptr;
  polarquant_observe_t observe_ = nullptr;
  polarquant_observed_t observed_ = nullptr;
  polarquant_rows_t rows_ = nullptr;
};

}  // namespace polarquant::cli
