// SPDX-License-Identifier: Apache-2.0
#include "capture_file.h"

#include <fmt/format.h>
#include <ggml.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>

#include "polarquant/error.h"
#include "report.h"

namespace polarquant::cli {
namespace {

constexpr const char* kFormat = "polarquant-capture";
constexpr const char* kVersion = "1";
constexpr uint64_t kLongestHeader = uint64_t{1} << 26;

std::string NameOf(const CapturedRows& rows) {
  return fmt::format("layer.{}.{}", rows.layer, rows.role == Role::kKey ? "key" : "value");
}

// The layer of "layer.N.key" or "layer.N.value"; none for other tensors.
std::optional<int> LayerOf(const std::string& name, Role role) {
  constexpr std::string_view kPrefix = "layer.";
  const std::string_view suffix = role == Role::kKey ? ".key" : ".value";
  if (!name.starts_with(kPrefix) || !name.ends_with(suffix)) return std::nullopt;
  const char* const first = name.data() + kPrefix.size();
  const char* const last = name.data() + name.size() - suffix.size();
  int layer = 0;
  const auto [end, failure] = std::from_chars(first, last, layer);
  if (first >= last || failure != std::errc() || end != last || layer < 0) return std::nullopt;
  return layer;
}

// A list of whole numbers from 0 on: the JSON library would convert others without a word.
bool AreCounts(const Json& list) {
  return list.is_array() && std::all_of(list.begin(), list.end(), [](const Json& number) {
           return number.is_number_unsigned();
         });
}

class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path), file_(path, std::ios::binary) {
    std::error_code failure;
    const uint64_t file_bytes = std::filesystem::file_size(path, failure);
    if (!file_ || failure) {
      throw Error(ErrorCode::kHost,
                  fmt::format("cannot read the captured rows {}: {}", path, std::strerror(errno)));
    }
    uint64_t length = 0;
    if (file_bytes < sizeof(length)) Refuse("it is too short");
    Read(&length, sizeof(length));
    if (length > std::min(kLongestHeader, file_bytes - sizeof(length))) {
      Refuse("its header is longer than the file, or than 64 MiB");
    }
    std::string text(length, '\0');
    Read(text.data(), length);
    header_ = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!header_.is_object()) Refuse("its header is no JSON object");
    data_begin_ = sizeof(length) + length;
    data_bytes_ = file_bytes - data_begin_;
  }

  std::vector<CapturedFloats> Load(Role role) {
    std::vector<CapturedFloats> all;
    for (const auto& [name, entry] : header_.items()) {
      const std::optional<int> layer = LayerOf(name, role);
      if (!layer) continue;
      try {
        all.push_back(LoadTensor(name, entry));
      } catch (const Json::exception& error) {
        Refuse(fmt::format("tensor {}: {}", name, error.what()));
      }
      all.back().layer = *layer;
      all.back().role = role;
    }
    if (all.empty()) {
      Refuse(fmt::format("it has no tensor layer.N.{}", role == Role::kKey ? "key" : "value"));
    }
    std::sort(all.begin(), all.end(),
              [](const auto& left, const auto& right) { return left.layer < right.layer; });
    return all;
  }

 private:
  [[noreturn]] void Refuse(const std::string& what) const {
    throw Error(ErrorCode::kFormat,
                fmt::format("{} holds no captured rows: {}; make such a file with polarquant "
                            "capture",
                            path_, what));
  }

  void Read(void* to, uint64_t bytes) {
    file_.read(static_cast<char*>(to), static_cast<std::streamsize>(bytes));
    if (!file_) Refuse("it ends too early");
  }

  CapturedFloats LoadTensor(const std::string& name, const Json& entry) {
    const auto type = entry.at("dtype").get<std::string>();
    if (!AreCounts(entry.at("shape")) || !AreCounts(entry.at("data_offsets"))) {
      Refuse(fmt::format("tensor {} has a shape or a place that is no count", name));
    }
    const auto shape = entry.at("shape").get<std::vector<int64_t>>();
    const auto offsets = entry.at("data_offsets").get<std::vector<uint64_t>>();
    const bool half = type == "F16";
    const bool fits = (half || type == "F32") && shape.size() == 3 && shape[0] > 0 &&
                      shape[0] <= 65536 && shape[1] > 0 && shape[1] <= (int64_t{1} << 32) &&
                      shape[2] > 0 && shape[2] <= 1024;
    if (!fits) {
      Refuse(fmt::format("tensor {} is not f32 or f16 [kv_head][token][head_dim]", name));
    }
    const auto count = static_cast<uint64_t>(shape[0] * shape[1]) * static_cast<uint64_t>(shape[2]);
    const uint64_t bytes = count * (half ? sizeof(ggml_fp16_t) : sizeof(float));
    if (offsets.size() != 2 || offsets[1] > data_bytes_ || offsets[0] > offsets[1] ||
        offsets[1] - offsets[0] != bytes) {
      Refuse(fmt::format("tensor {} has another length than its shape, or lies outside the file",
                         name));
    }
    CapturedFloats tensor;
    tensor.num_kv_heads = static_cast<int>(shape[0]);
    tensor.num_tokens = shape[1];
    tensor.head_dim = static_cast<int>(shape[2]);
    tensor.values.resize(count);
    file_.seekg(static_cast<std::streamoff>(data_begin_ + offsets[0]));
    if (half) {
      std::vector<ggml_fp16_t> halves(count);
      Read(halves.data(), bytes);
      ggml_fp16_to_fp32_row(halves.data(), tensor.values.data(), static_cast<int64_t>(count));
    } else {
      Read(tensor.values.data(), bytes);
    }
    if (!std::all_of(tensor.values.begin(), tensor.values.end(),
                     [](float value) { return std::isfinite(value); })) {
      Refuse(fmt::format("tensor {} holds a value that is not finite", name));
    }
    return tensor;
  }

  std::string path_;
  std::ifstream file_;
  Json header_;
  uint64_t data_begin_ = 0, data_bytes_ = 0;
};

}  // namespace

