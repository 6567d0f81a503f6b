// Matrices of numbers to packed ones: 16 rows at a time, from the search for the sides of their groups
// (sides.h) to codes in tiles and planes (quantization/pack.py).
#pragma once
#include "scratch.h"
#include "sides.h"
#include "table.h"

namespace edgewise {
namespace {

INLINE f32s some_of(const void* from, int32_t type) {
  const uint16_t* narrow = static_cast<const uint16_t*>(from);
  return type == kFp32 ? load<f32s>(from) : type == kBf16 ? bf16(narrow) : fp16(narrow);
}

// Rows of a block, across: [slices, width, lanes], the last row and column repeated.
inline void transpose(const Rounding& r, int block, float* x) {
  const size_t bytes = r.type == kFp32 ? 4 : 2;
  for (int row = 0; row < kRows; ++row) {
    const int64_t number = std::min<int64_t>(int64_t(block) * kRows + row, r.rows - 1);
    const char* from = static_cast<const char*>(r.weight) + size_t(number) * r.stride * bytes;
    float* to = x + size_t(row / kLanes) * r.width * kLanes + row % kLanes;
    for (int column = 0; column < r.width; column += kLanes) {
      const char* here = from + column * bytes;
      alignas(64) char last[64];
      if (column + kLanes > r.columns) {
        for (int i = 0; i < kLanes; ++i) {
          const int64_t which = std::min<int64_t>(column + i, r.columns - 1);
          memcpy(last + i * bytes, from + which * bytes, bytes);
        }
        here = last;
      }
      float each[kLanes];
      store(each, some_of(here, r.type));
      for (int i = 0; i < kLanes; ++i) to[size_t(column + i) * kLanes] = each[i];
    }
  }
}

INLINE Group group_of(const Rounding& r, const float* x, int slice, int number) {
  const int first = number * r.group;
  const float* weight = r.by_column + first;
  float total = 0.0f;
  for (int i = 0; i < r.group; ++i) total += weight[i];
  const int half = 1 << (r.bits - 1);
  const int lowest = r.asymmetric ? 0 : -half, highest = r.asymmetric ? 2 * half - 1 : half - 1;
  return {x + (size_t(slice) * r.width + first) * kLanes, weight, r.group, total,
          every(float(lowest)), every(float(highest))};
}

// Codes of a group, from 0 on, to their places in chunks of four columns.
template <bool MINIMUM>
void encode(const Group& g, const Side& side, uint8_t* codes) {
  const f32s inverse = reciprocal(side.scale);
  for (int i = 0; i < g.size; i += 4) {
    u32s four{};
    for (int k = 0; k < 4; ++k) {
      f32s above = load<f32s>(g.x + (i + k) * kLanes);
      if (MINIMUM) above -= side.minimum;
      const f32s code = nearest(above * inverse, g.lowest, g.highest) - g.lowest;
      four |= (u32s)__builtin_convertvector(code, i32s) << (8 * k);
    }
    store(codes + size_t(i) * kRows, four);
  }
}

// A side of a group for kLanes rows, as it is stored.
template <bool DOUBLE>
INLINE void put(void* to, size_t at, f32s side, f32s unit) {
  const f32s steps = DOUBLE ? multiples(side, unit) : side;
  float each[kLanes];
  store(each, steps);
  for (int i = 0; i < kLanes; ++i) {
    uint32_t bits;
    memcpy(&bits, &each[i], sizeof bits);
    if (DOUBLE) static_cast<int8_t*>(to)[at + i] = static_cast<int8_t>(each[i]);
    else static_cast<uint16_t*>(to)[at + i] = static_cast<uint16_t>(bits >> 16);
  }
}

INLINE void put_unit(uint16_t* to, size_t at, f32s unit) { put<false>(to, at, unit, unit); }

// kLanes rows of a block.
template <bool MINIMUM, bool DOUBLE>
void round_slice(const Rounding& r, const RoundingScratch& s, int block, int slice) {
  const int groups = r.groups();
  float* scales = s.scale + size_t(slice) * groups * kLanes;
  float* minima = s.minimum + size_t(slice) * groups * kLanes;
  f32s most_scale{}, most_minimum{};
  for (int i = 0; i < groups; ++i) {
    const Side best = best_sides<MINIMUM>(group_of(r, s.x, slice, i), r.ranges, r.num_ranges);
    store(scales + i * kLanes, best.scale);
    store(minima + i * kLanes, best.minimum);
    most_scale = higher_of(absolute(best.scale), most_scale);
    most_minimum = higher_of(absolute(best.minimum), most_minimum);
  }
  const Side unit{unit_of(most_scale), unit_of(most_minimum)};
  const size_t row = size_t(block) * kRows + slice * kLanes;
  if (DOUBLE) {
    put_unit(r.row_scale, row, unit.scale);
    if (MINIMUM) put_unit(r.row_minimum, row, unit.minimum);
  }
  for (int i = 0; i < groups; ++i) {
    const Group g = group_of(r, s.x, slice, i);
    const Side best{load<f32s>(scales + i * kLanes), load<f32s>(minima + i * kLanes)};
    const Side side = rounded_sides<MINIMUM, DOUBLE>(g, best, unit);
    const size_t at = (size_t(block) * groups + i) * kRows + slice * kLanes;
    put<DOUBLE>(r.scale, at, side.scale, unit.scale);
    if (MINIMUM) put<DOUBLE>(r.minimum, at, side.minimum, unit.minimum);
    encode<MINIMUM>(g, side, s.codes + size_t(i) * r.group * kRows + 4 * slice * kLanes);
  }
}

// A tile's 8 chunks of codes into planes.
inline void pack(const uint8_t* chunks, int bits, uint8_t* out) {
  for (int shift = 0, width = 8; shift < bits; width /= 2) {
    if (bits - shift < width) continue;
    const uint32_t mask = ((1u << width) - 1) * 0x01010101u;
    const int fields = 8 / width;
    for (int vector = 0; vector < width; ++vector, out += 64) {
      for (int part = 0; part < 64; part += 4 * kLanes) {
        u32s bytes{};
        for (int i = 0; i < fields; ++i) {
          const u32s chunk = load<u32s>(chunks + 64 * (vector * fields + i) + part);
          bytes |= ((chunk >> shift) & mask) << (width * i);
        }
        store(out + part, bytes);
      }
    }
    shift += width;
  }
}

inline void round_block(const Rounding& r, const RoundingScratch& s, int block) {
  transpose(r, block, s.x);
  for (int slice = 0; slice < kSlices; ++slice) {
    if (r.asymmetric && r.doubled) round_slice<true, true>(r, s, block, slice);
    else if (r.asymmetric) round_slice<true, false>(r, s, block, slice);
    else if (r.doubled) round_slice<false, true>(r, s, block, slice);
    else round_slice<false, false>(r, s, block, slice);
  }
  const int tiles = r.width / kColumns;
  for (int i = 0; i < tiles; ++i)
    pack(s.codes + size_t(i) * kColumns * kRows, r.bits,
         r.codes + (size_t(block) * tiles + i) * r.bits * 64);
}

inline void round_step(Crew& crew, const Rounding& r, void* memory) {
  crew.each(r.blocks(), 1, [&](int first, int last) {
    Scratch from(static_cast<char*>(memory) + rounding_scratch(r) * place());
    const RoundingScratch s(from, r);
    for (int i = first; i < last; ++i) round_block(r, s, i);
  });
}

}  // namespace
}  // namespace edgewise
