// SPDX-License-Identifier: Apache-2.0
// Bytes ever asked for by a test program, so that it can say how many a file made it ask for.
#pragma once

#include <cstddef>

namespace polarquant {

size_t BytesEverAllocated();

}  // namespace polarquant
