// SPDX-License-Identifier: Apache-2.0
// The plug-in's configuration, read once from the environment. Strict: an unknown POLARQUANT_
// variable or a value that does not parse is an error, never ignored.
//
//   POLARQUANT_KV         K/V or one scheme for both          turbo4:balanced/turbo4
//   POLARQUANT_WINDOW     newest rows kept exact              128
//   POLARQUANT_SINKS      first cells of a sequence kept exact  16
//   POLARQUANT_POLICY     a policy file (JSON) instead of the three above
//   POLARQUANT_PROFILE    profiles of models, FILE[:FILE...], besides those of the policy file
//   POLARQUANT_ISA        scalar, avx2 or avx512              the best the CPU has
//   POLARQUANT_ATTENTION  host or own: who computes attention over layers whose keys and values
//                         are both exact                      host
//   POLARQUANT_STATUS     a file to append events to (status.h)
#pragma once

#include <string>

#include "polarquant/policy.h"

namespace polarquant::llama {

struct Settings {
  Policy policy;
  bool host_attention = true;
  std::string status_path;

  static Policy DefaultPolicy();
  // Where events go, even if the rest of the environment is wrong.
  static std::string StatusPath();
  // Throws Error naming the variable, its value and the values allowed.
  static Settings FromEnvironment();
};

// Throws Error if a scheme of the policy cannot serve its role.
void CheckRoles(const Policy& policy);

}  // namespace polarquant::llama
