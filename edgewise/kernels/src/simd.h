// As many numbers at a time as a register of the target holds, kLanes, through the compilers' own
// vector types: one source for every instruction set. Wider vectors would go through memory. A
// target's file says in EDGEWISE_LANES how many, and in EDGEWISE_INT8, EDGEWISE_FP16,
// EDGEWISE_BF16 and EDGEWISE_NEAREST names instructions where it has them. Included after that file has chosen its
// target; everything is private to it. The 16 rows of a tile are kSlices slices of kLanes.
#pragma once
#include <cstdint>
#include <cstring>
#include <utility>

#include "matrix.h"

#if !defined(EDGEWISE_LANES)
#define EDGEWISE_LANES 4
#endif

namespace edgewise {
namespace {

#define INLINE inline __attribute__((always_inline))

constexpr int kLanes = EDGEWISE_LANES, kSlices = kRows / kLanes;
typedef float f32s __attribute__((vector_size(4 * EDGEWISE_LANES)));
typedef int32_t i32s __attribute__((vector_size(4 * EDGEWISE_LANES)));
typedef uint32_t u32s __attribute__((vector_size(4 * EDGEWISE_LANES)));
typedef uint16_t u16s __attribute__((vector_size(2 * EDGEWISE_LANES)));
typedef int16_t i16s __attribute__((vector_size(2 * EDGEWISE_LANES)));
typedef int8_t i8s __attribute__((vector_size(EDGEWISE_LANES)));
typedef uint8_t u8s __attribute__((vector_size(EDGEWISE_LANES)));

template <class T>
INLINE T load(const void* from) {
  T x;
  memcpy(&x, from, sizeof x);
  return x;
}

template <class T>
INLINE void store(void* to, T x) {
  memcpy(to, &x, sizeof x);
}

// The first numbers from `x` on: those beyond `count` are zero.
INLINE f32s at_most(const float* x, int count) {
  if (count >= kLanes) return load<f32s>(x);
  float some[kLanes] = {};
  for (int i = 0; i < count; ++i) some[i] = x[i];
  return load<f32s>(some);
}

INLINE f32s every(float x) { return x - (f32s){}; }

INLINE f32s pick(i32s which, f32s yes, f32s no) {
  return (f32s)((which & (i32s)yes) | (~which & (i32s)no));
}

INLINE f32s lower_of(f32s a, f32s b) { return pick(a < b, a, b); }

INLINE f32s higher_of(f32s a, f32s b) { return pick(a > b, a, b); }

INLINE f32s absolute(f32s x) { return (f32s)((u32s)x & 0x7fffffff); }

INLINE f32s bf16(const uint16_t* from) {
#if defined(EDGEWISE_BF16)
  return EDGEWISE_BF16(from);
#else
  return (f32s)(__builtin_convertvector(load<u16s>(from), u32s) << 16);
#endif
}

// To the nearest, ties to even.
INLINE u16s to_bf16(f32s x) {
  const u32s bits = (u32s)x;
  return __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, u16s);
}

// Small whole numbers: in two steps, as compilers take a single one number by number.
INLINE f32s int8(const int8_t* from) {
#if defined(EDGEWISE_INT8)
  return EDGEWISE_INT8(from);
#else
  const i16s wide = __builtin_convertvector(load<i8s>(from), i16s);
  return __builtin_convertvector(__builtin_convertvector(wide, i32s), f32s);
#endif
}

INLINE f32s uint8(const uint8_t* from) {
  const u16s wide = __builtin_convertvector(load<u8s>(from), u16s);
  return __builtin_convertvector(__builtin_convertvector(wide, i32s), f32s);
}

// Numbers of 16 bits with 5 of exponent. Scaling by a power of two moves the exponent's bias, and
// makes of subnormal numbers what they are.
INLINE f32s fp16(const uint16_t* from) {
#if defined(EDGEWISE_FP16)
  return EDGEWISE_FP16(from);
#else
  const u32s wide = __builtin_convertvector(load<u16s>(from), u32s);
  const f32s size = (f32s)((wide & 0x7fff) << 13) * 0x1p112f;
  return (f32s)((u32s)size | (wide & 0x8000) << 16);
#endif
}

// To the nearest, ties to even; beyond the largest one, that one.
INLINE u16s to_fp16(f32s x) {
  const u32s sign = (u32s)x >> 16 & 0x8000;
  const f32s size = lower_of(absolute(x), every(65504.0f));
  const u32s bits = (u32s)size;
  const u32s normal = (bits + 0xc8000fff + (bits >> 13 & 1)) >> 13;  // the bias less 112, rounded
  const u32s small = (u32s)(size + 0.5f) - (u32s)every(0.5f);        // counts steps of 2^-24
  const u32s found = (u32s)pick(size < 0x1p-14f, (f32s)small, (f32s)normal);
  return __builtin_convertvector(found | sign, u16s);
}

// Halves added to each other, in registers.
INLINE float sum(f32s x) {
  typedef float f32x4 __attribute__((vector_size(16)));
#if EDGEWISE_LANES == 16
  typedef float f32x8 __attribute__((vector_size(32)));
  const f32x8 eight = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
                      __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
#elif EDGEWISE_LANES == 8
  const f32s eight = x;
#endif
#if EDGEWISE_LANES > 4
  const f32x4 four = __builtin_shufflevector(eight, eight, 0, 1, 2, 3) +
                     __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
#else
  const f32x4 four = x;
#endif
  const f32x4 two = four + __builtin_shufflevector(four, four, 2, 3, 2, 3);
  return two[0] + two[1];
}

// Lanes of a and b in turn, within each four of them: from their first or second halves.
template <int HALF, int... I>
INLINE f32s zipped(f32s a, f32s b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (I / 4 * 4 + I % 4 / 2 + 2 * HALF + I % 2 * kLanes)...);
}

