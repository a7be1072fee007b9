// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. A picture of a profile.
#pragma once

#include <string>

#include "polarquant/model_profile.h"

namespace polarquant::cli {

// Writes an SVG: predicted gain in dB, layers across and kv_heads down, one panel for `center`,
// `balanced` and `balanced:center=rope` each. Throws Error(kHost) if it cannot be written.
void PlotGains(const ModelProfile& profile, const std::string& path);

}  // namespace polarquant::cli
