// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: polar, the recursive polar transform (Han et al., PolarQuant 2025, sections 3
// and 4) of rotated rows. With L levels, groups of 2^L values become a radius, 2^(L - 1) angles all
// around the circle, and 2^(L - 2), ..., 1 angles of a quadrant:
//
//   a = atan2(second, first), r = |(first, second)| for each pair of values, then of radii
//
// `bits=` has a digit for each level, its bits an angle: 4222, the paper's setting, unless said
// otherwise; 1 to 6 bits in level 1 and 1 to 4 in the others. `books=offline` are the codebooks for
// Gaussian rows, equal sectors and Lloyd-Max centroids (polar.h). `books=online` starts from them
// and fits them to the angles of each page (one-dimensional k-means, level by level); the paper
// starts from k-means++, which needs random numbers.
//
// No angle is computed while encoding: codes come from comparing second with first *
// tan(threshold), so that every machine writes the same bytes.
//
// A record for n = head_dim / 2^L groups is n f16 scales; then one stream of codes (codecs/pack.h):
// those of level 1 of all groups, those of level 2 of all groups, and so on. 62 bits for 16 values
// with 4222. The scale is the radius / 2^(L/2), the root mean square of the group, so that f16
// holds it for every row; and not the radius itself but its projection on the direction that was
// stored, which is the least-squares one. A group whose scale is 0 has the codes 0. Online, the
// header has the f16 centroids of level 1, ascending, then those of level 2, and so on.
#include "codecs/polar.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <numbers>
#include <string>

#include "codecs/codecs.h"
#include "codecs/fit.h"
#include "codecs/pack.h"
#include "codecs/record.h"
#include "math/lloyd_max.h"
#include "math/rotation.h"
#include "polarquant/error.h"

namespace polarquant {

double PolarTransform(const float* x, int levels, double* angles) {
  std::vector<double> radii(x, x + (size_t{1} << levels));
  for (int level = 0; level < levels; ++level) {
    const size_t pairs = size_t{1} << (levels - 1 - level);
    for (size_t j = 0; j < pairs; ++j) {
      const double a = radii[2 * j], b = radii[2 * j + 1], angle = std::atan2(b, a);
      *angles++ = angle < 0.0 ? angle + 2.0 * std::numbers::pi : angle;
      radii[j] = std::sqrt(a * a + b * b);
    }
  }
  return radii[0];
}

namespace {

constexpr int kUsualBits = 4222;
constexpr int kQuadrants = 4;
constexpr double kRightAngle = std::numbers::pi / 2.0;
constexpr int kMaxRounds = 100;  // of k-means

// What encoding and decoding need of the codebook of a level.
struct LevelBook {
  std::vector<float> cosine, sine;  // of the centroids
  // For each quadrant the first cell in it, and the tangents of the thresholds inside it once it is
  // turned onto the first. Levels from 2 are in the first alone.
  int first[kQuadrants] = {};
  std::vector<float> tangents[kQuadrants];

  LevelBook(const std::vector<double>& centroids, const std::vector<double>& thresholds) {
    for (const double angle : centroids) {
      cosine.push_back(static_cast<float>(std::cos(angle)));
      sine.push_back(static_cast<float>(std::sin(angle)));
    }
    for (int q = 0; q < kQuadrants; ++q) {
      for (const double threshold : thresholds) {
        const double turned = threshold - kRightAngle * q;
        if (turned <= 0.0) ++first[q];
        if (turned <= 0.0 || turned >= kRightAngle) continue;
        tangents[q].push_back(static_cast<float>(std::tan(turned)));
      }
    }
  }

  // The cell of the angle of (a, b).
  uint8_t CellOf(float a, float b) const {
    if (a <= 0.0f && b > 0.0f) return CellInQuadrant(1, b, -a);
    if (a < 0.0f) return CellInQuadrant(2, -a, -b);
    if (b < 0.0f) return CellInQuadrant(3, -b, a);
    return CellInQuadrant(0, a, b);
  }

