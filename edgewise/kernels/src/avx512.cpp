// AVX-512 with VNNI: 16 rows are the 16 lanes of a register, four columns of each at a time.
#include "target.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define EDGEWISE_AVX512 "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma"
EDGEWISE_TARGET(EDGEWISE_AVX512)
#include "block.h"

namespace edgewise {
namespace {

struct Avx512 {
  static constexpr bool kSigned = false;

  static INLINE __m512i at(const uint8_t* codes) { return _mm512_loadu_si512(codes); }

  static INLINE __m512i four(const int8_t* x) {
    int32_t columns;
    memcpy(&columns, x, sizeof columns);
    return _mm512_set1_epi32(columns);
  }

  // Codes of chunk `chunk` in a plane of P bits, moved to `shift`.
  template <int P, int SHIFT>
  static INLINE __m512i field(const uint8_t* plane, int chunk) {
    constexpr int kFields = 8 / P;
    const __m512i codes = at(plane + 64 * (chunk / kFields));
    if (P == 8) return codes;
    const int from = chunk % kFields * P;
    const __m512i moved = from >= SHIFT ? _mm512_srli_epi16(codes, from - SHIFT)
                                        : _mm512_slli_epi16(codes, SHIFT - from);
    return _mm512_and_si512(moved, _mm512_set1_epi8(static_cast<char>(((1 << P) - 1) << SHIFT)));
  }

  template <int BITS>
  static INLINE __m512i chunk(const uint8_t* tile, int number) {
    constexpr int kLow = BITS == 8 ? 8 : BITS >= 4 ? 4 : 2, kHigh = BITS - kLow;
    __m512i codes = field<kLow, 0>(tile, number);
    if constexpr (kHigh > 0)
      codes = _mm512_or_si512(codes, field<kHigh, kLow>(tile + 64 * kLow, number));
    return codes;
  }

  // One token: codes are left where they lie in their bytes, a sum for every place.
  template <int P>
  static INLINE void places(const uint8_t* plane, const int8_t* x, __m512i (&sum)[8 / P]) {
    constexpr int kFields = 8 / P;
#pragma GCC unroll 8
    for (int v = 0; v < P; ++v) {
      const __m512i codes = at(plane + 64 * v);
#pragma GCC unroll 8
      for (int f = 0; f < kFields; ++f) {
        const __m512i mask = _mm512_set1_epi8(static_cast<char>(((1 << P) - 1) << (P * f)));
        const __m512i here = P == 8 ? codes : _mm512_and_si512(codes, mask);
        sum[f] = _mm512_dpbusd_epi32(sum[f], here, four(x + 4 * (v * kFields + f)));
      }
    }
  }

  template <int P>
  static INLINE __m512i folded(const __m512i (&sum)[8 / P]) {
    __m512i total = sum[0];
#pragma GCC unroll 8
    for (int f = 1; f < 8 / P; ++f)
      total = _mm512_add_epi32(total, _mm512_srai_epi32(sum[f], P * f));
    return total;
  }

  template <int BITS>
  static INLINE __m512i one(const uint8_t* codes, const int8_t* x, int tiles) {
    constexpr int kLow = BITS == 8 ? 8 : BITS >= 4 ? 4 : 2, kHigh = BITS - kLow;
    constexpr int kPlane = kHigh > 0 ? kHigh : 1;
    __m512i low[8 / kLow], high[8 / kPlane];
    for (auto& sum : low) sum = _mm512_setzero_si512();
    for (auto& sum : high) sum = _mm512_setzero_si512();
    for (int tile = 0; tile < tiles; ++tile, x += kColumns) {
      _mm_prefetch(reinterpret_cast<const char*>(codes + 4096), _MM_HINT_T0);
      places<kLow>(codes, x, low);
      codes += 64 * kLow;
      if constexpr (kHigh > 0) {
        places<kPlane>(codes, x, high);
        codes += 64 * kPlane;
      }
    }
    __m512i total = folded<kLow>(low);
    if constexpr (kHigh > 0)
      total = _mm512_add_epi32(total, _mm512_slli_epi32(folded<kPlane>(high), kLow));
    return total;
  }

  template <int BITS, int B>
  static INLINE void dot(const uint8_t* codes, const int8_t* const* x, int tiles,
                         i32x16 (&sums)[B]) {
    if constexpr (B == 1) {
      sums[0] += (i32x16)one<BITS>(codes, x[0], tiles);
      return;
    }
    for (int tile = 0; tile < tiles; ++tile, codes += 64 * BITS) {
#pragma GCC unroll 8
      for (int c = 0; c < 8; ++c) {
        const __m512i here = chunk<BITS>(codes, c);
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b)
          sums[b] = (i32x16)_mm512_dpbusd_epi32((__m512i)sums[b], here,
                                                four(x[b] + tile * kColumns + 4 * c));
      }
    }
  }

  template <int BITS>
  static INLINE void unpack(const uint8_t* tile, uint8_t* out) {
#pragma GCC unroll 8
    for (int c = 0; c < 8; ++c) _mm512_storeu_si512(out + 64 * c, chunk<BITS>(tile, c));
  }
};

const Table* make() { return table<Avx512>("avx512-vnni"); }

}  // namespace
}  // namespace edgewise
EDGEWISE_TARGET_END

const edgewise::Table* edgewise::avx512() {
  const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                   __builtin_cpu_supports("avx512vnni");
  return has ? make() : nullptr;
}
#else
const edgewise::Table* edgewise::avx512() { return nullptr; }
#endif
