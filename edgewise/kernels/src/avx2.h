// AVX2, and AVX-VNNI where EDGEWISE_DPBUSD names its dot product of bytes: 8 rows in a register, so a
// tile is two slices. Without a dot product of bytes, codes of up to 6 bits are summed in 16 bits as
// long as that cannot overflow; those of 8 bits take their sign with them. Included after a file has
// chosen its target.
#pragma once
#include <immintrin.h>
#define EDGEWISE_LANES 8
#define EDGEWISE_NEAREST(x, lowest, highest) \
  (f32s) _mm256_min_ps(_mm256_max_ps(_mm256_round_ps(x, 0), lowest), highest)
#define EDGEWISE_INT8(from) \
  (f32s) _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))))
#define EDGEWISE_BF16(from) \
  (f32s) _mm256_slli_epi32(_mm256_cvtepu16_epi32(load<__m128i>(from)), 16)
#define EDGEWISE_FP16(from) (f32s) _mm256_cvtph_ps(load<__m128i>(from))
// Compilers would add integers as a tree, for which there are not enough registers.
#define EDGEWISE_IN_ORDER(x) asm("" : "+x"(x))
#include "block.h"

namespace edgewise {
namespace {

struct Avx2 {
  static constexpr int kTogether = 4;
  static constexpr bool kUnpacks = true;

  // Lines are fetched ahead of use: by the first slice, which begins with a line, and the second in
  // turn. Without that, or half as far ahead, 5 and 6 bits come at half of the memory's rate. Of 8 bits,
  // which are used up quickly, every other line is enough: the processor brings the one beside it.
  template <int BITS>
  static INLINE void fetch(const uint8_t* slice) {
    constexpr int kStep = BITS == 8 ? 2 : 1, kAhead = BITS == 8 ? 2048 : 4096;
    constexpr auto kCache = BITS == 8 ? _MM_HINT_T1 : _MM_HINT_T0;
    const uint8_t* first = slice + 2 * kStep * (reinterpret_cast<uintptr_t>(slice) & 32) + kAhead;
    for (int line = 0; line < BITS; line += 2 * kStep)
      _mm_prefetch(reinterpret_cast<const char*>(first + 64 * line), kCache);
  }

  template <int P, int SHIFT>
  static INLINE __m256i field(const uint8_t* plane, int chunk) {
    constexpr int kFields = 8 / P;
    const __m256i codes = _mm256_loadu_si256(
        reinterpret_cast<const __m256i*>(plane + 64 * (chunk / kFields)));
    if (P == 8) return codes;
    const int from = chunk % kFields * P;
    const __m256i moved = from >= SHIFT ? _mm256_srli_epi16(codes, from - SHIFT)
                                        : _mm256_slli_epi16(codes, SHIFT - from);
    return _mm256_and_si256(moved, _mm256_set1_epi8(static_cast<char>(((1 << P) - 1) << SHIFT)));
  }

  template <int BITS>
  static INLINE __m256i chunk(const uint8_t* tile, int number) {
    constexpr int kLow = BITS == 8 ? 8 : BITS >= 4 ? 4 : 2, kHigh = BITS - kLow;
    __m256i codes = field<kLow, 0>(tile, number);
    if constexpr (kHigh > 0)
      codes = _mm256_or_si256(codes, field<kHigh, kLow>(tile + 64 * kLow, number));
    return codes;
  }

  static INLINE __m256i four(const int8_t* x) {
    int32_t columns;
    memcpy(&columns, x, sizeof columns);
    return _mm256_set1_epi32(columns);
  }

  // Of 8 columns those that a chunk of kept codes belongs to: bytes that pick them.
  static INLINE __m256i columns(const uint8_t* which, int number) {
    const __m256i second = _mm256_set1_epi32(0x04040000);  // two codes of each four columns
    return _mm256_or_si256(field<kWhich, 0>(which, number), second);
  }

  static INLINE __m256i picked(const int8_t* x, __m256i columns) {
    int64_t eight;
    memcpy(&eight, x, sizeof eight);
    return _mm256_shuffle_epi8(_mm256_set1_epi64x(eight), columns);
  }

#if defined(EDGEWISE_DPBUSD)
  static constexpr bool kSigned = false;

  template <int BITS, int LAID, int B, int G>
  static INLINE void dot(const uint8_t* codes, const int8_t* x, size_t stride, int tiles,
                         i32s (&sums)[G][B]) {
    __m256i total[G][B];
    for (auto& of : total)
      for (auto& sum : of) sum = _mm256_setzero_si256();
    for (int t = 0; t < tiles; ++t, codes += 64 * LAID, x += kColumns) {
      if (LAID == BITS) fetch<BITS>(codes);
#pragma GCC unroll 8
      for (int c = 0; c < 8; ++c) {
        const __m256i here = chunk<LAID>(codes, c);
        for (int b = 0; b < B; ++b)
          total[c * G / 8][b] =
              EDGEWISE_DPBUSD(total[c * G / 8][b], here, four(x + b * stride + 4 * c));
      }
    }
    for (int g = 0; g < G; ++g)
      for (int b = 0; b < B; ++b) sums[g][b] = (i32s)total[g][b];
  }

