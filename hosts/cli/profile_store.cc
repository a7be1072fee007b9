// SPDX-License-Identifier: Apache-2.0
#include "profile_store.h"

#include <fmt/format.h>

#include <algorithm>

#include "interrupt.h"
#include "llama_session.h"
#include "paths.h"
#include "polarquant/error.h"
#include "reading.h"
#include "report.h"
#include "temporary_file.h"

namespace polarquant::cli {
namespace {

namespace fs = std::filesystem;

// Long enough that most pages are met by queries far from them.
constexpr int kContextTokens = 1024;
constexpr int kPieceTokens = 512;

// Names the model a profile was made for, if it is not this one.
void CheckFingerprint(const ModelProfile& profile, const ModelName& model,
                      const std::string& path) {
  if (profile.fingerprint == model.fingerprint) return;
  throw Error(
      ErrorCode::kParameter,
      fmt::format("the profile {} is of {} (fingerprint {}), the model is {} ({}); make one "
                  "for it with polarquant tune",
                  path, profile.model, profile.fingerprint, model.name, model.fingerprint));
}

// The profile's file for a model: the kept one if it has what is needed, else one made now.
std::string EnsureProfile(const std::string& model_path, const ModelName& name,
                          const LoadPlugin& load_plugin, const TuneOptions& options) {
  const fs::path path = ProfilePath(name.fingerprint);
  if (const std::optional<ModelProfile> profile = LoadKept(path.string())) {
    CheckFingerprint(*profile, name, path.string());
    if (!options.dense || profile->has_dense()) return path.string();
  }
  fmt::print(stderr, "polarquant: no profile of {}{} yet, making one ({})\n", name.name,
             options.dense ? " with dense maps" : "", path.string());
  MakeProfile(model_path, name, load_plugin(), options).Save(path.string());
  return path.string();
}

// A file the user named must be of one of the models, where these are known.
std::string CheckProfile(const std::string& path, const std::vector<ModelName>& models) {
  const ModelProfile profile = ModelProfile::Load(path);
  const bool known = std::any_of(models.begin(), models.end(), [&](const ModelName& model) {
    return model.fingerprint == profile.fingerprint;
  });
  if (!known && !models.empty()) CheckFingerprint(profile, models.front(), path);
  return fs::absolute(path).string();
}

std::vector<std::string> FindProfiles(const std::vector<std::string>& named,
                                      const std::vector<std::string>& model_paths,
                                      const LoadPlugin& load_plugin, const TuneOptions& options) {
  std::vector<ModelName> models(model_paths.size());
  std::transform(model_paths.begin(), model_paths.end(), models.begin(), IdentifyModel);
  std::vector<std::string> found(named.empty() ? models.size() : named.size());
  for (size_t i = 0; i < found.size(); ++i) {
    found[i] = named.empty() ? EnsureProfile(model_paths[i], models[i], load_plugin, options)
                             : CheckProfile(named[i], models);
  }
  return found;
}

}  // namespace

ModelProfile MakeProfile(const std::string& model_path, const ModelName& name, const Plugin& plugin,
                         const TuneOptions& options) {
  const Model model(model_path, &plugin);
  const Reading reading = ReadFor(model, options.texts, options.num_tokens);
  const CacheSpec exact = ParseCache("f16", 128, 4);
  const int context_tokens = std::min(kContextTokens, model.trained_context());
  Context context(model, exact, {context_tokens, kPieceTokens, kPieceTokens, options.num_threads});
  const TemporaryFile seen;
  ModelProfile profile;
  {
    Progress progress("tune", static_cast<double>(reading.tokens.size()));
    plugin.Observe(options.dense);
    for (size_t start = 0; start < reading.tokens.size();
         start += static_cast<size_t>(context_tokens)) {
      const size_t end =
          std::min(start + static_cast<size_t>(context_tokens), reading.tokens.size());
      context.Rewind(0);
      std::vector<llama_token> tokens(reading.tokens.begin() + static_cast<ptrdiff_t>(start),
                                      reading.tokens.begin() + static_cast<ptrdiff_t>(end));
      if (model.adds_first_token()) tokens.front() = model.first_token();
      for (size_t piece = 0; piece < tokens.size(); piece += kPieceTokens) {
        const size_t count = std::min<size_t>(kPieceTokens, tokens.size() - piece);
        context.Decode({tokens.data() + piece, count}, context_tokens);
        progress.Update(static_cast<double>(start + piece + count), name.name);
      }
    }
    plugin.Observed(seen.path());
    profile = ModelProfile::Load(seen.path());
  }
  profile.model = name.name;
  profile.architecture = name.architecture;
  profile.fingerprint = name.fingerprint;
  profile.text = reading.source;
  return profile;
}

std::optional<ModelProfile> LoadKept(const std::string& path) {
  if (!fs::exists(path)) return std::nullopt;
  try {
    return ModelProfile::Load(path);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kFormat) throw;
    fmt::print(stderr, "polarquant: {}; it is made anew\n", error.what());
    return std::nullopt;
  }
}

fs::path ProfilePath(const std::string& fingerprint) {
  const fs::path folder = CacheFolder() / "profiles";
  std::error_code failure;
  fs::create_directories(folder, failure);
  if (failure) {
    throw Error(ErrorCode::kHost,
                fmt::format("cannot create the folder {}: {}", folder.string(), failure.message()));
  }
  return folder / (fingerprint + ".safetensors");
}

std::vector<std::string> AttachProfiles(std::vector<CacheSpec>& specs,
                                        const ProfileOptions& options,
                                        const std::vector<std::string>& model_paths,
                                        const LoadPlugin& load_plugin, int num_threads) {
  std::vector<std::string> profiles;
  TuneOptions tune;
  tune.num_threads = num_threads;
  tune.dense = std::ranges::any_of(
      specs, [](const CacheSpec& spec) { return !spec.stock && spec.policy.needs_dense(); });
  for (CacheSpec& spec : specs) {
    if (spec.stock || !spec.policy.needs_profile() || !spec.policy.profiles.empty()) continue;
    if (options.none && !spec.policy.needs_dense()) continue;  // learnt from the first prompt
    if (options.none) {
      throw Error(ErrorCode::kParameter,
                  fmt::format("the cache {} needs dense maps from a profile of the model, and "
                              "--no-profile says there shall be none; choose another cache",
                              spec.label));
    }
    if (options.files.empty() && model_paths.empty()) {
      throw Error(ErrorCode::kParameter,
                  fmt::format("the cache {} needs a profile of the model, but the arguments do not "
                              "say which file the model is in (-m FILE); name the profile with "
                              "--profile FILE, or use --no-profile",
                              spec.label));
    }
    if (profiles.empty()) {
      profiles = FindProfiles(options.files, model_paths, load_plugin, tune);
    }
    spec.policy.profiles = profiles;
  }
  return profiles;
}

}  // namespace polarquant::cli
