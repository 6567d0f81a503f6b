// A block of 16 rows of any matrix times a few rows of activations.
#pragma once
#include "activations.h"
#include "packed.h"
#include "plain.h"

namespace edgewise {
namespace {

template <class Isa>
void product(const Matrix& m, int block, const Input& in, int from, int tokens, float (*y)[kRows]) {
  if (m.type == kBf16) return plain_rows<kBf16>(m, block, in, from, tokens, y);
  if (m.type == kFp16) return plain_rows<kFp16>(m, block, in, from, tokens, y);
  if (m.type == kFp32) return plain_rows<kFp32>(m, block, in, from, tokens, y);
  const Quantized& q = in.in8.of(m);
  switch (m.bits) {
    case 2: return packed_rows<Isa, 2>(m, block, q, from, tokens, y);
    case 3: return packed_rows<Isa, 3>(m, block, q, from, tokens, y);
    case 4: return packed_rows<Isa, 4>(m, block, q, from, tokens, y);
    case 5: return packed_rows<Isa, 5>(m, block, q, from, tokens, y);
    case 6: return packed_rows<Isa, 6>(m, block, q, from, tokens, y);
    default: return packed_rows<Isa, 8>(m, block, q, from, tokens, y);
  }
}

}  // namespace
}  // namespace edgewise
