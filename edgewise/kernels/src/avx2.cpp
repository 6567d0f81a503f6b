// AVX2: 16 rows in two registers. Without a dot product of bytes, codes of up to 6 bits are summed
// in 16 bits as long as that cannot overflow; those of 8 bits take their sign with them.
#include "target.h"

#if defined(__x86_64__)
#include <immintrin.h>
EDGEWISE_TARGET("avx2,fma")
#define EDGEWISE_LANES 8
#define EDGEWISE_NEAREST(x, lowest, highest) \
  (f32s) _mm256_min_ps(_mm256_max_ps(_mm256_round_ps(x, 0), lowest), highest)
#include "block.h"

namespace edgewise {
namespace {

struct Avx2 {
  static constexpr bool kSigned = true;

  template <int P, int SHIFT>
  static INLINE __m256i field(const uint8_t* plane, int chunk, int half) {
    constexpr int kFields = 8 / P;
    const __m256i codes = _mm256_loadu_si256(
        reinterpret_cast<const __m256i*>(plane + 64 * (chunk / kFields) + 32 * half));
    if (P == 8) return codes;
    const int from = chunk % kFields * P;
    const __m256i moved = from >= SHIFT ? _mm256_srli_epi16(codes, from - SHIFT)
                                        : _mm256_slli_epi16(codes, SHIFT - from);
    return _mm256_and_si256(moved, _mm256_set1_epi8(static_cast<char>(((1 << P) - 1) << SHIFT)));
  }

  template <int BITS>
  static INLINE __m256i chunk(const uint8_t* tile, int number, int half) {
    constexpr int kLow = BITS == 8 ? 8 : BITS >= 4 ? 4 : 2, kHigh = BITS - kLow;
    __m256i codes = field<kLow, 0>(tile, number, half);
    if constexpr (kHigh > 0)
      codes = _mm256_or_si256(codes, field<kHigh, kLow>(tile + 64 * kLow, number, half));
    return codes;
  }

  static INLINE __m256i four(const int8_t* x) {
    int32_t columns;
    memcpy(&columns, x, sizeof columns);
    return _mm256_set1_epi32(columns);
  }

  // Chunks whose products, 2 * 127 * (2^bits - 1) each, fit 16 bits together; 8 bits: one.
  template <int BITS>
  static constexpr int room() {
    return BITS <= 4 ? 8 : BITS == 5 ? 4 : BITS == 6 ? 2 : 1;
  }

  template <int BITS, int B, int G>
  static INLINE void dot(const uint8_t* codes, const int8_t* const* x, int tiles,
                         i32x16 (&sums)[G][B]) {
    constexpr int kRoom = room<BITS>() < 8 / G ? room<BITS>() : 8 / G;
    const __m256i ones = _mm256_set1_epi16(1), flip = _mm256_set1_epi8(-128);
    for (int half = 0; half < 2; ++half) {
      __m256i wide[G][B];
      for (auto& sums_of : wide)
        for (auto& sum : sums_of) sum = _mm256_setzero_si256();
      const uint8_t* tile = codes;
      for (int t = 0; t < tiles; ++t, tile += 64 * BITS) {
        for (int c = 0; c < 8; c += kRoom) {
          auto& total = wide[c * G / 8];
          __m256i narrow[B];
          for (auto& sum : narrow) sum = _mm256_setzero_si256();
          for (int next = 0; next < kRoom; ++next) {
            const int k = c + next;
            __m256i here = chunk<BITS>(tile, k, half);
            if (BITS == 8) here = _mm256_xor_si256(here, flip);
            const __m256i size = BITS == 8 ? _mm256_abs_epi8(here) : here;
            for (int b = 0; b < B; ++b) {
              __m256i columns = four(x[b] + t * kColumns + 4 * k);
              if (BITS == 8) columns = _mm256_sign_epi8(columns, here);
              narrow[b] = _mm256_add_epi16(narrow[b], _mm256_maddubs_epi16(size, columns));
            }
          }
          for (int b = 0; b < B; ++b)
            total[b] = _mm256_add_epi32(total[b], _mm256_madd_epi16(narrow[b], ones));
        }
      }
      for (int g = 0; g < G; ++g)
        for (int b = 0; b < B; ++b) {
          int32_t part[8];
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(part), wide[g][b]);
          for (int i = 0; i < 8; ++i) sums[g][b][8 * half + i] += part[i];
        }
    }
  }

  template <int BITS>
  static INLINE void unpack(const uint8_t* tile, uint8_t* out) {
#pragma GCC unroll 8
    for (int c = 0; c < 8; ++c)
      for (int half = 0; half < 2; ++half)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 64 * c + 32 * half),
                            chunk<BITS>(tile, c, half));
  }
};

const Table* make() { return table<Avx2>("avx2"); }

}  // namespace
}  // namespace edgewise
EDGEWISE_TARGET_END

const edgewise::Table* edgewise::avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? make() : nullptr;
}
#else
const edgewise::Table* edgewise::avx2() { return nullptr; }
#endif
