// Attention: queries of a few tokens over cached keys and values, in float32.
//
// A query block is some tokens of one lane and the heads that share a key/value head: its rows look at
// the same keys and values, which are brought to float32 a span of positions at a time, for all of
// them. A score is a sum over the head's numbers in order, a result one over positions in order,
// each in a lane of its own: so a row's numbers are the same in any block, alone or in a prompt.
// Positions that a row does not see weigh nothing: adding 0 times a finite number changes no sum.
#pragma once
#include <algorithm>
#include <cmath>

#include "norm.h"
#include "plain.h"
#include "pool.h"
#include "scratch.h"

namespace edgewise {
namespace {

constexpr int kVectors = 4;  // of positions, or of columns, whose sums are kept for a few rows
#if EDGEWISE_LANES == 16 || defined(__aarch64__)
constexpr int kAttended = 4;  // rows: sums for them must fit into the 32 registers
#else
constexpr int kAttended = 3;  // or into 16
#endif
constexpr int kSpan = kVectors * kLanes;  // positions
static_assert(kSpan <= kMostSpan, "scratch.h has no room for more");

// The pair (i, i + D/2) of a head turned by its angle.
INLINE void turn(float* x, int size, const float* cos, const float* sin) {
  const int half = size / 2;
  for (int i = 0; i < half; ++i) {
    const float a = x[i], b = x[i + half];
    x[i] = a * cos[i] - b * sin[i];
    x[i + half] = b * cos[i + half] + a * sin[i + half];
  }
}

// As many cached numbers as a register holds, from `at` on.
template <Type TYPE>
INLINE f32s cached(const void* from, size_t at) {
  if constexpr (TYPE == kInt8) return int8(static_cast<const int8_t*>(from) + at);
  return numbers<TYPE>(from, at);
}

// The same, and the line a span further on is fetched, once for each line: processors that are kept busy
// in between do not fetch far enough ahead.
template <Type TYPE>
INLINE f32s cached_ahead(const void* from, size_t at, int size) {
  constexpr size_t kWidth = TYPE == kInt8 ? 1 : size_of(TYPE);
  if (at * kWidth % 64 == 0)
    __builtin_prefetch(static_cast<const char*>(from) + (at + size_t(kSpan) * size) * kWidth);
  return cached<TYPE>(from, at);
}

// Keeps x [size] in row `row`.
template <Type TYPE>
INLINE void keep(void* to, float* scale, size_t row, int size, const float* x) {
  f32s most = {};
  if constexpr (TYPE == kInt8) {
    for (int i = 0; i < size; i += kLanes) most = higher_of(absolute(load<f32s>(x + i)), most);
    scale[row] = largest(most) / 127.0f;
  }
  const float inverse = TYPE == kInt8 && scale[row] > 1e-30f ? 1.0f / scale[row] : 0.0f;
  for (int i = 0; i < size; i += kLanes) {
    const f32s part = load<f32s>(x + i);
    const size_t at = row * size + i;
    if constexpr (TYPE == kBf16) store(static_cast<uint16_t*>(to) + at, to_bf16(part));
    if constexpr (TYPE == kFp16) store(static_cast<uint16_t*>(to) + at, to_fp16(part));
    if constexpr (TYPE == kFp32) store(static_cast<float*>(to) + at, part);
    if constexpr (TYPE == kInt8)
      store(static_cast<int8_t*>(to) + at,
            __builtin_convertvector(rounded(part * inverse), i8s));
  }
}

// Some tokens of a step, of one lane: from `token` on, at positions from `position` on.
struct Tokens {
  int slot, token, position, count;
};

// Part `number` of the lanes, each divided into parts of `most` tokens.
INLINE Tokens tokens_of(const Step& step, int number, int most) {
  const Lane* lane = step.lanes;
  int token = 0;
  for (; number >= parts_of(*lane, most); token += lane->length, ++lane)
    number -= parts_of(*lane, most);
  const int from = number * most;
  return {lane->slot, token + from, lane->start + from, std::min(most, lane->length - from)};
}

// A key/value head's row of a slot's first position.
INLINE size_t first_row(const Block& b, int slot, int kv) {
  return (size_t(slot) * b.kv_heads + kv) * b.cache.context;
}

// Queries and keys of a key/value head turned, keys and values kept.
template <Type TYPE>
INLINE void remember(const Block& b, const Step& step, const Tokens& of, int kv, float* qkv,
                     size_t stride) {
  const int size = b.head_dim, shared = b.heads / b.kv_heads;
  for (int t = 0; t < of.count; ++t) {
    const size_t token = of.token + t, kept = first_row(b, of.slot, kv) + of.position + t;
    const float* cos = step.cos ? step.cos + token * size : nullptr;
    const float* sin = step.cos ? step.sin + token * size : nullptr;
    float* row = qkv + token * stride;
    float* key = row + size_t(b.heads + kv) * size;
    for (int h = 0; h < shared; ++h) {
      float* query = row + size_t(kv * shared + h) * size;
      if (b.q_norm.weight) normalise(b.q_norm, query, size, query);
      if (cos) turn(query, size, cos, sin);
    }
    if (b.k_norm.weight) normalise(b.k_norm, key, size, key);
    if (cos) turn(key, size, cos, sin);
    keep<TYPE>(b.cache.keys, b.cache.key_scale, kept, size, key);
    keep<TYPE>(b.cache.values, b.cache.value_scale, kept, size, key + size_t(b.kv_heads) * size);
  }
}

// The rows of a query block, heads in turn, in a buffer of all tokens: what they ask, or their answer.
struct Rows {
  float* first;   // of the first token, at the key/value head's first query
  size_t stride;  // from token to token
  int shared, size;

