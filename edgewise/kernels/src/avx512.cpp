// AVX-512 with VNNI: 16 rows are the 16 lanes of a register, four columns of each at a time.
#include "target.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define EDGEWISE_AVX512 "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma"
EDGEWISE_TARGET(EDGEWISE_AVX512)
#define EDGEWISE_INT8(from) (f32s) _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load<__m128i>(from)))
#define EDGEWISE_FP16(from) (f32s) _mm512_cvtph_ps(load<__m256i>(from))
#define EDGEWISE_LANES 16
#define EDGEWISE_NEAREST(x, lowest, highest)                                          \
  (f32s) _mm512_min_ps(_mm512_max_ps(_mm512_roundscale_ps(x, 0), lowest), highest)
#include "block.h"

namespace edgewise {
namespace {

struct Avx512 {
  static constexpr bool kSigned = false;
  static constexpr int kTogether = 8;
  static constexpr bool kUnpacks = false;

  static INLINE __m512i at(const uint8_t* codes) { return _mm512_loadu_si512(codes); }

  static INLINE __m512i four(const int8_t* x) {
    int32_t columns;
    memcpy(&columns, x, sizeof columns);
    return _mm512_set1_epi32(columns);
  }

  static INLINE __m512i mask(int bits, int at) {
    return _mm512_set1_epi8(static_cast<char>(((1 << bits) - 1) << at));
  }

  // Field `from` of every byte at the place `to`, the bits beside it left over.
  static INLINE __m512i moved(__m512i codes, int from, int to) {
    if (from == to) return codes;
    return from > to ? _mm512_srli_epi16(codes, from - to) : _mm512_slli_epi16(codes, to - from);
  }

  template <int BITS>
  static INLINE __m512i chunk(const uint8_t* tile, int number) {
    constexpr int kLow = BITS == 8 ? 8 : BITS >= 4 ? 4 : 2, kHigh = BITS - kLow;
    constexpr int kFields = 8 / kLow;
    const __m512i low = at(tile + 64 * (number / kFields));
    if (BITS == 8) return low;
    const __m512i codes =
        _mm512_and_si512(moved(low, number % kFields * kLow, 0), mask(kLow, 0));
    if constexpr (kHigh > 0) {
      constexpr int kHighs = 8 / kHigh;
      const __m512i high = at(tile + 64 * (kLow + number / kHighs));
      const __m512i above = moved(high, number % kHighs * kHigh, kLow);
      return _mm512_ternarylogic_epi32(codes, above, mask(kHigh, kLow), 0xf8);  // a | b & c
    }
    return codes;
  }

  // Lines are fetched a little ahead, which keeps the processor's own fetching going; further ahead
  // the two get in each other's way, but where lines are used up slowly, it pays.
  template <bool SLOWLY>
  static INLINE void fetch(const uint8_t* line) {
    _mm_prefetch(reinterpret_cast<const char*>(line + (SLOWLY ? 8192 : 512)), _MM_HINT_T1);
  }

  // One token and a single plane: codes are left where they lie in their bytes, with a sum for every
  // place.
  template <int P>
  static INLINE i32s places(const uint8_t* codes, const int8_t* x, int lines) {
    constexpr int kFields = 8 / P;
    __m512i sum[kFields] = {};
    for (int line = 0; line < lines; ++line, codes += 64) {
      const __m512i here = at(codes);
      fetch<false>(codes);
#pragma GCC unroll 8
      for (int f = 0; f < kFields; ++f) {
        const __m512i field = P == 8 ? here : _mm512_and_si512(here, mask(P, P * f));
        sum[f] = _mm512_dpbusd_epi32(sum[f], field, four(x + 4 * (line * kFields + f)));
      }
    }
    __m512i total = sum[0];
#pragma GCC unroll 8
    for (int f = 1; f < kFields; ++f)
      total = _mm512_add_epi32(total, _mm512_srai_epi32(sum[f], P * f));
    return (i32s)total;
  }

  template <int BITS, int LAID, int B, int G>
  static INLINE void dot(const uint8_t* codes, const int8_t* x, size_t stride, int tiles,
                         i32s (&sums)[G][B]) {
    if constexpr (B == 1 && LAID == BITS && (BITS == 2 || BITS == 4 || BITS == 8)) {
      const int lines = tiles * BITS / G;
      for (int g = 0; g < G; ++g)
        sums[g][0] = places<BITS>(codes + 64 * lines * g, x + kColumns / G * g, lines);
      return;
    }
    constexpr int kParts = B == 1 ? 4 : G;  // of a sum, so that none waits for the one before
    __m512i part[B][kParts] = {};
    for (int tile = 0; tile < tiles; ++tile, codes += 64 * LAID, x += kColumns) {
      if (LAID == BITS)
        for (int line = 0; line < BITS; ++line) fetch<BITS == 3>(codes + 64 * line);
#pragma GCC unroll 8
      for (int c = 0; c < 8; ++c) {
        const __m512i here = chunk<LAID>(codes, c);
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) {
          const int at = G == 1 ? c % kParts : c / 4 + c % (kParts / G) * G;
          part[b][at] = _mm512_dpbusd_epi32(part[b][at], here, four(x + b * stride + 4 * c));
        }
      }
    }
    for (int b = 0; b < B; ++b) {
      for (int i = G; i < kParts; ++i)
        part[b][i % G] = _mm512_add_epi32(part[b][i % G], part[b][i]);
      for (int g = 0; g < G; ++g) sums[g][b] = (i32s)part[b][g];
    }
  }

  // Which of 8 columns the codes of a chunk of kept ones belong to: bytes that pick them.
  static INLINE __m512i columns(const uint8_t* which, int number) {
    const __m512i index = moved(at(which + 64 * (number / 4)), number % 4 * kWhich, 0);
    const __m512i second = _mm512_set1_epi32(0x04040000);  // two codes of each four columns
    return _mm512_ternarylogic_epi32(index, mask(kWhich, 0), second, 0xea);  // a & b | c
  }

  static INLINE __m512i eight(const int8_t* x) {
    int64_t columns;
    memcpy(&columns, x, sizeof columns);
    return _mm512_set1_epi64(columns);
  }

  template <int BITS, int B, int G>
  static INLINE void kept(const uint8_t* tile, const int8_t* x, size_t stride, i32s (&sums)[G][B]) {
    constexpr int kChunks = 8 / G;
    for (int line = 0; line < BITS + kWhich; ++line) fetch<true>(tile + 64 * line);
#pragma GCC unroll 2
    for (int g = 0; g < G; ++g) {
      __m512i products[B] = {}, picked[B] = {};  // the latter: what the codes' middle is multiplied with
#pragma GCC unroll 8
      for (int c = g * kChunks; c < (g + 1) * kChunks; ++c) {
        const __m512i here = chunk<BITS>(tile, c), which = columns(tile + 64 * BITS, c);
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) {
          const __m512i own = _mm512_shuffle_epi8(eight(x + b * stride + 8 * c), which);
          products[b] = _mm512_dpbusd_epi32(products[b], here, own);
          picked[b] = _mm512_dpbusd_epi32(picked[b], _mm512_set1_epi8(1), own);
        }
      }
      for (int b = 0; b < B; ++b)
        sums[g][b] =
            (i32s)_mm512_sub_epi32(products[b], _mm512_slli_epi32(picked[b], BITS - 1));
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
