// SPDX-License-Identifier: Apache-2.0
#include "status.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>

#include "plugin.h"
#include "polarquant/attention.h"
#include "polarquant/error.h"

namespace polarquant::llama {
namespace {

using Json = nlohmann::ordered_json;

struct Log {
  std::mutex mutex;
  int file = -1;
  std::set<std::string> told;
  std::string error;
  int64_t attention_calls = 0;
  Json snapshot;
  int64_t snapshot_calls = -1;
};
// Never destroyed: events come from exit handlers and late destructors.
Log& TheLog() {
  static Log* log = new Log;
  return *log;
}

std::string Dump(const Json& object) {
  return object.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// One write a line, so that lines of several processes do not mix.
void Append(Log& log, const Json& object) {
  if (log.file < 0) return;
  const std::string line = Dump(object) + "\n";
  if (write(log.file, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
    std::fprintf(stderr, "polarquant: error: cannot append to the status file: %s\n",
                 std::strerror(errno));
    close(log.file);
    log.file = -1;
  }
}

bool Told(Log& log, const std::string& text) {
  constexpr size_t kMostTold = 256;  // a program that fails for days must not fill memory
  return log.told.size() >= kMostTold || !log.told.insert(text).second;
}

Json Status() {
  CacheTotals totals;
  std::string kv;
  int window = 0;
  int sinks = 0;
  for (const auto& cache : Plugin::Get().LiveCaches()) {
    const std::lock_guard lock(cache->mutex());
    cache->AddTo(totals);
    if (!cache->in_use()) continue;
    kv = cache->KvText();
    window = cache->policy().window_tokens;
    sinks = cache->policy().sink_tokens;
  }
  const MemoryUse& memory = totals.memory;
  Json status;
  status["caches"] = totals.caches;
  status["layers_owned"] = totals.layers;
  status["kv"] = kv;
  status["window"] = window;
  status["sinks"] = sinks;
  status["isa"] = DefaultTarget().name;
  status["kv_resident_bytes"] = memory.total();
  status["exact_bytes"] = memory.exact_bytes;
  status["code_bytes"] = memory.code_bytes;
  status["header_bytes"] = memory.header_bytes;
  status["bookkeeping_bytes"] = memory.bookkeeping_bytes;
  status["filled_cells"] = totals.filled_cells;
  status["exact_cells"] = totals.exact_cells;
  status["f16_bytes"] = memory.f16_bytes;
  status["bits_per_value"] = memory.f16_bytes == 0 ? 0.0
                                                   : 16.0 * static_cast<double>(memory.total()) /
                                                         static_cast<double>(memory.f16_bytes);
  Log& log = TheLog();
  const std::lock_guard lock(log.mutex);
  status["attention_calls"] = log.attention_calls;
  status["error"] = log.error;
  return status;
}

}  // namespace

void OpenEventLog(const std::string& path) {
  if (path.empty()) return;
  Log& log = TheLog();
  const std::lock_guard lock(log.mutex);
  if (log.file >= 0) return;
  log.file = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log.file < 0) {
    throw Error(ErrorCode::kHost, "POLARQUANT_STATUS=" + path + ": " + std::strerror(errno) +
                                      "; name a file that can be written");
  }
}

void LogLoaded(const std::string& version, const std::string& commit) {
  Log& log = TheLog();
  const std::lock_guard lock(log.mutex);
  Append(log, {{"event", "loaded"}, {"version", version}, {"commit", commit}});
}

void LogCache(const CacheFacts& facts) {
  const std::string rules =
      facts.rules == 0 ? "" : ", " + std::to_string(facts.rules) + " layer rules";
  const std::string profile = facts.profile.empty() ? "" : ", profile of " + facts.profile;
  std::string decoded;
  for (const std::string& codec : facts.decoded) decoded += (decoded.empty() ? "" : ", ") + codec;
  if (!decoded.empty()) decoded = " (" + decoded + " decoded first: slower)";
  std::fprintf(stderr,
               "polarquant: %d layers, K %s, V %s%s%s, %.2f/%.2f bits/value, window %d, sinks %d, "
               "%s%s\n",
               facts.layers, facts.key.c_str(), facts.value.c_str(), rules.c_str(), profile.c_str(),
               facts.key_bits, facts.value_bits, facts.window, facts.sinks, facts.isa.c_str(),
               decoded.c_str());
  Log& log = TheLog();
  const std::lock_guard lock(log.mutex);
  Append(log, {{"event", "cache"},
               {"layers", facts.layers},
               {"kv", facts.kv},
               {"profile", facts.profile},
               {"window", facts.window},
               {"sinks", facts.sinks},
               {"isa", facts.isa},
               {"decoded", facts.decoded},
               {"cells", facts.cells},
               {"key_bits", facts.key_bits},
               {"value_bits", facts.value_bits}});
}

void LogAttention() {
  Log& log = TheLog();
  const std::lock_guard lock(log.mutex);
  if (log.attention_calls++ == 0) Append(log, {{"event", "attention"}});
}

void LogRefused(const std::string& cause) noexcept {
  try {
    Log& log = TheLog();
    const std::lock_guard lock(log.mutex);
    log.error = cause;
    if (Told(log, cause)) return;
    std::fprintf(stderr, "polarquant: error: %s\n", cause.c_str());
    Append(log, {{"event", "refused"}, {"cause", cause}});
  } catch (...) {
    std::fputs("polarquant: error: out of memory while reporting an error\n", stderr);
  }
}

void LogBypass(int layer, const std::string& cause) noexcept {
  try {
    Log& log = TheLog();
    const std::lock_guard lock(log.mutex);
    if (Told(log, cause)) return;
    const std::string told = "layer " + std::to_string(layer) + ": " + cause;
    std::fprintf(stderr, "polarquant: warning: %s\n", told.c_str());
    Append(log, {{"event", "bypass"}, {"layer", layer}, {"cause", told}});
  } catch (...) {
    std::fputs("polarquant: error: out of memory while reporting a bypass\n", stderr);
  }
}

std::string StatusText() { return Dump(Status()); }

void SnapshotBeforeFree() noexcept {
  try {
    Log& log = TheLog();
    {
      const std::lock_guard lock(log.mutex);
      // Buffers are freed one after the other: the first snapshot since the last attention counts.
      if (log.snapshot_calls == log.attention_calls) return;
    }
    Json status = Status();
    const std::lock_guard lock(log.mutex);
    log.snapshot = std::move(status);
    log.snapshot_calls = log.attention_calls;
  } catch (...) {
    LogRefused("out of memory while taking the status");
  }
}

void LogExit() noexcept {
  try {
    SnapshotBeforeFree();
    Log& log = TheLog();
    const std::lock_guard lock(log.mutex);
    Json event = {{"event", "exit"}};
    if (log.snapshot.is_object()) event.update(log.snapshot);
    event["error"] = log.error;
    Append(log, event);
  } catch (...) {
    std::fputs("polarquant: error: out of memory while writing the exit event\n", stderr);
  }
}

}  // namespace polarquant::llama
