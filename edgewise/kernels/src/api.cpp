// What Python calls, through ctypes: plain C, no exceptions, errors as return values.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "checks.h"
#include "scratch.h"
#include "table.h"

namespace edgewise {

namespace {

const Table* chosen = nullptr;

const Table* best() {
  for (const Table* (*made)() : {avx512, avxvnni, avx2, neon_i8mm, neon, portable})
    if (const Table* found = made()) return found;
  return nullptr;
}

const Table& current() {
  if (!chosen) chosen = best();
  return *chosen;
}

// A buffer of the calling thread that grows and stays.
void* buffer(size_t size) {
  struct Buffer {
    void* start = nullptr;
    size_t size = 0;
    ~Buffer() { std::free(start); }
  };
  static thread_local Buffer own;
  if (!own.start || own.size < size) {
    std::free(own.start);
    own.size = (size + size / 4 + 4095) / 4096 * 4096;
    own.start = std::aligned_alloc(4096, own.size);
    if (!own.start) own.size = 0;
  }
  return own.start;
}

constexpr int kOk = 0, kNoMemory = 1, kUnknown = 2, kOutside = 3, kTwice = 4;

}  // namespace

size_t linear_scratch(const Matrix& m, int tokens, int threads) {
  Scratch needed(nullptr);
  Activations(needed, m, tokens, threads);
  return needed.used();
}

size_t block_scratch(const Block& block, const Step& step) {
  Scratch needed(nullptr);
  BlockScratch(needed, block, step);
  return needed.used();
}

size_t rounding_scratch(const Rounding& r) {
  Scratch needed(nullptr);
  RoundingScratch(needed, r);
  return needed.used();
}

}  // namespace edgewise

using namespace edgewise;

#if defined(_WIN32)
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

// How the structs that Python hands over lie in memory: see checks.h. A library built from other
// sources would read them wrongly.
EXPORT const int64_t* edgewise_abi() { return layouts(); }

// The name of the instruction set in use.
EXPORT const char* edgewise_isa() { return current().name; }

// Use the instruction set of this name: 0, or 1 where the processor has it not.
EXPORT int edgewise_use(const char* name) {
  for (const Table* (*made)() : {avx512, avxvnni, avx2, neon_i8mm, neon, portable}) {
    const Table* found = made();
    if (found && !std::strcmp(found->name, name)) {
      chosen = found;
      return 0;
    }
  }
  return 1;
}

// y [tokens, rows] = m x + bias, x [tokens, columns].
EXPORT int edgewise_linear(const Matrix* m, const float* x, int tokens, float* y, int threads) {
  if (!known(*m)) return kUnknown;
  void* scratch = buffer(linear_scratch(*m, tokens, threads));
  if (!scratch) return kNoMemory;
  run(threads, [&](Crew& crew) { current().linear(crew, *m, x, tokens, y, scratch); });
  return kOk;
}

// Rows of blocks [first, last) as bf16 [rows, columns], of m alone, without the rows below it.
EXPORT int edgewise_whole(const Matrix* m, int first, int last, uint16_t* out, int threads) {
  if (!known(*m) || !m->packed()) return kUnknown;
  if (first < 0 || last > m->blocks()) return kOutside;
  run(threads, [&](Crew& crew) { current().whole(crew, *m, first, last, out); });
  return kOk;
}

// One step through `count` blocks; step.x is changed in place.
EXPORT int edgewise_blocks(const Block* const* blocks, int count, const Step* step) {
  size_t size = 0;
  if (!distinct(*step)) return kTwice;
  for (int i = 0; i < count; ++i) {
    if (!known(*blocks[i])) return kUnknown;
    if (!fits(*blocks[i], *step)) return kOutside;
    if (!fits(*blocks[i], step->at(i).adapters, step->num_lanes)) return kOutside;
    size = std::max(size, block_scratch(*blocks[i], *step));
  }
  void* scratch = buffer(size);
  if (!scratch) return kNoMemory;
  run(step->threads, [&](Crew& crew) {
    for (int i = 0; i < count; ++i) current().block(crew, *blocks[i], step->at(i), scratch);
  });
  return kOk;
}

// Rounds a matrix to few bits and packs it.
EXPORT int edgewise_round(const Rounding* r, int threads) {
  threads = std::min(threads, kMostThreads);
  void* scratch = buffer(rounding_scratch(*r) * threads);
  if (!scratch) return kNoMemory;
  run(threads, [&](Crew& crew) { current().round(crew, *r, scratch); });
  return kOk;
}

// Seconds that a plain reading loop takes over `size` bytes, a multiple of 64 * threads.
EXPORT double edgewise_read(const uint8_t* from, size_t size, int threads) {
  std::vector<uint64_t> sums(size_t(threads) * 8);
  const auto began = std::chrono::steady_clock::now();
  run(threads, [&](Crew& crew) {
    crew.each(threads, 1, [&](int first, int) {
      typedef uint64_t u64x8 __attribute__((vector_size(64)));
      const size_t part = size / threads / 256 * 256;
      const uint8_t* at = from + first * part;
      u64x8 total[4] = {};
      for (const uint8_t* end = at + part; at < end; at += 256) {
        for (int i = 0; i < 4; ++i) {
          u64x8 line;
          std::memcpy(&line, at + 64 * i, sizeof line);
          total[i] ^= line;
        }
        __builtin_prefetch(at + 4096);
      }
      for (int i = 0; i < 4; ++i)
        for (int k = 0; k < 8; ++k) sums[size_t(first) * 8 + k] ^= total[i][k];
    });
  });
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  uint64_t all = 0;
  for (uint64_t sum : sums) all ^= sum;
  return took.count() + (all == 1 ? 1e-12 : 0.0);  // nothing is optimised away
}
