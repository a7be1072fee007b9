// SPDX-License-Identifier: Apache-2.0
// A scheme names how the rows of one role (keys or values) are stored: a codec and how rows are
// prepared for it. Spelling, the same everywhere (command line, environment, policies, reports):
//
//   CODEC[:OPTION=VALUE...][:center|:center=step|:balance|:balance:center|:balanced|:dense]
//        [:step=16|32|64|128][:scale=mse|norm|unbiased][:sharpen=PERCENT][:rotate=none]
//
//   turbo4                  normalise nothing, rotate, 4-bit Lloyd-Max codes, the EDEN scale
//   turbo3:scale=mse        the same with three bits and the least-squares scale
//   turbo4:center           the page's mean is subtracted first and kept in the page's header
//                           (center=page is the same)
//   turbo4:center=step      what is subtracted is known before any row is seen: the head's mean key
//                           turned by RoPE, one for each step of positions (keys only; needs a
//                           model's profile). step=16|32|64|128 positions, 64 unless said
//   turbo4:balanced         the same, and channels are weighed against the queries: `balance` and
//                           `center=step` together, the recommended form
//   turbo4:balance:center   the weights with the page's mean instead
//   turbo4:dense            `center`, and the best linear map in place of the best channel weights
//                           (keys only; needs a profile made with --dense)
//   turbo2:scale=mse:sharpen=105   logits of coded keys count 1.05 times (keys only)
//   q8_0:rotate=none        ggml's block format on the bare row (by default rows are rotated
//                           first, as llama.cpp does for its own quantised caches)
//
// Options belong to the codec (CodecInfo::options); `polarquant schemes` lists them.
//
// Parse and ToString are exact inverses on canonical spellings. All functions are thread-safe.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace polarquant {

enum class Role { kKey, kValue };

inline constexpr int kUsualStep = 64;

// Stage 1, before the rotation. All but `center` are for keys and need what a model's profile says
// of its heads (polarquant/key_profile.h).
struct Normalisation {
  bool center = false;   // the mean of the page's rows is subtracted
  bool balance = false;  // then channels are multiplied by the head's balance scale
  bool dense = false;    // instead of balance: rows go through the head's dense map; with center
  int step = 0;          // instead of center: the stepped centre, of so many positions; 0: none

  bool any() const { return center || balance || dense || step != 0; }
  bool needs_profile() const { return balance || dense || step != 0; }
  bool operator==(const Normalisation&) const = default;
};

// The stored scale of a quantised row x with code vector c (Vargaftik et al., DRIVE 2021 and EDEN
// 2022): least squares <c,x>/|c|^2, equal norms |x|/|c|, or unbiased inner products |x|^2/<c,x>.
// Least squares has the smallest error but shrinks every row, which attention minds more: unbiased
// is the default.
enum class ScaleRule { kMse, kNorm, kUnbiased };

inline constexpr int kLeastSharpen = 50, kMostSharpen = 200;

struct Scheme {
  std::string codec = "f16";           // a name of the codec table (polarquant/codec.h)
  std::map<std::string, int> options;  // the codec's, those that are not as usual
  Normalisation normalisation;
  ScaleRule scale_rule = ScaleRule::kUnbiased;
  // By how many percent of themselves logits of coded keys count, kLeastSharpen..kMostSharpen. What
  // least squares shrinks can be made up for here; unbiased scales need none.
  int sharpen = 100;
  bool rotate = false;  // whether rows are rotated before the codec; the codec's default if unsaid

  // Throws Error(kFormat) naming the offending word and the words allowed.
  static Scheme Parse(std::string_view text);
  // "K/V", or one scheme for both. Returns {key scheme, value scheme}.
  static std::pair<Scheme, Scheme> ParsePair(std::string_view text);
  std::string ToString() const;

  bool operator==(const Scheme&) const = default;
};

}  // namespace polarquant
