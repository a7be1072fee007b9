// SPDX-License-Identifier: Apache-2.0
#include "version.h"

#include <string>
#include <utility>

#include "build_info.h"  // kGgmlVersion, kGgmlCommit, kGgmlTensorOverhead: what we were built for
#include "ggml.h"
#include "graph.h"
#include "polarquant/error.h"

namespace polarquant::llama {

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
  // The size of a tensor guards against a build of the same version with another layout.
  if (ggml_tensor_overhead() != kGgmlTensorOverhead) {
    throw Error(ErrorCode::kHost, "a tensor takes " + std::to_string(ggml_tensor_overhead()) +
                                      " bytes in this program, " +
                                      std::to_string(kGgmlTensorOverhead) +
                                      " in the ggml the plug-in was built for; build polarquant "
                                      "against this llama.cpp");
  }
  CheckOperationTable();
}

}  // namespace polarquant::llama
