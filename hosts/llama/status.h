// SPDX-License-Identifier: Apache-2.0
// What the plug-in tells: lines on stderr for people, one JSON object a line in the file named by
// POLARQUANT_STATUS for programs, and the status object of llama_control.h.
//
//   {"event":"loaded","version":V,"commit":C}     we are in, and the ggml that loaded us
//   {"event":"refused","cause":TEXT}              something asked of us cannot be done
//   {"event":"cache","layers":N,"kv":..,"window":N,"sinks":N,"isa":..,"decoded":[..],"cells":N}
//   {"event":"attention"}                         the first attention over our cells
//   {"event":"bypass","cause":TEXT}               llama.cpp keeps some cache, or reads ours decoded
//   {"event":"exit", ...status object}
//
// All functions are thread-safe.
#pragma once

#include <cstdint>
#include <set>
#include <string>

namespace polarquant::llama {

struct CacheFacts {
  std::string kv, key, value;
  std::string profile;  // the model whose profile is used, or empty
  int rules = 0;        // exceptions by layer
  int layers = 0;
  int window = 0;
  int sinks = 0;
  std::string isa;
  std::set<std::string> decoded;  // codecs that no fast kernel reads
  int64_t cells = 0;
  double key_bits = 0, value_bits = 0;
};

// Throws Error(kHost) if the file cannot be written.
void OpenEventLog(const std::string& path);

void LogLoaded(const std::string& version, const std::string& commit);
void LogCache(const CacheFacts& facts);
void LogAttention();  // counts; the first one is an event
// Printed and logged once for each distinct cause. Never throws.
void LogRefused(const std::string& cause) noexcept;
// Once for each distinct cause, with the first layer it was seen at.
void LogBypass(int layer, const std::string& cause) noexcept;

// The status object of all live caches (llama_control.h) as text.
std::string StatusText();
// Remembers the status before caches are freed, for the exit event.
void SnapshotBeforeFree() noexcept;
void LogExit() noexcept;

}  // namespace polarquant::llama