 private:
  uint8_t CellInQuadrant(int quadrant, float a, float b) const {
    int cell = first[quadrant];
    for (const float tangent : tangents[quadrant]) cell += b >= a * tangent;
    return static_cast<uint8_t>(cell);
  }
};

// Lloyd's iteration from `centroids` on; a centroid without angles stays.
std::vector<double> FittedCentroids(std::vector<double> centroids, std::vector<double> angles) {
  std::sort(angles.begin(), angles.end());
  std::vector<double> sums = {0.0};
  for (const double angle : angles) sums.push_back(sums.back() + angle);
  for (int round = 0; round < kMaxRounds; ++round) {
    const std::vector<double> before = centroids, thresholds = Midpoints(centroids);
    size_t begin = 0;
    for (size_t i = 0; i < centroids.size(); ++i) {
      const auto end = i < thresholds.size()
                           ? std::lower_bound(angles.begin(), angles.end(), thresholds[i])
                           : angles.end();
      const size_t past = static_cast<size_t>(end - angles.begin());
      if (past > begin)
        centroids[i] = (sums[past] - sums[begin]) / static_cast<double>(past - begin);
      begin = past;
    }
    if (centroids == before) break;
  }
  return centroids;
}

class PolarCoder final : public Coder {
 public:
  PolarCoder(const std::vector<int>& bits, bool online, int head_dim)
      : bits_(bits),
        online_(online),
        head_dim_(head_dim),
        group_(1 << bits.size()),
        root_(std::sqrt(static_cast<double>(group_))) {
    for (int level = 0; level < NumLevels(); ++level) {
      const AngleBook& book = AngleBookOf(level + 1, BitsOf(level));
      offline_.emplace_back(book.centroids, book.thresholds);
    }
  }

  size_t record_bytes() const override {
    size_t bits = 0;
    for (int level = 0; level < NumLevels(); ++level) {
      bits += static_cast<size_t>(BitsOf(level) * (head_dim_ >> (level + 1)));
    }
    return ScaleBytes() + (bits + 7) / 8;
  }
  size_t header_bytes() const override {
    size_t centroids = 0;
    for (const int bits : bits_) centroids += size_t{1} << bits;
    return online_ ? centroids * sizeof(uint16_t) : 0;
  }

  void Learn(const float* rows, int count, std::byte* header) const override {
    if (!online_) return;
    std::vector<std::vector<double>> angles(bits_.size());
    std::vector<double> of_group(static_cast<size_t>(group_));
    for (int64_t i = 0; i < static_cast<int64_t>(count) * head_dim_; i += group_) {
      if (PolarTransform(rows + i, NumLevels(), of_group.data()) == 0.0) continue;
      const double* next = of_group.data();
      for (int level = 0; level < NumLevels(); ++level) {
        const int num = group_ >> (level + 1);
        angles[static_cast<size_t>(level)].insert(angles[static_cast<size_t>(level)].end(), next,
                                                  next + num);
        next += num;
      }
    }
    for (int level = 0; level < NumLevels(); ++level) {
      for (const double centroid : FittedCentroids(AngleBookOf(level + 1, BitsOf(level)).centroids,
                                                   angles[static_cast<size_t>(level)])) {
        StoreHalf(static_cast<float>(centroid), header);
        header += sizeof(uint16_t);
      }
    }
  }

  void Encode(const std::byte* header, const float* row, std::byte* record) const override {
    const Books books(*this, header);
    uint8_t codes[kMaxHeadDim] = {};
    for (int begin = 0; begin < head_dim_; begin += group_) {
      EncodeAngles(books, row + begin, begin, codes);
      float direction[1 << kMaxPolarLevels];
      DecodeAngles(books, 1.0f, begin, codes, direction);
      const double radius = FitOf(row + begin, direction, group_).dot;
      const uint16_t scale = ScaleToHalf(std::max(radius, 0.0) / root_);
      std::memcpy(record, &scale, sizeof scale);
      record += sizeof scale;
      if (scale == 0) ForEachCode(begin, [&](int, int, int at) { codes[at] = 0; });
    }
    BitWriter writer(record);
    for (int level = 0; level < NumLevels(); ++level) {
      for (int i = First(level); i < First(level + 1); ++i) writer.Put(codes[i], BitsOf(level));
    }
    writer.Finish();
  }

  void Decode(const std::byte* header, const std::byte* record, float* row) const override {
    const Books books(*this, header);
    uint8_t codes[kMaxHeadDim];
    BitReader reader(record + ScaleBytes());
    for (int level = 0; level < NumLevels(); ++level) {
      for (int i = First(level); i < First(level + 1); ++i) {
        codes[i] = static_cast<uint8_t>(reader.Get(BitsOf(level)));
      }
    }
    for (int begin = 0; begin < head_dim_; begin += group_, record += sizeof(uint16_t)) {
      const float radius = static_cast<float>(root_) * LoadHalf(record);
      DecodeAngles(books, radius, begin, codes, row + begin);
    }
  }

