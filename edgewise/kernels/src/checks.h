// What Python hands over, checked before anything is read or written: shapes, types and positions; and
// how the structs lie in memory, which Python checks when it loads the library.
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "matrix.h"

namespace edgewise {

inline bool known(const Matrix& m) {
  if (m.next && (m.next->columns != m.columns || !known(*m.next))) return false;
  if (m.rows < 1 || m.columns < 1) return false;
  if (!m.packed()) return m.type == kBf16 || m.type == kFp16 || m.type == kFp32;
  const bool bits = m.bits >= 2 && m.bits <= 8 && m.bits != 7;
  const bool group = m.group == 16 || m.group == 32 || m.group == 64 || m.group == 128;
  const bool sides = m.sides == kBf16 || m.sides == kFp16 || (m.sides == kInt8 && m.row_scale);
  const bool zeros = m.bits > 2 && (m.group == 32 || m.group == 64) && !m.minimum;
  return bits && group && sides && m.scale && (m.type != kSparse || zeros);
}

inline bool known(const Block& b) {
  const bool heads = b.kv_heads > 0 && b.heads > 0 && b.heads % b.kv_heads == 0;
  const bool sizes = b.head_dim > 0 && b.head_dim % 16 == 0 && b.hidden > 0 && b.ffn > 0;
  if (!heads || !sizes || b.activation < kSilu || b.activation > kGelu) return false;
  if (b.cache.type < kBf16 || b.cache.type > kFp16) return false;
  if (b.cache.type == kInt8 && !(b.cache.key_scale && b.cache.value_scale)) return false;
  const int64_t queries = int64_t(b.heads) * b.head_dim, keys = int64_t(b.kv_heads) * b.head_dim;
  return known(b.qkv) && known(b.out) && known(b.up) && known(b.down) &&
         b.qkv.columns == b.hidden && b.qkv.all_rows() == queries + 2 * keys &&
         b.out.columns == queries && b.out.all_rows() == b.hidden && b.up.columns == b.hidden &&
         b.up.all_rows() == int64_t(b.ffn) * (b.gated ? 2 : 1) && b.down.columns == b.ffn &&
         b.down.all_rows() == b.hidden;
}

inline bool fits(const LowRank* part, const Matrix& m) {
  if (!part) return true;
  const bool rows = part->first >= 0 && part->rows > 0 && part->rows <= m.all_rows() - part->first;
  const bool rank = part->rank > 0 && part->rank <= kMostRank && part->down && part->up;
  return rows && rank && part->columns == m.columns && fits(part->next, m);
}

// Whether what the lanes' adapters add to a block is of its matrices' sizes.
inline bool fits(const Block& b, const Adapter* const* adapters, int lanes) {
  for (int i = 0; adapters && i < lanes; ++i)
    if (const Adapter* a = adapters[i])
      if (!(fits(a->qkv, b.qkv) && fits(a->out, b.out) && fits(a->up, b.up) && fits(a->down, b.down)))
        return false;
  return true;
}

// Whether the step's positions lie in the block's cache, and are as many as its tokens.
inline bool fits(const Block& b, const Step& step) {
  int64_t tokens = 0;
  for (int i = 0; i < step.num_lanes; ++i) {
    const Lane& lane = step.lanes[i];
    if (lane.slot < 0 || lane.slot >= b.cache.slots || lane.start < 0 || lane.length < 1) return false;
    if (int64_t(lane.start) + lane.length > b.cache.context) return false;
    tokens += lane.length;
  }
  return tokens == step.tokens && tokens > 0;
}

// Whether each lane has a slot of its own: lanes do not wait for each other's keys and values.
inline bool distinct(const Step& step) {
  for (int i = 0; i < step.num_lanes; ++i)
    for (int k = 0; k < i; ++k)
      if (step.lanes[i].slot == step.lanes[k].slot) return false;
  return true;
}

// Of every struct its size and where its fields lie, one after the other, ending in -1.
#define AT(field) int64_t(offsetof(Here, field))
inline const int64_t* layouts() {
  static const int64_t* const found = [] {
    static int64_t all[128];
    int count = 0;
    const auto add = [&](std::initializer_list<int64_t> some) {
      for (int64_t x : some) all[count++] = x;
    };
    {
      using Here = Matrix;
      add({sizeof(Here), AT(codes), AT(scale), AT(minimum), AT(row_scale), AT(row_minimum), AT(bias),
           AT(next), AT(rows), AT(columns), AT(bits), AT(group), AT(type), AT(sides)});
    }
    {
      using Here = Norm;
      add({sizeof(Here), AT(weight), AT(bias), AT(eps), AT(centred)});
    }
    {
      using Here = Cache;
      add({sizeof(Here), AT(keys), AT(values), AT(key_scale), AT(value_scale), AT(context), AT(type),
           AT(slots)});
    }
    {
      using Here = Block;
      add({sizeof(Here), AT(qkv), AT(out), AT(up), AT(down), AT(attention_norm), AT(mlp_norm),
           AT(q_norm), AT(k_norm), AT(cache), AT(hidden), AT(heads), AT(kv_heads), AT(head_dim),
           AT(ffn), AT(gated), AT(activation), AT(window)});
    }
    {
      using Here = Lane;
      add({sizeof(Here), AT(slot), AT(start), AT(length)});
    }
    {
      using Here = Step;
      add({sizeof(Here), AT(x), AT(cos), AT(sin), AT(lanes), AT(adapters), AT(tokens),
           AT(num_lanes), AT(threads)});
    }
    {
      using Here = LowRank;
      add({sizeof(Here), AT(down), AT(up), AT(next), AT(first), AT(rows), AT(columns), AT(rank)});
    }
    {
      using Here = Adapter;
      add({sizeof(Here), AT(qkv), AT(out), AT(up), AT(down)});
    }
    {
      using Here = Rounding;
      add({sizeof(Here), AT(weight), AT(by_column), AT(ranges), AT(codes), AT(scale), AT(minimum),
           AT(row_scale), AT(row_minimum), AT(rows), AT(columns), AT(stride), AT(width), AT(type),
           AT(bits), AT(group), AT(asymmetric), AT(doubled), AT(num_ranges)});
    }
    add({-1});
    return all;
  }();
  return found;
}
#undef AT

}  // namespace edgewise