  float* operator[](int row) const {
    return first + row / shared * stride + size_t(row % shared) * size;
  }
};

// Keys of the positions [first, first + V kLanes), those from `end` on the last again: to [size, kSpan],
// and what their scores are to be multiplied with.
template <Type TYPE>
INLINE void spread(const Cache& cache, size_t base, int first, int end, int vectors, int size,
                   float* keys, float* by) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(size));
  for (int v = 0; v < vectors; ++v)
    for (int i = 0; i < size; i += kLanes) {
      f32s x[kLanes];
#pragma GCC unroll 16
      for (int k = 0; k < kLanes; ++k)
        x[k] = cached_ahead<TYPE>(
            cache.keys, (base + std::min(first + v * kLanes + k, end - 1)) * size + i, size);
      transpose(x);
#pragma GCC unroll 16
      for (int k = 0; k < kLanes; ++k) store(keys + size_t(i + k) * kSpan + v * kLanes, x[k]);
    }
  for (int p = 0; p < vectors * kLanes; ++p)
    by[p] = TYPE == kInt8 ? scale * cache.key_scale[base + std::min(first + p, end - 1)] : scale;
}

// score[r][p] = by[p] q[r] k[p], for R rows from `row` on and V vectors of positions.
template <int R, int V>
INLINE void compare(const Rows& queries, int row, const float* keys, const float* by, float* score,
                    size_t room) {
  f32s total[R][V] = {};
  const float* q[R];
  for (int r = 0; r < R; ++r) q[r] = queries[row + r];
  for (int i = 0; i < queries.size; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const f32s key = load<f32s>(keys + size_t(i) * kSpan + v * kLanes);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) total[r][v] += q[r][i] * key;
    }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v)
      store(score + r * room + v * kLanes, total[r][v] * load<f32s>(by + v * kLanes));
}

// work(first row, how many as a constant) on all rows, as many at a time as fit into registers.
template <int R, class F>
INLINE void in_groups(int first, int rows, F&& work) {
  for (; first + R <= rows; first += R) work(first, std::integral_constant<int, R>{});
  if constexpr (R > 1) in_groups<R - 1>(first, rows, work);
}

// The same for all rows.
template <int V>
INLINE void compare_all(const Rows& queries, int rows, const float* keys, const float* by,
                        float* score, size_t room) {
  in_groups<kAttended>(0, rows, [&](int r, auto count) {
    compare<count.value, V>(queries, r, keys, by, score + r * room, room);
  });
}

// Of scores [0, count), and room up to a whole span, those outside [first, end) become 0 and the
// others e^(score - most) / their sum.
INLINE void soften(float* score, int first, int end, int count) {
  const int all = (count + kLanes - 1) / kLanes * kLanes;
  std::fill(score, score + first, -INFINITY);
  std::fill(score + end, score + all, -INFINITY);
  f32s top = every(-INFINITY), weights = {};
  for (int i = 0; i < all; i += kLanes) top = higher_of(load<f32s>(score + i), top);
  const float most = largest(top);
  for (int i = 0; i < all; i += kLanes) {
    const f32s shifted = load<f32s>(score + i) - most;
    const f32s part = pick(shifted < -87.0f, f32s{}, exponential(shifted));
    weights += part;
    store(score + i, part);
  }
  const float inverse = 1.0f / sum(weights);
  for (int i = 0; i < all; i += kLanes) store(score + i, load<f32s>(score + i) * inverse);
}

// out[r] += sum over `count` positions of weight[r] v, V registers from column `column` on; the first
// time out is not looked at.
template <int R, int V>
INLINE void mix(const Rows& out, int row, const float* weight, size_t room, const float* values,
                int count, int column, bool begun) {
  f32s total[R][V] = {};
  for (int r = 0; r < R && begun; ++r)
    for (int v = 0; v < V; ++v) total[r][v] = load<f32s>(out[row + r] + column + v * kLanes);
  for (int p = 0; p < count; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const f32s value = load<f32s>(values + size_t(p) * out.size + column + v * kLanes);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) total[r][v] += weight[r * room + p] * value;
    }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(out[row + r] + column + v * kLanes, total[r][v]);
}

// The same for R rows and all columns.
template <int R>
INLINE void mix_columns(const Rows& out, int row, const float* weight, size_t room,
                        const float* values, int count, bool begun) {
  int column = 0;
  for (; column + kVectors * kLanes <= out.size; column += kVectors * kLanes)
    mix<R, kVectors>(out, row, weight, room, values, count, column, begun);
  for (; column < out.size; column += kLanes)
    mix<R, 1>(out, row, weight, room, values, count, column, begun);
}

