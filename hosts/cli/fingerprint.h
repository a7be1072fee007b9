// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. Which model a GGUF file holds, whatever its weights are quantised
// to.
#pragma once

#include <string>

namespace polarquant::cli {

struct ModelName {
  std::string name;          // general.name, else the file's
  std::string architecture;  // general.architecture
  // 32 hex digits: XXH3 of the architecture, the names and shapes of the layers' tensors, and the
  // bytes of those vectors (norms, biases) that no quantisation touches. Fine-tunes differ in them.
  std::string fingerprint;
};

// Throws Error(kParameter) if the file is no GGUF model.
ModelName IdentifyModel(const std::string& path);

}  // namespace polarquant::cli
