// SPDX-License-Identifier: Apache-2.0
// The profile's file: safetensors, that is a 64-bit length, a JSON header of that many bytes, and
// the tensors it points at. Read strictly: every offset is checked before it is used.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

#include "polarquant/error.h"
#include "polarquant/model_profile.h"
#include "util/file.h"

namespace polarquant {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "polarquant-profile";
constexpr const char* kVersion = "2";
constexpr size_t kLengthBytes = 8;

struct Field {
  const char* name;
  std::vector<float> LayerProfile::*values;
};
constexpr Field kFields[] = {{"query_moment", &LayerProfile::query_moment},
                             {"key_moment", &LayerProfile::key_moment},
                             {"key_variance", &LayerProfile::key_variance},
                             {"mean", &LayerProfile::mean},
                             {"balance", &LayerProfile::balance}};

constexpr const char* kDense = "dense";              // of files that have it
constexpr const char* kFrequencies = "frequencies";  // where RoPE's are known

struct PairingName {
  Rope::Pairing pairing;
  const char* name;
};
constexpr PairingName kPairings[] = {{Rope::Pairing::kNone, "none"},
                                     {Rope::Pairing::kAdjacent, "adjacent"},
                                     {Rope::Pairing::kHalves, "halves"}};

[[noreturn]] void ThrowFormat(const std::string& what) {
  throw Error(ErrorCode::kFormat, "not a profile of polarquant: " + what);
}

std::string LayerKey(int layer) { return "layers." + std::to_string(layer) + "."; }

std::string PrintRope(const Rope& rope) {
  for (const PairingName& each : kPairings) {
    if (each.pairing == rope.pairing)
      return std::string(each.name) + ":" + std::to_string(rope.dims);
  }
  return "";
}

Rope ParseRope(const std::string& text) {
  for (const PairingName& each : kPairings) {
    const std::string prefix = std::string(each.name) + ":";
    if (!text.starts_with(prefix)) continue;
    Rope rope;
    rope.pairing = each.pairing;
    char* end = nullptr;
    const long dims = std::strtol(text.c_str() + prefix.size(), &end, 10);
    if (*end != '\0' || end == text.c_str() + prefix.size() || dims < 0 || dims > 65536) break;
    rope.dims = static_cast<int>(dims);
    return rope;
  }
  ThrowFormat("RoPE \"" + text + "\" is unknown; allowed are none:0, adjacent:DIMS, halves:DIMS");
}

std::string Text(const Json& metadata, const std::string& key) {
  if (!metadata.contains(key) || !metadata.at(key).is_string()) {
    ThrowFormat("its metadata has no \"" + key + "\"");
  }
  return metadata.at(key).get<std::string>();
}

int64_t Count(const Json& metadata, const std::string& key) {
  const std::string text = Text(metadata, key);
  char* end = nullptr;
  errno = 0;
  const long long count = std::strtoll(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || errno != 0 || count < 0) {
    ThrowFormat("\"" + key + "\" is \"" + text + "\", not a count");
  }
  return count;
}

// A list of whole numbers from 0 on: the JSON library would convert others without a word.
bool AreCounts(const Json& list) {
  return list.is_array() && std::all_of(list.begin(), list.end(), [](const Json& number) {
           return number.is_number_unsigned();
         });
}

struct Tensor {
  int64_t rows, columns;
  std::string_view bytes;
};

// Finds one tensor of two dimensions, and that it lies within the file.
Tensor FindTensor(const Json& header, const std::string& name, std::string_view data,
                  const char* type, size_t value_bytes, int64_t most_rows, int64_t most_columns) {
  if (!header.contains(name)) ThrowFormat("tensor " + name + " is missing");
  const Json& entry = header.at(name);
  try {
    if (!AreCounts(entry.at("shape")) || !AreCounts(entry.at("data_offsets"))) {
      ThrowFormat("tensor " + name + " has a shape or a place that is no count");
    }
    const auto shape = entry.at("shape").get<std::vector<int64_t>>();
    const auto offsets = entry.at("data_offsets").get<std::vector<uint64_t>>();
    const bool plain = entry.at("dtype") == type && shape.size() == 2 && offsets.size() == 2 &&
                       shape[0] > 0 && shape[0] <= most_rows && shape[1] > 0 &&
                       shape[1] <= most_columns;
    if (!plain) {
      ThrowFormat("tensor " + name + " is not " + type + " with rows of at most " +
                  std::to_string(most_columns) + " values");
    }
    const auto bytes = static_cast<uint64_t>(shape[0] * shape[1]) * value_bytes;
    if (offsets[0] > data.size() || offsets[1] > data.size() || offsets[1] < offsets[0] ||
        offsets[1] - offsets[0] != bytes) {
      ThrowFormat("tensor " + name + " has another size than its shape, or lies outside the file");
    }
    return {shape[0], shape[1], data.substr(offsets[0], bytes)};
  } catch (const Json::exception& error) {
    ThrowFormat("tensor " + name + ": " + error.what());
  }
}

// Reads one tensor of a layer, whose shape the first tensor sets; `rows` f32 rows for each kv_head.
void ReadTensor(const Json& header, const std::string& name, std::string_view data,
                LayerProfile& layer, int rows, std::vector<float>& values) {
  const Tensor tensor =
      FindTensor(header, name, data, "F32", sizeof(float), int64_t{65536} * rows, 1024);
  if (layer.num_kv_heads == 0) {
    layer.num_kv_heads = static_cast<int>(tensor.rows);
    layer.head_dim = static_cast<int>(tensor.columns);
  }
  if (tensor.rows != int64_t{layer.num_kv_heads} * rows || tensor.columns != layer.head_dim) {
    ThrowFormat("tensor " + name + " has another shape than its layer");
  }
  values.resize(static_cast<size_t>(tensor.rows * tensor.columns));
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
}

void ReadFrequencies(const Json& header, const std::string& name, std::string_view data,
                     Rope& rope) {
  if (!header.contains(name)) return;
  const Tensor tensor = FindTensor(header, name, data, "F64", sizeof(double), 1, 512);
  if (tensor.columns != rope.dims / 2) {
    ThrowFormat("tensor " + name + " has " + std::to_string(tensor.columns) + " values for " +
                std::to_string(rope.dims / 2) + " pairs");
  }
  rope.frequencies.resize(static_cast<size_t>(tensor.columns));
  std::memcpy(rope.frequencies.data(), tensor.bytes.data(), tensor.bytes.size());
}

}  // namespace

