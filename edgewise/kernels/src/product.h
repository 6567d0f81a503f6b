// Packed matrices times a few rows of activations, and packed matrices made whole.
//
// `Isa` supplies the integer part: dot<BITS, B, G>(codes, x, tiles, sums) adds to sums[0][b], for
// `tiles` tiles of 16 rows, the products of codes with the 8-bit activations x[b]; with G = 2, tiles
// is 1, and the products of its second half are added to sums[1][b]. Where Isa::kSigned, codes of 8
// bits count from 128 in it. unpack<BITS>(codes, out) writes a tile's codes as 8 chunks of 64
// bytes.
#pragma once
#include "scratch.h"
#include "simd.h"

namespace edgewise {
namespace {

constexpr int kPiece = 128;  // columns that are quantized at a time: whole groups of any size

// One group of one token, from x[0, count); the rest of the group is zero.
INLINE void quantize_group(const Quantized& q, int token, int g, const float* x, int count) {
  float padded[kPiece];
  if (count < q.group) {
    memset(padded, 0, sizeof padded);
    if (count > 0) memcpy(padded, x, sizeof(float) * count);
    x = padded;
  }
  f32x16 most = {};
  for (int i = 0; i < q.group; i += 16) most = larger(absolute(load<f32x16>(x + i)), most);
  const float range = largest(most), inverse = range > 0 ? 127.0f / range : 0.0f;
  int8_t* codes = q.codes + size_t(token) * q.width + size_t(g) * q.group;
  i32x16 total = {};
  for (int i = 0; i < q.group; i += 16) {
    const i32x16 code = rounded(load<f32x16>(x + i) * inverse);
    store(codes + i, __builtin_convertvector(code, i8x16));
    total += code;
  }
  const size_t at = size_t(token) * q.groups() + g;
  q.scale[at] = range / 127.0f;
  q.sum[at] = sum(total);
}

// One piece of a token's row, from x[0, count): the piece, and perhaps numbers beyond it.
INLINE void quantize_piece(const Activations& a, int token, int piece, const float* x, int count) {
  for (const Quantized& q : a.sizes) {
    if (!q.wanted()) continue;
    const int each = kPiece / q.group, first = piece * each, left = q.groups() - first;
    for (int g = 0; g < each && g < left; ++g)
      quantize_group(q, token, first + g, x + g * q.group, count - g * q.group);
  }
}

INLINE int pieces_of(int columns) { return (columns + kPiece - 1) / kPiece; }

// What the code of zero counts in Isa's sums.
template <class Isa, int BITS>
INLINE int32_t zero_of(const Matrix& m) {
  return (m.minimum ? 0 : 1 << (BITS - 1)) - (BITS == 8 && Isa::kSigned ? 128 : 0);
}

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

// The scales, or minima, of 16 rows' groups, `at` groups from the first; without the rows' units.
template <bool DOUBLE>
INLINE f32x16 side(const void* sides, size_t at) {
  if (DOUBLE) return int8(static_cast<const int8_t*>(sides) + at * kRows);
  return bf16(static_cast<const uint16_t*>(sides) + at * kRows);
}

// What the block's scales, or minima, are multiples of.
template <bool DOUBLE>
INLINE f32x16 unit(const uint16_t* units, int block) {
  return DOUBLE ? bf16(units + size_t(block) * kRows) : all(1.0f);
}

// A block's 16 rows times B tokens, from `token` on: y[b]. G groups at a time: two make a tile where
// they have 16 columns.
template <class Isa, int BITS, int B, int G, bool DOUBLE>
void rows(const Matrix& m, int block, const Quantized& q, int token, f32x16* y) {
  const int groups = m.groups(), tiles = G == 2 ? 1 : m.group / kColumns;
  const uint8_t* codes = m.codes + block * m.block_bytes();
  const size_t first = size_t(block) * groups;
  const int32_t zero = zero_of<Isa, BITS>(m);
  const int8_t* x[B];
  f32x16 out[B], least[B];
  for (int b = 0; b < B; ++b) {
    x[b] = q.codes + size_t(token + b) * q.width;
    out[b] = least[b] = f32x16{};
  }
  const float* scale = q.scale + size_t(token) * groups;
  const int32_t* sum = q.sum + size_t(token) * groups;
  for (int group = 0; group < groups; group += G) {
    i32x16 dot[G][B];
    for (int g = 0; g < G; ++g)
      for (int b = 0; b < B; ++b) dot[g][b] = i32x16{} - zero * sum[b * groups + group + g];
    Isa::template dot<BITS, B, G>(codes, x, tiles, dot);
    codes += size_t(tiles) * BITS * 64;
    for (int b = 0; b < B; ++b) x[b] += tiles * kColumns;
    for (int g = 0; g < G; ++g) {
      const int at = group + g;
      const f32x16 by_row = side<DOUBLE>(m.scale, first + at);
      for (int b = 0; b < B; ++b)
        out[b] += __builtin_convertvector(dot[g][b], f32x16) * (by_row * scale[b * groups + at]);
      if (!m.minimum) continue;
      for (int b = 0; b < B; ++b) {
        const float total = scale[b * groups + at] * static_cast<float>(sum[b * groups + at]);
        least[b] += side<DOUBLE>(m.minimum, first + at) * total;
      }
    }
  }
  for (int b = 0; b < B; ++b) {
    y[b] = out[b] * unit<DOUBLE>(m.row_scale, block);
    if (m.minimum) y[b] += least[b] * unit<DOUBLE>(m.row_minimum, block);
  }
}

// y[t] = the block's 16 rows for token `from + t`.
template <class Isa, int BITS, int G, bool DOUBLE>
void all_rows(const Matrix& m, int block, const Quantized& q, int from, int tokens, f32x16* y) {
  int t = 0;
  for (; t + 8 <= tokens; t += 8) rows<Isa, BITS, 8, G, DOUBLE>(m, block, q, from + t, y + t);
  for (; t + 4 <= tokens; t += 4) rows<Isa, BITS, 4, G, DOUBLE>(m, block, q, from + t, y + t);
  for (; t + 2 <= tokens; t += 2) rows<Isa, BITS, 2, G, DOUBLE>(m, block, q, from + t, y + t);
  for (; t < tokens; ++t) rows<Isa, BITS, 1, G, DOUBLE>(m, block, q, from + t, y + t);
}

template <class Isa, int BITS>
void block_rows(const Matrix& m, int block, const Quantized& q, int from, int tokens, f32x16* y) {
  const bool halves = m.group < kColumns;
  if (m.row_scale)
    return halves ? all_rows<Isa, BITS, 2, true>(m, block, q, from, tokens, y)
                  : all_rows<Isa, BITS, 1, true>(m, block, q, from, tokens, y);
  return halves ? all_rows<Isa, BITS, 2, false>(m, block, q, from, tokens, y)
                : all_rows<Isa, BITS, 1, false>(m, block, q, from, tokens, y);
}

template <class Isa>
void product(const Matrix& m, int block, const Input& in, int from, int tokens, f32x16* y) {
  if (m.type == kBf16) return plain_rows<kBf16>(m, block, in, from, tokens, y);
  if (m.type == kFp16) return plain_rows<kFp16>(m, block, in, from, tokens, y);
  if (m.type == kFp32) return plain_rows<kFp32>(m, block, in, from, tokens, y);
  const Quantized& q = in.in8.of(m);
  switch (m.bits) {
    case 2: return block_rows<Isa, 2>(m, block, q, from, tokens, y);
    case 3: return block_rows<Isa, 3>(m, block, q, from, tokens, y);
    case 4: return block_rows<Isa, 4>(m, block, q, from, tokens, y);
    case 5: return block_rows<Isa, 5>(m, block, q, from, tokens, y);
    case 6: return block_rows<Isa, 6>(m, block, q, from, tokens, y);
    default: return block_rows<Isa, 8>(m, block, q, from, tokens, y);
  }
}

// A group's scales or minima of the block's rows, as numbers.
INLINE f32x16 side_of(const Matrix& m, const void* sides, const uint16_t* units, int block, int group) {
  const size_t at = size_t(block) * m.groups() + group;
  return units ? side<true>(sides, at) * unit<true>(units, block) : side<false>(sides, at);
}

// Rows of a block as bf16: out [16, columns], rows beyond the matrix's last left out.
template <class Isa, int BITS>
void whole16(const Matrix& m, int block, uint16_t* out) {
  const int rows = m.rows - int64_t(block) * kRows < kRows ? int(m.rows - int64_t(block) * kRows) : kRows;
  const int tiles = m.width() / kColumns;
  const uint8_t* codes = m.codes + block * m.block_bytes();
  const float offset = static_cast<float>(1 << (BITS - 1));
  for (int tile = 0; tile < tiles; ++tile, codes += BITS * 64) {
    alignas(64) uint8_t chunks[8][kRows][4];
    Isa::template unpack<BITS>(codes, &chunks[0][0][0]);
    f32x16 step[2], least[2];  // of 16 columns each
    for (int h = 0; h < 2; ++h) {
      const int group = (tile * kColumns + 16 * h) / m.group;
      step[h] = side_of(m, m.scale, m.row_scale, block, group);
      least[h] = m.minimum ? side_of(m, m.minimum, m.row_minimum, block, group) : step[h] * -offset;
    }
    const int count = m.columns - tile * kColumns < kColumns ? int(m.columns - tile * kColumns) : kColumns;
    for (int r = 0; r < rows && count > 0; ++r) {
      alignas(64) uint8_t line[kColumns];
      for (int c = 0; c < 8; ++c) memcpy(line + 4 * c, chunks[c][r], 4);
      uint16_t row[kColumns];
      for (int i = 0; i < kColumns; i += 16) {
        const u16x16 code16 = __builtin_convertvector(load<u8x16>(line + i), u16x16);
        const f32x16 code =
            __builtin_convertvector(__builtin_convertvector(code16, i32x16), f32x16);
        store(row + i, to_bf16(code * step[i / 16][r] + least[i / 16][r]));
      }
      memcpy(out + size_t(r) * m.columns + tile * kColumns, row, sizeof(uint16_t) * count);
    }
  }
}

template <class Isa>
void whole(const Matrix& m, int block, uint16_t* out) {
  switch (m.bits) {
    case 2: return whole16<Isa, 2>(m, block, out);
    case 3: return whole16<Isa, 3>(m, block, out);
    case 4: return whole16<Isa, 4>(m, block, out);
    case 5: return whole16<Isa, 5>(m, block, out);
    case 6: return whole16<Isa, 6>(m, block, out);
    default: return whole16<Isa, 8>(m, block, out);
  }
}

}  // namespace
}  // namespace edgewise
