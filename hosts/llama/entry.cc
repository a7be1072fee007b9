// SPDX-License-Identifier: Apache-2.0
// The door: the only function this library exports. ggml promises no stable interface to back ends,
// so we load into the version and commit of llama.cpp that we were built against, and no other.
#include <cstdlib>
#include <string>
#include <string_view>

#include "build_info.h"  // kGgmlVersion, kGgmlCommit, kGgmlTensorOverhead: the ggml we were built for
#include "callback.h"
#include "device.h"
#include "graph.h"
#include "plugin.h"
#include "polarquant/error.h"

namespace polarquant::llama {
namespace {

// Builds outside a git checkout say "unknown"; git may shorten a commit to more or fewer digits;
// "-dirty" says that files differ from the commit, not how.
bool SameCommit(std::string_view a, std::string_view b) {
  constexpr std::string_view kDirty = "-dirty";
  constexpr size_t kShortestCommit = 7;
  if (a.ends_with(kDirty)) a.remove_suffix(kDirty.size());
  if (b.ends_with(kDirty)) b.remove_suffix(kDirty.size());
  if (a == b) return true;
  if (a.size() > b.size()) std::swap(a, b);
  return a.size() >= kShortestCommit && a != "unknown" && b.starts_with(a);
}

void CheckVersion() {
  const std::string version = ggml_version();
  const std::string commit = ggml_commit();
  if (version != kGgmlVersion || !SameCommit(commit, kGgmlCommit)) {
    throw Error(ErrorCode::kHost, "this program has ggml " + version + " (commit " + commit +
                                      "), the plug-in was built for ggml " + kGgmlVersion +
                                      " (commit " + kGgmlCommit +
                                      "); build polarquant against this llama.cpp");
  }
  if (ggml_tensor_overhead() != kGgmlTensorOverhead) {
    throw Error(ErrorCode::kHost, "a tensor takes " + std::to_string(ggml_tensor_overhead()) +
                                      " bytes in this program, " +
                                      std::to_string(kGgmlTensorOverhead) +
                                      " in the ggml the plug-in was built for; build polarquant "
                                      "against this llama.cpp");
  }
  CheckOperationTable();
}

ggml_backend_reg_t Load() {
  return Guarded(ggml_backend_reg_t{nullptr}, [] {
    OpenEventLog(Settings::StatusPath());
    CheckVersion();
    Plugin::Create(Settings::FromEnvironment());
    std::atexit([] { LogExit(); });
    LogLoaded(ggml_version(), ggml_commit());
    return TheRegistry();
  });
}

}  // namespace
}  // namespace polarquant::llama

extern "C" __attribute__((visibility("default"))) ggml_backend_reg_t ggml_backend_init() {
  static const ggml_backend_reg_t registry = polarquant::llama::Load();
  return registry;
}
