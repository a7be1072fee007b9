// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend: the words of AVX2 (with FMA and F16C) that the common kernels are written in.
// Compiled only into avx2.cc.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace polarquant {
namespace {

struct Simd {
  static constexpr const char* kName = "avx2";

  static void Prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

  // ---- floats
  using F = __m256;
  static constexpr int kWidth = 8;
  static constexpr int kRowsAtOnce = 4;  // rows of a register block: 4 * 2 of 16 registers
  static constexpr int kFewAtOnce = 2;
  static constexpr int kColumnsAtOnce = 2;

  static F Zero() { return _mm256_setzero_ps(); }
  static F Set(float x) { return _mm256_set1_ps(x); }
  static F Load(const float* p) { return _mm256_loadu_ps(p); }
  static void Store(float* p, F x) { _mm256_storeu_ps(p, x); }
  static F LoadHalf(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static void StoreHalf(uint16_t* p, F x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static F LoadBytes(const int8_t* p) {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static F Add(F a, F b) { return _mm256_add_ps(a, b); }
  static F Sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F Mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F Div(F a, F b) { return _mm256_div_ps(a, b); }
  static F Fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }  // a * b + c
  static F Min(F a, F b) { return _mm256_min_ps(a, b); }
  static F Max(F a, F b) { return _mm256_max_ps(a, b); }
  static F Abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
  static F Round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // y * 2^n for integral n, result a normal number.
  static F Scale2(F y, F n) {
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(y), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
  }
  // a < b ? x : y, lane by lane; a NaN compares false.
  static F IfLess(F a, F b, F x, F y) {
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
  }
  // x, with zeros where it is NaN.
  static F ZeroNaN(F x) { return _mm256_and_ps(_mm256_cmp_ps(x, x, _CMP_ORD_Q), x); }
  static F CopySign(F magnitude, F sign) {
    return _mm256_or_ps(magnitude, _mm256_and_ps(_mm256_set1_ps(-0.0f), sign));
  }
  // Lanes i and i ^ stride change places; stride < kWidth.
  template <int kStride>
  static F SwapLanes(F a) {
    if constexpr (kStride == 1) return _mm256_permute_ps(a, 0xB1);
    if constexpr (kStride == 2) return _mm256_permute_ps(a, 0x4E);
    if constexpr (kStride == 4) return _mm256_permute2f128_ps(a, a, 1);
  }
  // -a in the lanes i with (i & stride) != 0.
  template <int kStride>
  static F NegateUpper(F a) {
    constexpr int kUpper = kStride == 1 ? 0xAA : kStride == 2 ? 0xCC : 0xF0;
    return _mm256_xor_ps(a, _mm256_blend_ps(_mm256_setzero_ps(), _mm256_set1_ps(-0.0f), kUpper));
  }
  static float Sum(F a) {
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
  }
  static float MaxOf(F a) {
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
  }
  // The four sums, stored one after another.
  static void StoreSums(float* p, F a, F b, F c, F d) {
    const __m256 x = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1)));
  }
  // rows[i][j] := rows[j][i]
  static void Transpose(F* rows) {
    F quads[8];  // quads[4 g + k]: column 4 b + k of rows 4 g .. 4 g + 3 in 128-bit block b
    for (int g = 0; g < 2; ++g) {
      const F* r = rows + 4 * g;
      const F a = _mm256_unpacklo_ps(r[0], r[1]), b = _mm256_unpackhi_ps(r[0], r[1]);
      const F c = _mm256_unpacklo_ps(r[2], r[3]), d = _mm256_unpackhi_ps(r[2], r[3]);
      quads[4 * g] = _mm256_shuffle_ps(a, c, 0x44);
      quads[4 * g + 1] = _mm256_shuffle_ps(a, c, 0xEE);
      quads[4 * g + 2] = _mm256_shuffle_ps(b, d, 0x44);
      quads[4 * g + 3] = _mm256_shuffle_ps(b, d, 0xEE);
    }
    for (int k = 0; k < 4; ++k) {
      rows[k] = _mm256_permute2f128_ps(quads[k], quads[4 + k], 0x20);
      rows[4 + k] = _mm256_permute2f128_ps(quads[k], quads[4 + k], 0x31);
    }
  }

