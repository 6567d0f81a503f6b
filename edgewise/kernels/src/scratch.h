// Pieces of one buffer, each on a cache line of its own.
#pragma once
#include <algorithm>
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

  void skip(size_t numbers, size_t groups) {
    of += numbers;
    scale += groups, sum += groups, total += groups;
  }
};

// Activations in 8 bits, symmetric, in the groups of a packed matrix, and what that leaves of them,
// in 8 bits again.
struct Quantized {
  Codes codes, rest;
  float* energy = nullptr;        // [tokens, groups], sums of squares
  uint16_t* precise = nullptr;    // [threads, tokens, 1 + units]: how many units' rests count, and
  int width = 0, group = 0, unit = 0;  // which; unit: columns, whole groups

  Quantized() = default;
  Quantized(Scratch& from, const Matrix& m, int tokens, int threads)
      : codes(from, size_t(tokens) * m.width(), size_t(tokens) * m.groups()),
        rest(from, size_t(tokens) * m.width(), size_t(tokens) * m.groups()),
        energy(from.take<float>(size_t(tokens) * m.groups())),
        width(m.width()),
        group(m.group),
        unit(m.unit()) {
    precise = from.take<uint16_t>(size_t(threads) * tokens * (1 + units()));
  }

  void skip(size_t tokens) {
    codes.skip(tokens * width, tokens * groups());
    rest.skip(tokens * width, tokens * groups());
    energy += tokens * groups();
  }

  bool wanted() const { return group > 0; }
  int groups() const { return width / group; }
  int units() const { return width / unit; }
  const uint16_t* precise_of(int token) const { return precise + size_t(token) * (1 + units()); }
};

// The same for all parts of a matrix: those with groups of one size share them, sparse ones among
// themselves.
struct Activations {
  Quantized sizes[6];  // groups of 16, 32, 64 and 128; sparse ones of 32 and 64

  Activations(Scratch& from, const Matrix& m, int tokens, int threads) {
    for (const Matrix* part = &m; part; part = part->next)
      if (part->packed() && !of(*part).wanted())
        sizes[index_of(*part)] = Quantized(from, *part, tokens, threads);
  }

  // The same from another token on; which rests count is each thread's own anyway.
  Activations from(int token) const {
    Activations found = *this;
    for (Quantized& q : found.sizes)
      if (q.wanted()) q.skip(token);
    return found;
  }

  const Quantized& of(const Matrix& part) const { return sizes[index_of(part)]; }

  bool wanted() const {
    for (const Quantized& q : sizes)
      if (q.wanted()) return true;
    return false;
  }

 private:
  static int index_of(const Matrix& part) {
    if (part.type == kSparse) return part.group > 32 ? 5 : 4;
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

constexpr int kQueries = 24;   // rows of a query block, about: see attention.h
constexpr int kMostSpan = 64;  // positions that are looked at at a time, at most

// A lane's parts of at most so many tokens, or those of all lanes.
inline int parts_of(const Lane& lane, int most) { return (lane.length + most - 1) / most; }
inline int parts_of(const Step& step, int most) {
  int found = 0;
  for (int i = 0; i < step.num_lanes; ++i) found += parts_of(step.lanes[i], most);
  return found;
}

// What each thread keeps of the query block that it answers.
struct AttentionScratch {
  int tokens, rows;      // of a query block, at most
  size_t numbers, room;  // of keys or values; of a row's scores
  float *keys, *by, *scores;

  AttentionScratch(Scratch& from, const Block& block, const Step& step)
      : tokens(std::max(kQueries * block.kv_heads / block.heads, 1)),
        rows(tokens * block.heads / block.kv_heads),
        numbers(size_t(kMostSpan) * block.head_dim),
        room(size_t(step.longest() + kMostSpan - 1) / kMostSpan * kMostSpan),
        keys(from.take<float>(step.threads * numbers)),
        by(from.take<float>(step.threads * kMostSpan)),
        scores(from.take<float>(step.threads * rows * room)) {}
};

constexpr int kFew = 2;  // tokens whose products' inputs every thread makes for itself

// What a step through a block keeps between its phases.
struct BlockScratch {
  int copies;                           // of what few tokens' products begin with: one for each thread
  Activations hidden, heads, ups, ffn;  // inputs of qkv, out, up and down
  float *normal, *qkv, *attended, *up;
  AttentionScratch attention;

  BlockScratch(Scratch& from, const Block& block, const Step& step)
      : copies(step.tokens <= kFew ? step.threads : 1),
        hidden(from, block.qkv, step.tokens * copies, step.threads),
        heads(from, block.out, step.tokens * copies, step.threads),
        ups(from, block.up, step.tokens * copies, step.threads),
        ffn(from, block.down, step.tokens, step.threads),
        normal(from.take<float>(copies * step.tokens * padded(block.hidden))),
        qkv(from.take<float>(step.tokens * padded(block.qkv.all_rows()))),
        attended(from.take<float>(step.tokens * padded(int64_t(block.heads) * block.head_dim))),
        up(from.take<float>(step.tokens * padded(block.up.all_rows()))),
        attention(from, block, step) {}

  static size_t padded(int64_t count) { return size_t(count + 15) / 16 * 16; }
};

}  // namespace edgewise
