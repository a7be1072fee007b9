// SPDX-License-Identifier: Apache-2.0
// The table of codecs as hosts see it: names and facts. The functions live behind PageFormat.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace polarquant {

// A setting of a codec, spelled name=value in a scheme: one of the numbers from `least` to `most`,
// or one of the words, which stand for the numbers from 0.
struct CodecOption {
  std::string_view name;
  std::string_view summary;
  int least = 0, most = 0;
  int usual = 0;  // if a scheme does not say
  std::vector<std::string_view> words = {};
};

// What an option takes, "1..7" or "halves|adjacent", and the spelling of one value.
std::string ValuesOf(const CodecOption& option);
std::string SpellingOf(const CodecOption& option, int value);

struct CodecInfo {
  std::string_view name;     // "turbo4"
  std::string_view summary;  // one line for people
  std::string_view source;   // the paper or format it implements
  int code_bits;             // bits a value without scales and headers
  bool keys;                 // may store keys
  bool values;               // may store values
  bool rotates;              // whether its rows are rotated unless the scheme says otherwise
  bool scale_rules;          // whether scale= applies
  bool normalises = true;    // whether center, balance and the like apply
  std::vector<CodecOption> options = {};
};

// Every codec, in the order of the table. Valid for the life of the program; thread-safe.
std::span<const CodecInfo> Codecs();

// Head dimensions every codec takes: multiples of 16 from 16 to 1024 (those with a fast Hadamard
// transform of their own use one block, others are split; see math/rotation.h).
// Throws Error(kUnsupported) naming the value and the limits.
void CheckHeadDim(int head_dim);

}  // namespace polarquant
