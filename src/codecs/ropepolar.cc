// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: ropepolar, keys in the polar coordinates of RoPE (Wu et al., PolarQuant 2025,
// arXiv 2502.00527). RoPE turns two channels at a time, so a loud channel spreads over its pair: as
// points of the plane the keys of a page lie on a ring, and radius and angle are smooth where the
// channels are not. Rows come bare, neither rotated nor centred.
//
// Each pair cuts the range of its radii over a group of 128 tokens (or the page, if that is
// shorter) into 2^radius cells, and that of its angles into 2^angle; cells are decoded as their
// middles. For the same bits, angle = radius + 2 is best: an angle's error is multiplied by the
// radius.
//
// The range of angles is the shortest arc that holds them all. The paper takes the least and the
// largest angle in [0, 2 pi): a cluster on both sides of 0 then has the whole circle for a range,
// and loses all its precision. `arc=paper` is that; it costs the same bytes and is never better.
// Pairs at the origin have no angle and do not count.
//
// The header of a group has for each pair the f16 numbers
//
//   least radius, width of a radius cell, first angle, width of an angle cell
//
// 8 bytes a pair: 0.25 bits a value at 128 tokens. A record is a code for each pair of exactly
// radius + angle bits, the angle in the low ones, packed (codecs/pack.h); the paper's code spends a
// byte whatever the width. A range without width has cells of width 0 and the code 0, and is its
// least value. Rows patched in from outside a range get the cell at its nearer end.
//
// Angles are computed in double and end up as cells and f16 numbers, in which the last bits of
// atan2 do not show: so every machine writes the same bytes.
#include "codecs/ropepolar.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numbers>
#include <string>
#include <vector>

#include "codecs/codecs.h"
#include "codecs/pack.h"
#include "codecs/record.h"
#include "math/rotation.h"
#include "polarquant/error.h"

namespace polarquant {
namespace {

constexpr int kMaxCodeWidth = 8;
constexpr int kGroupTokens = 128;
constexpr double kCircle = 2.0 * std::numbers::pi;
constexpr size_t kRangeBytes = 4;  // f16 least value, f16 width of a cell
constexpr size_t kPairBytes = 2 * kRangeBytes;

struct Polar {
  double radius, angle;  // 0 <= angle < 2 pi
};

Polar PolarOf(float x, float y) {
  const double a = x, b = y, angle = std::atan2(b, a);
  const double radius = std::sqrt(a * a + b * b);
  return {std::min(radius, static_cast<double>(kMaxHalf)), angle < 0.0 ? angle + kCircle : angle};
}

// A range in equal cells, as the header holds it.
struct Cells {
  float least, width;

  double Middle(int cell) const {
    return static_cast<double>(least) + static_cast<double>(width) * (cell + 0.5);
  }
};

void StoreCells(double least, double most, int bits, std::byte* at) {
  StoreHalf(static_cast<float>(least), at);
  StoreHalf(static_cast<float>(std::ldexp(most - least, -bits)), at + kRangeBytes / 2);
}

Cells LoadCells(const std::byte* at) { return {LoadHalf(at), LoadHalf(at + kRangeBytes / 2)}; }

int CellOfRadius(const Cells& cells, double radius, int bits) {
  if (cells.width == 0.0f) return 0;
  const double position = (radius - static_cast<double>(cells.least)) / cells.width;
  return static_cast<int>(std::clamp(position, 0.0, std::ldexp(1.0, bits) - 1.0));
}

int CellOfAngle(const Cells& cells, double angle, int bits) {
  if (cells.width == 0.0f) return 0;
  const double width = cells.width, range = std::ldexp(width, bits);
  double past_first = angle - static_cast<double>(cells.least);
  if (past_first < 0.0) past_first += kCircle;
  if (past_first < range) return static_cast<int>(past_first / width);
  return kCircle - past_first < past_first - range ? 0 : (1 << bits) - 1;
}

struct Range {
  double least, most;
};

Range RangeOf(const std::vector<double>& values) {
  if (values.empty()) return {0.0, 0.0};
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  return {*least, *most};
}

// From the angle after the widest gap all around to the one before it.
Range ShortestArc(std::vector<double> angles) {
  if (angles.empty()) return {0.0, 0.0};
  std::sort(angles.begin(), angles.end());
  double widest = angles.front() + kCircle - angles.back();
  size_t first = 0;
  for (size_t i = 1; i < angles.size(); ++i) {
    if (angles[i] - angles[i - 1] <= widest) continue;
    widest = angles[i] - angles[i - 1];
    first = i;
  }
  return {angles[first], angles[first] + kCircle - widest};
}

class RopePolarCoder final : public Coder {
 public:
  RopePolarCoder(const RopePolarShape& shape, int page_tokens)
      : shape_(shape), group_tokens_(std::min(page_tokens, kGroupTokens)) {}

  size_t record_bytes() const override { return shape_.record_bytes(); }
  size_t header_bytes() const override {
    return kPairBytes * static_cast<size_t>(shape_.num_pairs());
  }
  int group_tokens() const override { return group_tokens_; }

  void Learn(const float* rows, int count, std::byte* header) const override {
    std::vector<double> radii, angles;
    for (int pair = 0; pair < shape_.num_pairs(); ++pair, header += kPairBytes) {
      const auto [first, second] = shape_.PairOf(pair);
      radii.clear();
      angles.clear();
      for (int r = 0; r < count; ++r) {
        const float* row = rows + static_cast<int64_t>(r) * shape_.head_dim;
        const Polar polar = PolarOf(row[first], row[second]);
        radii.push_back(polar.radius);
        if (polar.radius > 0.0) angles.push_back(polar.angle);
      }
      const Range radius = RangeOf(radii);
      const Range angle = shape_.shortest_arc ? ShortestArc(angles) : RangeOf(angles);
      StoreCells(radius.least, radius.most, shape_.radius_bits, header);
      StoreCells(angle.least, angle.most, shape_.angle_bits, header + kRangeBytes);
    }
  }

