// SPDX-License-Identifier: Apache-2.0
// The functions of llama_control.h.
#pragma once

#include <cstddef>

namespace polarquant::llama {

int Configure(const char* policy_json, char* error, size_t error_bytes);
int Observe(int dense);
int Observed(const char* path, char* error, size_t error_bytes);
size_t WriteStatus(char* json, size_t json_bytes);

}  // namespace polarquant::llama
