// One step of a few tokens through a block, everything but the integer products written once.
#pragma once
#include <cmath>

#include "attention.h"
#include "low_rank.h"
#include "product.h"
#include "rounding.h"
#include "table.h"

namespace edgewise {
namespace {

// work(first, last) on pieces of [0, count): shared out, or where each thread has its own place for the
// result, done by all of them, which is quicker for few tokens than to wait for others.
template <class F>
INLINE void prepare(Crew& crew, bool by_each, int count, F&& work) {
  if (by_each) return work(0, count);
  crew.each(count, std::max(count / 8, 1), work);
}

// Rows of x [tokens, size] normalised, and then in 8 bits where that is wanted.
INLINE void normalised(Crew& crew, bool by_each, const Norm& norm, const float* x, int size,
                       int tokens, float* rows, const Activations& in8) {
  const size_t stride = BlockScratch::padded(size);
  prepare(crew, by_each, tokens, [&](int first, int last) {
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
    int64_t row = 0;    // the part's first
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
INLINE void quantize(Crew& crew, bool by_each, const Activations& in8, int tokens, const float* x,
                     size_t stride, int columns) {
  if (!in8.wanted()) return;
  const int pieces = pieces_of(columns);
  prepare(crew, by_each, tokens * pieces, [&](int first, int last) {
    for (int i = first; i < last; ++i) {
      const int from = i % pieces * kPiece;
      quantize_piece(in8, i / pieces, i % pieces, x + i / pieces * stride + from, columns - from);
    }
  });
}

template <class Isa>
void block_step(Crew& crew, const Block& b, const Step& step, void* memory) {
  const int tokens = step.tokens;
  Scratch from(memory);
  const BlockScratch s(from, b, step);
  const size_t fused = s.padded(b.qkv.all_rows()), wide = s.padded(b.up.all_rows());
  const size_t queries = s.padded(int64_t(b.heads) * b.head_dim), hidden = s.padded(b.hidden);
  const bool by_each = s.copies > 1;
  const int own = by_each ? place() * tokens : 0;  // this thread's first token in what there are copies of
  float* normal = s.normal + own * hidden;
  const Activations in_qkv = s.hidden.from(own), in_out = s.heads.from(own), in_up = s.ups.from(own);

  normalised(crew, by_each, b.attention_norm, step.x, b.hidden, tokens, normal, in_qkv);
  multiply<Isa, false>(crew, b.qkv, {normal, hidden, in_qkv}, tokens, s.qkv, fused);
  adapt(crew, step, &Adapter::qkv, normal, hidden, s.qkv, fused);
  attention(crew, b, step, s.qkv, fused, s.attention, s.attended, queries);
  quantize(crew, by_each, in_out, tokens, s.attended, queries, b.heads * b.head_dim);
  multiply<Isa, true>(crew, b.out, {s.attended, queries, in_out}, tokens, step.x, b.hidden);
  adapt(crew, step, &Adapter::out, s.attended, queries, step.x, b.hidden);
  normalised(crew, by_each, b.mlp_norm, step.x, b.hidden, tokens, normal, in_up);
  multiply<Isa, false>(crew, b.up, {normal, hidden, in_up}, tokens, s.up, wide);
  adapt(crew, step, &Adapter::up, normal, hidden, s.up, wide);
  const int inner = pieces_of(b.ffn);
  crew.each(tokens * inner, std::max(tokens * inner / 16, 1), [&](int first, int last) {
    for (int i = first; i < last; ++i) activate(b, s.up, wide, i / inner, i % inner, s.ffn);
  });
  multiply<Isa, true>(crew, b.down, {s.up, wide, s.ffn}, tokens, step.x, b.hidden);
  adapt(crew, step, &Adapter::down, s.up, wide, step.x, b.hidden);
}

template <class Isa>
void linear_step(Crew& crew, const Matrix& m, const float* x, int tokens, float* y, void* memory) {
  Scratch from(memory);
  const Activations in8(from, m, tokens, crew.size());
  quantize(crew, false, in8, tokens, x, m.columns, static_cast<int>(m.columns));
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
