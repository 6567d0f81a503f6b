// What adapters add to products: of each token its own lane's, up (down x), in float32. A token's
// numbers do not depend on its company: one thread makes all of them, in one order.
#pragma once
#include "simd.h"
#include "pool.h"

namespace edgewise {
namespace {

INLINE float dot(const float* a, const float* b, int count) {
  f32s sums[4] = {};
  int i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes)
    for (int k = 0; k < 4; ++k)
      sums[k] += load<f32s>(a + i + k * kLanes) * load<f32s>(b + i + k * kLanes);
  f32s total = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  for (; i < count; i += kLanes) total += at_most(a + i, count - i) * at_most(b + i, count - i);
  return sum(total);
}

// y [rows] += up^T low, low [rank].
INLINE void expand(const LowRank& part, const float* low, float* y) {
  int row = 0;
  for (; row + kLanes <= part.rows; row += kLanes) {
    f32s total = {};
    for (int k = 0; k < part.rank; ++k)
      total += every(low[k]) * load<f32s>(part.up + size_t(k) * part.rows + row);
    store(y + row, load<f32s>(y + row) + total);
  }
  for (; row < part.rows; ++row) {
    float total = 0.0f;
    for (int k = 0; k < part.rank; ++k) total += low[k] * part.up[size_t(k) * part.rows + row];
    y[row] += total;
  }
}

// Onto y [tokens, to] of x [tokens, from], what the adapter of each token's lane has for `matrix`.
INLINE void adapt(Crew& crew, const Step& step, const LowRank* Adapter::*matrix, const float* x,
                  size_t from, float* y, size_t to) {
  if (!step.adapters) return;
  crew.each(step.tokens, 1, [&](int first, int last) {
    float low[kMostRank];
    int lane = 0, end = step.lanes[0].length;  // behind the lane's last token
    for (int t = first; t < last; ++t) {
      while (t >= end) end += step.lanes[++lane].length;
      const Adapter* adapter = step.adapters[lane];
      for (const LowRank* p = adapter ? adapter->*matrix : nullptr; p; p = p->next) {
        for (int k = 0; k < p->rank; ++k)
          low[k] = dot(p->down + size_t(k) * p->columns, x + t * from, p->columns);
        expand(*p, low, y + t * to + p->first);
      }
    }
  });
}

}  // namespace
}  // namespace edgewise
