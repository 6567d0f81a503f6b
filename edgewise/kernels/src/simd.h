// Sixteen numbers at a time, through the compilers' own vector types: one source for every
// instruction set. Included after a file has chosen its target; everything is private to it.
#pragma once
#include <cstdint>
#include <cstring>

namespace edgewise {
namespace {

#define INLINE inline __attribute__((always_inline))

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef int16_t i16x16 __attribute__((vector_size(32)));
typedef int8_t i8x16 __attribute__((vector_size(16)));
typedef uint8_t u8x16 __attribute__((vector_size(16)));

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

INLINE f32x16 bf16(const uint16_t* from) {
  const u32x16 wide = __builtin_convertvector(load<u16x16>(from), u32x16) << 16;
  return (f32x16)wide;
}

// To the nearest, ties to even.
INLINE u16x16 to_bf16(f32x16 x) {
  const u32x16 bits = (u32x16)x;
  return __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, u16x16);
}

INLINE f32x16 choose(i32x16 which, f32x16 yes, f32x16 no) {
  return (f32x16)((which & (i32x16)yes) | (~which & (i32x16)no));
}

INLINE f32x16 all(float x) { return x - (f32x16){}; }

// Small whole numbers: by an instruction where EDGEWISE_INT8 names it, else in two steps: compilers
// take a single one number by number.
INLINE f32x16 int8(const int8_t* from) {
#if defined(EDGEWISE_INT8)
  return EDGEWISE_INT8(from);
#endif
  const i16x16 wide = __builtin_convertvector(load<i8x16>(from), i16x16);
  return __builtin_convertvector(__builtin_convertvector(wide, i32x16), f32x16);
}

// Numbers of 16 bits with 5 of exponent: by an instruction where EDGEWISE_FP16 names it. Else
// scaling by a power of two moves the exponent's bias, and makes of subnormal numbers what they are.
INLINE f32x16 fp16(const uint16_t* from) {
#if defined(EDGEWISE_FP16)
  return EDGEWISE_FP16(from);
#endif
  const u32x16 wide = __builtin_convertvector(load<u16x16>(from), u32x16);
  const f32x16 size = (f32x16)((wide & 0x7fff) << 13) * 0x1p112f;
  return (f32x16)((u32x16)size | (wide & 0x8000) << 16);
}

// To the nearest, ties to even; beyond the largest one, that one.
INLINE u16x16 to_fp16(f32x16 x) {
  const u32x16 sign = (u32x16)x >> 16 & 0x8000;
  f32x16 size = (f32x16)((u32x16)x & 0x7fffffff);
  size = choose(size > 65504.0f, all(65504.0f), size);
  const u32x16 bits = (u32x16)size;
  const u32x16 normal = (bits + 0xc8000fff + (bits >> 13 & 1)) >> 13;  // the bias less 112, rounded
  const u32x16 small = (u32x16)(size + 0.5f) - (u32x16)all(0.5f);      // counts steps of 2^-24
  const u32x16 found = (u32x16)choose(size < 0x1p-14f, (f32x16)small, (f32x16)normal);
  return __builtin_convertvector(found | sign, u16x16);
}

INLINE f32x16 larger(f32x16 a, f32x16 b) { return choose(a > b, a, b); }

INLINE f32x16 absolute(f32x16 x) { return (f32x16)((i32x16)x & 0x7fffffff); }

INLINE float sum(f32x16 x) {
  float part[16];
  store(part, x);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) part[i] += part[i + half];
  return part[0];
}

INLINE int32_t sum(i32x16 x) {
  int32_t total = 0;
  for (int i = 0; i < 16; ++i) total += x[i];
  return total;
}

INLINE float largest(f32x16 x) {
  float found = x[0];
  for (int i = 1; i < 16; ++i) found = x[i] > found ? x[i] : found;
  return found;
}

// To the nearest, ties to even, for |x| < 2^22.
INLINE i32x16 rounded(f32x16 x) {
  const f32x16 magic = all(12582912.0f);
  return (i32x16)(x + magic) - (i32x16)magic;
}

// e^x to about 2e-7, relative: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2].
INLINE f32x16 exponential(f32x16 x) {
  x = choose(x > 88.0f, all(88.0f), choose(x < -87.0f, all(-87.0f), x));
  const i32x16 n = rounded(x * 1.44269504f);
  const f32x16 whole = __builtin_convertvector(n, f32x16);
  const f32x16 r = x - whole * 0.693359375f - whole * -2.12194440e-4f;
  f32x16 p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * (f32x16)((n + 127) << 23);
}

}  // namespace
}  // namespace edgewise
