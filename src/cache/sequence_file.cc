// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page: the file of several sequence caches. FORMAT.md, "Files of sequences":
//
//   "PQSEQ\0\0" and the version, the length of the description, the description (JSON), zeros up to
//   a multiple of 64, then the numbers it tells of: profiles, then pages; and a checksum of it all.
#include <algorithm>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <utility>

#include "cache/row_formats.h"
#include "cache/sequence_cache_impl.h"
#include "polarquant/error.h"
#include "util/file.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace polarquant {
namespace {

using Json = nlohmann::json;

constexpr char kMagic[7] = {'P', 'Q', 'S', 'E', 'Q', 0, 0};
constexpr char kVersion = 2;
constexpr size_t kStart = 16, kChecksum = 8, kAlignment = 64;

// Our descriptions have whole numbers only; the JSON library would convert others without a word.
bool IsOurs(const Json& json, int depth = 0) {
  constexpr int kDeepest = 8;
  if (json.is_number_float() || depth > kDeepest) return false;
  return !json.is_structured() || std::all_of(json.begin(), json.end(), [&](const Json& part) {
    return IsOurs(part, depth + 1);
  });
}

uint64_t ReadNumber(std::string_view bytes, size_t at) {
  uint64_t number = 0;
  for (size_t i = 0; i < 8; ++i) {
    number |= static_cast<uint64_t>(static_cast<unsigned char>(bytes[at + i])) << (8 * i);
  }
  return number;
}

void WriteNumber(uint64_t number, std::string* bytes) {
  for (int i = 0; i < 8; ++i) bytes->push_back(static_cast<char>(number >> (8 * i) & 0xff));
}

[[noreturn]] void Fail(ErrorCode code, const std::string& what) {
  throw Error(code, "the file of sequences " + what);
}

Json DescriptionOf(const SequenceCache::Config& config, int profile) {
  return {{"key", config.key.ToString()},
          {"value", config.value.ToString()},
          {"key_head_dim", config.key_head_dim},
          {"value_head_dim", config.value_head_dim},
          {"num_kv_heads", config.num_kv_heads},
          {"page_tokens", config.page_tokens},
          {"window", config.window_tokens},
          {"sinks", config.sink_tokens},
          {"profile", profile < 0 ? Json() : Json(profile)}};
}

SequenceCache::Config ConfigOf(const Json& json) {
  SequenceCache::Config config;
  config.key = Scheme::Parse(json.at("key").get<std::string>());
  config.value = Scheme::Parse(json.at("value").get<std::string>());
  json.at("key_head_dim").get_to(config.key_head_dim);
  json.at("value_head_dim").get_to(config.value_head_dim);
  json.at("num_kv_heads").get_to(config.num_kv_heads);
  json.at("page_tokens").get_to(config.page_tokens);
  json.at("window").get_to(config.window_tokens);
  json.at("sinks").get_to(config.sink_tokens);
  return config;
}

// Bytes taken from the front of what is left.
struct Reader {
  std::string_view left;
  void Need(size_t count) const {  // before memory is taken for them
    if (count > left.size()) Fail(ErrorCode::kCorruption, "ends too soon");
  }
  void Take(void* to, size_t count) {
    Need(count);
    if (count > 0) std::memcpy(to, left.data(), count);
    left.remove_prefix(count);
  }
  template <typename Number>
  void Take(size_t count, std::vector<Number>* numbers) {
    Need(count > left.size() ? count : count * sizeof(Number));
    numbers->resize(count);
    Take(numbers->data(), count * sizeof(Number));
  }
};

template <typename Number>
void Put(const std::vector<Number>& numbers, std::string* bytes) {
  bytes->append(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(Number));
}

template <typename Item>
const Item& At(const std::vector<Item>& items, const Json& index, const char* what) {
  const auto number = index.get<uint64_t>();
  if (number >= items.size()) {
    Fail(ErrorCode::kCorruption, std::string("names ") + what + " " + std::to_string(number) +
                                     " of " + std::to_string(items.size()));
  }
  return items[number];
}

}  // namespace

