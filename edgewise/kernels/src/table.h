// What an instruction set offers; api.cpp picks one when the library is loaded.
#pragma once
#include "matrix.h"
#include "pool.h"

namespace edgewise {

struct Table {
  const char* name;
  // Every thread of the crew calls these. Scratch is theirs together, of the sizes that api.cpp
  // computes.
  void (*linear)(Crew&, const Matrix&, const float* x, int tokens, float* y, void* scratch);
  void (*whole)(Crew&, const Matrix&, int first, int last, uint16_t* out);
  void (*block)(Crew&, const Block&, const Step&, void* scratch);
  void (*round)(Crew&, const Rounding&, void* scratch);
};

// Null where the processor, or the compiler, has it not.
const Table* avx512();
const Table* avxvnni();
const Table* avx2();
const Table* neon_i8mm();
const Table* neon();
const Table* portable();

// Bytes of scratch.
size_t linear_scratch(const Matrix& m, int tokens, int threads);
size_t block_scratch(const Block& block, const Step& step);
size_t rounding_scratch(const Rounding& rounding);  // of each thread

}  // namespace edgewise
