// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. Where things are on this machine.
#pragma once

#include <filesystem>
#include <string>

namespace polarquant::cli {

std::filesystem::path ExecutableFolder();
// The essay and the passages that come with us: installed beside the command, or in the source
// tree. Throw Error(kHost) if it is in neither place.
std::filesystem::path DefaultText();
std::filesystem::path DefaultPassages();
// A whole file. Throws Error(kParameter).
std::string ReadText(const std::string& path);
// The folder of the llama.cpp programs this command was built for.
std::filesystem::path LlamaFolder();
// A program by path, in PATH, or beside the llama.cpp this was built for. Throws Error(kHost).
std::string FindProgram(const std::string& name);
// ${XDG_CACHE_HOME:-~/.cache}/polarquant, created. Throws Error(kHost).
std::filesystem::path CacheFolder();
// Threads a computation gets unless said otherwise: all of a small machine, else the cores.
int DefaultThreads();

}  // namespace polarquant::cli
