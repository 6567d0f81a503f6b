// Packed matrices times a few rows of activations, and packed matrices made whole.
//
// The 16 rows of a block are kSlices slices of as many rows as a register holds 32-bit numbers.
// `Isa` supplies the integer part, for one slice: dot<BITS, LAID, B, G>(codes, x, stride, tiles, sums)
// sets sums[0][b] to the products of `tiles` tiles' codes with the 8-bit activations of token b, x + b
// stride; with G = 2, tiles is 1, and sums[1][b] are those of its second half. Where Isa::kSigned,
// codes of 8 bits count from 128 in it. Codes lie in planes as in memory (LAID = BITS) or one in a
// byte (LAID = 8), as unpack<BITS>(tile, out) writes them: 8 chunks of 64 bytes; where Isa::kUnpacks that
// is done for more than the kTogether tokens that fit into registers at a time.
//
// Of a sparse matrix two codes of every four neighbours lie in planes, and which these are in two bits
// each (LAID = kTwoOfFour): kept<BITS, B, G>(codes, x, stride, sums) picks these columns' activations for every
// row, and sets sums[0][b] to their products with a tile's codes, counted from the middle; with G = 2,
// sums[1][b] are those of its second half.
#pragma once
#include "scratch.h"
#include "simd.h"

namespace edgewise {
namespace {

constexpr int kUnpacked = 1024;  // columns that are unpacked at a time: they stay in the first cache

// The scales, or minima, of a slice's rows, `at` numbers from the first; without the rows' units.
INLINE f32s side(int32_t type, const void* sides, size_t at) {
  if (type == kInt8) return int8(static_cast<const int8_t*>(sides) + at);
  const uint16_t* here = static_cast<const uint16_t*>(sides) + at;
  return type == kFp16 ? fp16(here) : bf16(here);
}

constexpr int kTwoOfFour = 0;  // for LAID
// Vectors of a tile, and whether its codes lie as in memory.
template <int BITS, int LAID>
constexpr int kLines = LAID == kTwoOfFour ? BITS + kWhich : LAID;
template <int BITS, int LAID>
constexpr bool kStored = LAID == BITS || LAID == kTwoOfFour;

// What Isa's sums are beside the codes', and the code of zero where there are no minima.
template <class Isa, int BITS>
constexpr float kOffset = BITS == 8 && Isa::kSigned ? -128.0f : 0.0f;
template <int BITS>
constexpr float kMiddle = static_cast<float>(1 << (BITS - 1));

// Where the scales, or minima, of a slice of a block lie.
INLINE size_t side_at(int block, int groups, int group, int slice) {
  return (size_t(block) * groups + group) * kRows + slice * kLanes;
}

// Groups that are looked at at a time: two that make a tile, one that is a tile, or one of several.
enum Groups { kTwo, kOne, kWide };

// Where a product is: some groups of a block's 16 rows, and the codes of the first of them; where
// these are unpacked, also its scales as numbers, and what a code of zero counts as.
struct Place {
  int block, group, groups;
  const uint8_t* codes;
  const float* scales;
  float zero;
};

template <class Isa, int BITS>
INLINE float zero_of(const Matrix& m) {
  return kOffset<Isa, BITS> + (m.minimum ? 0.0f : kMiddle<BITS>);
}

// Adds the codes of a slice's next groups, scaled, for B tokens; `x` are the activations, or what
// rounding left of them. All integers are small enough to be exact as floats.
template <class Isa, int BITS, int LAID, int B, Groups GROUPS>
INLINE void add_groups(const Matrix& m, const Place& at, int slice, const Quantized& q,
                       const Codes& x, int token, f32s (&sums)[B]) {
  constexpr int G = GROUPS == kTwo ? 2 : 1;
  const int groups = q.groups(), tiles = GROUPS == kWide ? q.group / kColumns : 1;
  const float zero = LAID == kTwoOfFour ? 0 : LAID == BITS ? zero_of<Isa, BITS>(m) : at.zero;
  i32s dot[G][B];
  const uint8_t* codes_here = at.codes + slice * kLanes * 4;
  const int8_t* x_here = x.of + size_t(token) * q.width + size_t(at.group) * q.group;
  if constexpr (LAID == kTwoOfFour)
    Isa::template kept<BITS, B, G>(codes_here, x_here, q.width, dot);
  else
    Isa::template dot<BITS, LAID, B, G>(codes_here, x_here, q.width, tiles, dot);
  const size_t here = size_t(token) * groups + at.group;
  for (int g = 0; g < G; ++g) {
    const f32s by_row =
        kStored<BITS, LAID> ? side(m.sides, m.scale, side_at(at.block, groups, at.group + g, slice))
                            : load<f32s>(at.scales + g * kRows + slice * kLanes);
    for (int b = 0; b < B; ++b) {
      const size_t i = here + size_t(b) * groups + g;
      f32s codes = __builtin_convertvector(dot[g][b], f32s);
      if (zero != 0) codes -= zero * x.sum[i];
      sums[b] += codes * (by_row * x.scale[i]);
    }
  }
}

// The same of what rounding left of one token, in those of the place's groups where it counts: onto
// `sum`. Seldom much, so it is a function of its own.
template <class Isa, int BITS, int LAID, Groups GROUPS>
__attribute__((noinline)) f32s add_rests(const Matrix& m, const Place& all, int slice,
                                         const Quantized& q, int token, f32s sum) {
  constexpr int G = GROUPS == kTwo ? 2 : 1;
  const int tiles = GROUPS == kWide ? m.group / kColumns : 1, each = q.unit / q.group;
  const uint16_t* precise = q.precise_of(token);
  f32s sums[1] = {sum};
  for (int i = 1; i <= precise[0]; ++i)
    for (int g = precise[i] * each; g < (precise[i] + 1) * each; g += G) {
      const int beyond = g - all.group;
      if (beyond < 0 || beyond >= all.groups) continue;
      Place at = all;
      at.group = g;
      at.codes += size_t(beyond / G) * tiles * kLines<BITS, LAID> * 64;
      at.scales += kStored<BITS, LAID> ? 0 : beyond * kRows;
      add_groups<Isa, BITS, LAID, 1, GROUPS>(m, at, slice, q, q.rest, token, sums);
    }
  return sums[0];
}

// Adds a slice's minima times what groups of B tokens add up to, rests included where they count.
template <int B>
INLINE void add_minima(const Matrix& m, int block, int slice, const Quantized& q, int token,
                       f32s (&sums)[B]) {
  const int groups = q.groups(), each = groups / q.units();
  const size_t here = size_t(token) * groups;
  const auto least = [&](int g) { return side(m.sides, m.minimum, side_at(block, groups, g, slice)); };
  for (int g = 0; g < groups; ++g) {
    const f32s minima = least(g);
    for (int b = 0; b < B; ++b) sums[b] += minima * q.codes.total[here + size_t(b) * groups + g];
  }
  for (int b = 0; b < B; ++b) {
    const uint16_t* precise = q.precise_of(token + b);
    for (int i = 1; i <= precise[0]; ++i)
      for (int g = precise[i] * each; g < (precise[i] + 1) * each; ++g)
        sums[b] += least(g) * q.rest.total[here + size_t(b) * groups + g];
  }
}

// The block's rows of one slice for B tokens, from their scaled codes and rests. A function of its own,
// so that every caller gets the same: which of two products a sum is fused with is the compiler's
// choice.
template <int B>
__attribute__((noinline)) void finish(const Matrix& m, int block, int slice, const Quantized& q,
                                      int token, const f32s* sums, const f32s* rests,
                                      float (*y)[kRows]) {
  const size_t row = size_t(block) * kRows + slice * kLanes;
  f32s least[B] = {};
  if (m.minimum) add_minima<B>(m, block, slice, q, token, least);
  for (int b = 0; b < B; ++b) {
    f32s out = sums[b] + rests[b];
    if (m.row_scale) out *= bf16(m.row_scale + row);
    if (m.row_minimum) least[b] *= bf16(m.row_minimum + row);
    store(y[b] + slice * kLanes, out + least[b]);
  }
}

// What tokens' products with a block's rows go to: y, or where not all groups are looked at at a
// time, sums of scaled codes, and of rests, that go on.
struct Results {
  float (*y)[kRows];                         // [tokens]
  f32s (*sums)[kTokens], (*rests)[kTokens];  // [kSlices]
};

// Some groups of S slices, from `slice` on, times B tokens: all groups, or of unpacked codes those
// that are unpacked.
template <class Isa, int BITS, int LAID, int B, Groups GROUPS, int S>
INLINE void rows(const Matrix& matrix, const Place& all, int slice, const Quantized& quantized,
                 int token, const Results& results) {
  constexpr bool kAll = kStored<BITS, LAID>;
  // Copies that no call can change: what is computed from them is computed once.
  const Matrix m = matrix;
  const Quantized q = quantized;
  constexpr int G = GROUPS == kTwo ? 2 : 1;
  const int tiles = GROUPS == kWide ? m.group / kColumns : 1, first = token % kTokens;
  f32s sums[S][B] = {};
  for (int s = 0; s < S && !kAll; ++s)
    for (int b = 0; b < B; ++b) sums[s][b] = results.sums[slice + s][first + b];
  Place at = all;
  for (const int end = at.group + at.groups; at.group < end; at.group += G,
                 at.codes += size_t(tiles) * kLines<BITS, LAID> * 64, at.scales += kAll ? 0 : G * kRows)
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s)
      add_groups<Isa, BITS, LAID, B, GROUPS>(m, at, slice + s, q, q.codes, token, sums[s]);
  for (int s = 0; s < S; ++s) {
    f32s done[B];  // a copy: what others get a pointer to would stay in memory all along
    for (int b = 0; b < B; ++b) done[b] = sums[s][b];
    f32s own[B] = {}, *rests = kAll ? own : results.rests[slice + s] + first;
    for (int b = 0; b < B; ++b)
      if (q.precise_of(token + b)[0])
        rests[b] = add_rests<Isa, BITS, LAID, GROUPS>(matrix, all, slice + s, quantized, token + b,
                                                      rests[b]);
    if (kAll) {
      finish<B>(matrix, at.block, slice + s, quantized, token, done, rests, results.y);
    } else {
      for (int b = 0; b < B; ++b) results.sums[slice + s][first + b] = done[b];
    }
  }
}

// The same for all slices of B tokens: of a single one as many slices at a time as it takes to keep
// the units busy, of several one after the other, so that their sums stay in registers.
template <class Isa, int BITS, int LAID, int B, Groups GROUPS>
INLINE void slices(const Matrix& m, const Place& at, const Quantized& q, int token,
                   const Results& results) {
  constexpr int kAtOnce = B == 1 ? (kSlices < 2 ? 1 : 2) : 1;
  for (int slice = 0; slice < kSlices; slice += kAtOnce)
    rows<Isa, BITS, LAID, B, GROUPS, kAtOnce>(m, at, slice, q, token, results);
}

// The same for any number of tokens.
template <class Isa, int BITS, int LAID, Groups GROUPS>
INLINE void all_tokens(const Matrix& m, const Place& at, const Quantized& q, int from, int tokens,
                       const Results& to) {
  int t = 0;
  if constexpr (Isa::kTogether >= 8)
    for (; t + 8 <= tokens; t += 8)
      slices<Isa, BITS, LAID, 8, GROUPS>(m, at, q, from + t, {to.y + t, to.sums, to.rests});
  for (; t + 4 <= tokens; t += 4)
    slices<Isa, BITS, LAID, 4, GROUPS>(m, at, q, from + t, {to.y + t, to.sums, to.rests});
  for (; t + 2 <= tokens; t += 2)
    slices<Isa, BITS, LAID, 2, GROUPS>(m, at, q, from + t, {to.y + t, to.sums, to.rests});
  for (; t < tokens; ++t)
    slices<Isa, BITS, LAID, 1, GROUPS>(m, at, q, from + t, {to.y + t, to.sums, to.rests});
}

// y[t] = the block's 16 rows for token `from + t`, `from` a multiple of kTokens.
template <class Isa, int BITS, int LAID, Groups GROUPS>
void block_rows(const Matrix& m, int block, const Quantized& q, int from, int tokens,
                float (*y)[kRows]) {
  const uint8_t* codes = m.codes + block * m.block_bytes();
  const Place at{block, 0, m.groups(), codes, nullptr, 0};
  all_tokens<Isa, BITS, LAID, GROUPS>(m, at, q, from, tokens, {y, nullptr, nullptr});
}

// A sparse tile as 16 chunks that have all of their codes, one in a byte.
template <class Isa, int BITS>
INLINE void spread(const uint8_t* tile, uint8_t* out) {
  constexpr uint32_t kZero = (1u << (BITS - 1)) * 0x01010101u;
  alignas(64) uint8_t codes[8 * 64], which[8 * 64];
  Isa::template unpack<BITS>(tile, codes);
  Isa::template unpack<kWhich>(tile + BITS * 64, which);
  for (int chunk = 0; chunk < 8; ++chunk)
    for (int at = 0; at < 64; at += 4 * kLanes) {
      u32s two = load<u32s>(codes + 64 * chunk + at) ^ kZero;
      u32s by = load<u32s>(which + 64 * chunk + at) * 8;
      for (int half = 0; half < 2; ++half, two >>= 16, by >>= 16)
        store(out + 64 * (2 * chunk + half) + at,
              kZero ^ ((two & 0xff) << (by & 0xff)) ^ ((two >> 8 & 0xff) << (by >> 8 & 0xff)));
    }
}

// A tile's codes, one in a byte; returns where the next ones go.
template <class Isa, int BITS, int LAID>
INLINE uint8_t* unpack(const uint8_t* tile, uint8_t* out) {
  if constexpr (LAID == kTwoOfFour) {
    spread<Isa, BITS>(tile, out);
    return out + 2 * kRows * kColumns;
  }
  Isa::template unpack<BITS>(tile, out);
  return out + kRows * kColumns;
}

// Codes, and scales as numbers, some columns at a time. Codes of 2 and 3 bits go on as those of 4.
template <class Isa, int BITS, int LAID, Groups GROUPS>
void block_rows_unpacked(const Matrix& m, int block, const Quantized& q, int from, int tokens,
                         float (*y)[kRows]) {
  constexpr int kBits = BITS < 4 ? 4 : BITS, kHere = kLines<BITS, LAID>;
  const uint8_t* codes = m.codes + block * m.block_bytes();
  const int groups = m.groups(), most = kUnpacked / m.group;
  f32s sums[kSlices][kTokens] = {}, rests[kSlices][kTokens] = {};
  alignas(64) uint8_t unpacked[kRows * kUnpacked];
  float scales[kUnpacked / 16][kRows];
  for (int group = 0; group < groups; group += most) {
    const int some = groups - group < most ? groups - group : most;
    const int tiles = some * m.group / m.tile();
    uint8_t* next = unpacked;
    for (int tile = 0; tile < tiles; ++tile, codes += kHere * 64) {
      // While these are multiplied the next ones come: as many, mostly, and they lie behind these.
      for (int line = 0; line < kHere; ++line)
        __builtin_prefetch(codes + size_t(tiles) * kHere * 64 + line * 64);
      next = unpack<Isa, BITS, LAID>(codes, next);
    }
    for (int g = 0; g < some; ++g)
      for (int slice = 0; slice < kSlices; ++slice)
        store(scales[g] + slice * kLanes,
              side(m.sides, m.scale, side_at(block, groups, group + g, slice)));
    const Place at{block, group, some, unpacked, scales[0], zero_of<Isa, BITS>(m)};
    all_tokens<Isa, kBits, 8, GROUPS>(m, at, q, from, tokens, {y, sums, rests});
  }
  for (int slice = 0; slice < kSlices; ++slice) {
    const f32s *of = sums[slice], *rest = rests[slice];
    int t = 0;
    for (; t + 4 <= tokens; t += 4) finish<4>(m, block, slice, q, from + t, of + t, rest + t, y + t);
    for (; t < tokens; ++t) finish<1>(m, block, slice, q, from + t, of + t, rest + t, y + t);
  }
}

// The same of a sparse matrix, whose tiles are twice as wide, unpacked where that pays.
template <class Isa, int BITS>
void sparse_rows(const Matrix& m, int block, const Quantized& q, int from, int tokens,
                 float (*y)[kRows]) {
  if constexpr (BITS < 8 && Isa::kUnpacks)
    if (tokens > Isa::kTogether) {
      if (m.group == kColumns)
        return block_rows_unpacked<Isa, BITS, kTwoOfFour, kOne>(m, block, q, from, tokens, y);
      return block_rows_unpacked<Isa, BITS, kTwoOfFour, kWide>(m, block, q, from, tokens, y);
    }
  if (m.group == kColumns) return block_rows<Isa, BITS, kTwoOfFour, kTwo>(m, block, q, from, tokens, y);
  return block_rows<Isa, BITS, kTwoOfFour, kOne>(m, block, q, from, tokens, y);
}

// The same of any packed matrix, with groups of any size.
template <class Isa, int BITS>
void packed_rows(const Matrix& m, int block, const Quantized& q, int from, int tokens,
                 float (*y)[kRows]) {
  if constexpr (BITS > 2)
    if (m.type == kSparse) return sparse_rows<Isa, BITS>(m, block, q, from, tokens, y);
  if constexpr (BITS < 8 && Isa::kUnpacks)
    if (tokens > Isa::kTogether) {
      if (m.group < kColumns)
        return block_rows_unpacked<Isa, BITS, BITS, kTwo>(m, block, q, from, tokens, y);
      if (m.group == kColumns)
        return block_rows_unpacked<Isa, BITS, BITS, kOne>(m, block, q, from, tokens, y);
      return block_rows_unpacked<Isa, BITS, BITS, kWide>(m, block, q, from, tokens, y);
    }
  if (m.group < kColumns) return block_rows<Isa, BITS, BITS, kTwo>(m, block, q, from, tokens, y);
  if (m.group == kColumns) return block_rows<Isa, BITS, BITS, kOne>(m, block, q, from, tokens, y);
  return block_rows<Isa, BITS, BITS, kWide>(m, block, q, from, tokens, y);
}

// A group's scales or minima of the block's rows, as numbers.
INLINE void sides_of(const Matrix& m, const void* sides, const uint16_t* units, int block, int group,
                     float* out) {
  for (int slice = 0; slice < kSlices; ++slice) {
    const f32s found = side(m.sides, sides, side_at(block, m.groups(), group, slice));
    const uint16_t* by = units + (size_t(block) * kRows + slice * kLanes);
    store(out + slice * kLanes, units ? found * bf16(by) : found);
  }
}

// Rows of a block as bf16: out [16, columns], rows beyond the matrix's last left out.
template <class Isa, int BITS, int LAID>
void whole16(const Matrix& m, int block, uint16_t* out) {
  const int rows = m.rows - int64_t(block) * kRows < kRows ? int(m.rows - int64_t(block) * kRows) : kRows;
  const uint8_t* codes = m.codes + block * m.block_bytes();
  alignas(64) uint8_t chunks[16][kRows][4];
  for (int from = 0; from < m.columns; from += kColumns) {
    const int within = from % m.tile() / 4;  // chunks before these ones
    if (within == 0) {
      unpack<Isa, BITS, LAID>(codes, &chunks[0][0][0]);
      codes += kLines<BITS, LAID> * 64;
    }
    float step[2][kRows], least[2][kRows];  // of 16 columns each
    for (int h = 0; h < 2; ++h) {
      const int group = (from + 16 * h) / m.group;
      sides_of(m, m.scale, m.row_scale, block, group, step[h]);
      if (m.minimum) sides_of(m, m.minimum, m.row_minimum, block, group, least[h]);
      for (int r = 0; r < kRows && !m.minimum; ++r) least[h][r] = step[h][r] * -kMiddle<BITS>;
    }
    const int count = m.columns - from < kColumns ? int(m.columns - from) : kColumns;
    for (int r = 0; r < rows; ++r) {
      uint8_t line[kColumns];
      for (int c = 0; c < 8; ++c) memcpy(line + 4 * c, chunks[within + c][r], 4);
      uint16_t row[kColumns];
      for (int i = 0; i < kColumns; i += kLanes)
        store(row + i, to_bf16(uint8(line + i) * step[i / 16][r] + least[i / 16][r]));
      memcpy(out + size_t(r) * m.columns + from, row, sizeof(uint16_t) * count);
    }
  }
}

template <class Isa, int BITS>
void whole_rows(const Matrix& m, int block, uint16_t* out) {
  if constexpr (BITS > 2)
    if (m.type == kSparse) return whole16<Isa, BITS, kTwoOfFour>(m, block, out);
  whole16<Isa, BITS, BITS>(m, block, out);
}

template <class Isa>
void whole(const Matrix& m, int block, uint16_t* out) {
  switch (m.bits) {
    case 2: return whole_rows<Isa, 2>(m, block, out);
    case 3: return whole_rows<Isa, 3>(m, block, out);
    case 4: return whole_rows<Isa, 4>(m, block, out);
    case 5: return whole_rows<Isa, 5>(m, block, out);
    case 6: return whole_rows<Isa, 6>(m, block, out);
    default: return whole_rows<Isa, 8>(m, block, out);
  }
}

}  // namespace
}  // namespace edgewise
