// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. Work done with the kernels of one instruction set. Kernels are
// chosen once in the life of a process, so a child does it.
#pragma once

#include <functional>
#include <optional>
#include <string>

namespace polarquant::cli {

inline constexpr const char* kTargets[] = {"scalar", "avx2", "avx512"};

// What `work` returns in a child process with POLARQUANT_ISA set to `target`, or as the environment
// says if that is null. None if this build or CPU lacks the target. An Error that the child throws
// is thrown here; a child that dies otherwise is an Error(kHost). Call before this process has
// computed anything with several threads: a child would wait for them for ever.
std::optional<std::string> OnTarget(const char* target, const std::function<std::string()>& work);

}  // namespace polarquant::cli
