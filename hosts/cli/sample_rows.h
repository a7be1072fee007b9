// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. Rows to measure codecs on: drawn from a distribution that is
// stated, or captured from a model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "polarquant/scheme.h"

namespace polarquant::cli {

// The distributions by name, each with what it draws, for --help.
inline constexpr const char* kDistributions = R"(
  gaussian   every value from N(0, 1)
  heavy      every value from Student's t with 4 degrees of freedom
  channels   value i of a row is m_i + s_i g: g from N(0, 1); s_i is 10 in 4 of 128 channels
             (in one channel at least), chosen by the seed, and 1 elsewhere; m_i is the same
             for all rows and comes from N(0, 3^2))";

inline constexpr int kDrawnHeadDim = 128;

struct SampleOptions {
  std::string data = "gaussian";  // a distribution, or a file made by `polarquant capture`
  int head_dim = 0;               // of drawn rows; 0: kDrawnHeadDim, or what the file has
  int num_rows = 4096;            // drawn, or at most so many of each captured head
  unsigned seed = 1;
  Role role = Role::kKey;  // which rows of the file
};

// The rows of one head, a whole number of pages.
struct SampleRows {
  int head_dim = 0;
  bool drawn = false;                     // else captured
  std::vector<std::vector<float>> heads;  // [rows][head_dim] each
  int64_t num_rows() const;
};

// Rows that do not fill a page of `page_tokens` are left out of what was captured; drawn rows are
// rounded up. Throws Error(kParameter) for a name that is neither, or a file with too few rows.
SampleRows LoadSample(const SampleOptions& options, int page_tokens);

}  // namespace polarquant::cli