// Every second piece of SIZE lanes of a, and of b, in turn: the first ones, or the second.
template <int SIZE, int HALF, int... I>
INLINE f32s dealt(f32s a, f32s b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(
      a, b, (I / SIZE % 2 ? I - SIZE * !HALF + kLanes : I + SIZE * HALF)...);
}

// Swaps pieces of SIZE lanes across the diagonal, and then larger ones.
template <int SIZE>
INLINE void swap_pieces(f32s (&x)[kLanes]) {
  if constexpr (SIZE < kLanes) {
    constexpr std::make_integer_sequence<int, kLanes> lanes;
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i)
      if (!(i & SIZE)) {
        const f32s a = x[i], b = x[i + SIZE];
        x[i] = dealt<SIZE, 0>(a, b, lanes);
        x[i + SIZE] = dealt<SIZE, 1>(a, b, lanes);
      }
    swap_pieces<2 * SIZE>(x);
  }
}

// x[i][k] becomes x[k][i]: fours by fours, then their places.
INLINE void transpose(f32s (&x)[kLanes]) {
  constexpr std::make_integer_sequence<int, kLanes> lanes;
#pragma GCC unroll 4
  for (int i = 0; i < kLanes; i += 4) {
    const f32s a = zipped<0>(x[i], x[i + 2], lanes), b = zipped<1>(x[i], x[i + 2], lanes);
    const f32s c = zipped<0>(x[i + 1], x[i + 3], lanes), d = zipped<1>(x[i + 1], x[i + 3], lanes);
    x[i] = zipped<0>(a, c, lanes), x[i + 1] = zipped<1>(a, c, lanes);
    x[i + 2] = zipped<0>(b, d, lanes), x[i + 3] = zipped<1>(b, d, lanes);
  }
  swap_pieces<4>(x);
}

INLINE int32_t sum(i32s x) {
  int32_t total = 0;
  for (int i = 0; i < kLanes; ++i) total += x[i];
  return total;
}

INLINE float largest(f32s x) {
  float found = x[0];
  for (int i = 1; i < kLanes; ++i) found = x[i] > found ? x[i] : found;
  return found;
}

// To the nearest, ties to even, for |x| < 2^22.
INLINE i32s rounded(f32s x) {
  const f32s magic = every(12582912.0f);
  return (i32s)(x + magic) - (i32s)magic;
}

// The nearest whole numbers in [lowest, highest], which are below 2^22; ties to even.
INLINE f32s nearest(f32s x, f32s lowest, f32s highest) {
#if defined(EDGEWISE_NEAREST)
  return EDGEWISE_NEAREST(x, lowest, highest);
#else
  return __builtin_convertvector(rounded(lower_of(higher_of(x, lowest), highest)), f32s);
#endif
}

// The bf16 number `by` steps away from the nearest one, ties to even; one way is away from zero.
INLINE f32s near_bf16(f32s x, int by) {
  const u32s bits = (u32s)x;
  const u32s near = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000;
  return (f32s)(near + static_cast<uint32_t>(by) * 0x10000u);
}

// 1 / x; 0 where that is beyond all numbers.
INLINE f32s reciprocal(f32s x) {
  const i32s tiny = absolute(x) < 1e-38f;
  return pick(tiny, every(0.0f), 1.0f / pick(tiny, every(1.0f), x));
}

// e^x to about 2e-7, relative: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2].
INLINE f32s exponential(f32s x) {
  x = lower_of(higher_of(x, every(-87.0f)), every(88.0f));
  const i32s n = rounded(x * 1.44269504f);
  const f32s whole = __builtin_convertvector(n, f32s);
  const f32s r = x - whole * 0.693359375f - whole * -2.12194440e-4f;
  f32s p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * (f32s)((n + 127) << 23);
}

}  // namespace
}  // namespace edgewise
