// Matrices that are not packed, times a few rows of activations in float32.
#pragma once
#include "scratch.h"
#include "simd.h"

namespace edgewise {
namespace {

// 16 numbers of a matrix that is not packed, from `at` on.
template <Type TYPE>
INLINE f32x16 numbers(const void* from, size_t at) {
  if constexpr (TYPE == kFp32) return load<f32x16>(static_cast<const float*>(from) + at);
  if constexpr (TYPE == kFp16) return fp16(static_cast<const uint16_t*>(from) + at);
  return bf16(static_cast<const uint16_t*>(from) + at);
}

constexpr size_t size_of(Type type) { return type == kFp32 ? 4 : 2; }

// R rows of a matrix that is not packed, from `row` on, times B tokens: y[b][first + r].
template <Type TYPE, int R, int B>
INLINE void few_rows(const Matrix& m, int64_t row, const float* x, size_t stride, int first,
                     f32x16* y) {
  const size_t columns = m.columns, at = size_t(row) * columns;
  constexpr int kParts = R * B < 8 ? 8 / (R * B) : 1;  // of a sum, so that none waits for another
  f32x16 total[R][B][kParts] = {};
  size_t c = 0;
  for (; c + 16 * kParts <= columns; c += 16 * kParts) {
#pragma GCC unroll 8
    for (int p = 0; p < kParts; ++p) {
      f32x16 part[B];
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) part[b] = load<f32x16>(x + b * stride + c + 16 * p);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const size_t here = at + r * columns + c + 16 * p;
        // A single row goes on where the next begins; of several, those after them are fetched.
        const size_t ahead = R == 1 ? 512 : R * columns * size_of(TYPE);
        if (size_of(TYPE) == 4 || p % 2 == 0)
          __builtin_prefetch(m.codes + here * size_of(TYPE) + ahead, 0, 2);
        const f32x16 weight = numbers<TYPE>(m.codes, here);
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) total[r][b][p] += weight * part[b];
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int b = 0; b < B; ++b) {
      for (int p = 1; p < kParts; ++p) total[r][b][0] += total[r][b][p];
      y[b][first + r] = sum(total[r][b][0]);
    }
  if (c == columns) return;
  float rest[16 * kParts];
  for (int b = 0; b < B; ++b)
    for (int r = 0; r < R; ++r) {
      char line[sizeof rest] = {};
      memcpy(line, m.codes + (at + r * columns + c) * size_of(TYPE), (columns - c) * size_of(TYPE));
      for (int p = 0; p < kParts; ++p) store(rest + 16 * p, numbers<TYPE>(line, 16 * p));
      for (size_t i = 0; i < columns - c; ++i) y[b][first + r] += rest[i] * x[b * stride + c + i];
    }
}

// y[t] = the block's 16 rows for token `from + t`, of a matrix that is not packed.
template <Type TYPE>
void plain_rows(const Matrix& m, int block, const Input& in, int from, int tokens, f32x16* y) {
  const int64_t row = int64_t(block) * kRows;
  const int count = m.rows - row < kRows ? int(m.rows - row) : kRows;
  const float* x = in.x + from * in.stride;
  int r = 0;
  for (; tokens > 1 && r + 4 <= count; r += 4) {
    int t = 0;
    for (; t + 4 <= tokens; t += 4)
      few_rows<TYPE, 4, 4>(m, row + r, x + t * in.stride, in.stride, r, y + t);
    for (; t + 2 <= tokens; t += 2)
      few_rows<TYPE, 4, 2>(m, row + r, x + t * in.stride, in.stride, r, y + t);
    for (; t < tokens; ++t)
      few_rows<TYPE, 4, 1>(m, row + r, x + t * in.stride, in.stride, r, y + t);
  }
  for (; r < count; ++r)
    for (int t = 0; t < tokens; ++t)
      few_rows<TYPE, 1, 1>(m, row + r, x + t * in.stride, in.stride, r, y + t);
}

}  // namespace
}  // namespace edgewise
