// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. What `verify` measures with the kernels that are active: each
// figure says how far this build is from what FORMAT.md and the headers state.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace polarquant::cli {

struct Finding {
  std::string name;
  double figure;     // 0 or small is good
  double bound;      // the largest that passes
  std::string what;  // what the figure is
};

// The rotation of rows: every entry of the matrix, read off encoded unit vectors, against the
// definition in FORMAT.md; that it is orthonormal; that attention turns queries by the same one.
std::vector<Finding> CheckRotation();

// Codebooks as read back from pages: symmetric, each level the mean of what it stands for, and the
// error of all on N(0, 1) against the least possible.
std::vector<Finding> CheckCodebooks();
// How far `levels` (ascending) are from the conditions of Lloyd (1957) and Max (1960) for N(0, 1).
struct LloydMaxGap {
  double asymmetry;   // largest |c_i + c_(n-1-i)|
  double off_centre;  // largest |c_i - E[x | x nearest to c_i]|
  double distortion;  // E (x - nearest)^2
};
LloydMaxGap GapToLloydMax(std::span<const double> levels);

// Each scale rule does what scheme.h says of it.
std::vector<Finding> CheckScaleRules();

// Sizes and golden bytes of FORMAT.md.
std::vector<Finding> CheckBytes();
struct Golden {
  const char* scheme;
  const char* record;  // of one known row, in hex
};
Finding CheckGoldens(std::span<const Golden> goldens);
// A digest for each codec and head_dim of what its encoder and its decoder give: "turbo4 key 128"
// and the digest, a line each. Equal on every target.
std::string PageDigests();

// What a cell store says it holds, against the operating system and its pages.
std::vector<Finding> CheckStore();

// Attention against the reference; keys and values of one scheme, and of different ones.
std::vector<Finding> CheckAttentions();

}  // namespace polarquant::cli
