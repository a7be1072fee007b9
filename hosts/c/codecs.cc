// SPDX-License-Identifier: Apache-2.0
// Host: C. The table of codecs and the spelling of schemes.
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "checks.h"
#include "guard.h"
#include "polarquant/attention.h"
#include "polarquant/codec.h"
#include "polarquant/scheme.h"

using namespace polarquant;
using namespace polarquant::c;

namespace {

// The table with terminated texts, made once.
struct Table {
  struct Codec {
    pq_codec_info info;
    std::vector<pq_codec_option> options;
  };
  std::deque<std::string> texts;  // never moved
  std::vector<Codec> codecs;

  const char* Text(std::string_view text) { return texts.emplace_back(text).c_str(); }

  Table() {
    for (const CodecInfo& from : Codecs()) {
      Codec codec = {PQ_CODEC_INFO_INIT, {}};
      codec.info.name = Text(from.name);
      codec.info.summary = Text(from.summary);
      codec.info.source = Text(from.source);
      codec.info.code_bits = from.code_bits;
      codec.info.keys = from.keys ? 1 : 0;
      codec.info.values = from.values ? 1 : 0;
      codec.info.rotates = from.rotates ? 1 : 0;
      codec.info.scale_rules = from.scale_rules ? 1 : 0;
      codec.info.normalises = from.normalises ? 1 : 0;
      codec.info.num_options = from.options.size();
      for (const CodecOption& option : from.options) {
        pq_codec_option to = PQ_CODEC_OPTION_INIT;
        to.name = Text(option.name);
        to.summary = Text(option.summary);
        to.values = Text(ValuesOf(option));
        to.usual = Text(SpellingOf(option, option.usual));
        codec.options.push_back(to);
      }
      codecs.push_back(std::move(codec));
    }
  }

  static const Table& Get() {
    static const Table table;
    return table;
  }
};

template <typename List>
const auto& At(const char* name, const List& list, size_t index) {
  if (index >= list.size()) {
    Refuse(std::string(name) + " is " + std::to_string(index) + "; there are " +
           std::to_string(list.size()) + ", counted from 0");
  }
  return list[index];
}

void WriteText(const std::string& text, char* out, size_t capacity, size_t* needed) {
  const size_t bytes = text.size() + 1;
  if (needed != nullptr) *needed = bytes;
  if (bytes > capacity) {
    Refuse("capacity is " + std::to_string(capacity) + "; \"" + text + "\" takes " +
           std::to_string(bytes) + " bytes with its terminator");
  }
  std::memcpy(&Needed(out, "spelling"), text.c_str(), bytes);
}

}  // namespace

pq_status pq_codec_count(size_t* count) {
  return Guard([&] { Needed(count, "count") = Table::Get().codecs.size(); });
}

pq_status pq_codec_at(size_t index, pq_codec_info* info) {
  return Guard([&] { Give(At("index", Table::Get().codecs, index).info, info, "info"); });
}

pq_status pq_codec_option_at(size_t codec, size_t index, pq_codec_option* option) {
  return Guard([&] {
    const Table::Codec& of = At("codec", Table::Get().codecs, codec);
    Give(At("index", of.options, index), option, "option");
  });
}

pq_status pq_scheme_spelling(const char* text, char* spelling, size_t capacity, size_t* needed) {
  return Guard([&] {
    WriteText(Scheme::Parse(&Needed(text, "text")).ToString(), spelling, capacity, needed);
  });
}

pq_status pq_scheme_of_role(const char* pair, pq_role role, char* spelling, size_t capacity,
                            size_t* needed) {
  return Guard([&] {
    const auto [key, value] = Scheme::ParsePair(&Needed(pair, "pair"));
    const Scheme& scheme = RoleOf(role) == Role::kKey ? key : value;
    WriteText(scheme.ToString(), spelling, capacity, needed);
  });
}

pq_status pq_scheme_needs_profile(const char* text, int32_t* needs_profile) {
  return Guard([&] {
    const Scheme scheme = Scheme::Parse(&Needed(text, "text"));
    Needed(needs_profile, "needs_profile") = scheme.normalisation.needs_profile() ? 1 : 0;
  });
}

pq_status pq_scheme_has_fast_path(const char* text, int32_t head_dim, int32_t* fast) {
  return Guard([&] {
    const bool has = HasFastPath(Scheme::Parse(&Needed(text, "text")), head_dim);
    Needed(fast, "fast") = has ? 1 : 0;
  });
}
