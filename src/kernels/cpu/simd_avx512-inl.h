// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend: the words of AVX-512 (F, BW, DQ, VL, VNNI, VBMI) that the common kernels are
// written in. Compiled only into avx512.cc.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace polarquant {
namespace {

struct Simd {
  static constexpr const char* kName = "avx512";

  static void Prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

  // ---- floats
  using F = __m512;
  static constexpr int kWidth = 16;
  static constexpr int kRowsAtOnce = 6;  // rows of a register block: 6 * 2 * 2 of 32 registers
  static constexpr int kFewAtOnce = 4;
  static constexpr int kColumnsAtOnce = 4;

  static F Zero() { return _mm512_setzero_ps(); }
  static F Set(float x) { return _mm512_set1_ps(x); }
  static F Load(const float* p) { return _mm512_loadu_ps(p); }
  static void Store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static F LoadHalf(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static void StoreHalf(uint16_t* p, F x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  // Signed bytes to floats.
  static F LoadBytes(const int8_t* p) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F Div(F a, F b) { return _mm512_div_ps(a, b); }
  static F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }  // a * b + c
  static F Min(F a, F b) { return _mm512_min_ps(a, b); }
  static F Max(F a, F b) { return _mm512_max_ps(a, b); }
  static F Abs(F a) { return _mm512_abs_ps(a); }
  static F Round(F a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // y * 2^n for integral n of at least -126.
  static F Scale2(F y, F n) { return _mm512_scalef_ps(y, n); }
  // a < b ? x : y, lane by lane; a NaN compares false.
  static F IfLess(F a, F b, F x, F y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
  }
  // x, with zeros where it is NaN.
  static F ZeroNaN(F x) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, x, _CMP_ORD_Q), x); }
  static F CopySign(F magnitude, F sign) {
    const __m512i mask = _mm512_set1_epi32(static_cast<int>(0x80000000u));
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(mask, _mm512_castps_si512(sign),
                                                         _mm512_castps_si512(magnitude), 0xCA));
  }
  // Lanes i and i ^ stride change places; stride < kWidth.
  template <int kStride>
  static F SwapLanes(F a) {
    if constexpr (kStride == 1) return _mm512_permute_ps(a, 0xB1);
    if constexpr (kStride == 2) return _mm512_permute_ps(a, 0x4E);
    if constexpr (kStride == 4) return _mm512_shuffle_f32x4(a, a, 0xB1);
    if constexpr (kStride == 8) return _mm512_shuffle_f32x4(a, a, 0x4E);
  }
  // -a in the lanes i with (i & stride) != 0.
  template <int kStride>
  static F NegateUpper(F a) {
    constexpr __mmask16 kUpper = kStride == 1   ? 0xAAAA
                                 : kStride == 2 ? 0xCCCC
                                 : kStride == 4 ? 0xF0F0
                                                : 0xFF00;
    return _mm512_mask_xor_ps(a, kUpper, a, _mm512_set1_ps(-0.0f));
  }
  static __m256 Fold(F a) {
    return _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  }
  static float Sum(F a) {
    const __m256 b = Fold(a);
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
  }
  static float MaxOf(F a) {
    const __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
  }
  // The four sums, stored one after another.
  static void StoreSums(float* p, F a, F b, F c, F d) {
    const __m256 x =
        _mm256_hadd_ps(_mm256_hadd_ps(Fold(a), Fold(b)), _mm256_hadd_ps(Fold(c), Fold(d)));
    _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1)));
  }
  // rows[i][j] := rows[j][i]
  static void Transpose(F* rows) {
    F pairs[16];
    for (int i = 0; i < 16; i += 2) {
      pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
      pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    F quads[16];  // quads[4 g + k]: column 4 b + k of rows 4 g .. 4 g + 3 in 128-bit block b
    for (int g = 0; g < 4; ++g) {
      const F* p = pairs + 4 * g;
      quads[4 * g] = _mm512_shuffle_ps(p[0], p[2], 0x44);
      quads[4 * g + 1] = _mm512_shuffle_ps(p[0], p[2], 0xEE);
      quads[4 * g + 2] = _mm512_shuffle_ps(p[1], p[3], 0x44);
      quads[4 * g + 3] = _mm512_shuffle_ps(p[1], p[3], 0xEE);
    }
    for (int k = 0; k < 4; ++k) {
      const F low = _mm512_shuffle_f32x4(quads[k], quads[4 + k], 0x88);      // blocks 0, 2
      const F low_odd = _mm512_shuffle_f32x4(quads[k], quads[4 + k], 0xDD);  // blocks 1, 3
      const F high = _mm512_shuffle_f32x4(quads[8 + k], quads[12 + k], 0x88);
      const F high_odd = _mm512_shuffle_f32x4(quads[8 + k], quads[12 + k], 0xDD);
      rows[k] = _mm512_shuffle_f32x4(low, high, 0x88);
      rows[4 + k] = _mm512_shuffle_f32x4(low_odd, high_odd, 0x88);
      rows[8 + k] = _mm512_shuffle_f32x4(low, high, 0xDD);
      rows[12 + k] = _mm512_shuffle_f32x4(low_odd, high_odd, 0xDD);
    }
  }

  // ---- quantising: 2 to 4 bits, magnitudes only
  using I = __m512i;
  static constexpr int kStepsAtOnce = 6;  // of the search of an encoder
  struct Levels {
    F first, second[2];  // thresholds: the middle one; those of the two halves
    F third, centroids;  // all, by the number passed
  };
  template <int kBits>
  static Levels MakeLevels(const float* centroids, const float* thresholds) {
    constexpr int kHalf = 1 << (kBits - 1);
    constexpr __mmask16 kAll = (1 << kHalf) - 1;
    return {Set(thresholds[kHalf / 2 - 1]),
            {Set(thresholds[kBits > 2 ? kHalf / 4 - 1 : 0]),
             Set(thresholds[kBits > 2 ? kHalf / 2 + kHalf / 4 - 1 : 0])},
            _mm512_maskz_loadu_ps(kAll >> 1, thresholds),
            _mm512_maskz_loadu_ps(kAll, centroids)};
  }
  // The centroid of a magnitude, and the number of thresholds that it reaches.
  template <int kBits>
  static F Nearest(const Levels& levels, F x, I* passed) {
    const __mmask16 first = _mm512_cmp_ps_mask(x, levels.first, _CMP_GE_OQ);
    I index = _mm512_maskz_set1_epi32(first, 1 << (kBits - 2));
    if constexpr (kBits > 2) {
      const F middle = _mm512_mask_blend_ps(first, levels.second[0], levels.second[1]);
      const __mmask16 second = _mm512_cmp_ps_mask(x, middle, _CMP_GE_OQ);
      index = _mm512_mask_or_epi32(index, second, index, _mm512_set1_epi32(1 << (kBits - 3)));
    }
    if constexpr (kBits > 3) {
      const F last = _mm512_permutexvar_ps(index, levels.third);
      const __mmask16 third = _mm512_cmp_ps_mask(x, last, _CMP_GE_OQ);
      index = _mm512_mask_or_epi32(index, third, index, _mm512_set1_epi32(1));
    }
    *passed = index;
    return _mm512_permutexvar_ps(index, levels.centroids);
  }
  // Bytes: half + passed where x >= 0, else half - 1 - passed.
  static void StoreSigned(uint8_t* p, F x, I passed, int half) {
    const __mmask16 negative = _mm512_cmp_ps_mask(x, Zero(), _CMP_LT_OQ);
    const I sides = _mm512_mask_xor_epi32(passed, negative, passed, _mm512_set1_epi32(-1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm512_cvtepi32_epi8(_mm512_add_epi32(sides, _mm512_set1_epi32(half))));
  }
  // Sixteen lanes, folded 8 + 8, 4 + 4, 2 + 2, 1 + 1.
  static float SumSixteen(const F* lanes) { return Sum(lanes[0]); }
  // Eight of them: lanes_of(i) is a pointer to the i-th.
  template <typename LanesOf>
  static void SumEight(const LanesOf& lanes_of, float* sums) {
    __m256 half[4];
    for (int i = 0; i < 4; ++i) {
      const __m256 x = Fold(*lanes_of(i)), y = Fold(*lanes_of(i + 4));
      half[i] =
          _mm256_add_ps(_mm256_permute2f128_ps(x, y, 0x20), _mm256_permute2f128_ps(x, y, 0x31));
    }
    __m256 quarter[2];
    for (int i = 0; i < 2; ++i) {
      const __m256 x = half[2 * i], y = half[2 * i + 1];
      quarter[i] = _mm256_add_ps(_mm256_shuffle_ps(x, y, 0x44), _mm256_shuffle_ps(x, y, 0xEE));
    }
    _mm256_storeu_ps(sums, _mm256_add_ps(_mm256_shuffle_ps(quarter[0], quarter[1], 0x88),
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
  static constexpr int kParts = 1;
  static constexpr int kPartBytes = 64;
  using Codes = __m512i;
  using Centroids = __m512i;  // unsigned bytes, 128 + centroid
  struct Table {
    __m512i part[3];
  };

  // vpermb looks at the low six bits of a byte: a table of 64 entries picks one field out of them.
  template <int kBits>
  static Table MakeTable(const signed char* centroids) {
    alignas(64) uint8_t entries[3][64];
    for (int i = 0; i < 64; ++i) {
      for (int part = 0; part < 3; ++part) {
        const int shift = kBits == 2 ? 2 * part : kBits == 3 && part == 1 ? 3 : 0;
        entries[part][i] = static_cast<uint8_t>(centroids[(i >> shift) & ((1 << kBits) - 1)] + 128);
      }
    }
    Table table;
    for (int part = 0; part < 3; ++part) table.part[part] = _mm512_load_si512(entries[part]);
    return table;
  }
  static Codes LoadCodes(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static void StoreCodes(uint8_t* p, Codes codes) { _mm512_storeu_si512(p, codes); }
  // A table of sixteen bytes, and its entries by bytes below 16.
  static Codes RepeatBytes(const uint8_t* entries) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(entries)));
  }
  static Codes PickBytes(Codes table, Codes indices) { return _mm512_shuffle_epi8(table, indices); }
  // The kBits bits from bit `shift` of every byte.
  template <int kBits>
  static Codes FieldAt(Codes codes, int shift) {
    return _mm512_and_si512(_mm512_srli_epi16(codes, static_cast<unsigned>(shift)),
                            _mm512_set1_epi8((1 << kBits) - 1));
  }
  // 3 bits: the fields in the top two bits of three vectors, as the low six bits of one.
  static Codes TopFields(Codes a, Codes b, Codes c) {
    const Codes ab = _mm512_ternarylogic_epi32(_mm512_set1_epi8(3), _mm512_srli_epi16(a, 6),
                                               _mm512_srli_epi16(b, 4), 0xCA);
    return _mm512_ternarylogic_epi32(_mm512_set1_epi8(15), ab, _mm512_srli_epi16(c, 2), 0xCA);
  }
  // Fields 2 * pair and 2 * pair + 1 of `codes` (3 bits: of its low six bits).
  template <int kBits>
  static void LookUp(Codes codes, int pair, const Table& table, Centroids& even, Centroids& odd) {
    if constexpr (kBits == 4) {
      even = _mm512_permutexvar_epi8(codes, table.part[0]);
      odd = _mm512_permutexvar_epi8(_mm512_srli_epi16(codes, 4), table.part[0]);
    } else if constexpr (kBits == 3) {
      even = _mm512_permutexvar_epi8(codes, table.part[0]);
      odd = _mm512_permutexvar_epi8(codes, table.part[1]);
    } else if (pair == 0) {
      even = _mm512_permutexvar_epi8(codes, table.part[0]);
      odd = _mm512_permutexvar_epi8(codes, table.part[1]);
    } else {
      even = _mm512_permutexvar_epi8(codes, table.part[2]);
      odd = _mm512_permutexvar_epi8(_mm512_srli_epi16(codes, 6), table.part[0]);
    }
  }

  // ---- integers: queries and weights as signed high and low bytes, four depth steps in 8 bytes
  // 127 * 256 + 127, the same on AVX2. Times 127 and the largest rotation block, 512, below 2^31.
  static constexpr float kTop = 32639.0f;
  struct Weights {
    __m512i high, low;
  };
  struct Sums {
    __m512i high, low;
  };
  static Weights LoadWeights(const uint8_t* p) {
    return {_mm512_set1_epi32(*reinterpret_cast<const Int32*>(p)),
            _mm512_set1_epi32(*reinterpret_cast<const Int32*>(p + 4))};
  }
  static Sums StartSums(int32_t offset) {
    return {_mm512_setzero_si512(), _mm512_set1_epi32(offset)};
  }
  static void AddDot(Sums& sums, Centroids centroids, const Weights& weights) {
    sums.high = _mm512_dpbusd_epi32(sums.high, centroids, weights.high);
    sums.low = _mm512_dpbusd_epi32(sums.low, centroids, weights.low);
  }
  static void AddSums(Sums& sums, const Sums& other) {
    sums.high = _mm512_add_epi32(sums.high, other.high);
    sums.low = _mm512_add_epi32(sums.low, other.low);
  }
  static F ToFloats(const Sums& sums) {
    return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(sums.high, 8), sums.low));
  }
  // Rounds kWidth numbers within +-kTop, stores them four (8 bytes) every `stride` bytes; the sums
  // of what was stored gather in `total`.
  static I ZeroInt() { return _mm512_setzero_si512(); }
  static int32_t SumInt(I a) {  // modulo 2^32
    const __m256i b = _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    __m128i c = _mm_add_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
    c = _mm_add_epi32(c, _mm_shuffle_epi32(c, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(c, _mm_shuffle_epi32(c, 0xB1)));
  }
  static void StoreWeights(F x, uint8_t* p, size_t stride, I& total) {
    const __m512i v = _mm512_cvtps_epi32(x);
    total = _mm512_add_epi32(total, v);
    const __m128i high =
        _mm512_cvtepi32_epi8(_mm512_srai_epi32(_mm512_add_epi32(v, _mm512_set1_epi32(128)), 8));
    const __m128i low = _mm512_cvtepi32_epi8(v);
    const __m128i a = _mm_unpacklo_epi32(high, low), b = _mm_unpackhi_epi32(high, low);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), a);
    _mm_storeh_pd(reinterpret_cast<double*>(p + stride), _mm_castsi128_pd(a));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p + 2 * stride), b);
    _mm_storeh_pd(reinterpret_cast<double*>(p + 3 * stride), _mm_castsi128_pd(b));
  }

 private:
  typedef int32_t __attribute__((may_alias)) Int32;
};

}  // namespace
}  // namespace polarquant