// Sees the inside of the caches.
struct SequenceFile {
  // ---- Writing.
  struct Writer {
    Json description = {{"configs", Json::array()},
                        {"profiles", Json::array()},
                        {"caches", Json::array()},
                        {"pages", Json::array()}};
    std::string profiles, pages;
    std::map<const void*, int> profile_numbers;
    // Of a page in a configuration: its slots and what is exact. Forks share most of them.
    using PageKey = std::tuple<int, const void*, const void*, std::vector<uint64_t>>;
    std::map<PageKey, int> page_numbers;
    std::map<std::string, int> config_numbers;

    int Profile(const KeyProfile* profile) {
      if (profile == nullptr) return -1;
      const auto [at, fresh] =
          profile_numbers.try_emplace(profile, static_cast<int>(profile_numbers.size()));
      if (fresh) {
        description["profiles"].push_back({{"balance", profile->balance.size()},
                                           {"mean", profile->mean.size()},
                                           {"dense", profile->dense.size()},
                                           {"pairing", static_cast<int>(profile->rope.pairing)},
                                           {"dims", profile->rope.dims},
                                           {"frequencies", profile->rope.frequencies.size()}});
        Put(profile->balance, &profiles);
        Put(profile->mean, &profiles);
        Put(profile->dense, &profiles);
        Put(profile->dense_inverse, &profiles);
        Put(profile->rope.frequencies, &profiles);
        Put(std::vector<double>{profile->rope.magnitude}, &profiles);
      }
      return at->second;
    }

    int Config(const SequenceCache::Config& config) {
      Json json = DescriptionOf(config, Profile(config.profile.get()));
      const auto [at, fresh] =
          config_numbers.try_emplace(json.dump(), static_cast<int>(config_numbers.size()));
      if (fresh) description["configs"].push_back(std::move(json));
      return at->second;
    }

    Json Pages(const PageStore& rows, int config) {
      Json numbers = Json::array();
      for (const PageEntry& page : rows.pages()) {
        const void* codes = page.codes < 0 ? nullptr : rows.Codes(page, 0);
        const void* exact = page.exact_slot < 0 ? nullptr : rows.ExactRow(page, 0);
        PageKey key = {config, codes, exact, {page.exact.words, std::end(page.exact.words)}};
        const auto [at, fresh] =
            page_numbers.try_emplace(std::move(key), static_cast<int>(page_numbers.size()));
        if (fresh) Page(rows, page, config);
        numbers.push_back(at->second);
      }
      return numbers;
    }

    void Page(const PageStore& rows, const PageEntry& page, int config) {
      Json runs = Json::array();
      if (page.codes >= 0) {
        pages.append(reinterpret_cast<const char*>(rows.Codes(page, 0)), rows.codes_bytes());
      }
      page.exact.ForEachRun([&](int begin, int end) {
        runs.push_back({begin, end});
        pages.append(reinterpret_cast<const char*>(rows.ExactRow(page, begin)),
                     static_cast<size_t>(end - begin) * rows.row_bytes());
      });
      description["pages"].push_back({{"config", config},
                                      {"role", rows.shape().role == Role::kKey ? "key" : "value"},
                                      {"coded", page.codes >= 0},
                                      {"exact", std::move(runs)}});
    }

    void Cache(const SequenceCache& cache) {
      const SequenceCache::Impl& impl = *cache.impl_;
      const int config = Config(impl.config);
      Json keys = Pages(impl.keys, config), values = Pages(impl.values, config);
      description["caches"].push_back({{"config", config},
                                       {"length", impl.length},
                                       {"first", impl.first_token},
                                       {"keys", std::move(keys)},
                                       {"values", std::move(values)}});
    }
  };

  static std::string TextOf(const Json& description) {
    try {
      return description.dump();
    } catch (const Json::type_error& error) {  // all other texts are our own
      throw Error(
          ErrorCode::kParameter,
          std::string("the host's text in a file of sequences must be UTF-8: ") + error.what());
    }
  }

  static std::string Print(const SavedSequences& saved) {
    Writer writer;
    writer.description["host"] = saved.host;
    for (const SequenceCache& cache : saved.caches) writer.Cache(cache);
    const std::string description = TextOf(writer.description);
    std::string bytes(kMagic, sizeof kMagic);
    bytes.push_back(kVersion);
    WriteNumber(description.size(), &bytes);
    bytes += description;
    bytes.resize((bytes.size() + kAlignment - 1) / kAlignment * kAlignment);
    bytes += writer.profiles;
    bytes += writer.pages;
    WriteNumber(XXH3_64bits(bytes.data(), bytes.size()), &bytes);
    return bytes;
  }