  // ---- quantising: 2 to 4 bits, magnitudes only
  using I = __m256i;
  static constexpr int kStepsAtOnce = 3;  // of the search of an encoder
  struct Levels {
    F first, second[2];  // thresholds: the middle one; that of the lower half, and what makes it
                         // that of the upper one
    F third, centroids;  // all, by the number passed
  };
  template <int kBits>
  static Levels MakeLevels(const float* centroids, const float* thresholds) {
    constexpr int kHalf = 1 << (kBits - 1);
    const F first = Set(thresholds[kHalf / 2 - 1]);
    if constexpr (kBits == 2) {
      const __m128d both = _mm_load_sd(reinterpret_cast<const double*>(centroids));
      return {first, {first, first}, first, _mm256_castpd_ps(_mm256_broadcastsd_pd(both))};
    } else {
      const F lower = Set(thresholds[kHalf / 4 - 1]);
      const F change = _mm256_xor_ps(lower, Set(thresholds[kHalf / 2 + kHalf / 4 - 1]));
      if constexpr (kBits == 3) {
        const F all = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(centroids));
        return {first, {lower, change}, first, all};
      } else {
        const I seven = _mm256_setr_epi32(-1, -1, -1, -1, -1, -1, -1, 0);
        return {first, {lower, change}, _mm256_maskload_ps(thresholds, seven), Load(centroids)};
      }
    }
  }
  // The centroid of a magnitude, and the number of thresholds that it reaches.
  template <int kBits>
  static F Nearest(const Levels& levels, F x, I* passed) {
    const F first = _mm256_cmp_ps(x, levels.first, _CMP_GE_OQ);
    if constexpr (kBits == 2) {
      *passed = _mm256_srli_epi32(_mm256_castps_si256(first), 31);
      return _mm256_permutevar_ps(levels.centroids, *passed);
    } else if constexpr (kBits == 3) {
      const F middle = Middle(levels, first);
      const I second = _mm256_castps_si256(_mm256_cmp_ps(x, middle, _CMP_GE_OQ));
      const I high = _mm256_and_si256(_mm256_castps_si256(first), _mm256_set1_epi32(2));
      *passed = _mm256_sub_epi32(high, second);
      return _mm256_permutevar_ps(levels.centroids, *passed);
    } else {
      const F middle = Middle(levels, first);
      const F second = _mm256_cmp_ps(x, middle, _CMP_GE_OQ);
      const I high =
          _mm256_or_si256(_mm256_and_si256(_mm256_castps_si256(first), _mm256_set1_epi32(4)),
                          _mm256_and_si256(_mm256_castps_si256(second), _mm256_set1_epi32(2)));
      const F last = _mm256_permutevar8x32_ps(levels.third, high);
      *passed = _mm256_sub_epi32(high, _mm256_castps_si256(_mm256_cmp_ps(x, last, _CMP_GE_OQ)));
      return _mm256_permutevar8x32_ps(levels.centroids, *passed);
    }
  }
  // Where `first` is set the threshold of the upper half; cheaper than a blend by a mask.
  static F Middle(const Levels& levels, F first) {
    return _mm256_xor_ps(levels.second[0], _mm256_and_ps(first, levels.second[1]));
  }
  // Bytes: half + passed where x >= 0, else half - 1 - passed.
  static void StoreSigned(uint8_t* p, F x, I passed, int half) {
    const I negative = _mm256_castps_si256(_mm256_cmp_ps(x, Zero(), _CMP_LT_OQ));
    const I codes = _mm256_add_epi32(_mm256_xor_si256(passed, negative), _mm256_set1_epi32(half));
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
  }
  // Sixteen lanes, folded 8 + 8, 4 + 4, 2 + 2, 1 + 1.
  static float SumSixteen(const F* lanes) { return Sum(Add(lanes[0], lanes[1])); }
  // Eight of them: lanes_of(i) is a pointer to the i-th.
  template <typename LanesOf>
  static void SumEight(const LanesOf& lanes_of, float* sums) {
    F half[4];
    for (int i = 0; i < 4; ++i) {
      const F* a = lanes_of(i);
      const F* b = lanes_of(i + 4);
      const F x = Add(a[0], a[1]), y = Add(b[0], b[1]);
      half[i] = Add(_mm256_permute2f128_ps(x, y, 0x20), _mm256_permute2f128_ps(x, y, 0x31));
    }
    F quarter[2];
    for (int i = 0; i < 2; ++i) {
      const F x = half[2 * i], y = half[2 * i + 1];
      quarter[i] = Add(_mm256_shuffle_ps(x, y, 0x44), _mm256_shuffle_ps(x, y, 0xEE));
    }
    _mm256_storeu_ps(sums, Add(_mm256_shuffle_ps(quarter[0], quarter[1], 0x88),
                               _mm256_shuffle_ps(quarter[0], quarter[1], 0xDD)));
  }
  // The first place of the largest of eight numbers.
  static int FirstLargest(const float* x) {
    const __m256 all = _mm256_loadu_ps(x);
    __m256 max = _mm256_max_ps(all, _mm256_permute2f128_ps(all, all, 1));
    max = _mm256_max_ps(max, _mm256_permute_ps(max, 0x4E));
    max = _mm256_max_ps(max, _mm256_permute_ps(max, 0xB1));
    const int places = _mm256_movemask_ps(_mm256_cmp_ps(all, max, _CMP_EQ_OQ));
    return __builtin_ctz(static_cast<unsigned>(places) | 0x80u);
  }

  // ---- codes: vectors of 64 bytes, 16 lanes x 4 depth steps, in kParts registers
  static constexpr int kParts = 2;
  static constexpr int kPartBytes = 32;
  using Codes = __m256i;
  struct Centroids {
    __m256i even, odd;  // 16 bits: 128 + centroid of depth steps 0, 2 and of 1, 3
  };
  struct Table {
    __m256i part[2];
  };

  // pshufb looks at nibbles: a table of 16 entries picks one field of two bits out of them.
  template <int kBits>
  static Table MakeTable(const signed char* centroids) {
    alignas(32) uint8_t entries[2][32];
    constexpr int kMask = (1 << kBits) - 1;
    for (int i = 0; i < 32; ++i) {
      entries[0][i] = static_cast<uint8_t>(centroids[i & kMask] + 128);
      entries[1][i] =
          static_cast<uint8_t>(centroids[((i & 15) >> (kBits == 2 ? 2 : 0)) & kMask] + 128);
    }
    return {{_mm256_load_si256(reinterpret_cast<const __m256i*>(entries[0])),
             _mm256_load_si256(reinterpret_cast<const __m256i*>(entries[1]))}};
  }
  static Codes LoadCodes(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static void StoreCodes(uint8_t* p, Codes codes) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), codes);
  }
  // A table of sixteen bytes, and its entries by bytes below 16.
  static Codes RepeatBytes(const uint8_t* entries) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(entries)));
  }
  static Codes PickBytes(Codes table, Codes indices) { return _mm256_shuffle_epi8(table, indices); }
  // The kBits bits from bit `shift` of every byte.
  template <int kBits>
  static Codes FieldAt(Codes codes, int shift) {
    return _mm256_and_si256(_mm256_srli_epi16(codes, shift), _mm256_set1_epi8((1 << kBits) - 1));
  }
  // 3 bits: the fields in the top two bits of three vectors, as the low six bits of one.
  static Codes TopFields(Codes a, Codes b, Codes c) {
    const Codes low = _mm256_and_si256(_mm256_srli_epi16(a, 6), _mm256_set1_epi8(3));
    const Codes middle = _mm256_and_si256(_mm256_srli_epi16(b, 4), _mm256_set1_epi8(12));
    const Codes high = _mm256_and_si256(_mm256_srli_epi16(c, 2), _mm256_set1_epi8(48));
    return _mm256_or_si256(_mm256_or_si256(low, middle), high);
  }
  static Centroids Widen(__m256i table, Codes nibbles) {
    const __m256i bytes = _mm256_shuffle_epi8(table, nibbles);
    return {_mm256_and_si256(bytes, _mm256_set1_epi16(255)), _mm256_srli_epi16(bytes, 8)};
  }
  // Fields 2 * pair and 2 * pair + 1 of `codes` (3 bits: of its low six bits).
  template <int kBits>
  static void LookUp(Codes codes, int pair, const Table& table, Centroids& even, Centroids& odd) {
    const __m256i nibble = _mm256_set1_epi8(15);
    if constexpr (kBits == 2) {
      const Codes pairs = _mm256_and_si256(pair == 0 ? codes : _mm256_srli_epi16(codes, 4), nibble);
      even = Widen(table.part[0], pairs);
      odd = Widen(table.part[1], pairs);
    } else {
      // 3 bits: the bit above the lower field is looked past by the table, the upper one is masked.
      const Codes upper =
          _mm256_and_si256(_mm256_srli_epi16(codes, kBits), _mm256_set1_epi8((1 << kBits) - 1));
      even = Widen(table.part[0], _mm256_and_si256(codes, nibble));
      odd = Widen(table.part[0], upper);
    }
  }

  // ---- integers: queries and weights of 16 bits, four depth steps in 8 bytes: 0, 2, 1, 3
  static constexpr float kTop = 32639.0f;
  struct Weights {
    __m256i even, odd;
  };
  using Sums = __m256i;
  static Weights LoadWeights(const uint8_t* p) {
    return {_mm256_set1_epi32(*reinterpret_cast<const Int32*>(p)),
            _mm256_set1_epi32(*reinterpret_cast<const Int32*>(p + 4))};
  }
  static Sums StartSums(int32_t offset) { return _mm256_set1_epi32(offset); }
  static void AddDot(Sums& sums, const Centroids& centroids, const Weights& weights) {
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(centroids.even, weights.even));
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(centroids.odd, weights.odd));
  }
  static void AddSums(Sums& sums, const Sums& other) { sums = _mm256_add_epi32(sums, other); }
  static F ToFloats(const Sums& sums) { return _mm256_cvtepi32_ps(sums); }
  // Rounds kWidth numbers within +-kTop, stores them four (8 bytes) every `stride` bytes; the sums
  // of what was stored gather in `total`.
  static I ZeroInt() { return _mm256_setzero_si256(); }
  static int32_t SumInt(I a) {
    __m128i c = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    c = _mm_add_epi32(c, _mm_shuffle_epi32(c, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(c, _mm_shuffle_epi32(c, 0xB1)));
  }
  static void StoreWeights(F x, uint8_t* p, size_t stride, I& total) {
    const __m256i v = _mm256_cvtps_epi32(x);
    total = _mm256_add_epi32(total, v);
    const __m256i order = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 8, 9, 4, 5, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1));
    const __m256i halves = _mm256_shuffle_epi8(v, order);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(halves));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p + stride), _mm256_extracti128_si256(halves, 1));
  }

 private:
  typedef int32_t __attribute__((may_alias)) Int32;
};

}  // namespace
}  // namespace polarquant
