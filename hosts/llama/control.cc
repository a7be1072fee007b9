// SPDX-License-Identifier: Apache-2.0
#include "control.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "callback.h"
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

}  // namespace

int Configure(const char* policy_json, char* error, size_t error_bytes) {
  ErrorCode code = ErrorCode::kHost;
  return Guarded(static_cast<int>(code), [&] {
    CopyText("", error, error_bytes);
    try {
      Policy policy = Policy::Parse(policy_json);
      policy.Check();
      CheckRoles(policy);
      Plugin::Get().Configure(std::move(policy));
      return 0;
    } catch (const Error& failure) {
      CopyText(failure.what(), error, error_bytes);
      return static_cast<int>(failure.code());
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
static_assert(std::is_same_v<polarquant_status_t, decltype(&WriteStatus)>);

}  // namespace polarquant::llama
