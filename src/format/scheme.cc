// SPDX-License-Identifier: Apache-2.0
// Stage 4/7 pack: the spelling of schemes (polarquant/scheme.h); modifiers in any order, each
// once. What a codec cannot honour is an error, never ignored.
#include "polarquant/scheme.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <initializer_list>
#include <optional>

#include "codecs/codec.h"
#include "polarquant/error.h"

namespace polarquant {
namespace {

struct RuleName {
  ScaleRule rule;
  std::string_view modifier;
};
constexpr std::array<RuleName, 3> kRules = {{{ScaleRule::kMse, "scale=mse"},
                                             {ScaleRule::kNorm, "scale=norm"},
                                             {ScaleRule::kUnbiased, "scale=unbiased"}}};
std::string Concat(std::initializer_list<std::string_view> parts) {
  std::string text;
  for (const std::string_view part : parts) text += part;
  return text;
}

constexpr std::string_view kCenterWord = "center";
constexpr std::string_view kBalanceWord = "balance";
constexpr std::string_view kPageWord = "center=page";  // the same as center
constexpr std::string_view kStepWord = "center=step";
constexpr std::string_view kBalancedWord = "balanced";  // balance and center=step
constexpr std::string_view kDenseWord = "dense";        // with center
constexpr std::string_view kStepKey = "step=";
constexpr std::array<int, 4> kSteps = {16, 32, 64, 128};
constexpr std::string_view kSharpenKey = "sharpen=";
constexpr int kPlainBits = 16;  // rows of codecs at least this wide are plain numbers
constexpr std::string_view kNoRotationWord = "rotate=none";

// The modifiers a codec takes, for messages.
std::string AllowedModifiers(const CodecInfo& codec) {
  std::string words;
  const auto add = [&words](std::string_view word) {
    words += words.empty() ? "" : ", ";
    words += word;
  };
  for (const CodecOption& option : codec.options) {
    add(Concat({option.name, "=", ValuesOf(option)}));
  }
  if (codec.normalises) {
    for (const auto word : {kCenterWord, kStepWord, kBalanceWord, kBalancedWord, kDenseWord}) {
      add(word);
    }
    std::string steps;
    for (const int step : kSteps) {
      steps += Concat({steps.empty() ? kStepKey : "|", std::to_string(step)});
    }
    add(steps);
  }
  if (codec.scale_rules) {
    for (const RuleName& rule : kRules) add(rule.modifier);
  }
  if (codec.keys && codec.code_bits < kPlainBits) {
    add(Concat({kSharpenKey, std::to_string(kLeastSharpen), "..", std::to_string(kMostSharpen)}));
  }
  if (codec.rotates) add(kNoRotationWord);
  return Concat({codec.name, " takes ", words.empty() ? "no modifier" : std::string_view(words)});
}

[[noreturn]] void Refuse(std::string_view word, std::string_view text, std::string_view cause) {
  throw Error(ErrorCode::kFormat, Concat({"\"", word, "\" in scheme \"", text, "\": ", cause}));
}

// A number in its canonical spelling, within its limits.
std::optional<int> NumberOf(std::string_view text, int least, int most) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  if (!whole || std::to_string(value) != text || value < least || value > most) return std::nullopt;
  return value;
}

// The number that `text` stands for; none if the option does not take it.
std::optional<int> ValueOf(const CodecOption& option, std::string_view text) {
  if (option.words.empty()) return NumberOf(text, option.least, option.most);
  const auto found = std::ranges::find(option.words, text);
  if (found == option.words.end()) return std::nullopt;
  return static_cast<int>(found - option.words.begin());
}

bool ApplyOption(std::string_view word, const CodecInfo& codec, Scheme& scheme) {
  const size_t equals = word.find('=');
  if (equals == std::string_view::npos) return false;
  for (const CodecOption& option : codec.options) {
    if (option.name != word.substr(0, equals)) continue;
    const std::optional<int> value = ValueOf(option, word.substr(equals + 1));
    if (value && *value != option.usual) scheme.options[std::string(option.name)] = *value;
    return value.has_value();
  }
  return false;
}

// What the words about centres said, to be made sense of when all are known.
struct Centre {
  bool step = false, balanced = false;
  int length = 0;  // of a step; 0: unsaid
};

bool ApplyNormalisation(std::string_view word, Normalisation& normalisation, Centre& centre) {
  if (word.starts_with(kStepKey)) {
    const std::string_view number = word.substr(kStepKey.size());
    for (const int step : kSteps) {
      if (number == std::to_string(step)) centre.length = step;
    }
    return centre.length != 0;
  }
  const bool center = word == kCenterWord || word == kPageWord, step = word == kStepWord;
  const bool balance = word == kBalanceWord, balanced = word == kBalancedWord;
  const bool dense = word == kDenseWord;
  normalisation.center |= center || dense;
  normalisation.balance |= balance || balanced;
  normalisation.dense |= dense;
  centre.step |= step || balanced;
  centre.balanced |= balanced;
  return center || step || balance || balanced || dense;
}

// Applies one modifier; false if the codec takes no such word.
bool Apply(std::string_view word, const CodecInfo& codec, Scheme& scheme, Centre& centre) {
  if (ApplyOption(word, codec, scheme)) return true;
  if (codec.normalises && ApplyNormalisation(word, scheme.normalisation, centre)) return true;
  if (word.starts_with(kSharpenKey) && codec.keys && codec.code_bits < kPlainBits) {
    const auto percent = NumberOf(word.substr(kSharpenKey.size()), kLeastSharpen, kMostSharpen);
    scheme.sharpen = percent.value_or(100);
    return percent.has_value();
  }
  if (word == kNoRotationWord && codec.rotates) {
    scheme.rotate = false;
    return true;
  }
  for (const RuleName& rule : kRules) {
    if (word == rule.modifier && codec.scale_rules) {
      scheme.scale_rule = rule.rule;
      return true;
    }
  }
  return false;
}

void SettleCentre(const Centre& centre, std::string_view text, Normalisation& normalisation) {
  if (normalisation.dense && (normalisation.balance || centre.step)) {
    Refuse(kDenseWord, text, "the dense map takes the place of balance and knows no center=step");
  }
  if (centre.length != 0 && !centre.step) {
    Refuse(kStepKey, text, "it is the length of the steps of center=step or balanced; add one");
  }
  if (centre.step && normalisation.center) {
    Refuse(centre.balanced ? kBalancedWord : kStepWord, text,
           "the stepped centre takes the place of the page's mean; for the page's mean write "
           "balance:center, or center alone");
  }
  if (centre.step) normalisation.step = centre.length != 0 ? centre.length : kUsualStep;
}

}  // namespace

