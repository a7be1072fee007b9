// SPDX-License-Identifier: Apache-2.0
#include "control.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "callback.h"
#include "observer.h"
#include "plugin.h"
#include "polarquant/error.h"
#include "polarquant/llama_control.h"
#include "status.h"

namespace polarquant::llama {
namespace {

// Copies as much as fits, always terminated.
void CopyText(const std::string& text, char* out, size_t out_bytes) {
  if (out == nullptr || out_bytes == 0) return;
  const size_t count = std::min(text.size(), out_bytes - 1);
  std::memcpy(out, text.data(), count);
  out[count] = '\0';
}

// Runs `body`; what it throws becomes the error code and the message.
template <typename Body>
int Reporting(char* error, size_t error_bytes, const Body& body) {
  return Guarded(static_cast<int>(ErrorCode::kHost), [&] {
    CopyText("", error, error_bytes);
    try {
      body();
      return 0;
    } catch (const Error& failure) {
      CopyText(failure.what(), error, error_bytes);
      return static_cast<int>(failure.code());
    }
  });
}

}  // namespace

int Configure(const char* policy_json, char* error, size_t error_bytes) {
  return Reporting(error, error_bytes, [&] {
    Policy policy = Policy::Parse(policy_json);
    policy.Check();
    CheckRoles(policy);
    Plugin::Get().Configure(std::move(policy));
  });
}

int Observe(int dense) {
  return Guarded(static_cast<int>(ErrorCode::kHost), [&] {
    Observer::Get().Start(dense != 0);
    return 0;
  });
}

int Observed(const char* path, char* error, size_t error_bytes) {
  return Reporting(error, error_bytes, [&] { Observer::Get().Finish(path); });
}

int Rows(int64_t num_cells, polarquant_take_rows_t take, void* user, char* error,
         size_t error_bytes) {
  return Reporting(error, error_bytes, [&] {
    const auto caches = Plugin::Get().LiveCaches();
    if (caches.empty()) throw Error(ErrorCode::kHost, "there is no cache of ours to read");
    for (const auto& cache : caches) {
      const std::lock_guard lock(cache->mutex());
      cache->ReadRows(num_cells, [&](const KvTensor& tensor, const float* rows) {
        take(user, tensor.parsed.layer, tensor.parsed.role == Role::kValue ? 1 : 0,
             static_cast<int>(tensor.row_values / tensor.head_dim), tensor.head_dim, rows);
      });
    }
  });
}

size_t WriteStatus(char* json, size_t json_bytes) {
  return Guarded(size_t{0}, [&] {
    const std::string text = StatusText();
    CopyText(text, json, json_bytes);
    return text.size();
  });
}

static_assert(std::is_same_v<polarquant_configure_t, decltype(&Configure)>);
static_assert(std::is_same_v<polarquant_observe_t, decltype(&Observe)>);
static_assert(std::is_same_v<polarquant_observed_t, decltype(&Observed)>);
static_assert(std::is_same_v<polarquant_rows_t, decltype(&Rows)>);
static_assert(std::is_same_v<polarquant_status_t, decltype(&WriteStatus)>);

}  // namespace polarquant::llama
