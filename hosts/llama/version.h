// SPDX-License-Identifier: Apache-2.0
// ggml promises no stable interface to back ends, so we load into the version and commit of
// llama.cpp that we were built against, and no other.
#pragma once

#include <string_view>

namespace polarquant::llama {

// Builds outside a git checkout say "unknown"; git may shorten a commit to more or fewer digits;
// "-dirty" says that files differ from the commit, not how, and is not compared.
bool SameCommit(std::string_view a, std::string_view b);

// Throws Error(kHost) naming both versions.
void CheckVersion();

}  // namespace polarquant::llama
