// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. The chunked protocol, the worst case for a cache: of each passage
// the first 32 tokens are read and quantised, all of them, and the next 32 are read with nothing
// else to look back on and scored.
#pragma once

#include <string>
#include <vector>

#include "llama_session.h"
#include "report.h"

namespace polarquant::cli {

inline constexpr int kChunkTokens = 32;

// Passages of a text: separated by blank lines, the lines of each joined by spaces.
std::vector<std::string> SplitPassages(const std::string& text);

// Makes a cache one whose pages close after each chunk however few rows they have, so that nothing
// but its window and sinks stays exact.
void CloseShort(CacheSpec& spec);

// Every cache and the 16-bit cache (first, whether named or not) on the passages of a file. Throws
// Error(kParameter) naming a passage with less than two chunks of tokens.
Json MeasureChunked(const Models& models, const std::vector<CacheSpec>& specs,
                    const std::string& file, int num_threads);
// For people, of what MeasureChunked returned.
std::string PrintChunked(const Json& report);

}  // namespace polarquant::cli
