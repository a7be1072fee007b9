// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. Profiles of models: found in the user's cache folder, made when
// missing, given to the caches that need one.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cache_spec.h"
#include "fingerprint.h"
#include "plugin.h"
#include "polarquant/model_profile.h"

namespace polarquant::cli {

// How a profile is made.
struct TuneOptions {
  std::vector<std::string> texts;  // files; the essay that comes with us if empty
  int num_tokens = 4096;
  int num_threads = 1;
  bool dense = false;  // with dense maps
};

// Reads the texts with the model and an exact cache of ours, and observes. Throws Error.
ModelProfile MakeProfile(const std::string& model_path, const ModelName& name, const Plugin& plugin,
                         const TuneOptions& options);

// Where the profile of a model of this fingerprint is kept.
std::filesystem::path ProfilePath(const std::string& fingerprint);

// The profile in a file that is kept. None if there is no file, or none this program reads (said on
// standard error): then it is made anew.
std::optional<ModelProfile> LoadKept(const std::string& path);

// Loads a plug-in into this process when one is needed.
using LoadPlugin = std::function<const Plugin&()>;

// Gives the policies that need profiles theirs: the files the user named, whose fingerprints must
// be a model's, or the kept ones, made now (and said on standard error) where there are none.
// Returns the files, the same for all policies; policies that name theirs themselves keep them.
std::vector<std::string> AttachProfiles(std::vector<CacheSpec>& specs,
                                        const ProfileOptions& options,
                                        const std::vector<std::string>& model_paths,
                                        const LoadPlugin& load_plugin, int num_threads);

}  // namespace polarquant::cli
