// As many numbers as a register of the target holds, EDGEWISE_LANES: for work on rows that never meet,
// where sixteen at a time would not leave enough registers. The rows of a tile are so many slices. Included after a file has chosen its
// target; everything is private to it.
#pragma once
#include "matrix.h"
#include "simd.h"

#if !defined(EDGEWISE_LANES)
#define EDGEWISE_LANES 4
#endif

namespace edgewise {
namespace {

constexpr int kLanes = EDGEWISE_LANES, kSlices = kRows / kLanes;
typedef float f32s __attribute__((vector_size(4 * EDGEWISE_LANES)));
typedef int32_t i32s __attribute__((vector_size(4 * EDGEWISE_LANES)));
typedef uint32_t u32s __attribute__((vector_size(4 * EDGEWISE_LANES)));
typedef uint16_t u16s __attribute__((vector_size(2 * EDGEWISE_LANES)));
typedef int16_t i16s __attribute__((vector_size(2 * EDGEWISE_LANES)));
typedef int8_t i8s __attribute__((vector_size(EDGEWISE_LANES)));

INLINE f32s every(float x) { return x - (f32s){}; }

INLINE f32s bf16_lanes(const uint16_t* from) {
  return (f32s)(__builtin_convertvector(load<u16s>(from), u32s) << 16);
}

// The same as `int8` and `fp16` in simd.h, by instructions where these macros name them.
INLINE f32s int8_lanes(const int8_t* from) {
#if defined(EDGEWISE_INT8_LANES)
  return EDGEWISE_INT8_LANES(from);
#else
  const i16s wide = __builtin_convertvector(load<i8s>(from), i16s);
  return __builtin_convertvector(__builtin_convertvector(wide, i32s), f32s);
#endif
}

INLINE f32s fp16_lanes(const uint16_t* from) {
#if defined(EDGEWISE_FP16_LANES)
  return EDGEWISE_FP16_LANES(from);
#else
  const u32s wide = __builtin_convertvector(load<u16s>(from), u32s);
  const f32s size = (f32s)((wide & 0x7fff) << 13) * 0x1p112f;
  return (f32s)((u32s)size | (wide & 0x8000) << 16);
#endif
}

INLINE f32s pick(i32s which, f32s yes, f32s no) {
  return (f32s)((which & (i32s)yes) | (~which & (i32s)no));
}

INLINE f32s lower_of(f32s a, f32s b) { return pick(a < b, a, b); }

INLINE f32s higher_of(f32s a, f32s b) { return pick(a > b, a, b); }

INLINE f32s size_of(f32s x) { return (f32s)((u32s)x & 0x7fffffff); }

// The nearest whole numbers in [lowest, highest], which are below 2^22; ties to even. By
// instructions where EDGEWISE_NEAREST names them.
INLINE f32s nearest(f32s x, f32s lowest, f32s highest) {
#if defined(EDGEWISE_NEAREST)
  return EDGEWISE_NEAREST(x, lowest, highest);
#else
  const f32s magic = every(12582912.0f);
  const f32s inside = lower_of(higher_of(x, lowest), highest);
  return __builtin_convertvector((i32s)(inside + magic) - (i32s)magic, f32s);
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
  const i32s tiny = size_of(x) < 1e-38f;
  return pick(tiny, every(0.0f), 1.0f / pick(tiny, every(1.0f), x));
}

}  // namespace
}  // namespace edgewise
