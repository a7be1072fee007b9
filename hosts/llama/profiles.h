// SPDX-License-Identifier: Apache-2.0
// The profiles of models that a process was given, matched to caches by shape: the plug-in sees
// tensors, not model files. Which file belongs to which model is decided by fingerprint before it
// gets here (the command `polarquant`).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "polarquant/model_profile.h"
#include "polarquant/policy.h"

namespace polarquant::llama {

using Profiles = std::vector<std::shared_ptr<const ModelProfile>>;

// The files the policy names. Throws Error if one cannot be read, or if a scheme of the policy
// needs dense maps and there is none.
Profiles LoadProfiles(const Policy& policy);

// The only profile with a layer of this shape. Throws Error(kParameter) if there is none or more
// than one, naming the shape.
std::shared_ptr<const ModelProfile> MatchProfile(const Profiles& profiles, int layer,
                                                 int num_kv_heads, int head_dim);

}  // namespace polarquant::llama
