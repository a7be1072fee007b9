// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. Weights expanded to 16 bit. With quantised weights llama.cpp
// rounds activations to 8 bits too, so that any change of the cache, however small, flips
// roundings; on 16-bit weights that noise (the floor) is an order of magnitude lower.
#pragma once

#include <string>

namespace polarquant::cli {

// A copy of the model with 16-bit weights, made once and kept in the cache folder under a name of
// the source's name, size and time. Written beside and renamed, so never half there. Throws
// Error(kHost).
std::string ExpandWeights(const std::string& model, int num_threads);

}  // namespace polarquant::cli
