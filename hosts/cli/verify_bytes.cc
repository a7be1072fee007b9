// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <functional>
#include <optional>
#include <random>

#include "interrupt.h"
#include "page_buffer.h"
#include "polarquant/codec.h"
#include "polarquant/error.h"
#include "verify.h"

namespace polarquant::cli {
namespace {

constexpr int kPageTokens = 128;

struct Documented {
  const char* scheme;
  std::function<int(int head_dim, int blocks)> record_bytes;
};

// FORMAT.md, "Records".
const std::vector<Documented>& DocumentedSizes() {
  static const auto turbo = [](int bits) {
    return [bits](int d, int blocks) { return 2 * blocks + (bits * d + 7) / 8; };
  };
  static const std::vector<Documented> all = {
      {"f32", [](int d, int) { return 4 * d; }},
      {"f16", [](int d, int) { return 2 * d; }},
      {"bf16", [](int d, int) { return 2 * d; }},
      {"q8_0", [](int d, int) { return 34 * d / 32; }},
      {"q4_0", [](int d, int) { return 18 * d / 32; }},
      {"turbo1", turbo(1)},
      {"turbo2", turbo(2)},
      {"turbo3", turbo(3)},
      {"turbo4", turbo(4)},
      {"turbo5", turbo(5)},
      {"turbo6", turbo(6)},
      {"turbo7", turbo(7)},
      {"turbo8", turbo(8)},
      {"e8-2", [](int d, int blocks) { return 2 * blocks + (18 * d + 63) / 64; }},
      {"e8-3", [](int d, int blocks) { return 2 * blocks + (25 * d + 63) / 64; }},
      {"e8p", [](int d, int blocks) { return 2 * blocks + d / 4; }},
      {"trellis2", [](int d, int blocks) { return 2 * blocks + 2 * d / 8; }},
      {"polar", [](int d, int) { return 2 * d / 16 + 4 * d / 16 + (14 * d + 127) / 128; }},
      {"fp8_e4m3", [](int d, int) { return 2 + d; }},
      {"int2", [](int d, int) { return 4 * ((d + 63) / 64) + 2 * d / 8; }},
      {"int4", [](int d, int) { return 4 * ((d + 63) / 64) + 4 * d / 8; }},
      {"turbo2_0", [](int d, int) { return 34 * ((d + 127) / 128); }},
      {"turbo3_0", [](int d, int) { return 50 * ((d + 127) / 128); }},
      {"turbo4_0", [](int d, int) { return 68 * ((d + 127) / 128); }},
      {"qjl2", [](int d, int blocks) { return 2 * blocks + 2 * d / 8; }},
      {"turboprod3", [](int d, int blocks) { return 4 * blocks + 2 * d / 8 + d / 8; }},
      {"equator", [](int d, int blocks) { return blocks + d / 8; }},
  };
  return all;
}

// Sizes that are not as documented: records, headers, whole pages.
Finding CheckSizes() {
  struct Shape {
    int head_dim, blocks;  // of the rotation
  };
  int wrong = 0;
  std::string which;
  for (const auto& [head_dim, blocks] :
       {Shape{64, 1}, Shape{96, 1}, Shape{128, 1}, Shape{224, 2}}) {
    for (const Documented& documented : DocumentedSizes()) {
      for (const bool center : {false, true}) {
        Scheme scheme = Scheme::Parse(documented.scheme);
        scheme.normalisation.center =
            center && scheme.codec != "f32" && scheme.codec != "f16" && scheme.codec != "bf16";
        const PageFormat format(scheme, Role::kKey, head_dim, kPageTokens);
        const auto record = static_cast<size_t>(documented.record_bytes(head_dim, blocks));
        const size_t header = scheme.normalisation.center ? static_cast<size_t>(head_dim) + 2 : 0;
        const size_t page = (kPageTokens * record + header + 63) / 64 * 64;
        if (format.record_bytes() == record && format.header_bytes() == header &&
            format.page_bytes() == page) {
          continue;
        }
        if (wrong++ == 0) which = fmt::format(", first {} at {}", scheme.ToString(), head_dim);
      }
    }
  }
  return {"sizes", static_cast<double>(wrong), 0,
          fmt::format("records, headers and pages of {} codecs that are not as FORMAT.md says{}",
                      DocumentedSizes().size(), which)};
}

// Records of the row below; they change with the format only.
constexpr Golden kGoldens[] = {
    {"f16",
     "c0c3003a40c1004080bd804200b000c3803c80c0c04000bc4043003440c2003e80bf804100b90044003980c1803f0"
     "0be404200b440c3003cc0c0804080bc0043"},
    {"q8_0:rotate=none", "08288518ad40d467fc9124b94be073089d30c457ec7f14a93cd063f88d20b547dc6f"},
    {"q4_0:rotate=none", "00b8cf379d047be248bf269df36ad148ae15"},
    {"turbo1", "31436c40887b"},
    {"turbo2", "af40e5281074d4d18a7a"},
    {"turbo3:scale=mse", "e63f5b9d12819059d0accc2c4a5a"},
    {"turbo4", "b84176b9a5283426745b63b646b79892885c"},
    {"fp8_e4m3", "9320fe6af976f27bd6fc70f878ee7d5efb72f57ae97e69fa75f27bdefd6ef878f07c"},
    {"int4", "3338c04390b2e5173a5c8ea1d4f6295b7d90c3e5"},
};
constexpr int kGoldenDim = 32;

std::string RecordOf(const char* scheme) {
  std::vector<float> row;
  row.reserve(kGoldenDim);
  for (int i = 0; i < kGoldenDim; ++i) row.push_back(static_cast<float>(i * 37 % 64 - 31) / 8.0f);
  const PageFormat format(Scheme::Parse(scheme), Role::kKey, kGoldenDim, kPageTokens);
  PageBuffer page(format, 1);
  format.EncodePage(row.data(), 1, page.page(0));
  std::vector<std::byte> record(format.record_bytes());
  format.ReadRecord(page.page(0), 0, record.data());
  std::string hex;
  for (const std::byte byte : record) hex += fmt::format("{:02x}", std::to_integer<int>(byte));
  return hex;
}

}  // namespace

Finding CheckGoldens(std::span<const Golden> goldens) {
  int wrong = 0;
  std::string which;
  for (const Golden& golden : goldens) {
    if (RecordOf(golden.scheme) == golden.record) continue;
    ++wrong;
    which += which.empty() ? ", not those of " : ", ";
    which += golden.scheme;
  }
  return {"golden bytes", static_cast<double>(wrong), 0,
          fmt::format("records of {} schemes that are not the documented bytes{}", goldens.size(),
                      which)};
}

namespace {

std::optional<PageFormat> FormatOf(const CodecInfo& info, Role role, int head_dim) {
  if (role == Role::kKey ? !info.keys : !info.values) return std::nullopt;
  try {
    return PageFormat(Scheme::Parse(info.name), role, head_dim, kPageTokens);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kUnsupported) return std::nullopt;  // not at this head_dim
    throw;
  }
}

}  // namespace

