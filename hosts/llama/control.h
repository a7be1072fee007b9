// SPDX-License-Identifier: Apache-2.0
// The functions of llama_control.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "polarquant/llama_control.h"

namespace polarquant::llama {

int Configure(const char* policy_json, char* error, size_t error_bytes);
int Observe(int dense);
int Observed(const char* path, char* error, size_t error_bytes);
int Rows(int64_t num_cells, polarquant_take_rows_t take, void* user, char* error,
         size_t error_bytes);
size_t WriteStatus(char* json, size_t json_bytes);

}  // namespace polarquant::llama
