// NEON with the dot-product instructions, and where EDGEWISE_I8MM is defined with products of 2 x 8 by
// 8 x 2 bytes: 4 rows in a register, so a tile is four slices. Included after a file has chosen its
// target.
#pragma once
#include <arm_neon.h>
#define EDGEWISE_NEAREST(x, lowest, highest) \
  (f32s) vminq_f32(vmaxq_f32(vrndnq_f32(x), lowest), highest)
#include "block.h"

namespace edgewise {
namespace {

struct Neon {
  static constexpr bool kSigned = true;
  static constexpr int kTogether = 8;
  static constexpr bool kUnpacks = true;

  template <int P, int SHIFT>
  static INLINE uint8x16_t field(const uint8_t* plane, int chunk) {
    constexpr int kFields = 8 / P;
    const uint8x16_t codes = vld1q_u8(plane + 64 * (chunk / kFields));
    if (P == 8) return codes;
    const int by = SHIFT - chunk % kFields * P;  // negative: to the right
    const uint8x16_t moved = vshlq_u8(codes, vdupq_n_s8(static_cast<int8_t>(by)));
    return vandq_u8(moved, vdupq_n_u8(static_cast<uint8_t>(((1 << P) - 1) << SHIFT)));
  }

  template <int BITS>
  static INLINE uint8x16_t chunk(const uint8_t* tile, int number) {
    constexpr int kLow = BITS == 8 ? 8 : BITS >= 4 ? 4 : 2, kHigh = BITS - kLow;
    uint8x16_t codes = field<kLow, 0>(tile, number);
    if constexpr (kHigh > 0)
      codes = vorrq_u8(codes, field<kHigh, kLow>(tile + 64 * kLow, number));
    return codes;
  }

  // A slice's codes of four columns, as signed numbers.
  template <int BITS, int LAID>
  static INLINE int8x16_t codes_of(const uint8_t* tile, int number) {
    const uint8x16_t raw = chunk<LAID>(tile, number);
    return vreinterpretq_s8_u8(BITS == 8 ? veorq_u8(raw, vdupq_n_u8(0x80)) : raw);
  }

  template <int BITS, int LAID, int B, int G>
  static INLINE void dot(const uint8_t* codes, const int8_t* x, size_t stride, int tiles,
                         i32s (&sums)[G][B]) {
#if defined(EDGEWISE_I8MM)
    if constexpr (B % 2 == 0) return by_pairs<BITS, LAID, B, G>(codes, x, stride, tiles, sums);
#endif
    int32x4_t total[G][B];
    for (auto& of : total)
      for (auto& sum : of) sum = vdupq_n_s32(0);
    for (int t = 0; t < tiles; ++t, codes += 64 * LAID, x += kColumns)
#pragma GCC unroll 8
      for (int c = 0; c < 8; ++c) {
        const int8x16_t here = codes_of<BITS, LAID>(codes, c);
        for (int b = 0; b < B; ++b) {
          int32_t columns;
          memcpy(&columns, x + b * stride + 4 * c, sizeof columns);
          int32x4_t& sum = total[c * G / 8][b];
          sum = vdotq_s32(sum, here, vreinterpretq_s8_s32(vdupq_n_s32(columns)));
        }
      }
    for (int g = 0; g < G; ++g)
      for (int b = 0; b < B; ++b) sums[g][b] = (i32s)total[g][b];
  }

#if defined(EDGEWISE_I8MM)
  // The same for pairs of tokens: two rows' eight columns times two tokens' at a time.
  template <int BITS, int LAID, int B, int G>
  static INLINE void by_pairs(const uint8_t* codes, const int8_t* x, size_t stride, int tiles,
                              i32s (&sums)[G][B]) {
    int32x4_t total[G][B / 2][2] = {};  // of rows 0 and 1, and 2 and 3: row by row, both tokens
    for (int t = 0; t < tiles; ++t, codes += 64 * LAID, x += kColumns)
#pragma GCC unroll 4
      for (int c = 0; c < 8; c += 2) {
        const int32x4_t left = vreinterpretq_s32_s8(codes_of<BITS, LAID>(codes, c));
        const int32x4_t right = vreinterpretq_s32_s8(codes_of<BITS, LAID>(codes, c + 1));
        const int8x16_t upper = vreinterpretq_s8_s32(vzip1q_s32(left, right));
        const int8x16_t lower = vreinterpretq_s8_s32(vzip2q_s32(left, right));
        for (int pair = 0; pair < B / 2; ++pair) {
          const int8_t* first = x + 2 * pair * stride + 4 * c;
          const int8x16_t columns = vcombine_s8(vld1_s8(first), vld1_s8(first + stride));
          auto& of = total[c * G / 8][pair];
          of[0] = vmmlaq_s32(of[0], upper, columns);
          of[1] = vmmlaq_s32(of[1], lower, columns);
        }
      }
    for (int g = 0; g < G; ++g)
      for (int b = 0; b < B; ++b) {
        const auto& of = total[g][b / 2];
        sums[g][b] = (i32s)(b % 2 ? vuzp2q_s32(of[0], of[1]) : vuzp1q_s32(of[0], of[1]));
      }
  }
#endif

  template <int BITS, int B, int G>
  static INLINE void kept(const uint8_t* tile, const int8_t* x, size_t stride, i32s (&sums)[G][B]) {
    const uint8x16_t middle = vdupq_n_u8(1 << (BITS - 1));
    const uint8x16_t second = vreinterpretq_u8_u32(vdupq_n_u32(0x04040000));  // two codes of each four
    int32x4_t total[G][B];
    for (auto& of : total)
      for (auto& sum : of) sum = vdupq_n_s32(0);
#pragma GCC unroll 8
    for (int c = 0; c < 8; ++c) {
      const int8x16_t here = vreinterpretq_s8_u8(vsubq_u8(chunk<BITS>(tile, c), middle));
      const uint8x16_t which = vorrq_u8(field<kWhich, 0>(tile + 64 * BITS, c), second);
      for (int b = 0; b < B; ++b) {
        const int8x8_t columns = vld1_s8(x + b * stride + 8 * c);
        int32x4_t& sum = total[c * G / 8][b];
        sum = vdotq_s32(sum, here, vqtbl1q_s8(vcombine_s8(columns, columns), which));
      }
    }
    for (int g = 0; g < G; ++g)
      for (int b = 0; b < B; ++b) sums[g][b] = (i32s)total[g][b];
  }

  template <int BITS>
  static INLINE void unpack(const uint8_t* tile, uint8_t* out) {
#pragma GCC unroll 8
    for (int c = 0; c < 8; ++c)
      for (int quarter = 0; quarter < 4; ++quarter)
        vst1q_u8(out + 64 * c + 16 * quarter, chunk<BITS>(tile + 16 * quarter, c));
  }
};

}  // namespace
}  // namespace edgewise
