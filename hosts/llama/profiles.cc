// SPDX-License-Identifier: Apache-2.0
#include "profiles.h"

#include <algorithm>

#include "polarquant/error.h"

namespace polarquant::llama {
namespace {

constexpr const char* kHowToMakeOne =
    "make one with `polarquant tune -m MODEL -o FILE` and name it in POLARQUANT_PROFILE, or start "
    "the program through `polarquant run`, which does both";

}  // namespace

Profiles LoadProfiles(const Policy& policy) {
  Profiles profiles;
  for (const std::string& path : policy.profiles) {
    profiles.push_back(std::make_shared<const ModelProfile>(ModelProfile::Load(path)));
  }
  const auto check = [&](const Scheme& scheme) {
    // Balance and centres are learnt from the first prompt, dense maps cannot be.
    if (!scheme.normalisation.dense || !profiles.empty()) return;
    throw Error(ErrorCode::kParameter,
                "scheme " + scheme.ToString() + " needs a profile of the model; " + kHowToMakeOne);
  };
  check(policy.key);
  for (const LayerRule& rule : policy.layers) check(rule.key);
  return profiles;
}

std::shared_ptr<const ModelProfile> MatchProfile(const Profiles& profiles, int layer,
                                                 int num_kv_heads, int head_dim) {
  const std::string shape = "layer " + std::to_string(layer) + " has " +
                            std::to_string(num_kv_heads) + " kv_heads of " +
                            std::to_string(head_dim) + " values";
  std::shared_ptr<const ModelProfile> match;
  std::string others;
  for (const auto& profile : profiles) {
    const LayerProfile* found = profile->Find(layer);
    if (found == nullptr || found->num_kv_heads != num_kv_heads || found->head_dim != head_dim) {
      if (!others.empty()) others += ", ";
      others += profile->model;
      continue;
    }
    if (match != nullptr && match->fingerprint != profile->fingerprint) {
      throw Error(ErrorCode::kParameter, shape + ", as the profiles of " + match->model + " and " +
                                             profile->model +
                                             " both say; give only the profile of one of them");
    }
    match = profile;
  }
  if (match != nullptr) return match;
  throw Error(ErrorCode::kParameter, shape + ", but the profile given is of " + others +
                                         ", which has no such layer; " + kHowToMakeOne);
}

}  // namespace polarquant::llama