  // ---- Reading.
  // A page of a store that only holds what was read: the caches share its slots.
  struct ParsedPage {
    uint64_t config;
    Role role;
    PageStore* held_by;
    int64_t number;
  };

  static void ParsePage(const Json& json, Reader* reader, PageStore* rows) {
    const bool coded = json.at("coded").get<bool>();
    if (coded && rows->exact_only()) Fail(ErrorCode::kCorruption, "has codes of a scheme without");
    const int tokens = rows->shape().page_tokens;
    PageBits exact;
    int last = 0;
    for (const Json& run : json.at("exact")) {
      const int begin = run.at(0).get<int>(), end = run.at(1).get<int>();
      if (begin < last || end <= begin || end > tokens) {
        Fail(ErrorCode::kCorruption, "has exact rows " + std::to_string(begin) + " to " +
                                         std::to_string(end) + " in a page of " +
                                         std::to_string(tokens));
      }
      exact = exact.Or(PageBits::Range(begin, end));
      last = end;
    }
    reader->Need((coded ? rows->codes_bytes() : 0) +
                 static_cast<size_t>(exact.Count()) * rows->row_bytes());
    const auto number = static_cast<int64_t>(rows->pages().size());
    const PageEntry& page = rows->Restore(number, exact, exact, coded);
    if (coded) reader->Take(rows->Codes(page, 0), rows->codes_bytes());
    exact.ForEachRun([&](int begin, int end) {
      reader->Take(rows->ExactRow(page, begin),
                   static_cast<size_t>(end - begin) * rows->row_bytes());
    });
  }

  static void FillRows(const Json& numbers, uint64_t config, const std::vector<ParsedPage>& pages,
                       int64_t length, int64_t first, PageStore* rows) {
    const int64_t tokens = rows->shape().page_tokens;
    const int64_t first_page = first / tokens, cells = length - first_page * tokens;
    if (static_cast<int64_t>(numbers.size()) != (cells + tokens - 1) / tokens) {
      Fail(ErrorCode::kCorruption, "has " + std::to_string(numbers.size()) + " pages for " +
                                       std::to_string(cells) + " rows");
    }
    for (const Json& number : numbers) {
      const ParsedPage& parsed = At(pages, number, "page");
      const auto page = static_cast<int64_t>(rows->pages().size());
      const auto written =
          PageBits::First(static_cast<int>(std::min(tokens, cells - page * tokens)));
      if (parsed.config != config || parsed.role != rows->shape().role ||
          !rows->SharePage(*parsed.held_by, parsed.number, written,
                           static_cast<int32_t>((first_page + page) * tokens))) {
        Fail(ErrorCode::kCorruption, "names a page of another kind, or with rows missing");
      }
    }
    rows->SetEnd(cells);
  }