Scheme Scheme::Parse(std::string_view text) {
  const size_t codec_end = text.find(':');
  const CodecInfo& codec = FindCodec(text.substr(0, codec_end)).info;
  Scheme scheme;
  scheme.codec = codec.name;
  scheme.rotate = codec.rotates;
  Centre centre;
  std::string seen;  // what is left of '=' of each modifier, so that scale= comes once
  size_t begin = codec_end;
  while (begin != std::string_view::npos) {
    const size_t end = text.find(':', begin + 1);
    const std::string_view word = text.substr(begin + 1, end - begin - 1);
    if (!Apply(word, codec, scheme, centre)) Refuse(word, text, AllowedModifiers(codec));
    const std::string key = Concat({":", word.substr(0, word.find('=')), ":"});
    if (seen.find(key) != std::string::npos) Refuse(word, text, "each modifier may come once");
    seen += key;
    begin = end;
  }
  SettleCentre(centre, text, scheme.normalisation);
  return scheme;
}

std::pair<Scheme, Scheme> Scheme::ParsePair(std::string_view text) {
  const size_t slash = text.find('/');
  if (slash == std::string_view::npos) {
    const Scheme both = Parse(text);
    return {both, both};
  }
  if (text.find('/', slash + 1) != std::string_view::npos) {
    Refuse("/", text, "write one scheme for both, or KEYS/VALUES with a single slash");
  }
  return {Parse(text.substr(0, slash)), Parse(text.substr(slash + 1))};
}

std::string Scheme::ToString() const {
  std::string text = codec;
  const CodecInfo& info = FindCodec(codec).info;
  for (const CodecOption& option : info.options) {
    const auto set = options.find(std::string(option.name));
    if (set == options.end()) continue;
    text += Concat({":", option.name, "=", SpellingOf(option, set->second)});
  }
  const auto& [center, balance, dense, step] = normalisation;
  if (balance) text += Concat({":", step != 0 ? kBalancedWord : kBalanceWord});
  if (dense) text += Concat({":", kDenseWord});
  if (center && !dense) text += Concat({":", kCenterWord});
  if (step != 0 && !balance) text += Concat({":", kStepWord});
  if (step != 0 && step != kUsualStep) text += Concat({":", kStepKey, std::to_string(step)});
  if (scale_rule != Scheme().scale_rule) {
    for (const RuleName& name : kRules) {
      if (name.rule == scale_rule) text += Concat({":", name.modifier});
    }
  }
  if (sharpen != 100) text += Concat({":", kSharpenKey, std::to_string(sharpen)});
  if (!rotate && info.rotates) text += Concat({":", kNoRotationWord});
  return text;
}

}  // namespace polarquant