// What a thread works on: see AttentionScratch.
struct Desk {
  float *keys, *by, *score;
  size_t room;
};

// A query block answered. Spans begin at multiples of kSpan, so that lanes are a position's own.
template <Type TYPE>
INLINE void answer(const Block& b, const Tokens& of, int kv, const Rows& queries, const Desk& desk,
                   const Rows& out) {
  const int rows = of.count * queries.shared, size = b.head_dim, last = of.position + of.count;
  const size_t base = first_row(b, of.slot, kv), room = desk.room;
  const auto oldest = [&](int position) {
    return b.window && position >= b.window ? position + 1 - b.window : 0;
  };
  const int from = oldest(of.position) / kSpan * kSpan;
  for (int p = from; p < last; p += kSpan) {
    const int vectors = std::min((last - p + kLanes - 1) / kLanes, kVectors);
    spread<TYPE>(b.cache, base, p, last, vectors, size, desk.keys, desk.by);
    float* score = desk.score + p - from;
    switch (vectors) {
      case 1: compare_all<1>(queries, rows, desk.keys, desk.by, score, room); break;
      case 2: compare_all<2>(queries, rows, desk.keys, desk.by, score, room); break;
      case 3: compare_all<3>(queries, rows, desk.keys, desk.by, score, room); break;
      default: compare_all<4>(queries, rows, desk.keys, desk.by, score, room);
    }
  }
  for (int r = 0; r < rows; ++r) {
    const int position = of.position + r / queries.shared;
    float* weight = desk.score + r * room;
    soften(weight, oldest(position) - from, position + 1 - from, last - from);
    for (int i = 0; TYPE == kInt8 && i < last - from; ++i)
      weight[i] *= b.cache.value_scale[base + from + i];
  }
  float* values = desk.keys;
  for (int p = from; p < last; p += kSpan) {
    const int count = std::min(last - p, kSpan);
    for (size_t i = 0; i < size_t(count) * size; i += kLanes)
      store(values + i, cached_ahead<TYPE>(b.cache.values, (base + p) * size + i, size));
    in_groups<kAttended>(0, rows, [&](int r, auto at_once) {
      mix_columns<at_once.value>(out, r, desk.score + r * room + p - from, room, values, count,
                                 p > from);
    });
  }
}

// All tokens' keys and values kept, and all queries answered: qkv [tokens, stride] to out
// [tokens, out_stride].
template <Type TYPE>
INLINE void attention(Crew& crew, const Block& b, const Step& step, float* qkv, size_t stride,
                      const AttentionScratch& scratch, float* out, size_t out_stride) {
  const int most = scratch.tokens, parts = parts_of(step, most), all = parts * b.kv_heads;
  const int shared = b.heads / b.kv_heads, size = b.head_dim;
  // Fewer query blocks than threads: their heads are dealt out, each converts the keys for itself.
  const int splits = std::min((crew.size() + all - 1) / all, shared);
  // Where a lane is one query block, nothing that it looks at is kept by another one.
  const bool at_once = step.num_lanes == parts && splits == 1;
  const auto keep_part = [&](int i) {
    remember<TYPE>(b, step, tokens_of(step, i % parts, most), i / parts, qkv, stride);
  };
  if (!at_once)
    crew.each(all, crew.chunk(all), [&](int first, int last) {
      for (int i = first; i < last; ++i) keep_part(i);
    });
  const size_t place = ::edgewise::place();
  const Desk desk{scratch.keys + place * scratch.numbers, scratch.by + place * kMostSpan,
                  scratch.scores + place * scratch.rows * scratch.room, scratch.room};
  crew.each(all * splits, crew.chunk(all * splits), [&](int first, int last) {
    for (int i = first; i < last; ++i) {
      const int block = i / splits, split = i % splits;
      if (at_once) keep_part(block);
      const Tokens of = tokens_of(step, block % parts, most);
      const int from = split * shared / splits, count = (split + 1) * shared / splits - from;
      const size_t head = (size_t(block / parts) * shared + from) * size;
      answer<TYPE>(b, of, block / parts, {qkv + of.token * stride + head, stride, count, size}, desk,
                   {out + of.token * out_stride + head, out_stride, count, size});
    }
  });
}

// The same for caches of any type.
INLINE void attention(Crew& crew, const Block& b, const Step& step, float* qkv, size_t stride,
                      const AttentionScratch& scratch, float* out, size_t out_stride) {
  switch (b.cache.type) {
    case kBf16: return attention<kBf16>(crew, b, step, qkv, stride, scratch, out, out_stride);
    case kFp16: return attention<kFp16>(crew, b, step, qkv, stride, scratch, out, out_stride);
    case kFp32: return attention<kFp32>(crew, b, step, qkv, stride, scratch, out, out_stride);
    default: return attention<kInt8>(crew, b, step, qkv, stride, scratch, out, out_stride);
  }
}

}  // namespace
}  // namespace edgewise
