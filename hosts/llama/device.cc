// SPDX-License-Identifier: Apache-2.0
#include "device.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

#include "backend.h"
#include "buffer.h"
#include "callback.h"
#include "control.h"
#include "plugin.h"
#include "polarquant/llama_control.h"
#include "polarquant/page.h"

namespace polarquant::llama {
namespace {

// Bytes of memory the kernel says could be given out now; 0 if it does not say.
size_t AvailableBytes() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  size_t kibibytes = 0;
  std::string unit;
  while (file >> key >> kibibytes) {
    std::getline(file, unit);
    if (key == "MemAvailable:") return kibibytes * 1024;
  }
  return 0;
}

// llama.cpp fits the context to the device's memory, counting 16 bits a cached value. So that it
// does not refuse what fits, the host's memory is told in 16-bit values: scaled by how much
// smaller a closed page is.
double CompressionOf(const Policy& policy) {
  constexpr int kTypicalHeadDim = 128;
  const auto bits = [&](const Scheme& scheme, Role role) {
    return PageFormat(scheme, role, kTypicalHeadDim, policy.page_tokens).bits_per_value();
  };
  return std::max(1.0, 32.0 / (bits(policy.key, Role::kKey) + bits(policy.value, Role::kValue)));
}

const char* DeviceName(ggml_backend_dev_t) { return POLARQUANT_DEVICE_NAME; }
const char* DeviceDescription(ggml_backend_dev_t) { return "compressed KV cache in host memory"; }

void DeviceMemory(ggml_backend_dev_t, size_t* available, size_t* total) {
  const size_t physical =
      static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  *available = *total = physical;
  Guarded([&] {
    const double scale = CompressionOf(Plugin::Get().policy());
    if (const size_t bytes = AvailableBytes()) *available = bytes;
    *available = static_cast<size_t>(static_cast<double>(*available) * scale);
    *total = static_cast<size_t>(static_cast<double>(physical) * scale);
  });
}

// llama.cpp gives cache tensors to devices of this type only.
enum ggml_backend_dev_type DeviceType(ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; }

void DeviceProps(ggml_backend_dev_t device, ggml_backend_dev_props* props) {
  std::memset(props, 0, sizeof(*props));
  props->name = DeviceName(device);
  props->description = DeviceDescription(device);
  DeviceMemory(device, &props->memory_free, &props->memory_total);
  props->type = DeviceType(device);
  props->caps.host_buffer = true;
}

ggml_backend_t DeviceInit(ggml_backend_dev_t, const char*) {
  return Guarded(ggml_backend_t{nullptr}, [] {
    Plugin::Get().BackendStarted();
    return StartBackend();
  });
}

ggml_backend_buffer_type_t DeviceBufferType(ggml_backend_dev_t) { return HostBufferType(); }

// The CPU backend takes this type for its compute buffers. Because ours is the same, the scheduler
// gives us attention over our cells even where the nodes around it are the CPU's (layers that
// reuse another layer's cache).
ggml_backend_buffer_type_t DeviceHostBufferType(ggml_backend_dev_t) { return HostBufferType(); }

bool DeviceSupportsOp(ggml_backend_dev_t, const ggml_tensor* node) {
  return Guarded(false, [&] { return SupportsOp(node); });
}

bool DeviceSupportsBuffer(ggml_backend_dev_t, ggml_backend_buffer_type_t type) {
  return IsOwnBufferType(type) || ggml_backend_buft_is_host(type);
}

bool DeviceOffloads(ggml_backend_dev_t, const ggml_tensor*) { return false; }

const char* RegistryName(ggml_backend_reg_t) { return POLARQUANT_DEVICE_NAME; }
size_t DeviceCount(ggml_backend_reg_t) { return 1; }
ggml_backend_dev_t DeviceAt(ggml_backend_reg_t, size_t) { return TheDevice(); }

void* ProcAddress(ggml_backend_reg_t, const char* name) {
  if (std::strcmp(name, "ggml_backend_set_n_threads") == 0) {
    return reinterpret_cast<void*>(SetThreads);
  }
  if (std::strcmp(name, POLARQUANT_CONFIGURE) == 0) return reinterpret_cast<void*>(Configure);
  if (std::strcmp(name, POLARQUANT_STATUS_CALL) == 0) return reinterpret_cast<void*>(WriteStatus);
  if (std::strcmp(name, POLARQUANT_OBSERVE) == 0) return reinterpret_cast<void*>(Observe);
  if (std::strcmp(name, POLARQUANT_OBSERVED) == 0) return reinterpret_cast<void*>(Observed);
  if (std::strcmp(name, POLARQUANT_ROWS) == 0) return reinterpret_cast<void*>(Rows);
  return nullptr;
}

}  // namespace

ggml_backend_reg_t TheRegistry() {
  static ggml_backend_reg registry = {GGML_BACKEND_API_VERSION,
                                      {.get_name = RegistryName,
                                       .get_device_count = DeviceCount,
                                       .get_device = DeviceAt,
                                       .get_proc_address = ProcAddress},
                                      nullptr};
  return &registry;
}

ggml_backend_dev_t TheDevice() {
  static ggml_backend_device device = {{.get_name = DeviceName,
                                        .get_description = DeviceDescription,
                                        .get_memory = DeviceMemory,
                                        .get_type = DeviceType,
                                        .get_props = DeviceProps,
                                        .init_backend = DeviceInit,
                                        .get_buffer_type = DeviceBufferType,
                                        .get_host_buffer_type = DeviceHostBufferType,
                                        .buffer_from_host_ptr = nullptr,
                                        .supports_op = DeviceSupportsOp,
                                        .supports_buft = DeviceSupportsBuffer,
                                        .offload_op = DeviceOffloads,
                                        .event_new = nullptr,
                                        .event_free = nullptr,
                                        .event_synchronize = nullptr},
                                       TheRegistry(),
                                       nullptr};
  return &device;
}

}  // namespace polarquant::llama