std::string ModelProfile::Print() const {
  Json header;
  Json metadata = {{"format", kFormat},
                   {"version", kVersion},
                   {"model", model},
                   {"architecture", architecture},
                   {"fingerprint", fingerprint},
                   {"text", text},
                   {"tokens", std::to_string(tokens)},
                   {"page_tokens", std::to_string(page_tokens)}};
  std::string data, list;
  for (const LayerProfile& layer : layers) {
    if (!list.empty()) list += ",";
    list += std::to_string(layer.layer);
    metadata[LayerKey(layer.layer) + "rope"] = PrintRope(layer.rope);
    const auto write = [&](const char* name, const char* type, const auto& values, size_t columns) {
      const size_t begin = data.size();
      data.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(values[0]));
      header[LayerKey(layer.layer) + name] = {{"dtype", type},
                                              {"shape", {values.size() / columns, columns}},
                                              {"data_offsets", {begin, data.size()}}};
    };
    const auto dim = static_cast<size_t>(layer.head_dim);
    for (const Field& field : kFields) write(field.name, "F32", layer.*field.values, dim);
    if (!layer.dense.empty()) write(kDense, "F32", layer.dense, dim);
    const std::vector<double>& frequencies = layer.rope.frequencies;
    if (!frequencies.empty()) write(kFrequencies, "F64", frequencies, frequencies.size());
  }
  metadata["layers"] = list;
  header["__metadata__"] = std::move(metadata);
  std::string json = header.dump();
  json.resize((json.size() + 7) / 8 * 8, ' ');  // tensors begin aligned
  const uint64_t length = json.size();
  std::string bytes(reinterpret_cast<const char*>(&length), kLengthBytes);
  return bytes + json + data;
}