std::vector<Finding> CheckBytes() { return {CheckSizes(), CheckGoldens(kGoldens)}; }

std::string PageDigests() {
  std::mt19937 random(11);
  std::string digests;
  for (const int head_dim : {64, 80, 128}) {
    std::vector<float> rows(static_cast<size_t>(head_dim) * kPageTokens);
    std::normal_distribution<float> normal;
    for (float& value : rows) value = normal(random);
    std::vector<float> decoded(rows.size());
    for (const CodecInfo& info : Codecs()) {
      for (const Role role : {Role::kKey, Role::kValue}) {
        const std::optional<PageFormat> format = FormatOf(info, role, head_dim);
        if (!format) continue;
        PageBuffer page(*format, 1);
        format->EncodePage(rows.data(), kPageTokens, page.page(0));
        format->DecodePage(page.page(0), kPageTokens, decoded.data());
        digests += fmt::format("{} {} {} {:016x} {:016x}\n", info.name,
                               role == Role::kKey ? "key" : "value", head_dim,
                               XXH3_64bits(page.bytes().data(), page.bytes().size()),
                               XXH3_64bits(decoded.data(), decoded.size() * sizeof(float)));
        ThrowIfInterrupted();
      }
    }
  }
  return digests;
}

}  // namespace polarquant::cli
