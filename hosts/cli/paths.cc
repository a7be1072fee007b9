// SPDX-License-Identifier: Apache-2.0
#include "paths.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

#include "polarquant/error.h"

namespace polarquant::cli {
namespace fs = std::filesystem;

fs::path ExecutableFolder() { return fs::read_symlink("/proc/self/exe").parent_path(); }

namespace {

fs::path Shipped(const std::string& name) {
  const fs::path installed = ExecutableFolder() / "../share/polarquant" / name;
  for (const fs::path& path : {installed.lexically_normal(), fs::path(PQ_TESTDATA) / name}) {
    if (fs::exists(path)) return path;
  }
  throw Error(ErrorCode::kHost, fmt::format("the text to read is not at {}; name one with -f FILE",
                                            installed.lexically_normal().string()));
}

}  // namespace

fs::path DefaultText() { return Shipped("essay.txt"); }
fs::path DefaultPassages() { return Shipped("passages.txt"); }

std::string ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) throw Error(ErrorCode::kParameter, fmt::format("cannot read the text {}", path));
  return text.str();
}

fs::path LlamaFolder() { return PQ_LLAMA_BIN; }

std::string FindProgram(const std::string& name) {
  const auto runs = [](const fs::path& path) {
    return fs::is_regular_file(path) && access(path.c_str(), X_OK) == 0;
  };
  if (name.find('/') != std::string::npos) {
    if (runs(name)) return name;
    throw Error(ErrorCode::kHost, fmt::format("{} is no program that can be run", name));
  }
  const char* search = std::getenv("PATH");
  std::istringstream folders(search != nullptr ? search : "");
  for (std::string folder; std::getline(folders, folder, ':');) {
    const fs::path path = fs::path(folder.empty() ? "." : folder) / name;
    if (runs(path)) return path.string();
  }
  if (runs(LlamaFolder() / name)) return (LlamaFolder() / name).string();
  throw Error(ErrorCode::kHost,
              fmt::format("there is no program {} in PATH or in {}; give its path", name,
                          LlamaFolder().string()));
}

fs::path CacheFolder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  fs::path folder;
  if (cache != nullptr && *cache != '\0') {
    folder = cache;
  } else if (home != nullptr && *home != '\0') {
    folder = fs::path(home) / ".cache";
  } else {
    throw Error(ErrorCode::kHost, "neither XDG_CACHE_HOME nor HOME says where to keep files");
  }
  folder /= "polarquant";
  std::error_code failure;
  fs::create_directories(folder, failure);
  if (failure) {
    throw Error(ErrorCode::kHost,
                fmt::format("cannot create the folder {}: {}", folder.string(), failure.message()));
  }
  return folder;
}

int DefaultThreads() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return 1;
  const int num_cpus = CPU_COUNT(&allowed);
  if (num_cpus <= 4) return num_cpus;
  std::set<std::string> cores;  // one entry a core: the list of its hardware threads
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    std::ifstream file(
        fmt::format("/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list", cpu));
    std::string siblings;
    if (!std::getline(file, siblings)) siblings = std::to_string(cpu);
    cores.insert(siblings);
  }
  return static_cast<int>(cores.size());
}

}  // namespace polarquant::cli
