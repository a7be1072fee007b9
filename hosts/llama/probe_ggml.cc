// SPDX-License-Identifier: Apache-2.0
// Run by CMake: what the plug-in compares with the ggml that loads it. Prints a CMake list.
#include <cstdio>

#include "ggml.h"

int main() { std::printf("%s;%s;%zu", ggml_version(), ggml_commit(), ggml_tensor_overhead()); }