  template <int BITS, int B, int G>
  static INLINE void kept(const uint8_t* tile, const int8_t* x, size_t stride, i32s (&sums)[G][B]) {
    const __m256i ones = _mm256_set1_epi8(1);
    __m256i products[G][B] = {}, all[G][B] = {};  // the latter: what the middle is multiplied with
    fetch<BITS + kWhich>(tile);
#pragma GCC unroll 8
    for (int c = 0; c < 8; ++c) {
      const __m256i here = chunk<BITS>(tile, c), which = columns(tile + 64 * BITS, c);
      const int g = c * G / 8;
      for (int b = 0; b < B; ++b) {
        const __m256i own = picked(x + b * stride + 8 * c, which);
        products[g][b] = EDGEWISE_DPBUSD(products[g][b], here, own);
        all[g][b] = EDGEWISE_DPBUSD(all[g][b], ones, own);
      }
    }
    for (int g = 0; g < G; ++g)
      for (int b = 0; b < B; ++b)
        sums[g][b] =
            (i32s)_mm256_sub_epi32(products[g][b], _mm256_slli_epi32(all[g][b], BITS - 1));
  }
#else
  static constexpr bool kSigned = true;

  // Chunks whose products, 2 * 127 * (2^bits - 1) each, fit 16 bits together; 8 bits: one.
  static constexpr int room(int bits) { return bits <= 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1; }

  template <int BITS, int LAID, int B, int G>
  static INLINE void dot(const uint8_t* codes, const int8_t* x, size_t stride, int tiles,
                         i32s (&sums)[G][B]) {
    constexpr int kRoom = room(BITS) < 8 / G ? room(BITS) : 8 / G;
    const __m256i ones = _mm256_set1_epi16(1), flip = _mm256_set1_epi8(-128);
    __m256i total[G][B];
    for (auto& of : total)
      for (auto& sum : of) sum = _mm256_setzero_si256();
    for (int t = 0; t < tiles; ++t, codes += 64 * LAID, x += kColumns) {
      if (LAID == BITS) fetch<BITS>(codes);
#pragma GCC unroll 8
      for (int c = 0; c < 8; c += kRoom) {
        __m256i narrow[B];
#pragma GCC unroll 8
        for (int next = 0; next < kRoom; ++next) {
          const int k = c + next;
          __m256i here = chunk<LAID>(codes, k);
          if (BITS == 8) here = _mm256_xor_si256(here, flip);
          const __m256i size = BITS == 8 ? _mm256_abs_epi8(here) : here;
          for (int b = 0; b < B; ++b) {
            __m256i columns = four(x + b * stride + 4 * k);
            if (BITS == 8) columns = _mm256_sign_epi8(columns, here);
            const __m256i products = _mm256_maddubs_epi16(size, columns);
            narrow[b] = next == 0 ? products : _mm256_add_epi16(narrow[b], products);
            EDGEWISE_IN_ORDER(narrow[b]);
          }
        }
        auto& of = total[c * G / 8];
        for (int b = 0; b < B; ++b)
          of[b] = _mm256_add_epi32(of[b], _mm256_madd_epi16(narrow[b], ones));
      }
    }
    for (int g = 0; g < G; ++g)
      for (int b = 0; b < B; ++b) sums[g][b] = (i32s)total[g][b];
  }

  // Codes count from their middle, their signs taken by the activations: four chunks' products, 2 * 127 *
  // 2^(bits-1) each, fit 16 bits together up to 6 bits, of 8 bits one.
  template <int BITS, int B, int G>
  static INLINE void kept(const uint8_t* tile, const int8_t* x, size_t stride, i32s (&sums)[G][B]) {
    constexpr int kRoom = BITS == 8 ? 1 : 4;
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256i middle = _mm256_set1_epi8(static_cast<char>(1 << (BITS - 1)));
    __m256i total[G][B] = {};
    fetch<BITS + kWhich>(tile);
#pragma GCC unroll 8
    for (int c = 0; c < 8; c += kRoom) {
      __m256i narrow[B];
#pragma GCC unroll 4
      for (int next = 0; next < kRoom; ++next) {
        const __m256i code = _mm256_sub_epi8(chunk<BITS>(tile, c + next), middle);
        const __m256i size = _mm256_abs_epi8(code), which = columns(tile + 64 * BITS, c + next);
        for (int b = 0; b < B; ++b) {
          const __m256i own = picked(x + b * stride + 8 * (c + next), which);
          const __m256i products = _mm256_maddubs_epi16(size, _mm256_sign_epi8(own, code));
          narrow[b] = next == 0 ? products : _mm256_add_epi16(narrow[b], products);
          EDGEWISE_IN_ORDER(narrow[b]);
        }
      }
      auto& of = total[c * G / 8];
      for (int b = 0; b < B; ++b)
        of[b] = _mm256_add_epi32(of[b], _mm256_madd_epi16(narrow[b], ones));
    }
    for (int g = 0; g < G; ++g)
      for (int b = 0; b < B; ++b) sums[g][b] = (i32s)total[g][b];
  }
#endif

  template <int BITS>
  static INLINE void unpack(const uint8_t* tile, uint8_t* out) {
#pragma GCC unroll 8
    for (int c = 0; c < 8; ++c)
      for (int half = 0; half < 2; ++half)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 64 * c + 32 * half),
                            chunk<BITS>(tile + 32 * half, c));
  }
};

}  // namespace
}  // namespace edgewise
