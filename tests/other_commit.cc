// SPDX-License-Identifier: Apache-2.0
// Preloaded into a stock program, makes its ggml say that it is of another commit.
extern "C" __attribute__((visibility("default"))) const char* ggml_commit() { return "fffffff"; }