ModelProfile ModelProfile::Parse(std::string_view bytes) {
  uint64_t length = 0;
  if (bytes.size() < kLengthBytes)
    ThrowFormat("it has only " + std::to_string(bytes.size()) + " bytes");
  std::memcpy(&length, bytes.data(), kLengthBytes);
  if (length > bytes.size() - kLengthBytes) ThrowFormat("its header is longer than the file");
  const std::string_view text = bytes.substr(kLengthBytes, length);
  const std::string_view data = bytes.substr(kLengthBytes + length);
  const Json header = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!header.is_object() || !header.contains("__metadata__")) {
    ThrowFormat("it is no safetensors file with metadata");
  }
  const Json& metadata = header.at("__metadata__");
  if (Text(metadata, "format") != kFormat) ThrowFormat("its format is " + Text(metadata, "format"));
  if (Text(metadata, "version") != kVersion) {
    ThrowFormat("its version is " + Text(metadata, "version") + ", this program reads " + kVersion +
                "; make it anew with `polarquant tune`");
  }
  ModelProfile profile;
  profile.model = Text(metadata, "model");
  profile.architecture = Text(metadata, "architecture");
  profile.fingerprint = Text(metadata, "fingerprint");
  profile.text = Text(metadata, "text");
  profile.tokens = Count(metadata, "tokens");
  profile.page_tokens = static_cast<int>(Count(metadata, "page_tokens"));
  const std::string list = Text(metadata, "layers");
  for (size_t begin = 0; begin < list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    const std::string number = list.substr(begin, end - begin);
    begin = end + 1;
    LayerProfile layer;
    char* stop = nullptr;
    const long value = std::strtol(number.c_str(), &stop, 10);
    if (number.empty() || *stop != '\0' || value < 0 || value > 9999 ||
        (!profile.layers.empty() && value <= profile.layers.back().layer)) {
      ThrowFormat("its list of layers is \"" + list + "\"");
    }
    layer.layer = static_cast<int>(value);
    for (const Field& field : kFields) {
      ReadTensor(header, LayerKey(layer.layer) + field.name, data, layer, 1, layer.*field.values);
    }
    if (const std::string name = LayerKey(layer.layer) + kDense; header.contains(name)) {
      ReadTensor(header, name, data, layer, layer.head_dim, layer.dense);
    }
    layer.rope = ParseRope(Text(metadata, LayerKey(layer.layer) + "rope"));
    ReadFrequencies(header, LayerKey(layer.layer) + kFrequencies, data, layer.rope);
    try {
      const Rope none{layer.rope.pairing, layer.rope.dims, {}};
      const bool known = !layer.rope.frequencies.empty() || layer.rope.dims == 0;
      for (const Normalisation& normalisation :
           {Normalisation{}, {.center = true}, {.dense = true}, {.step = known ? kUsualStep : 0}}) {
        layer.KeysFor(normalisation, known ? layer.rope : none)
            .Check(layer.num_kv_heads, layer.head_dim);
      }
    } catch (const Error& error) {
      ThrowFormat(LayerKey(layer.layer) + ": " + error.what());
    }
    profile.layers.push_back(std::move(layer));
  }
  if (profile.layers.empty()) ThrowFormat("it has no layer");
  return profile;
}

ModelProfile ModelProfile::Load(const std::string& path) {
  const std::string bytes = ReadFile(path, "the profile");
  try {
    return Parse(bytes);
  } catch (const Error& error) {
    throw Error(error.code(), path + ": " + error.what());
  }
}

void ModelProfile::Save(const std::string& path) const { WriteFile(path, "the profile", Print()); }

}  // namespace polarquant
