// Activations in 8 bits, with what that leaves of them where it counts.
#pragma once
#include "scratch.h"
#include "simd.h"

namespace edgewise {
namespace {

constexpr int kPiece = 128;  // columns that are quantized at a time: whole groups of any size
constexpr float kRest = 254.0f;   // steps of the rest in a step: it lies within half of one
constexpr float kShare = 7e-6f;   // of a token's squares that rounding a group may cost

// One group of one token, from x[0, count); the rest of the group is zero.
INLINE void quantize_group(const Quantized& q, int token, int g, const float* x, int count) {
  float padded[kPiece];
  if (count < q.group) {
    memset(padded, 0, sizeof padded);
    if (count > 0) memcpy(padded, x, sizeof(float) * count);
    x = padded;
  }
  f32s most = {}, squares = {};
  for (int i = 0; i < q.group; i += kLanes) {
    const f32s part = load<f32s>(x + i);
    most = higher_of(absolute(part), most);
    squares += part * part;
  }
  // What is too small for its reciprocal to be a number counts as nothing.
  const float range = largest(most), inverse = range > 1e-30f ? 127.0f / range : 0.0f;
  const size_t first = size_t(token) * q.width + size_t(g) * q.group;
  i32s total = {}, rest_total = {};
  for (int i = 0; i < q.group; i += kLanes) {
    const f32s part = load<f32s>(x + i) * inverse;
    const i32s code = rounded(part);
    const i32s rest = rounded((part - __builtin_convertvector(code, f32s)) * kRest);
    store(q.codes.of + first + i, __builtin_convertvector(code, i8s));
    store(q.rest.of + first + i, __builtin_convertvector(rest, i8s));
    total += code;
    rest_total += rest;
  }
  const size_t at = size_t(token) * q.groups() + g;
  q.codes.scale[at] = range / 127.0f;
  q.rest.scale[at] = range / (127.0f * kRest);
  q.codes.sum[at] = static_cast<float>(sum(total));
  q.rest.sum[at] = static_cast<float>(sum(rest_total));
  q.codes.total[at] = q.codes.scale[at] * q.codes.sum[at];
  q.rest.total[at] = q.rest.scale[at] * q.rest.sum[at];
  q.energy[at] = sum(squares);
}

// Which groups need their rest: a step s of a group of g numbers, rounded, is off by g s^2 / 12 in
// squares; that counts where it is more than a share of the token's sum of squares. It depends on
// nothing but the token.
INLINE void decide(Quantized& q, int thread, int tokens) {
  const int groups = q.groups(), units = q.units(), each = groups / units;
  q.precise += size_t(thread) * tokens * (1 + units);
  for (int t = 0; t < tokens; ++t) {
    const float* step = q.codes.scale + size_t(t) * groups;
    uint16_t* precise = q.precise + size_t(t) * (1 + units);
    float energy = 0;
    for (int g = 0; g < groups; ++g) energy += q.energy[size_t(t) * groups + g];
    const float limit = kShare * energy * 12.0f / static_cast<float>(q.group);
    uint16_t count = 0;
    for (int u = 0; u < units; ++u) {
      bool counts = false;
      for (int g = u * each; g < (u + 1) * each; ++g) counts |= step[g] * step[g] > limit;
      precise[1 + count] = static_cast<uint16_t>(u);
      count += counts;
    }
    precise[0] = count;
  }
}

// One piece of a token's row, from x[0, count): the piece, and perhaps numbers beyond it.
INLINE void quantize_piece(const Activations& a, int token, int piece, const float* x, int count) {
  for (const Quantized& q : a.sizes) {
    if (!q.wanted()) continue;
    const int each = kPiece / q.group, first = piece * each, left = q.groups() - first;
    for (int g = 0; g < each && g < left; ++g)
      quantize_group(q, token, first + g, x + g * q.group, count - g * q.group);
  }
}

INLINE int pieces_of(int columns) { return (columns + kPiece - 1) / kPiece; }

}  // namespace
}  // namespace edgewise