  static SavedSequences ParseParts(const Json& description, Reader reader) {
    SavedSequences saved;
    description.at("host").get_to(saved.host);
    std::vector<std::shared_ptr<const KeyProfile>> profiles;
    for (const Json& json : description.at("profiles")) {
      auto profile = std::make_shared<KeyProfile>();
      reader.Take(json.at("balance").get<size_t>(), &profile->balance);
      reader.Take(json.at("mean").get<size_t>(), &profile->mean);
      reader.Take(json.at("dense").get<size_t>(), &profile->dense);
      reader.Take(json.at("dense").get<size_t>(), &profile->dense_inverse);
      const int pairing = json.at("pairing").get<int>();
      if (pairing < 0 || pairing > 2) Fail(ErrorCode::kCorruption, "names a RoPE there is not");
      profile->rope.pairing = static_cast<Rope::Pairing>(pairing);
      json.at("dims").get_to(profile->rope.dims);
      reader.Take(json.at("frequencies").get<size_t>(), &profile->rope.frequencies);
      reader.Take(&profile->rope.magnitude, sizeof profile->rope.magnitude);
      profiles.push_back(std::move(profile));
    }
    std::vector<SequenceCache> empty;  // one a configuration: they share its formats
    for (const Json& json : description.at("configs")) {
      SequenceCache::Config config = ConfigOf(json);
      if (!json.at("profile").is_null()) {
        config.profile = At(profiles, json.at("profile"), "profile");
      }
      empty.emplace_back(config);
    }
    std::vector<SequenceCache> held = empty;  // copies share its pools: what is read goes there
    std::vector<ParsedPage> pages;
    for (const Json& json : description.at("pages")) {
      const auto config = json.at("config").get<uint64_t>();
      At(empty, json.at("config"), "configuration");
      const Role role = json.at("role") == "key" ? Role::kKey : Role::kValue;
      SequenceCache::Impl& of = *held[config].impl_;
      PageStore& rows = role == Role::kKey ? of.keys : of.values;
      pages.push_back({config, role, &rows, static_cast<int64_t>(rows.pages().size())});
      ParsePage(json, &reader, &rows);
    }
    if (!reader.left.empty()) {
      Fail(ErrorCode::kCorruption, "has " + std::to_string(reader.left.size()) + " bytes too many");
    }
    for (const Json& json : description.at("caches")) {
      SequenceCache cache = At(empty, json.at("config"), "configuration");
      SequenceCache::Impl& impl = *cache.impl_;
      json.at("length").get_to(impl.length);
      json.at("first").get_to(impl.first_token);
      CheckValue("length", impl.length, 0, int64_t{kMaxPosition} + 1);
      CheckValue("first", impl.first_token, 0, impl.length);
      const auto config = json.at("config").get<uint64_t>();
      FillRows(json.at("keys"), config, pages, impl.length, impl.first_token, &impl.keys);
      FillRows(json.at("values"), config, pages, impl.length, impl.first_token, &impl.values);
      impl.first_page = impl.first_token / impl.config.page_tokens;
      impl.retired = 0;  // found again by the next Settle
      saved.caches.push_back(std::move(cache));
    }
    return saved;
  }

  static SavedSequences Parse(std::string_view bytes) {
    if (bytes.size() < kStart || std::memcmp(bytes.data(), kMagic, sizeof kMagic) != 0) {
      Fail(ErrorCode::kFormat, "is none: it does not begin as one");
    }
    if (bytes[sizeof kMagic] != kVersion) {
      Fail(ErrorCode::kFormat, "has version " +
                                   std::to_string(static_cast<int>(bytes[sizeof kMagic])) +
                                   "; this build reads version " + std::to_string(kVersion));
    }
    if (bytes.size() < kStart + kChecksum) Fail(ErrorCode::kCorruption, "ends too soon");
    const std::string_view checked = bytes.substr(0, bytes.size() - kChecksum);
    if (ReadNumber(bytes, checked.size()) != XXH3_64bits(checked.data(), checked.size())) {
      Fail(ErrorCode::kCorruption, "is damaged: its checksum is another");
    }
    const uint64_t length = ReadNumber(bytes, 8);
    if (length > checked.size() - kStart) Fail(ErrorCode::kCorruption, "ends too soon");
    const size_t data = (kStart + length + kAlignment - 1) / kAlignment * kAlignment;
    if (data > checked.size()) Fail(ErrorCode::kCorruption, "ends too soon");
    try {
      const Json description = Json::parse(checked.substr(kStart, length));
      if (!IsOurs(description)) Fail(ErrorCode::kFormat, "has numbers that are not whole");
      return ParseParts(description, {checked.substr(data)});
    } catch (const Json::exception& error) {
      Fail(ErrorCode::kFormat, std::string("cannot be read: ") + error.what());
    } catch (const Error& error) {  // what it describes cannot be
      const bool impossible =
          error.code() == ErrorCode::kParameter || error.code() == ErrorCode::kUnsupported;
      if (!impossible) throw;
      Fail(ErrorCode::kCorruption, std::string("describes what cannot be: ") + error.what());
    }
  }
};

std::string SavedSequences::Print() const { return SequenceFile::Print(*this); }
SavedSequences SavedSequences::Parse(std::string_view bytes) { return SequenceFile::Parse(bytes); }

void SavedSequences::Save(const std::string& path) const {
  WriteFile(path, "the file of sequences", Print());
}

SavedSequences SavedSequences::Load(const std::string& path) {
  return Parse(ReadFile(path, "the file of sequences"));
}

}  // namespace polarquant