  void Encode(const std::byte* header, const float* row, std::byte* record) const override {
    uint8_t codes[kMaxHeadDim / 2];
    for (int pair = 0; pair < shape_.num_pairs(); ++pair, header += kPairBytes) {
      const auto [first, second] = shape_.PairOf(pair);
      const Polar polar = PolarOf(row[first], row[second]);
      const int radius = CellOfRadius(LoadCells(header), polar.radius, shape_.radius_bits);
      const int angle =
          CellOfAngle(LoadCells(header + kRangeBytes), polar.angle, shape_.angle_bits);
      codes[pair] = static_cast<uint8_t>(radius << shape_.angle_bits | angle);
    }
    PackCodes(codes, shape_.num_pairs(), shape_.code_bits(), record);
  }

  void Decode(const std::byte* header, const std::byte* record, float* row) const override {
    uint8_t codes[kMaxHeadDim / 2];
    UnpackCodes(record, shape_.num_pairs(), shape_.code_bits(), codes);
    for (int pair = 0; pair < shape_.num_pairs(); ++pair, header += kPairBytes) {
      const auto [first, second] = shape_.PairOf(pair);
      const double radius = LoadCells(header).Middle(codes[pair] >> shape_.angle_bits);
      const int cell = codes[pair] & ((1 << shape_.angle_bits) - 1);
      const double angle = LoadCells(header + kRangeBytes).Middle(cell);
      row[first] = static_cast<float>(radius * std::cos(angle));
      row[second] = static_cast<float>(radius * std::sin(angle));
    }
  }

 private:
  RopePolarShape shape_;
  int group_tokens_;
};

std::unique_ptr<const Coder> Make(const Scheme& scheme, const RowShape& shape) {
  return std::make_unique<RopePolarCoder>(RopePolarShapeOf(scheme, shape.head_dim),
                                          shape.page_tokens);
}

}  // namespace

RopePolarShape RopePolarShapeOf(const Scheme& scheme, int head_dim) {
  const RopePolarShape shape = {head_dim, OptionOf(scheme, "radius"), OptionOf(scheme, "angle"),
                                OptionOf(scheme, "pairs") == 1, OptionOf(scheme, "arc") == 0};
  if (shape.code_bits() <= kMaxCodeWidth) return shape;
  throw Error(ErrorCode::kUnsupported,
              "ropepolar: radius=" + std::to_string(shape.radius_bits) + " and angle=" +
                  std::to_string(shape.angle_bits) + " make " + std::to_string(shape.code_bits()) +
                  " bits a pair: " + std::to_string(kMaxCodeWidth) + " is the most; lower one");
}

void ScoreRopePolar(const RopePolarShape& shape, const std::byte* header, const float* query,
                    const std::byte* records, int count, float* scores) {
  const int radii = 1 << shape.radius_bits, angles = 1 << shape.angle_bits;
  std::vector<float> radius_of, projection_of;  // [pair][cell]
  for (int pair = 0; pair < shape.num_pairs(); ++pair, header += kPairBytes) {
    const auto [first, second] = shape.PairOf(pair);
    const double x = query[first], y = query[second];
    for (int cell = 0; cell < radii; ++cell) {
      radius_of.push_back(static_cast<float>(LoadCells(header).Middle(cell)));
    }
    for (int cell = 0; cell < angles; ++cell) {
      const double angle = LoadCells(header + kRangeBytes).Middle(cell);
      projection_of.push_back(static_cast<float>(x * std::cos(angle) + y * std::sin(angle)));
    }
  }
  for (int i = 0; i < count; ++i, records += shape.record_bytes()) {
    uint8_t codes[kMaxHeadDim / 2];
    UnpackCodes(records, shape.num_pairs(), shape.code_bits(), codes);
    const float *radius = radius_of.data(), *projection = projection_of.data();
    float sum = 0.0f;
    for (int pair = 0; pair < shape.num_pairs(); ++pair, radius += radii, projection += angles) {
      sum += radius[codes[pair] >> shape.angle_bits] * projection[codes[pair] & (angles - 1)];
    }
    scores[i] = sum;
  }
}

Codec RopePolarCodec(std::string_view name, std::string_view summary) {
  return {.info = {.name = name,
                   .summary = summary,
                   .source = "PolarQuant (Wu et al. 2025)",
                   .code_bits = 4,
                   .keys = true,
                   .values = false,
                   .rotates = false,
                   .scale_rules = false,
                   .normalises = false,
                   .options = {{.name = "radius",
                                .summary = "bits of a pair's radius, 8 at most with its angle's",
                                .least = 1,
                                .most = 7,
                                .usual = 4},
                               {.name = "angle",
                                .summary = "bits of a pair's angle",
                                .least = 1,
                                .most = 7,
                                .usual = 4},
                               {.name = "pairs",
                                .summary = "the channels RoPE turns together: j and j + d/2, or "
                                           "2j and 2j + 1",
                                .words = {"halves", "adjacent"}},
                               {.name = "arc",
                                .summary = "the range of angles: the shortest arc with all of "
                                           "them, or from the least to the largest",
                                .words = {"shortest", "paper"}}}},
          .make = Make};
}

}  // namespace polarquant
