// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend: what the fast path and the reference agree on before they start.
#pragma once

#include <vector>

#include "polarquant/attention.h"
#include "polarquant/error.h"

namespace polarquant {

// Throws Error(kParameter) naming the first thing that does not fit.
void CheckCall(const AttentionCall& call);

// ALiBi's slope of every query head; ones without max_bias.
void SlopesOf(const AttentionCall& call, std::vector<float>* slopes);

}  // namespace polarquant
