// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: solving for the angle codebooks of codecs/polar.h.
#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <numbers>
#include <string>
#include <utility>

#include "codecs/polar.h"
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
  if (level < 2 || level > kMaxPolarLevels || bits < 1 || bits > kMaxAngleBits) {
    throw Error(ErrorCode::kParameter, "an angle codebook of level " + std::to_string(level) +
                                           " and " + std::to_string(bits) +
                                           " bits was asked for: levels 2 to " +
                                           std::to_string(kMaxPolarLevels) + ", 1 to " +
                                           std::to_string(kMaxAngleBits) + " bits");
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

const AngleBook& AngleBookOf(int level, int bits) {
  static std::mutex mutex;
  static std::map<std::pair<int, int>, AngleBook> books;
  const std::lock_guard lock(mutex);
  const auto found = books.find({level, bits});
  if (found != books.end()) return found->second;
  AngleBook book;
  if (level > 1) {
    book = SolveAngleBook(level, bits);
  } else {
    const size_t count = size_t{1} << bits;
    const double sector = 4.0 * kRightAngle / static_cast<double>(count);
    for (size_t i = 0; i < count; ++i) {
      book.centroids.push_back(sector * (static_cast<double>(i) + 0.5));
      if (i > 0) book.thresholds.push_back(sector * static_cast<double>(i));
    }
    book.distortion = sector * sector / 12.0;
  }
  return books.emplace(std::pair(level, bits), std::move(book)).first->second;
}

}  // namespace polarquant
