// Matrices that are not packed, times a few rows of activations in float32.
#pragma once
#include "scratch.h"
#include "simd.h"

namespace edgewise {
namespace {

constexpr size_t size_of(Type type) { return type == kFp32 ? 4 : 2; }

// As many numbers of a matrix that is not packed as a register holds, from `at` on.
template <Type TYPE>
INLINE f32s numbers(const void* from, size_t at) {
  if constexpr (TYPE == kFp32) return load<f32s>(static_cast<const float*>(from) + at);
  if constexpr (TYPE == kFp16) return fp16(static_cast<const uint16_t*>(from) + at);
  return bf16(static_cast<const uint16_t*>(from) + at);
}

// Rows and tokens at a time: as many sums as it takes to keep the units busy, and as fit into registers.
constexpr int kAlone = 8, kFewRows = 4, kFewTokens = kLanes == 8 ? 2 : 4;

// R rows of a matrix that is not packed, from `row` on, times B tokens: y[b][first + r]. Each sum has
// a register, whatever R and B are: so a position's sums are the same alone, in a prompt and in a
// batch.
template <Type TYPE, int R, int B>
INLINE void few_rows(const Matrix& m, int64_t row, const float* x, size_t stride, int first,
                     float (*y)[kRows]) {
  const size_t columns = m.columns, at = size_t(row) * columns;
  const size_t ahead = R * columns * size_of(TYPE);  // to the same place of the rows after these
  f32s total[R][B] = {};
  size_t c = 0;
  for (; c + kLanes <= columns; c += kLanes) {
    f32s part[B];
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) part[b] = load<f32s>(x + b * stride + c);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const size_t here = at + r * columns + c;
      __builtin_prefetch(m.codes + here * size_of(TYPE) + ahead, 0, 2);
      const f32s weight = numbers<TYPE>(m.codes, here);
#pragma GCC unroll 4
      for (int b = 0; b < B; ++b) total[r][b] += weight * part[b];
    }
  }
  if (c < columns) {  // the rest, filled up with zeros
    float rest[B][kLanes] = {};
    for (int b = 0; b < B; ++b) memcpy(rest[b], x + b * stride + c, (columns - c) * sizeof(float));
    for (int r = 0; r < R; ++r) {
      char line[kLanes * sizeof(float)] = {};
      memcpy(line, m.codes + (at + r * columns + c) * size_of(TYPE), (columns - c) * size_of(TYPE));
      const f32s weight = numbers<TYPE>(line, 0);
      for (int b = 0; b < B; ++b) total[r][b] += weight * load<f32s>(rest[b]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int b = 0; b < B; ++b) y[b][first + r] = sum(total[r][b]);
}

// y[t] = the block's 16 rows for token `from + t`, of a matrix that is not packed.
template <Type TYPE>
void plain_rows(const Matrix& m, int block, const Input& in, int from, int tokens, float (*y)[kRows]) {
  const int64_t row = int64_t(block) * kRows;
  const int count = m.rows - row < kRows ? int(m.rows - row) : kRows;
  const float* x = in.x + from * in.stride;
  int r = 0;
  for (; tokens == 1 && r + kAlone <= count; r += kAlone)
    few_rows<TYPE, kAlone, 1>(m, row + r, x, in.stride, r, y);
  for (; tokens > 1 && r + kFewRows <= count; r += kFewRows) {
    int t = 0;
    for (; t + kFewTokens <= tokens; t += kFewTokens)
      few_rows<TYPE, kFewRows, kFewTokens>(m, row + r, x + t * in.stride, in.stride, r, y + t);
    for (; t < tokens; ++t)
      few_rows<TYPE, kFewRows, 1>(m, row + r, x + t * in.stride, in.stride, r, y + t);
  }
  for (; r < count; ++r)
    for (int t = 0; t < tokens; ++t)
      few_rows<TYPE, 1, 1>(m, row + r, x + t * in.stride, in.stride, r, y + t);
}

}  // namespace
}  // namespace edgewise
