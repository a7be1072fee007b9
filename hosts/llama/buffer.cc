// SPDX-License-Identifier: Apache-2.0
#include "buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "callback.h"
#include "device.h"
#include "plugin.h"
#include "polarquant/error.h"
#include "saved_state.h"
#include "status.h"

namespace polarquant::llama {
namespace {

// Cache tensors begin on an OS page, and so do streams whose cells come in 256s.
constexpr size_t kAlignment = 4096;
// The store may round the last stream's rows up to whole OS pages.
constexpr size_t kSlack = kAlignment;

struct Buffer {
  std::byte* base = nullptr;
  size_t bytes = 0;
  std::shared_ptr<KvCache> cache;  // null for plain memory
  std::vector<std::unique_ptr<KvTensor>> tensors;

  ~Buffer() {
    for (auto& tensor : tensors) {
      const std::lock_guard lock(cache->mutex());
      cache->Remove(tensor.get());
      tensor.reset();
    }
    if (base != nullptr) munmap(base, bytes);
  }
};

Buffer& BufferOf(ggml_backend_buffer_t buffer) { return *static_cast<Buffer*>(buffer->context); }

std::byte* DataOf(const ggml_tensor* tensor) { return static_cast<std::byte*>(tensor->data); }

void FreeBuffer(ggml_backend_buffer_t buffer) {
  if (BufferOf(buffer).cache != nullptr) SnapshotBeforeFree();
  delete &BufferOf(buffer);
}

void* Base(ggml_backend_buffer_t buffer) { return BufferOf(buffer).base; }

ggml_status InitTensor(ggml_backend_buffer_t buffer, ggml_tensor* tensor) {
  return Guarded(GGML_STATUS_FAILED, [&] {
    if (tensor->view_src != nullptr) return GGML_STATUS_SUCCESS;
    const auto name = ParseCacheName(tensor->name);
    if (!name) return GGML_STATUS_SUCCESS;
    Buffer& own = BufferOf(buffer);
    if (own.cache == nullptr) own.cache = Plugin::Get().CacheForNewTensor();
    const std::lock_guard lock(own.cache->mutex());
    own.tensors.push_back(own.cache->Adopt(tensor, *name));
    tensor->extra = own.tensors.back().get();
    buffer->buft = CacheBufferType();
    return GGML_STATUS_SUCCESS;
  });
}

void MemsetTensor(ggml_backend_buffer_t, ggml_tensor* tensor, uint8_t value, size_t offset,
                  size_t bytes) {
  Guarded([&] {
    KvTensor* rows = KvTensorOf(tensor);
    if (rows == nullptr) {
      std::memset(DataOf(tensor) + offset, value, bytes);
      return;
    }
    const std::lock_guard lock(rows->cache->mutex());
    const std::vector<std::byte> filling(bytes, static_cast<std::byte>(value));
    LoadBytes(*rows, static_cast<size_t>(DataOf(tensor) - rows->base) + offset, filling);
  });
}

void SetTensor(ggml_backend_buffer_t, ggml_tensor* tensor, const void* data, size_t offset,
               size_t bytes) {
  Guarded([&] {
    KvTensor* rows = KvTensorOf(tensor);
    if (rows == nullptr) {
      std::memcpy(DataOf(tensor) + offset, data, bytes);
      return;
    }
    const std::lock_guard lock(rows->cache->mutex());
    LoadBytes(*rows, static_cast<size_t>(DataOf(tensor) - rows->base) + offset,
              {static_cast<const std::byte*>(data), bytes});
  });
}

// llama.cpp saves rows through the cache tensor or plain views of it; ggml's scheduler, for an
// operation that we do not compute, reads the view that the operation reads, with its heads apart.
bool ReadsToCompute(const ggml_tensor* tensor, const KvTensor& rows) {
  const char* op = ggml_op_name(tensor->op);
  if (std::strcmp(op, "PERMUTE") == 0 || std::strcmp(op, "TRANSPOSE") == 0) return true;
  const bool flat = ggml_is_contiguous(tensor);
  return !(flat && (tensor->ne[0] == rows.row_values || ggml_n_dims(tensor) == 1));
}

void GetTensor(ggml_backend_buffer_t, const ggml_tensor* tensor, void* data, size_t offset,
               size_t bytes) {
  Guarded([&] {
    KvTensor* rows = KvTensorOf(tensor);
    if (rows == nullptr) {
      std::memcpy(data, DataOf(tensor) + offset, bytes);
      return;
    }
    const std::lock_guard lock(rows->cache->mutex());
    const size_t first = static_cast<size_t>(DataOf(tensor) - rows->base) + offset;
    const std::span<std::byte> out(static_cast<std::byte*>(data), bytes);
    if (ReadsToCompute(tensor, *rows)) {
      LogBypass(rows->parsed.layer,
                "llama.cpp computes on a decoded copy of the cache (an operation polarquant does "
                "not serve, or flash attention off); slower and larger than without us");
      DecodeBytes(*rows, first, out);
    } else {
      SaveBytes(*rows, first, out);
    }
  });
}

bool CopyTensor(ggml_backend_buffer_t, const ggml_tensor* source, ggml_tensor* target) {
  return Guarded(false, [&] {
    KvTensor* from = KvTensorOf(source);
    KvTensor* to = KvTensorOf(target);
    if (from == nullptr || to == nullptr || from->cache != to->cache) return false;
    const std::lock_guard lock(to->cache->mutex());
    return CopyRows(*from, static_cast<size_t>(DataOf(source) - from->base), *to,
                    static_cast<size_t>(DataOf(target) - to->base), ggml_nbytes(source));
  });
}

void ClearBuffer(ggml_backend_buffer_t buffer, uint8_t value) {
  Guarded([&] {
    Buffer& own = BufferOf(buffer);
    for (auto& tensor : own.tensors) {
      const std::lock_guard lock(own.cache->mutex());
      own.cache->Clear(*tensor);
    }
    if (own.cache != nullptr) return;
    // Zeroes of an anonymous mapping need no memory.
    if (value == 0 && madvise(own.base, own.bytes, MADV_DONTNEED) == 0) return;
    std::memset(own.base, value, own.bytes);
  });
}

constexpr ggml_backend_buffer_i kBufferInterface = {
    .free_buffer = FreeBuffer,
    .get_base = Base,
    .init_tensor = InitTensor,
    .memset_tensor = MemsetTensor,
    .set_tensor = SetTensor,
    .get_tensor = GetTensor,
    .set_tensor_2d = nullptr,
    .get_tensor_2d = nullptr,
    .cpy_tensor = CopyTensor,
    .clear = ClearBuffer,
    .reset = nullptr,
};

ggml_backend_buffer_t AllocateBuffer(ggml_backend_buffer_type_t type, size_t bytes) {
  return Guarded(ggml_backend_buffer_t{nullptr}, [&] {
    auto own = std::make_unique<Buffer>();
    void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
      throw Error(ErrorCode::kCapacity, "no addresses for a buffer of " + std::to_string(bytes) +
                                            " bytes (" + std::strerror(errno) +
                                            "); lower the context (-c)");
    }
    own->base = static_cast<std::byte*>(base);
    own->bytes = bytes;
    return ggml_backend_buffer_init(type, kBufferInterface, own.release(), bytes);
  });
}

const char* HostName(ggml_backend_buffer_type_t) { return "POLARQUANT_Host"; }
const char* CacheTypeName(ggml_backend_buffer_type_t) { return "POLARQUANT"; }
size_t Alignment(ggml_backend_buffer_type_t) { return kAlignment; }
bool Yes(ggml_backend_buffer_type_t) { return true; }
bool No(ggml_backend_buffer_type_t) { return false; }

size_t AllocationBytes(ggml_backend_buffer_type_t, const ggml_tensor* tensor) {
  const size_t bytes = ggml_nbytes(tensor);
  return ParseCacheName(tensor->name) ? bytes + kSlack : bytes;
}

ggml_backend_buffer_type MakeType(const char* (*name)(ggml_backend_buffer_type_t),
                                  bool (*is_host)(ggml_backend_buffer_type_t)) {
  return {{.get_name = name,
           .alloc_buffer = AllocateBuffer,
           .get_alignment = Alignment,
           .get_max_size = nullptr,
           .get_alloc_size = AllocationBytes,
           .is_host = is_host},
          TheDevice(),
          nullptr};
}

}  // namespace

ggml_backend_buffer_type_t HostBufferType() {
  static ggml_backend_buffer_type type = MakeType(HostName, Yes);
  return &type;
}

ggml_backend_buffer_type_t CacheBufferType() {
  static ggml_backend_buffer_type type = MakeType(CacheTypeName, No);
  return &type;
}

bool IsOwnBufferType(ggml_backend_buffer_type_t type) {
  return type == HostBufferType() || type == CacheBufferType();
}

bool IsOwnCache(const ggml_tensor* tensor) {
  if (KvTensorOf(tensor) != nullptr) return true;
  const ggml_tensor* root = RootOf(tensor);
  return root != nullptr && root->buffer != nullptr && root->buffer->buft == HostBufferType() &&
         ParseCacheName(root->name).has_value();
}

KvTensor* KvTensorOf(const ggml_tensor* tensor) {
  const ggml_tensor* root = RootOf(tensor);
  if (root == nullptr || root->buffer == nullptr || root->buffer->buft != CacheBufferType()) {
    return nullptr;
  }
  return static_cast<KvTensor*>(root->extra);  // only InitTensor sets it
}

}  // namespace polarquant::llama
