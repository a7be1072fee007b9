// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page. A set of slots of one page: which rows are written, exact, pinned.
#pragma once

#include <bit>
#include <cstdint>

#include "polarquant/page.h"

namespace polarquant {

// Slot s is word s/64, bit s%64, as in PageView and PageFormat::EncodePage.
struct PageBits {
  static constexpr int kWords = kMaxPageTokens / 64;
  uint64_t words[kWords] = {};

  static PageBits First(int count) {
    PageBits bits;
    for (int word = 0; word < kWords; ++word) {
      const int left = count - 64 * word;
      bits.words[word] = left >= 64 ? ~uint64_t{0} : left > 0 ? (uint64_t{1} << left) - 1 : 0;
    }
    return bits;
  }
  static PageBits Range(int begin, int end) { return First(end).Without(First(begin)); }

  bool Test(int slot) const { return (words[slot / 64] >> (slot % 64) & 1) != 0; }
  void Set(int slot) { words[slot / 64] |= uint64_t{1} << (slot % 64); }
  void Reset(int slot) { words[slot / 64] &= ~(uint64_t{1} << (slot % 64)); }

  bool Any() const {
    for (const uint64_t word : words) {
      if (word != 0) return true;
    }
    return false;
  }
  int Count() const {
    int count = 0;
    for (const uint64_t word : words) count += std::popcount(word);
    return count;
  }
  int Lowest() const {  // all of them if empty
    int lowest = 0;
    while (lowest < 64 * kWords && words[lowest / 64] == 0) lowest += 64;
    return lowest < 64 * kWords ? lowest + std::countr_zero(words[lowest / 64]) : lowest;
  }
  int Last() const {  // -1 if empty
    for (int word = kWords - 1; word >= 0; --word) {
      if (words[word] != 0) return 64 * word + 63 - std::countl_zero(words[word]);
    }
    return -1;
  }

  PageBits And(const PageBits& other) const {
    PageBits bits;
    for (int word = 0; word < kWords; ++word) bits.words[word] = words[word] & other.words[word];
    return bits;
  }
  PageBits Or(const PageBits& other) const {
    PageBits bits;
    for (int word = 0; word < kWords; ++word) bits.words[word] = words[word] | other.words[word];
    return bits;
  }
  PageBits Without(const PageBits& other) const {
    PageBits bits;
    for (int word = 0; word < kWords; ++word) bits.words[word] = words[word] & ~other.words[word];
    return bits;
  }
  bool operator==(const PageBits&) const = default;

  // Calls visit(slot) for every slot, ascending.
  template <typename Visit>
  void ForEach(const Visit& visit) const {
    for (int word = 0; word < kWords; ++word) {
      for (uint64_t left = words[word]; left != 0; left &= left - 1) {
        visit(64 * word + std::countr_zero(left));
      }
    }
  }

  // Calls visit(begin, end) for every maximal run of consecutive slots, ascending.
  template <typename Visit>
  void ForEachRun(const Visit& visit) const {
    int begin = -1, end = -1;
    ForEach([&](int slot) {
      if (slot != end) {
        if (begin >= 0) visit(begin, end);
        begin = slot;
      }
      end = slot + 1;
    });
    if (begin >= 0) visit(begin, end);
  }
};

}  // namespace polarquant
