// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: polar, the recursive polar transform (Han et al., PolarQuant 2025, sections 3
// and 4: four levels, codebooks computed beforehand, rotated rows). Sixteen values become a radius,
// 8 angles all around the circle, and 4, 2 and 1 angles of a quadrant:
//
//   a = atan2(second, first), r = |(first, second)| for each pair of values, then of radii
//
// Angles of level 1 are cut into 16 equal sectors; those of levels 2, 3 and 4 have the 4 Lloyd-Max
// centroids of their density (polar.h). No angle is computed: codes come from comparing
// second with first * tan(threshold), so that every machine writes the same bytes.
//
// A record for n = head_dim / 16 groups is n f16 scales; 8 n codes of level 1, 4 bits each; then 2
// bits each 4 n codes of level 2, 2 n of level 3, n of level 4 (codecs/pack.h). 62 bits for 16
// values. The scale is the radius / 4, the root mean square of the group, so that f16 holds it for
// every row; and not the radius itself but its projection on the direction that was stored, which
// is the least-squares one. A group whose scale is 0 has the codes 0.
#include "codecs/polar.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <string>

#include "codecs/codecs.h"
#include "codecs/fit.h"
#include "codecs/pack.h"
#include "codecs/record.h"
#include "math/rotation.h"
#include "polarquant/error.h"

namespace polarquant {
namespace {

constexpr double kRightAngle = std::numbers::pi / 2.0;

struct Moments {
  double mass = 0.0, first = 0.0, second = 0.0;
  double mean() const { return first / mass; }
};

// Of the density sin(2 a)^power over [a, b], by Simpson's rule.
Moments MomentsOf(int power, double a, double b) {
  constexpr int kPieces = 512;
  const double step = (b - a) / kPieces;
  Moments moments;
  for (int i = 0; i <= kPieces; ++i) {
    const double angle = a + step * i;
    const double weight = (i == 0 || i == kPieces ? 1.0 : i % 2 == 0 ? 2.0 : 4.0) * step / 3.0;
    const double mass = weight * std::pow(std::sin(2.0 * angle), power);
    moments.mass += mass;
    moments.first += mass * angle;
    moments.second += mass * angle * angle;
  }
  return moments;
}

}  // namespace

AngleBook SolveAngleBook(int level, int bits) {
  if (level < 2 || level > 6 || bits < 1 || bits > 4) {
    throw Error(ErrorCode::kParameter, "an angle codebook of level " + std::to_string(level) +
                                           " and " + std::to_string(bits) +
                                           " bits was asked for: levels 2 to 6, 1 to 4 bits");
  }
  const int power = (1 << (level - 1)) - 1;
  const size_t count = size_t{1} << bits;
  AngleBook book = {};
  for (size_t i = 0; i < count; ++i) {
    book.centroids.push_back(kRightAngle * (static_cast<double>(i) + 0.5) /
                             static_cast<double>(count));
  }
  book.thresholds.resize(count - 1);
  // Lloyd's iteration on the lower half: with so few cells it is fast enough.
  for (double change = 1.0; change > 1e-14;) {
    for (size_t i = 0; i + 1 < count; ++i) {
      book.thresholds[i] = 0.5 * (book.centroids[i] + book.centroids[i + 1]);
    }
    change = 0.0;
    book.distortion = 0.0;
    double mass = 0.0;
    for (size_t i = 0; i < count / 2; ++i) {
      const double low = i == 0 ? 0.0 : book.thresholds[i - 1];
      const Moments cell = MomentsOf(power, low, book.thresholds[i]);
      change = std::max(change, std::abs(cell.mean() - book.centroids[i]));
      book.centroids[i] = cell.mean();
      book.centroids[count - 1 - i] = kRightAngle - cell.mean();
      book.distortion += cell.second - cell.first * cell.mean();
      mass += cell.mass;
    }
    book.distortion /= mass;
  }
  return book;
}

namespace {

constexpr int kGroup = 16;
constexpr int kLevels = 4;
constexpr int kSectors = 16;   // of level 1
constexpr int kCentroids = 4;  // of the other levels
constexpr int kQuarter = kSectors / 4;

// What encoding and decoding need of the codebooks.
struct Book {
  float cosine[kLevels][kSectors], sine[kLevels][kSectors];  // of the centroids
  float tangent[kLevels][kQuarter - 1];                      // of the thresholds in a quadrant

