// SPDX-License-Identifier: Apache-2.0
#include "fingerprint.h"

#include <fmt/format.h>
#include <ggml.h>
#include <gguf.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "polarquant/error.h"

namespace polarquant::cli {
namespace {

std::string TextOf(const gguf_context* file, const char* key) {
  const int64_t index = gguf_find_key(file, key);
  if (index < 0 || gguf_get_kv_type(file, index) != GGUF_TYPE_STRING) return "";
  return gguf_get_val_str(file, index);
}

}  // namespace

ModelName IdentifyModel(const std::string& path) {
  ggml_context* shapes_only = nullptr;
  const std::unique_ptr<gguf_context, decltype(&gguf_free)> file(
      gguf_init_from_file(path.c_str(), {/*no_alloc=*/true, &shapes_only}), gguf_free);
  if (!file) throw Error(ErrorCode::kParameter, fmt::format("{} is no GGUF model file", path));
  const std::unique_ptr<ggml_context, decltype(&ggml_free)> shapes(shapes_only, ggml_free);

  ModelName model;
  model.architecture = TextOf(file.get(), "general.architecture");
  model.name = TextOf(file.get(), "general.name");
  if (model.name.empty()) model.name = std::filesystem::path(path).stem().string();

  std::ifstream bytes(path, std::ios::binary);
  std::map<std::string, std::string> parts;  // in the order of names, not of the file
  for (int64_t i = 0; i < gguf_get_n_tensors(file.get()); ++i) {
    const std::string name = gguf_get_tensor_name(file.get(), i);
    if (!name.starts_with("blk.")) continue;
    const ggml_tensor* tensor = ggml_get_tensor(shapes.get(), name.c_str());
    std::string& part = parts[name];
    for (const int64_t length : tensor->ne) part += fmt::format(" {}", length);
    if (tensor->type != GGML_TYPE_F32 || ggml_n_dims(tensor) != 1) continue;
    std::vector<char> values(ggml_nbytes(tensor));
    bytes.seekg(static_cast<std::streamoff>(gguf_get_data_offset(file.get()) +
                                            gguf_get_tensor_offset(file.get(), i)));
    if (!bytes.read(values.data(), static_cast<std::streamsize>(values.size()))) {
      throw Error(ErrorCode::kParameter, fmt::format("{} ends within tensor {}", path, name));
    }
    part.append(values.begin(), values.end());
  }
  std::string all = model.architecture;
  for (const auto& [name, part] : parts) {
    all += '\0';
    all += name;
    all += part;
  }
  const XXH128_hash_t hash = XXH3_128bits(all.data(), all.size());
  model.fingerprint = fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
  return model;
}

}  // namespace polarquant::cli
