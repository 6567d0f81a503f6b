// Pieces of one buffer, each on a cache line of its own.
#pragma once
#include <cstddef>
#include <cstdint>

#include "matrix.h"

namespace edgewise {

class Scratch {
 public:
  explicit Scratch(void* start) : start_(static_cast<char*>(start)) {}

  template <class T>
  T* take(size_t count) {
    T* found = reinterpret_cast<T*>(start_ + used_);
    used_ += (count * sizeof(T) + 63) / 64 * 64;
    return found;
  }

  size_t used() const { return used_; }

 private:
  char* start_;
  size_t used_ = 0;
};

// Codes of 8 bits with a scale for each group of columns.
struct Codes {
  int8_t* of = nullptr;    // [tokens, width]
  float* scale = nullptr;  // [tokens, groups]
  float* sum = nullptr;    // [tokens, groups], of the codes: a whole number
  float* total = nullptr;  // [tokens, groups], of what the codes stand for

  Codes() = default;
  Codes(Scratch& from, size_t numbers, size_t groups)
      : of(from.take<int8_t>(numbers)),
        scale(from.take<float>(groups)),
        sum(from.take<float>(groups)),
        total(from.take<float>(groups)) {}
};

// Activations in 8 bits, symmetric, in the groups of a packed matrix, and what that leaves of them,
// in 8 bits again.
struct Quantized {
  Codes codes, rest;
  float* energy = nullptr;        // [tokens, groups], sums of squares
  uint16_t* precise = nullptr;    // [threads, chunks, groups]: bit t: the rest counts for token t of a
  int width = 0, group = 0;       // chunk of 16
  int chunks = 0;

  Quantized() = default;
  Quantized(Scratch& from, const Matrix& m, int tokens, int threads)
      : codes(from, size_t(tokens) * m.width(), size_t(tokens) * m.groups()),
        rest(from, size_t(tokens) * m.width(), size_t(tokens) * m.groups()),
        energy(from.take<float>(size_t(tokens) * m.groups())),
        precise(from.take<uint16_t>(size_t(threads) * chunks_of(tokens) * m.groups())),
        width(m.width()),
        group(m.group),
        chunks(chunks_of(tokens)) {}

  bool wanted() const { return group > 0; }
  int groups() const { return width / group; }
  static int chunks_of(int tokens) { return (tokens + kTokens - 1) / kTokens; }
};

// The same for all parts of a matrix: those with groups of one size share them.
struct Activations {
  Quantized sizes[4];  // groups of 16, 32, 64 and 128

  Activations(Scratch& from, const Matrix& m, int tokens, int threads) {
    for (const Matrix* part = &m; part; part = part->next)
      if (part->packed() && !of(*part).wanted())
        sizes[index_of(*part)] = Quantized(from, *part, tokens, threads);
  }

  const Quantized& of(const Matrix& part) const { return sizes[index_of(part)]; }

  bool wanted() const {
    for (const Quantized& q : sizes)
      if (q.wanted()) return true;
    return false;
  }

 private:
  static int index_of(const Matrix& part) {
    return part.group > 64 ? 3 : part.group > 32 ? 2 : part.group > 16 ? 1 : 0;
  }
};

// What a matrix is multiplied with: the numbers themselves, and for packed ones in 8 bits.
struct Input {
  const float* x;  // [tokens, stride]
  size_t stride;
  Activations in8;
};

// What a thread keeps of the block of 16 rows that it rounds, a slice being as many as the target
// works on at a time.
struct RoundingScratch {
  float* x;                // [slices, width, lanes]
  float *scale, *minimum;  // [slices, groups, lanes], the best ones
  uint8_t* codes;          // [width / 4, 16, 4]

  RoundingScratch(Scratch& from, const Rounding& r)
      : x(from.take<float>(size_t(r.width) * kRows)),
        scale(from.take<float>(size_t(r.groups()) * kRows)),
        minimum(from.take<float>(size_t(r.groups()) * kRows)),
        codes(from.take<uint8_t>(size_t(r.width) * kRows)) {}
};

constexpr int kHeads = 4;  // of queries that look at the same keys, attended together

// What a step through a block keeps between its phases.
struct BlockScratch {
  Activations hidden, heads, ups, ffn;  // inputs of qkv, out, up and down
  float *normal, *qkv, *attended, *up, *scores;

  BlockScratch(Scratch& from, const Block& block, int tokens, int threads, int longest)
      : hidden(from, block.qkv, tokens, threads),
        heads(from, block.out, tokens, threads),
        ups(from, block.up, tokens, threads),
        ffn(from, block.down, tokens, threads),
        normal(from.take<float>(size_t(tokens) * padded(block.hidden))),
        qkv(from.take<float>(size_t(tokens) * padded(block.qkv.all_rows()))),
        attended(from.take<float>(size_t(tokens) * padded(int64_t(block.heads) * block.head_dim))),
        up(from.take<float>(size_t(tokens) * padded(block.up.all_rows()))),
        scores(from.take<float>(size_t(threads) * kHeads * padded(longest))) {}

  static size_t padded(int64_t count) { return size_t(count + 15) / 16 * 16; }
};

}  // namespace edgewise
