// One step of a few tokens through a block, everything but the integer products written once.
#pragma once
#include <cmath>
#include <type_traits>

#include "product.h"
#include "rounding.h"
#include "table.h"

namespace edgewise {
namespace {

// out = x normalised; all of them [size].
INLINE void normalise(const Norm& norm, const float* x, int size, float* out) {
  f32s squares = {}, total = {};
  float more = 0, mean = 0;
  int i = 0;
  if (norm.centred) {
    for (i = 0; i + kLanes <= size; i += kLanes) total += load<f32s>(x + i);
    mean = sum(total);
    for (; i < size; ++i) mean += x[i];
    mean /= static_cast<float>(size);
  }
  for (i = 0; i + kLanes <= size; i += kLanes) {
    const f32s part = load<f32s>(x + i) - mean;
    squares += part * part;
  }
  for (; i < size; ++i) more += (x[i] - mean) * (x[i] - mean);
  const float by = 1.0f / std::sqrt((sum(squares) + more) / static_cast<float>(size) + norm.eps);
  for (i = 0; i + kLanes <= size; i += kLanes) {
    f32s part = (load<f32s>(x + i) - mean) * by * load<f32s>(norm.weight + i);
    if (norm.bias) part += load<f32s>(norm.bias + i);
    store(out + i, part);
  }
  for (; i < size; ++i)
    out[i] = (x[i] - mean) * by * norm.weight[i] + (norm.bias ? norm.bias[i] : 0.0f);
}

// Rows of x [tokens, size] normalised, and then in 8 bits where that is wanted.
INLINE void normalised(Crew& crew, const Norm& norm, const float* x, int size, int tokens,
                       float* rows, const Activations& in8) {
  const size_t stride = BlockScratch::padded(size);
  crew.each(tokens, 1, [&](int first, int last) {
    for (int t = first; t < last; ++t) {
      const float* row = rows + t * stride;
      normalise(norm, x + size_t(t) * size, size, rows + t * stride);
      for (int p = 0; in8.wanted() && p < pieces_of(size); ++p)
        quantize_piece(in8, t, p, row + p * kPiece, size - p * kPiece);
    }
  });
}

// A block's 16 rows into, or onto, the numbers `out` of a token.
template <bool ADD>
INLINE void deliver(const Matrix& m, int block, const float* y, float* out) {
  const int64_t row = int64_t(block) * kRows;
  const int rows = m.rows - row < kRows ? static_cast<int>(m.rows - row) : kRows;
  if (rows == kRows) {
    for (int i = 0; i < kRows; i += kLanes) {
      f32s part = load<f32s>(y + i);
      if (m.bias) part += load<f32s>(m.bias + row + i);
      if (ADD) part += load<f32s>(out + row + i);
      store(out + row + i, part);
    }
    return;
  }
  for (int r = 0; r < rows; ++r) {
    const float value = y[r] + (m.bias ? m.bias[row + r] : 0.0f);
    out[row + r] = ADD ? out[row + r] + value : value;
  }
}

// out [tokens, stride] = or += m x + bias, with rows, all parts' one after the other, on the threads.
template <class Isa, bool ADD>
INLINE void multiply(Crew& crew, const Matrix& m, Input in, int tokens, float* out,
                     size_t stride) {
  // Every thread decides for itself: quicker than waiting for one that does.
  for (Quantized& q : in.in8.sizes)
    if (q.wanted()) decide(q, place(), tokens);
  const int blocks = m.all_blocks();
  crew.each(blocks, crew.chunk(blocks), [&](int first, int last) {
    float y[kTokens][kRows];
    const Matrix* part = &m;
    int64_t row = 0;  // the part's first
    int block = first;  // of the part
    for (int left = last - first; left > 0; --left, ++block) {
      for (; block >= part->blocks(); part = part->next) block -= part->blocks(), row += part->rows;
      for (int from = 0; from < tokens; from += kTokens) {
        const int count = tokens - from < kTokens ? tokens - from : kTokens;
        product<Isa>(*part, block, in, from, count, y);
        for (int t = 0; t < count; ++t)
          deliver<ADD>(*part, block, y[t], out + row + size_t(from + t) * stride);
      }
    }
  });
}

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

// Keeps x [size] in row `row`.
template <Type TYPE>
INLINE void keep(void* to, float* scale, size_t row, int size, const float* x) {
  f32s most = {};
  if constexpr (TYPE == kInt8) {
    for (int i = 0; i < size; i += kLanes) most = higher_of(absolute(load<f32s>(x + i)), most);
    scale[row] = largest(most) / 127.0f;
  }
  const float inverse = TYPE == kInt8 && scale[row] > 0 ? 1.0f / scale[row] : 0.0f;
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

// score[h][p - first] = q[h] k[p], for H heads q [H, size] and positions [first, last).
template <Type TYPE, int H>
INLINE void compare(const float* q, int size, const Cache& cache, size_t base, int first, int last,
                    float* score, size_t stride) {
  constexpr int kPositions = H == 3 ? 2 : 8 / H;  // at a time: sums enough to keep the units busy
  const float scale = 1.0f / std::sqrt(static_cast<float>(size));
  for (int p = first; p < last; p += kPositions) {
    f32s total[kPositions][H] = {};
    size_t at[kPositions];  // those beyond the last are the last again
    for (int k = 0; k < kPositions; ++k) at[k] = base + (p + k < last ? p + k : last - 1);
    for (int i = 0; i < size; i += kLanes)
#pragma GCC unroll 8
      for (int k = 0; k < kPositions; ++k) {
        const f32s key = cached<TYPE>(cache.keys, at[k] * size + i);
#pragma GCC unroll 4
        for (int h = 0; h < H; ++h) total[k][h] += load<f32s>(q + h * size + i) * key;
      }
    for (int k = 0; k < kPositions; ++k) {
      const float by = TYPE == kInt8 ? scale * cache.key_scale[at[k]] : scale;
      for (int h = 0; h < H; ++h) score[h * stride + at[k] - base - first] = sum(total[k][h]) * by;
    }
  }
}

// `count` scores, and room up to a multiple of 16, become e^(score - most); returns 1 / their sum.
INLINE float soften(float* score, int count) {
  f32s top = every(-INFINITY), weights = {};
  for (int i = count; i % 16; ++i) score[i] = -INFINITY;
  for (int i = 0; i < count; i += kLanes) top = higher_of(load<f32s>(score + i), top);
  const float most = largest(top);
  for (int i = 0; i < count; i += kLanes) {
    const f32s shifted = load<f32s>(score + i) - most;
    const f32s part = pick(shifted < -87.0f, f32s{}, exponential(shifted));
    weights += part;
    store(score + i, part);
  }
  return 1.0f / sum(weights);
}

// out[h] = sum over positions of score[h] v, V registers from column `column` on.
template <Type TYPE, int H, int V>
INLINE void mix(const float* score, size_t stride, const float* inverse, int size, int column,
                const Cache& cache, size_t base, int first, int last, float* out) {
  f32s total[H][V] = {};
  for (int p = first; p < last; ++p) {
    f32s value[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v)
      value[v] = cached<TYPE>(cache.values, (base + p) * size + column + kLanes * v);
#pragma GCC unroll 4
    for (int h = 0; h < H; ++h) {
      float weight = score[h * stride + p - first];
      if (TYPE == kInt8) weight *= cache.value_scale[base + p];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) total[h][v] += weight * value[v];
    }
  }
  for (int h = 0; h < H; ++h)
    for (int v = 0; v < V; ++v)
      store(out + h * size + column + kLanes * v, total[h][v] * inverse[h]);
}

// H queries q [H, size] over positions [first, last) of the key/value head whose cache begins in
// row `base`; out [H, size].
template <Type TYPE, int H>
INLINE void attend(const float* q, int size, const Cache& cache, size_t base, int first, int last,
                   float* score, size_t stride, float* out) {
  float inverse[H];
  compare<TYPE, H>(q, size, cache, base, first, last, score, stride);
  for (int h = 0; h < H; ++h) inverse[h] = soften(score + h * stride, last - first);
  constexpr int kMixed = kLanes == 8 ? 2 : 4;  // registers for each head, of 16 or 32 in all
  int column = 0;
  for (; column + kMixed * kLanes <= size; column += kMixed * kLanes)
    mix<TYPE, H, kMixed>(score, stride, inverse, size, column, cache, base, first, last, out);
  for (; column < size; column += kLanes)
    mix<TYPE, H, 1>(score, stride, inverse, size, column, cache, base, first, last, out);
}

// Where a token of the step stands: its sequence's slot, and its position there.
struct Spot {
  int slot, position;
};

INLINE Spot spot(const Step& step, int token) {
  const Lane* lane = step.lanes;
  for (; token >= lane->length; ++lane) token -= lane->length;
  return {lane->slot, lane->start + token};
}

// Queries and key of a token's key/value head turned, key and value kept.
template <Type TYPE>
INLINE void remember(const Block& b, const Step& step, int token, int kv, float* row) {
  const Spot at = spot(step, token);
  const int size = b.head_dim, shared = b.heads / b.kv_heads;
  const size_t kept = (size_t(at.slot) * b.kv_heads + kv) * b.cache.context + at.position;
  const float* cos = step.cos ? step.cos + size_t(token) * size : nullptr;
  const float* sin = step.cos ? step.sin + size_t(token) * size : nullptr;
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

// Queries of one key/value head, in groups that attend together.
INLINE int groups_of(const Block& b) { return (b.heads / b.kv_heads + kHeads - 1) / kHeads; }

// A group's queries of one token answered: row and out are the token's.
template <Type TYPE>
INLINE void answer(const Block& b, const Step& step, int token, int group, const float* row,
                   float* scores, size_t room, float* out) {
  const Spot at = spot(step, token);
  const int size = b.head_dim, shared = b.heads / b.kv_heads, kv = group / groups_of(b);
  const size_t base = (size_t(at.slot) * b.kv_heads + kv) * b.cache.context;
  const int last = at.position + 1, first = b.window && last > b.window ? last - b.window : 0;
  const int from = group % groups_of(b) * kHeads, to = std::min(from + kHeads, shared);
  const size_t head = size_t(kv) * shared * size;
  const float* queries = row + head + from * size;
  float* into = out + head + from * size;
  const auto attended = [&](auto heads) {
    attend<TYPE, heads.value>(queries, size, b.cache, base, first, last, scores, room, into);
  };
  switch (to - from) {
    case 4: return attended(std::integral_constant<int, 4>{});
    case 3: return attended(std::integral_constant<int, 3>{});
    case 2: return attended(std::integral_constant<int, 2>{});
    default: return attended(std::integral_constant<int, 1>{});
  }
}

// All tokens' keys and values kept, then all queries answered.
template <Type TYPE>
INLINE void attention(Crew& crew, const Block& b, const Step& step, float* qkv, size_t stride,
                      float* scores, size_t room, float* out, size_t out_stride) {
  const int heads = step.tokens * b.kv_heads;
  crew.each(heads, crew.chunk(heads), [&](int first, int last) {
    for (int i = first; i < last; ++i)
      remember<TYPE>(b, step, i / b.kv_heads, i % b.kv_heads, qkv + i / b.kv_heads * stride);
  });
  // Token after token of the same group: they look at the same keys.
  const int tokens = step.tokens, all = tokens * b.kv_heads * groups_of(b);
  float* own = scores + size_t(place()) * kHeads * room;
  crew.each(all, crew.chunk(all), [&](int first, int last) {
    for (int i = first; i < last; ++i)
      answer<TYPE>(b, step, i % tokens, i / tokens, qkv + i % tokens * stride, own, room,
                   out + i % tokens * out_stride);
  });
}

// The same for caches of any type.
INLINE void attention(Crew& crew, const Block& b, const Step& step, float* qkv, size_t stride,
                      float* scores, size_t room, float* out, size_t out_stride) {
  switch (b.cache.type) {
    case kBf16: return attention<kBf16>(crew, b, step, qkv, stride, scores, room, out, out_stride);
    case kFp16: return attention<kFp16>(crew, b, step, qkv, stride, scores, room, out, out_stride);
    case kFp32: return attention<kFp32>(crew, b, step, qkv, stride, scores, room, out, out_stride);
    default: return attention<kInt8>(crew, b, step, qkv, stride, scores, room, out, out_stride);
  }
}

// The first numbers from `x` on: those beyond `count` are zero.
INLINE f32s at_most(const float* x, int count) {
  if (count >= kLanes) return load<f32s>(x);
  float some[kLanes] = {};
  for (int i = 0; i < count; ++i) some[i] = x[i];
  return load<f32s>(some);
}

INLINE f32s activated(int32_t kind, f32s x) {
  switch (kind) {
    case kSilu: return x / (1.0f + exponential(-x));
    case kRelu: return higher_of(x, f32s{});
    default:
      for (int i = 0; i < kLanes; ++i) x[i] *= 0.5f * (1.0f + std::erf(x[i] * 0.70710678f));
      return x;
  }
}

// Piece `piece` of token t of what lies between the MLP's two products, in the place of `up`, and in
// 8 bits where that is wanted.
INLINE void activate(const Block& b, float* up, size_t stride, int t, int piece,
                     const Activations& in8) {
  float* x = up + t * stride;
  float line[kPiece];
  const int first = piece * kPiece, count = b.ffn - first < kPiece ? b.ffn - first : kPiece;
  for (int i = 0; i < count; i += kLanes) {
    f32s part = activated(b.activation, at_most(x + first + i, count - i));
    if (b.gated) part *= at_most(x + b.ffn + first + i, count - i);
    store(line + i, part);
  }
  if (in8.wanted()) quantize_piece(in8, t, piece, line, count);
  memcpy(x + first, line, sizeof(float) * count);
}

// The pieces of rows of x [tokens, columns] in 8 bits, where that is wanted.
INLINE void quantize(Crew& crew, const Activations& in8, int tokens, const float* x, size_t stride,
                     int columns) {
  if (!in8.wanted()) return;
  const int pieces = pieces_of(columns), all = tokens * pieces;
  crew.each(all, std::max(all / 4, 1), [&](int first, int last) {
    for (int i = first; i < last; ++i) {
      const int from = i % pieces * kPiece;
      quantize_piece(in8, i / pieces, i % pieces, x + i / pieces * stride + from, columns - from);
    }
  });
}

template <class Isa>
void block_step(Crew& crew, const Block& b, const Step& step, void* memory) {
  const int longest = step.longest(), tokens = step.tokens;
  Scratch from(memory);
  const BlockScratch s(from, b, tokens, step.threads, longest);
  const size_t fused = s.padded(b.qkv.all_rows()), wide = s.padded(b.up.all_rows());
  const size_t queries = s.padded(int64_t(b.heads) * b.head_dim), hidden = s.padded(b.hidden);

  normalised(crew, b.attention_norm, step.x, b.hidden, tokens, s.normal, s.hidden);
  multiply<Isa, false>(crew, b.qkv, {s.normal, hidden, s.hidden}, tokens, s.qkv, fused);
  attention(crew, b, step, s.qkv, fused, s.scores, s.padded(longest), s.attended, queries);
  quantize(crew, s.heads, tokens, s.attended, queries, b.heads * b.head_dim);
  multiply<Isa, true>(crew, b.out, {s.attended, queries, s.heads}, tokens, step.x, b.hidden);
  normalised(crew, b.mlp_norm, step.x, b.hidden, tokens, s.normal, s.ups);
  multiply<Isa, false>(crew, b.up, {s.normal, hidden, s.ups}, tokens, s.up, wide);
  const int inner = pieces_of(b.ffn);
  crew.each(tokens * inner, std::max(tokens * inner / 16, 1), [&](int first, int last) {
    for (int i = first; i < last; ++i) activate(b, s.up, wide, i / inner, i % inner, s.ffn);
  });
  multiply<Isa, true>(crew, b.down, {s.up, wide, s.ffn}, tokens, step.x, b.hidden);
}

template <class Isa>
void linear_step(Crew& crew, const Matrix& m, const float* x, int tokens, float* y, void* memory) {
  Scratch from(memory);
  const Activations in8(from, m, tokens, crew.size());
  quantize(crew, in8, tokens, x, m.columns, static_cast<int>(m.columns));
  multiply<Isa, false>(crew, m, {x, size_t(m.columns), in8}, tokens, y, m.all_rows());
}

template <class Isa>
void whole_step(Crew& crew, const Matrix& m, int first_block, int last_block, uint16_t* out) {
  const int count = last_block - first_block;
  crew.each(count, crew.chunk(count), [&](int first, int last) {
    for (int i = first; i < last; ++i)
      whole<Isa>(m, first_block + i, out + size_t(i) * kRows * m.columns);
  });
}

template <class Isa>
const Table* table(const char* name) {
  static const Table found{name, linear_step<Isa>, whole_step<Isa>, block_step<Isa>, round_step};
  return &found;
}

}  // namespace
}  // namespace edgewise