 private:
  // The codebooks of a page.
  class Books {
   public:
    Books(const PolarCoder& coder, const std::byte* header) : books_(&coder.offline_) {
      if (!coder.online_) return;
      for (const int bits : coder.bits_) {
        std::vector<double> centroids;
        for (int i = 0; i < 1 << bits; ++i, header += sizeof(uint16_t)) {
          centroids.push_back(static_cast<double>(LoadHalf(header)));
        }
        online_.emplace_back(centroids, Midpoints(centroids));
      }
      books_ = &online_;
    }
    const LevelBook& Of(int level) const { return (*books_)[static_cast<size_t>(level)]; }

   private:
    std::vector<LevelBook> online_;
    const std::vector<LevelBook>* books_;
  };

  int NumLevels() const { return static_cast<int>(bits_.size()); }
  int BitsOf(int level) const { return bits_[static_cast<size_t>(level)]; }
  size_t ScaleBytes() const { return static_cast<size_t>(head_dim_ / group_) * sizeof(uint16_t); }
  // Where the codes of a level begin among those of the row: there are d/2, then d/4, ...
  int First(int level) const { return head_dim_ - (head_dim_ >> level); }

  // visit(level, j, at) for each angle j of the group that begins at a channel; `at` is the place
  // of its code.
  template <typename Visit>
  void ForEachCode(int begin, const Visit& visit) const {
    for (int level = 0; level < NumLevels(); ++level) {
      const int first = First(level) + (begin >> (level + 1));
      for (int j = 0; j < group_ >> (level + 1); ++j) visit(level, j, first + j);
    }
  }

  void EncodeAngles(const Books& books, const float* x, int begin, uint8_t* codes) const {
    float radii[1 << kMaxPolarLevels];
    std::copy_n(x, group_, radii);
    ForEachCode(begin, [&](int level, int j, int at) {
      const float a = radii[2 * j], b = radii[2 * j + 1];
      codes[at] = books.Of(level).CellOf(a, b);
      radii[j] = std::sqrt(a * a + b * b);
    });
  }

  void DecodeAngles(const Books& books, float radius, int begin, const uint8_t* codes,
                    float* x) const {
    x[0] = radius;
    for (int level = NumLevels(); level-- > 0;) {
      const LevelBook& book = books.Of(level);
      const uint8_t* of_level = codes + First(level) + (begin >> (level + 1));
      for (int j = group_ >> (level + 1); j-- > 0;) {  // backwards: in place
        const float r = x[j];
        x[2 * j] = r * book.cosine[of_level[j]];
        x[2 * j + 1] = r * book.sine[of_level[j]];
      }
    }
  }

  std::vector<int> bits_;  // of each level
  bool online_;
  int head_dim_, group_;
  double root_;  // of the group's size
  std::vector<LevelBook> offline_;
};

std::unique_ptr<const Coder> Make(const Scheme& scheme, const RowShape& shape) {
  std::vector<int> bits;
  const std::string digits = std::to_string(OptionOf(scheme, "bits"));
  const auto refuse = [&](const std::string& cause) {
    throw Error(ErrorCode::kUnsupported, "polar: bits=" + digits + cause);
  };
  for (const char digit : digits) {
    const int most = bits.empty() ? kMaxFirstAngleBits : kMaxAngleBits;
    bits.push_back(digit - '0');
    if (bits.back() >= 1 && bits.back() <= most) continue;
    refuse(" has " + std::string(1, digit) + " bits in level " + std::to_string(bits.size()) +
           ": it takes 1 to " + std::to_string(most));
  }
  const int group = 1 << bits.size();
  if (shape.head_dim % group != 0) {
    refuse(" has groups of " + std::to_string(group) + " values, which do not divide head_dim " +
           std::to_string(shape.head_dim) + ": give bits= fewer digits");
  }
  return std::make_unique<PolarCoder>(bits, OptionOf(scheme, "books") == 1, shape.head_dim);
}

}  // namespace

Codec PolarCodec(std::string_view name, std::string_view summary) {
  return {.info = {.name = name,
                   .summary = summary,
                   .source = "PolarQuant (Han et al. 2025)",
                   .code_bits = 3,
                   .keys = true,
                   .values = true,
                   .rotates = true,
                   .scale_rules = false,
                   .options = {{.name = "bits",
                                .summary = "a digit for each level: bits of its angles, 1 to 6, "
                                           "then 1 to 4; at most 7 levels",
                                .least = 1,
                                .most = 6444444,
                                .usual = kUsualBits},
                               {.name = "books",
                                .summary = "codebooks of Gaussian rows, or fitted to each page",
                                .words = {"offline", "online"}}}},
          .make = Make};
}

}  // namespace polarquant
