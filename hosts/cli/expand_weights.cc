// SPDX-License-Identifier: Apache-2.0
#include "expand_weights.h"

#include <fmt/format.h>
#include <llama.h>
#include <unistd.h>

#include <filesystem>

#include "paths.h"
#include "plugin.h"
#include "polarquant/error.h"

namespace polarquant::cli {
namespace fs = std::filesystem;

std::string ExpandWeights(const std::string& model, int num_threads) {
  std::error_code failure;
  const auto size = fs::file_size(model, failure);
  if (failure) {
    throw Error(ErrorCode::kParameter, fmt::format("there is no model file {}", model));
  }
  const auto written = fs::last_write_time(model).time_since_epoch().count();
  const fs::path target =
      CacheFolder() / fmt::format("{}-{}-{:x}.f16.gguf", fs::path(model).stem().string(), size,
                                  static_cast<uint64_t>(written));
  if (fs::exists(target)) return target.string();

  fmt::print(stderr, "polarquant: expanding the weights of {} to {}\n", model, target.string());
  const fs::path unfinished = fmt::format("{}.{}", target.string(), getpid());
  llama_model_quantize_params params = llama_model_quantize_default_params();
  params.nthread = num_threads;
  params.ftype = LLAMA_FTYPE_MOSTLY_F16;
  params.allow_requantize = true;
  const uint32_t result = llama_model_quantize(model.c_str(), unfinished.c_str(), &params);
  if (result != 0) {
    fs::remove(unfinished, failure);
    throw Error(ErrorCode::kHost,
                fmt::format("llama.cpp cannot expand {}: {}", model, TakeComplaint()));
  }
  fs::rename(unfinished, target);
  return target.string();
}

}  // namespace polarquant::cli
