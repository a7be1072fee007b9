// SPDX-License-Identifier: Apache-2.0
#include "memory_check.h"

#include <fmt/format.h>

#include <fstream>
#include <string>

#include "polarquant/error.h"
#include "report.h"

namespace polarquant::cli {
namespace {

double AvailableBytes() {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("MemAvailable:")) return std::stod(line.substr(13)) * 1024;
  }
  return 0;
}

}  // namespace

void CheckMemory(const Model& model, const Context::Options& shape, int num_contexts) {
  const llama_model* llama = model.get();
  const double logits = 4.0 * shape.batch_tokens * model.vocab_size();
  const double width = static_cast<double>(llama_model_n_embd(llama)) /
                       std::max(llama_model_n_head(llama), 1) * llama_model_n_head_kv(llama);
  const double cache = 2.0 * 2.0 * width * llama_model_n_layer(llama) * shape.context_tokens;
  // Logits twice: in the graph and in the output. Activations of a piece: a few dozen rows.
  const double activations = 4.0 * 32 * shape.batch_tokens * llama_model_n_embd(llama);
  const double needed = num_contexts * (2 * logits + cache + activations);
  const double available = AvailableBytes();
  if (available > 0 && needed > 0.9 * available) {
    throw Error(
        ErrorCode::kCapacity,
        fmt::format("{} contexts of {} tokens need about {}, {} are available; name fewer "
                    "caches, a smaller context or smaller pieces",
                    num_contexts, shape.context_tokens, PrintBytes(needed), PrintBytes(available)));
  }
}

}  // namespace polarquant::cli
