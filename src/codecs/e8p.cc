// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: e8p, eight values at a time to one of 65536 points near the lattice E8, two
// bits a value (the codebook E8P of QuIP#, Tseng et al. 2024). A point is a vector of D8 + 1/2 of
// small norm, all of it moved by +1/4 or -1/4. A word of 16 bits says which:
//
//   bits 0..7   the magnitudes: number of the pattern
//   bits 8..14  signs of channels 0 to 6 (1 is minus); that of channel 7 makes the sum even
//   bit 15      0: +1/4 on every channel, 1: -1/4
//
// A pattern has magnitudes t_i + 1/2, t_i = 0, 1 or 2: the 227 of squared norm up to 10, and 29 of
// the 56 of squared norm 12 with five 3/2 and three 1/2. Which 29 is of no consequence on rotated
// rows. Ours are distinct and favour no channel: those where the positions of the three 1/2 have an
// even sum (28), and the one where they are 0, 1, 2. Patterns are numbered as sum of t_i 3^i grows.
//
// A record is the f16 scales of the row's blocks, then the words of all groups of eight; a value is
// scale * coordinate.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "codecs/codecs.h"
#include "codecs/e8.h"
#include "codecs/fit.h"
#include "codecs/record.h"
#include "math/rotation.h"

namespace polarquant {
namespace {

constexpr int kPatterns = 256;
constexpr int kTernary = 6561;  // 3^8
constexpr float kShift = 0.25f;
constexpr float kLargest = 2.5f;

struct Book {
  float magnitudes[kE8Dim][kPatterns];
  float norms[kPatterns];
  int parity[kPatterns];      // of the sum of the t_i
  int16_t numbers[kTernary];  // of the pattern with sum t_i 3^i; -1 for none

