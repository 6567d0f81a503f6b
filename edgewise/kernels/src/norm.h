// LayerNorm and RMSNorm.
#pragma once
#include <cmath>

#include "simd.h"

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

}  // namespace
}  // namespace edgewise
