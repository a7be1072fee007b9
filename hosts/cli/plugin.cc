// SPDX-License-Identifier: Apache-2.0
#include "plugin.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <llama.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>
#include <vector>

#include "paths.h"
#include "polarquant/error.h"
#include "run_child.h"
#include "temporary_file.h"

namespace polarquant::cli {
namespace {

struct LlamaLog {
  std::mutex mutex;
  bool verbose = false;
  ggml_log_level level = GGML_LOG_LEVEL_NONE;  // of the line being written
  std::string complaint;
};

LlamaLog& Log() {
  static LlamaLog log;
  return log;
}

void TakeLine(ggml_log_level level, const char* text, void* /*unused*/) {
  LlamaLog& log = Log();
  const std::lock_guard<std::mutex> lock(log.mutex);
  if (log.verbose) std::fputs(text, stderr);
  if (level == GGML_LOG_LEVEL_CONT) {
    if (log.level == GGML_LOG_LEVEL_ERROR) log.complaint += text;
    return;
  }
  log.level = level;
  if (level == GGML_LOG_LEVEL_ERROR) log.complaint = text;
}

}  // namespace

void SetUpLlama(bool verbose) {
  Log().verbose = verbose;
  llama_log_set(TakeLine, nullptr);
  llama_backend_init();
}

std::string TakeComplaint() {
  LlamaLog& log = Log();
  const std::lock_guard<std::mutex> lock(log.mutex);
  std::string line = std::exchange(log.complaint, "");
  while (!line.empty() && line.back() == '\n') line.pop_back();
  for (char& letter : line) {
    if (letter == '\n') letter = ' ';
  }
  return line;
}

std::string FindPlugin(const std::string& wanted) {
  namespace fs = std::filesystem;
  if (!wanted.empty()) {
    if (fs::exists(wanted)) return fs::absolute(wanted).string();
    throw Error(ErrorCode::kHost, fmt::format("there is no plug-in at {}", wanted));
  }
  const fs::path folder = ExecutableFolder();
  std::vector<std::string> looked_at;
  for (const char* place : {".", "../lib", "../" PQ_PLUGIN_FOLDER}) {
    const fs::path path = (folder / place / "libggml-polarquant.so").lexically_normal();
    if (fs::exists(path)) return path.string();
    looked_at.push_back(path.string());
  }
  throw Error(ErrorCode::kHost,
              fmt::format("the plug-in libggml-polarquant.so was not found at {}; build or install "
                          "it there, or name it with --plugin",
                          fmt::join(looked_at, " or ")));
}

Plugin::Plugin(const std::string& path) : path_(path) {
  // The policy comes from the command line here; what `polarquant run` hands on does not count.
  for (const char* name : {"POLARQUANT_KV", "POLARQUANT_WINDOW", "POLARQUANT_SINKS",
                           "POLARQUANT_POLICY", "POLARQUANT_PROFILE"}) {
    unsetenv(name);
  }
  // llama.cpp says that it failed, the plug-in's own report says why.
  const TemporaryFile report;
  const bool reports_to_us = std::getenv("POLARQUANT_STATUS") == nullptr;
  if (reports_to_us) setenv("POLARQUANT_STATUS", report.path().c_str(), /*overwrite=*/0);
  ggml_backend_reg_t registry = ggml_backend_load(path.c_str());
  if (reports_to_us) unsetenv("POLARQUANT_STATUS");
  if (registry == nullptr) {
    StatusLog log(report.path());
    log.Poll();
    const std::string complaint = TakeComplaint();
    const std::string cause = !log.trouble().empty() ? log.trouble() : complaint;
    throw Error(ErrorCode::kHost, fmt::format("llama.cpp did not load the plug-in {}: {}", path,
                                              cause.empty() ? "no cause given" : cause));
  }
  device_ = ggml_backend_dev_by_name(POLARQUANT_DEVICE_NAME);
  configure_ = reinterpret_cast<polarquant_configure_t>(
      ggml_backend_reg_get_proc_address(registry, POLARQUANT_CONFIGURE));
  status_ = reinterpret_cast<polarquant_status_t>(
      ggml_backend_reg_get_proc_address(registry, POLARQUANT_STATUS_CALL));
  observe_ = reinterpret_cast<polarquant_observe_t>(
      ggml_backend_reg_get_proc_address(registry, POLARQUANT_OBSERVE));
  observed_ = reinterpret_cast<polarquant_observed_t>(
      ggml_backend_reg_get_proc_address(registry, POLARQUANT_OBSERVED));
  rows_ = reinterpret_cast<polarquant_rows_t>(
      ggml_backend_reg_get_proc_address(registry, POLARQUANT_ROWS));
  if (device_ == nullptr || configure_ == nullptr || status_ == nullptr || observe_ == nullptr ||
      observed_ == nullptr || rows_ == nullptr) {
    throw Error(ErrorCode::kHost,
                fmt::format("{} is not the plug-in of this version of polarquant", path));
  }
}

void Plugin::Configure(const Policy& policy) const {
  std::array<char, 1024> message = {};
  const int code = configure_(policy.ToJson().c_str(), message.data(), message.size());
  if (code != 0) throw Error(static_cast<ErrorCode>(code), message.data());
}

void Plugin::Observe(bool dense) const { observe_(dense ? 1 : 0); }

void Plugin::Observed(const std::string& path) const {
  std::array<char, 1024> message = {};
  const int code = observed_(path.c_str(), message.data(), message.size());
  if (code != 0) throw Error(static_cast<ErrorCode>(code), message.data());
}

void Plugin::Rows(int64_t num_cells, const std::function<void(const LayerRows&)>& take) const {
  std::array<char, 1024> message = {};
  const auto hand_on = [](void* user, int layer, int is_value, int num_kv_heads, int head_dim,
                          const float* rows) {
    (*static_cast<const std::function<void(const LayerRows&)>*>(user))(
        {layer, is_value != 0 ? Role::kValue : Role::kKey, num_kv_heads, head_dim, rows});
  };
  const int code = rows_(num_cells, hand_on, const_cast<void*>(static_cast<const void*>(&take)),
                         message.data(), message.size());
  if (code != 0) throw Error(static_cast<ErrorCode>(code), message.data());
}

PluginStatus Plugin::Status() const {
  std::string text(4096, '\0');
  size_t needed = status_(text.data(), text.size());
  if (needed >= text.size()) {
    text.resize(needed + 1024);
    needed = status_(text.data(), text.size());
  }
  text.resize(needed);
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    throw Error(ErrorCode::kHost, fmt::format("the plug-in's status is not JSON: {}", text));
  }
  PluginStatus status;
  status.kv_resident_bytes = json.value("kv_resident_bytes", 0.0);
  status.exact_bytes = json.value("exact_bytes", 0.0);
  status.code_bytes = json.value("code_bytes", 0.0);
  status.header_bytes = json.value("header_bytes", 0.0);
  status.bookkeeping_bytes = json.value("bookkeeping_bytes", 0.0);
  status.f16_bytes = json.value("f16_bytes", 0.0);
  status.filled_cells = json.value("filled_cells", int64_t{0});
  status.layers_owned = json.value("layers_owned", int64_t{0});
  status.attention_calls = json.value("attention_calls", int64_t{0});
  status.isa = json.value("isa", "");
  status.error = json.value("error", "");
  return status;
}

}  // namespace polarquant::cli