  Book() {
    int count = 0;
    for (int ternary = 0; ternary < kTernary; ++ternary) {
      int t[kE8Dim], sum = 0, twos = 0, zero_positions = 0, rest = ternary;
      for (int i = 0; i < kE8Dim; ++i, rest /= 3) {
        t[i] = rest % 3;
        sum += t[i];
        twos += t[i] == 2;
        zero_positions += t[i] == 0 ? i : 0;
      }
      const int excess = sum + twos;  // the squared norm is 2 + 2 * excess
      const bool even_zeros = zero_positions % 2 == 0 || (t[0] + t[1] + t[2]) == 0;
      const bool ours = excess <= 4 || (sum == 5 && twos == 0 && even_zeros);
      numbers[ternary] = static_cast<int16_t>(ours ? count : -1);
      if (!ours) continue;
      for (int i = 0; i < kE8Dim; ++i) magnitudes[i][count] = static_cast<float>(t[i]) + 0.5f;
      norms[count] = static_cast<float>(2 + 2 * excess);
      parity[count] = sum % 2;
      ++count;
    }
  }
};

const Book& TheBook() {
  static const Book book;
  return book;
}

struct Choice {
  float distance;
  int pattern;
  unsigned negative;  // bit i: channel i
};

// The pattern and signs nearest to y, by comparing them all: sum of (|y_i| - p_i)^2, and 4 |y_i|
// p_i where the cheapest sign has to flip to make the sum even.
Choice Exhaust(const Book& book, const float* y) {
  float dot[kPatterns] = {}, cheapest[kPatterns];
  std::fill_n(cheapest, kPatterns, std::numeric_limits<float>::infinity());
  unsigned negative = 0;
  float norm = 0.0f;
  for (int i = 0; i < kE8Dim; ++i) {
    const float magnitude = std::fabs(y[i]);
    norm += magnitude * magnitude;
    if (y[i] < 0.0f) negative |= 1u << i;
    for (int p = 0; p < kPatterns; ++p) {
      const float product = magnitude * book.magnitudes[i][p];
      dot[p] += product;
      cheapest[p] = product < cheapest[p] ? product : cheapest[p];
    }
  }
  const int minuses = __builtin_popcount(negative) % 2;
  Choice best = {std::numeric_limits<float>::infinity(), 0, negative};
  for (int p = 0; p < kPatterns; ++p) {
    const float flip = book.parity[p] != minuses ? 4.0f * cheapest[p] : 0.0f;
    const float distance = book.norms[p] - 2.0f * dot[p] + flip;
    if (distance < best.distance) best = {distance, p, negative};
  }
  best.distance += norm;
  if (book.parity[best.pattern] != minuses) {
    int flipped = 0;
    while (std::fabs(y[flipped]) * book.magnitudes[flipped][best.pattern] !=
           cheapest[best.pattern]) {
      ++flipped;
    }
    best.negative ^= 1u << flipped;
  }
  return best;
}

// The same; mostly the nearest point of the lattice has a pattern, and then nothing is nearer.
Choice Nearest(const Book& book, const float* y) {
  float point[kE8Dim];
  const float distance = NearestInCoset(y, 0.5f, kLargest, true, point);
  int ternary = 0;
  unsigned negative = 0;
  for (int i = kE8Dim - 1; i >= 0; --i) {
    ternary = 3 * ternary + static_cast<int>(std::fabs(point[i]));
    negative = 2 * negative + (point[i] < 0.0f ? 1u : 0u);
  }
  const int pattern = book.numbers[ternary];
  return pattern >= 0 ? Choice{distance, pattern, negative} : Exhaust(book, y);
}

}  // namespace

void PointOfE8p(uint16_t word, float* point) {
  const Book& book = TheBook();
  const int pattern = word & 0xff;
  const unsigned signs = (word >> 8) & 0x7fu;
  const unsigned last =
      static_cast<unsigned>(__builtin_popcount(signs) + book.parity[pattern]) & 1u;
  const unsigned negative = signs | last << 7;
  const float shift = (word >> 15) == 0 ? kShift : -kShift;
  for (int i = 0; i < kE8Dim; ++i) {
    const float magnitude = book.magnitudes[i][pattern];
    point[i] = (((negative >> i) & 1u) != 0 ? -magnitude : magnitude) + shift;
  }
}

uint16_t NearestE8p(const float* x) {
  const Book& book = TheBook();
  Choice choices[2];
  for (int s = 0; s < 2; ++s) {
    float y[kE8Dim];
    for (int i = 0; i < kE8Dim; ++i) y[i] = x[i] - (s == 0 ? kShift : -kShift);
    choices[s] = Nearest(book, y);
  }
  const unsigned down = choices[1].distance < choices[0].distance ? 1u : 0u;
  const Choice& best = choices[down];
  return static_cast<uint16_t>(static_cast<unsigned>(best.pattern) | (best.negative & 0x7fu) << 8 |
                               down << 15);
}

namespace {

// In deviations of the block: around 0.965, the best one for Gaussian values.
constexpr float kSteps[] = {0.9f, 0.965f, 1.03f};

uint16_t EncodeBlock(const float* x, int size, ScaleRule rule, uint16_t* words) {
  const double deviation = DeviationOf(x, size);
  uint16_t scale = 0;
  if (deviation >= kSmallestDeviation) {
    float steps[std::size(kSteps)], points[kMaxRotationBlock];
    for (size_t i = 0; i < std::size(steps); ++i) {
      steps[i] = static_cast<float>(deviation) * kSteps[i];
    }
    const auto assign = [&](float step, float* out) {
      const float inverse = 1.0f / step;
      for (int i = 0; i < size; i += kE8Dim) {
        float group[kE8Dim];
        for (int k = 0; k < kE8Dim; ++k) group[k] = x[i + k] * inverse;
        words[i / kE8Dim] = NearestE8p(group);
        PointOfE8p(words[i / kE8Dim], out + i);
      }
    };
    const Fit fit = SearchStep(x, size, steps, points, assign);
    scale = ScaleToHalf(ScaleOf(rule, fit, FitOf(x, x, size).energy));
  }
  if (scale == 0) std::fill_n(words, size / kE8Dim, uint16_t{0});
  return scale;
}

size_t ScaleBytes(int head_dim) { return RotationBlocks(head_dim).size() * sizeof(uint16_t); }

size_t RecordBytes(int head_dim) {
  return ScaleBytes(head_dim) + static_cast<size_t>(head_dim / kE8Dim) * sizeof(uint16_t);
}

void Encode(const float* row, int head_dim, ScaleRule rule, std::byte* record) {
  uint16_t words[kMaxHeadDim / kE8Dim];
  std::byte* scales = record;
  for (const RotationBlock& block : RotationBlocks(head_dim)) {
    const uint16_t scale =
        EncodeBlock(row + block.offset, block.size, rule, words + block.offset / kE8Dim);
    std::memcpy(scales, &scale, sizeof scale);
    scales += sizeof scale;
  }
  std::memcpy(scales, words, static_cast<size_t>(head_dim / kE8Dim) * sizeof words[0]);
}

void Decode(const std::byte* record, int head_dim, float* row) {
  const std::byte* scales = record;
  const std::byte* words = record + ScaleBytes(head_dim);
  for (const RotationBlock& block : RotationBlocks(head_dim)) {
    const float scale = LoadHalf(scales);
    scales += sizeof(uint16_t);
    for (int i = block.offset; i < block.offset + block.size; i += kE8Dim) {
      uint16_t word = 0;
      std::memcpy(&word, words, sizeof word);
      words += sizeof word;
      PointOfE8p(word, row + i);
      for (int k = 0; k < kE8Dim; ++k) row[i + k] *= scale;
    }
  }
}

}  // namespace

Codec E8pCodec(std::string_view name, std::string_view summary) {
  return {.info = {.name = name,
                   .summary = summary,
                   .source = "E8P of QuIP# (Tseng et al. 2024)",
                   .code_bits = 2,
                   .keys = true,
                   .values = true,
                   .rotates = true,
                   .scale_rules = true},
          .record_bytes = RecordBytes,
          .encode = Encode,
          .decode = Decode};
}

}  // namespace polarquant