  Book() {
    static_assert(kQuarter == kCentroids);
    for (int level = 0; level < kLevels; ++level) {
      AngleBook angles;
      if (level > 0) {
        angles = SolveAngleBook(level + 1, 2);
      } else {
        constexpr double kSector = 2.0 * std::numbers::pi / kSectors;
        for (int i = 0; i < kSectors; ++i) angles.centroids.push_back(kSector * (i + 0.5));
        for (int i = 1; i < kQuarter; ++i) angles.thresholds.push_back(kSector * i);
      }
      for (size_t i = 0; i < angles.centroids.size(); ++i) {
        cosine[level][i] = static_cast<float>(std::cos(angles.centroids[i]));
        sine[level][i] = static_cast<float>(std::sin(angles.centroids[i]));
      }
      for (size_t i = 0; i < angles.thresholds.size(); ++i) {
        tangent[level][i] = static_cast<float>(std::tan(angles.thresholds[i]));
      }
    }
  }
};

const Book& TheBook() {
  static const Book book;
  return book;
}

// The cell of the angle of (a, b), both >= 0.
int CellInQuadrant(const float* tangent, float a, float b) {
  int cell = 0;
  for (int i = 0; i < kQuarter - 1; ++i) cell += b >= a * tangent[i];
  return cell;
}

// The same of any (a, b), all around: turned into the first quadrant.
int CellInCircle(const float* tangent, float a, float b) {
  if (a <= 0.0f && b > 0.0f) return kQuarter + CellInQuadrant(tangent, b, -a);
  if (a < 0.0f) return 2 * kQuarter + CellInQuadrant(tangent, -a, -b);
  if (b < 0.0f) return 3 * kQuarter + CellInQuadrant(tangent, -b, a);
  return CellInQuadrant(tangent, a, b);
}

// Codes of a group or of a whole row by level: level l + 1 of a group has 8 >> l of them.
using LevelCodes = uint8_t* [kLevels];

void EncodeAngles(const Book& book, const float* x, const LevelCodes& codes) {
  float radii[kGroup];
  std::copy_n(x, kGroup, radii);
  for (int level = 0; level < kLevels; ++level) {
    for (int j = 0; j < kGroup / 2 >> level; ++j) {
      const float a = radii[2 * j], b = radii[2 * j + 1];
      codes[level][j] =
          static_cast<uint8_t>(level == 0 ? CellInCircle(book.tangent[0], a, b)
                                          : CellInQuadrant(book.tangent[level], a, b));
      radii[j] = std::sqrt(a * a + b * b);
    }
  }
}

void DecodeAngles(const Book& book, float radius, const LevelCodes& codes, float* x) {
  x[0] = radius;
  for (int level = kLevels; level-- > 0;) {
    for (int j = kGroup / 2 >> level; j-- > 0;) {  // backwards: in place
      const float r = x[j];
      x[2 * j] = r * book.cosine[level][codes[level][j]];
      x[2 * j + 1] = r * book.sine[level][codes[level][j]];
    }
  }
}

// All codes of a row, each level of all groups together.
class RowCodes {
 public:
  explicit RowCodes(int head_dim) : groups_(head_dim / kGroup) {}

  uint8_t* first() { return first_; }
  uint8_t* others() { return others_; }
  int num_first() const { return 8 * groups_; }
  int num_others() const { return 7 * groups_; }
  size_t bytes() const { return PackedBytes(num_first(), 4) + PackedBytes(num_others(), 2); }

  void Locate(int group, LevelCodes& codes) {
    codes[0] = first_ + 8 * group;
    codes[1] = others_ + 4 * group;
    codes[2] = others_ + 4 * groups_ + 2 * group;
    codes[3] = others_ + 6 * groups_ + group;
  }

 private:
  int groups_;
  uint8_t first_[kMaxHeadDim / 2] = {}, others_[kMaxHeadDim / 2] = {};
};

size_t ScaleBytes(int head_dim) {
  return static_cast<size_t>(head_dim / kGroup) * sizeof(uint16_t);
}

size_t RecordBytes(int head_dim) { return ScaleBytes(head_dim) + RowCodes(head_dim).bytes(); }

void Encode(const float* row, int head_dim, ScaleRule, std::byte* record) {
  const Book& book = TheBook();
  RowCodes all(head_dim);
  for (int group = 0; group < head_dim / kGroup; ++group) {
    LevelCodes codes;
    float direction[kGroup];
    all.Locate(group, codes);
    EncodeAngles(book, row + group * kGroup, codes);
    DecodeAngles(book, 1.0f, codes, direction);
    const double radius = FitOf(row + group * kGroup, direction, kGroup).dot;
    const uint16_t scale = ScaleToHalf(std::max(radius, 0.0) / 4.0);
    std::memcpy(record + static_cast<size_t>(group) * sizeof scale, &scale, sizeof scale);
    if (scale != 0) continue;
    for (int level = 0; level < kLevels; ++level) {
      std::fill_n(codes[level], kGroup / 2 >> level, uint8_t{0});
    }
  }
  record += ScaleBytes(head_dim);
  PackCodes(all.first(), all.num_first(), 4, record);
  PackCodes(all.others(), all.num_others(), 2, record + PackedBytes(all.num_first(), 4));
}

void Decode(const std::byte* record, int head_dim, float* row) {
  const Book& book = TheBook();
  RowCodes all(head_dim);
  const std::byte* packed = record + ScaleBytes(head_dim);
  UnpackCodes(packed, all.num_first(), 4, all.first());
  UnpackCodes(packed + PackedBytes(all.num_first(), 4), all.num_others(), 2, all.others());
  for (int group = 0; group < head_dim / kGroup; ++group) {
    LevelCodes codes;
    all.Locate(group, codes);
    DecodeAngles(book, 4.0f * LoadHalf(record + static_cast<size_t>(group) * sizeof(uint16_t)),
                 codes, row + group * kGroup);
  }
}

}  // namespace

Codec PolarCodec(std::string_view name, std::string_view summary) {
  return {.info = {.name = name,
                   .summary = summary,
                   .source = "PolarQuant (Han et al. 2025), four levels, offline codebooks",
                   .code_bits = 3,
                   .keys = true,
                   .values = true,
                   .rotates = true,
                   .scale_rules = false},
          .record_bytes = RecordBytes,
          .encode = Encode,
          .decode = Decode};
}

}  // namespace polarquant
