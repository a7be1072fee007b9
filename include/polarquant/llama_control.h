// SPDX-License-Identifier: Apache-2.0
// What a program in the same process may ask of the llama.cpp plug-in, through
// ggml_backend_reg_get_proc_address(reg, NAME). Plain C types; JSON in and out. Calls must not
// overlap with a running llama_decode.
#pragma once

#include <stddef.h>  // NOLINT(modernize-deprecated-headers): this header is C
#include <stdint.h>  // NOLINT(modernize-deprecated-headers): this header is C

#ifdef __cplusplus
extern "C" {
#endif

// The name of the plug-in's registry entry and of its only device.
#define POLARQUANT_DEVICE_NAME "POLARQUANT"

// "polarquant_configure": the policy (policy.h, JSON) of every cache created from now on. Returns
// 0, or an ErrorCode with the message in `error`.
#define POLARQUANT_CONFIGURE "polarquant_configure"
typedef int (*polarquant_configure_t)(const char* policy_json, char* error, size_t error_bytes);

// "polarquant_status": writes a JSON object about all live caches, terminated by 0, and returns the
// bytes it needs without the terminator (call again with a larger buffer if it did not fit):
// {"caches":N, "layers_owned":N, "kv":"K/V", "window":N, "sinks":N, "isa":"avx512",
//  "kv_resident_bytes":N, "exact_bytes":N, "code_bytes":N, "header_bytes":N,
//  "bookkeeping_bytes":N, "filled_cells":N, "exact_cells":N, "f16_bytes":N, "bits_per_value":X,
//  "attention_calls":N, "error":"" }
#define POLARQUANT_STATUS_CALL "polarquant_status"
typedef size_t (*polarquant_status_t)(char* json, size_t json_bytes);

// "polarquant_observe": starts to collect the moments of queries and keys of every layer that
// attends over our caches. Use exact ones (f16), and texts that fill whole pages of 128 tokens.
// `dense` other than 0: whole second moments as well, which dense maps need and which take
// head_dim times the work.
#define POLARQUANT_OBSERVE "polarquant_observe"
typedef int (*polarquant_observe_t)(int dense);

// "polarquant_observed": ends collecting, and writes the profile (model_profile.h; the model's name
// and fingerprint are left empty) to `path`. Returns 0, or an ErrorCode with the message in
// `error`.
#define POLARQUANT_OBSERVED "polarquant_observed"
typedef int (*polarquant_observed_t)(const char* path, char* error, size_t error_bytes);

// "polarquant_rows": hands out the rows of cells 0 to num_cells - 1 of all live caches (of their
// first stream) as attention reads them: `take` is called for the keys and for the values of each
// layer, with f32 [num_cells][num_kv_heads][head_dim], valid during the call. Returns 0, or an
// ErrorCode with the message in `error`.
#define POLARQUANT_ROWS "polarquant_rows"
typedef void (*polarquant_take_rows_t)(void* user, int layer, int is_value, int num_kv_heads,
                                       int head_dim, const float* rows);
typedef int (*polarquant_rows_t)(int64_t num_cells, polarquant_take_rows_t take, void* user,
                                 char* error, size_t error_bytes);

#ifdef __cplusplus
}
#endif
