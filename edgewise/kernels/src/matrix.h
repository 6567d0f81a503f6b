// What Python hands over. The structs mirror those of library.py, field by field.
#pragma once
#include <cstddef>
#include <cstdint>

namespace edgewise {

// Codes lie in tiles of 16 rows and 32 columns, in planes of bits: see quantization/pack.py. Sparse: two
// of every four neighbours are kept, and which, in tiles of 16 rows and 64 columns: quantization/sparse.py.
constexpr int kRows = 16, kColumns = 32, kTokens = 16;
constexpr int kWhich = 2;  // bits that say which of four neighbours a code is

enum Type : int32_t { kBf16 = 0, kFp32 = 1, kInt8 = 2, kFp16 = 3, kPacked = 4, kSparse = 5 };

struct Matrix {
  const uint8_t* codes;         // packed: [blocks, tiles, lines, 64]; else numbers [rows, columns]
  const void* scale;            // [blocks, groups, 16], of the type `sides`
  const void* minimum;          // the same, or null: codes count from -2^(bits-1)
  const uint16_t* row_scale;    // bf16 [blocks, 16], what scales are multiples of, or null
  const uint16_t* row_minimum;  // bf16 [blocks, 16], what minima are multiples of, or null
  const float* bias;            // [rows], or null
  const Matrix* next;           // the rows below, perhaps in another scheme, or null
  int64_t rows, columns;        // as the model sees them; next's rows do not count
  int32_t bits, group;          // of packed ones, else 0
  int32_t type;
  int32_t sides;  // of packed ones: kBf16, kFp16 as files have them, kInt8 where quantized doubly

  bool packed() const { return type == kPacked || type == kSparse; }
  // Of a tile: columns, and the vectors of 64 bytes that they take.
  int tile() const { return type == kSparse ? 2 * kColumns : kColumns; }
  int lines() const { return type == kSparse ? bits + kWhich : bits; }
  int blocks() const { return static_cast<int>((rows + kRows - 1) / kRows); }
  int groups() const { return packed() ? width() / group : 0; }
  // Columns that are looked at at a time: whole groups and tiles.
  int unit() const { return group > tile() ? group : tile(); }
  // Columns, filled up to whole units.
  int width() const {
    const int64_t step = unit();
    return packed() ? static_cast<int>((columns + step - 1) / step * step) : 0;
  }
  size_t block_bytes() const { return size_t(width()) / tile() * lines() * 64; }

  // With the rows below.
  int64_t all_rows() const { return rows + (next ? next->all_rows() : 0); }
  int all_blocks() const { return blocks() + (next ? next->all_blocks() : 0); }
};

// A matrix of numbers, and where its packed form goes (as in Matrix, scales and minima by block).
struct Rounding {
  const void* weight;      // [rows, stride], of the type
  const float* by_column;  // [width], how much errors count
  const float* ranges;     // [num_ranges, 2], to try: see sides.h
  uint8_t* codes;
  void *scale, *minimum;  // bf16, or doubled int8
  uint16_t *row_scale, *row_minimum;
  int64_t rows, columns, stride, width;  // the last filled up to whole groups and tiles
  int32_t type, bits, group, asymmetric, doubled, num_ranges;

  int blocks() const { return static_cast<int>((rows + kRows - 1) / kRows); }
  int groups() const { return static_cast<int>(width / group); }
};

struct Norm {
  const float* weight;  // null: no normalisation
  const float* bias;
  float eps;
  int32_t centred;  // LayerNorm, else RMSNorm
};

enum Activation : int32_t { kSilu = 0, kRelu = 1, kGelu = 2 };

// A block's keys and values: those of one head lie one position after the other.
struct Cache {
  void* keys;  // [slots, kv_heads, context, head_dim]
  void* values;
  float* key_scale;  // [slots, kv_heads, context], of 8-bit caches
  float* value_scale;
  int64_t context;
  int32_t type, slots;
};

struct Block {
  Matrix qkv, out, up, down;
  Norm attention_norm, mlp_norm, q_norm, k_norm;
  Cache cache;
  int32_t hidden, heads, kv_heads, head_dim, ffn, gated, activation, window;  // window 0: none
};

// The step's positions [start, start + length) of the sequence in a slot of the cache.
struct Lane {
  int32_t slot, start, length;

  int end() const { return start + length; }
};

// What an adapter adds to rows [first, first + rows) of a product with x [columns]: up (down x).
struct LowRank {
  const float* down;    // [rank, columns]
  const float* up;      // [rank, rows], with the adapter's scale in it
  const LowRank* next;  // for other rows of the same matrix, or null
  int32_t first, rows, columns, rank;
};

constexpr int kMostRank = 1024;

// An adapter in one block: what it adds by matrix, null where nothing.
struct Adapter {
  const LowRank *qkv, *out, *up, *down;
};

struct Step {
  float* x;          // hidden states [tokens, hidden], in and out
  const float* cos;  // [tokens, head_dim], or null
  const float* sin;
  const Lane* lanes;               // their tokens lie one after the other
  const Adapter* const* adapters;  // [blocks, lanes], null for none; or null
  int32_t tokens, num_lanes, threads;

  // The same with the adapters of another block.
  Step at(int block) const {
    Step found = *this;
    if (adapters) found.adapters += size_t(block) * num_lanes;
    return found;
  }

  int longest() const {
    int found = 0;
    for (int i = 0; i < num_lanes; ++i) found = lanes[i].end() > found ? lanes[i].end() : found;
    return found;
  }
};

}  // namespace edgewise
