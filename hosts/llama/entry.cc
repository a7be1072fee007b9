// SPDX-License-Identifier: Apache-2.0
// The door: the only function this library exports.
#include <cstdlib>

#include "callback.h"
#include "device.h"
#include "plugin.h"
#include "version.h"

namespace polarquant::llama {
namespace {

ggml_backend_reg_t Load() {
  return Guarded(ggml_backend_reg_t{nullptr}, [] {
    OpenEventLog(Settings::StatusPath());
    CheckVersion();
    Plugin::Create(Settings::FromEnvironment());
    std::atexit([] { LogExit(); });
    LogLoaded(ggml_version(), ggml_commit());
    return TheRegistry();
  });
}

}  // namespace
}  // namespace polarquant::llama

extern "C" __attribute__((visibility("default"))) ggml_backend_reg_t ggml_backend_init() {
  static const ggml_backend_reg_t registry = polarquant::llama::Load();
  return registry;
}