void SaveCapture(const std::string& path, const std::map<std::string, std::string>& metadata,
                 const std::vector<CapturedHalves>& tensors) {
  Json header;
  header["__metadata__"] = {{"format", kFormat}, {"version", kVersion}};
  for (const auto& [key, text] : metadata) header["__metadata__"][key] = text;
  size_t end = 0;
  for (const CapturedHalves& tensor : tensors) {
    const size_t begin = end;
    end += tensor.values.size() * sizeof(uint16_t);
    header[NameOf(tensor)] = {{"dtype", "F16"},
                              {"shape", {tensor.num_kv_heads, tensor.num_tokens, tensor.head_dim}},
                              {"data_offsets", {begin, end}}};
  }
  std::string json = header.dump();
  json.resize((json.size() + 7) / 8 * 8, ' ');  // tensors begin aligned
  const uint64_t length = json.size();
  // Written beside and renamed, so that a crash leaves the old file.
  const std::string fresh = path + ".new";
  std::ofstream file(fresh, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(&length), sizeof(length));
  file << json;
  for (const CapturedHalves& tensor : tensors) {
    file.write(reinterpret_cast<const char*>(tensor.values.data()),
               static_cast<std::streamsize>(tensor.values.size() * sizeof(uint16_t)));
  }
  file.close();
  if (!file || std::rename(fresh.c_str(), path.c_str()) != 0) {
    const std::string cause = std::strerror(errno);
    std::remove(fresh.c_str());
    throw Error(ErrorCode::kHost,
                fmt::format("cannot write the captured rows {}: {}", path, cause));
  }
}

std::vector<CapturedFloats> LoadCapture(const std::string& path, Role role) {
  return Reader(path).Load(role);
}

}  // namespace polarquant::cli
