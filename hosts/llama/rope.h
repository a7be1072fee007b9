// SPDX-License-Identifier: Apache-2.0
// How llama.cpp turns keys: the ROPE node that feeds a write into the cache names the pairing, the
// positions of the rows, and, by computing with it, the frequencies.
#pragma once

#include <string>

#include "ggml.h"
#include "host_compute.h"
#include "polarquant/key_profile.h"

namespace polarquant::llama {

// The ROPE node whose rows a SET_ROWS node writes, or null.
const ggml_tensor* RopeOfWrite(const ggml_tensor* set_rows);

// The pairing and the dimensions of a ROPE node.
Rope PairingOf(const ggml_tensor* rope);
// And the frequencies and the magnitude, by asking ggml to turn unit vectors: whatever scaling of
// the context is in force is in them. They stay empty, with the cause in `trouble`, where positions
// are not plain numbers (multi-dimensional RoPE).
void FindFrequencies(HostCompute& host, const ggml_tensor* node, Rope& rope, std::string& trouble);

}  // namespace polarquant::llama
