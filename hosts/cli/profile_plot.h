// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. What a profile is worth, step by step, and a picture of it.
#pragma once

#include <string>

#include "polarquant/model_profile.h"

namespace polarquant::cli {

// What is done to keys before they are coded.
struct GainStep {
  const char* name;
  Normalisation normalisation;
};
inline constexpr GainStep kGainSteps[] = {
    {"center", {.center = true}},
    {"balance:center", {.center = true, .balance = true}},
    {"balanced", {.balance = true, .step = kUsualStep}},
};

// Writes an SVG: predicted gain in dB, layers across and kv_heads down, a panel for each step.
// Throws Error(kHost) if it cannot be written.
void PlotGains(const ModelProfile& profile, const std::string& path);

}  // namespace polarquant::cli
