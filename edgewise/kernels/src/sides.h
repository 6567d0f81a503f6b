// The scale and the minimum of groups that round them best: what quantization/rounding/search.py
// describes, for the groups of kLanes rows at a time. A group x [size, kLanes] becomes codes q,
// x ~ scale q + minimum; symmetric ones have no minimum.
#pragma once
#include <cmath>

#include "simd.h"

namespace edgewise {
namespace {

constexpr int kKept = 4;              // ranges that promise the least error, looked at more closely
constexpr int kRefits = 3;            // codes and least squares in turn, from these
constexpr float kSideSteps = 127.0f;  // of a doubly quantized scale or minimum, either way

struct Group {
  const float* x;       // [size, kLanes]
  const float* weight;  // [size], how much errors count
  int size;
  float total;          // of the weights
  f32s lowest, highest;  // codes
};

struct Side {
  f32s scale, minimum;
};

// Sides, and the error that they are known for.
struct Best {
  f32s cost;
  Side side;

  // The better ones of two stay here.
  INLINE void exchange(Best& other) {
    const Best before = *this;
    take(other.cost, other.side);
    const i32s better = other.cost < before.cost;
    other.cost = pick(better, before.cost, other.cost);
    other.side.scale = pick(better, before.side.scale, other.side.scale);
    other.side.minimum = pick(better, before.side.minimum, other.side.minimum);
  }

  INLINE void take(f32s other, const Side& by) {
    const i32s better = other < cost;
    cost = pick(better, other, cost);
    side.scale = pick(better, by.scale, side.scale);
    side.minimum = pick(better, by.minimum, side.minimum);
  }
};

// With d = x - scale q - minimum and the weights w, the sums over a group that Newton's step to the
// least squares takes.
struct Fit {
  f32s cost;           // w d^2
  f32s first;          // w d
  f32s by_code;        // w d q
  f32s codes, squares;  // w q, w q^2
};

enum Sums { kCost, kMean, kAll };

template <bool MINIMUM, Sums SUMS>
Fit fit(const Group& g, const Side& side) {
  const f32s scale = side.scale, inverse = reciprocal(scale), minimum = side.minimum;
  const f32s lowest = g.lowest, highest = g.highest;
  Fit sums{};
  const float* x = g.x;
#pragma GCC unroll 2
  for (int i = 0; i < g.size; ++i, x += kLanes) {
    const f32s weight = every(g.weight[i]);
    f32s above = load<f32s>(x);
    if (MINIMUM) above -= minimum;
    const f32s code = nearest(above * inverse, lowest, highest);
    const f32s wrong = above - scale * code;
    const f32s weighed = weight * wrong;
    sums.cost += weighed * wrong;
    if (MINIMUM && SUMS != kCost) sums.first += weighed;
    if (SUMS == kAll) {
      const f32s share = weight * code;
      sums.by_code += weighed * code;
      sums.squares += share * code;
      if (MINIMUM) sums.codes += share;
    }
  }
  return sums;
}

// The sides of least weighted error for the codes that `side` gave, and that error: the normal
// equations [squares, codes; codes, total] (change of scale, change of minimum) = (by_code, first).
template <bool MINIMUM>
Best least_squares(const Group& g, const Fit& sums, const Side& side) {
  const f32s none = every(0.0f), total = every(g.total);
  if (!MINIMUM) {
    const i32s any = sums.squares > 0.0f;
    const f32s change = sums.by_code / pick(any, sums.squares, every(1.0f));
    return {sums.cost - change * sums.by_code, {pick(any, side.scale + change, none), none}};
  }
  const f32s determinant = sums.squares * total - sums.codes * sums.codes;
  const i32s solvable = determinant > 1e-9f * sums.squares * total;
  const f32s by = 1.0f / pick(solvable, determinant, every(1.0f));
  const f32s scale = (sums.by_code * total - sums.first * sums.codes) * by;
  const f32s minimum = (sums.squares * sums.first - sums.codes * sums.by_code) * by;
  const f32s gain = scale * sums.by_code + minimum * sums.first;
  // All codes alike: the mean.
  const f32s mean = (sums.first + side.scale * sums.codes) / pick(total > 0.0f, total, every(1.0f));
  return {sums.cost - pick(solvable, gain, none),
          {pick(solvable, side.scale + scale, none),
           side.minimum + pick(solvable, minimum, mean)}};
}

struct Extent {
  f32s low, high, largest;  // the last of either sign
};

inline Extent extent(const Group& g) {
  Extent all{load<f32s>(g.x), load<f32s>(g.x), load<f32s>(g.x)};
  for (int i = 1; i < g.size; ++i) {
    const f32s x = load<f32s>(g.x + i * kLanes);
    all.low = lower_of(x, all.low);
    all.high = higher_of(x, all.high);
    all.largest = pick(absolute(x) > absolute(all.largest), x, all.largest);
  }
  return all;
}

// The best sides. Of all ranges, shares of the half range below and above the middle, or without
// minima factors of the largest number, those are refined that promise the least error.
template <bool MINIMUM>
Side best_sides(const Group& g, const float* ranges, int count) {
  const Extent of = extent(g);
  const f32s middle = (of.low + of.high) * 0.5f, half = (of.high - of.low) * 0.5f;
  Best kept[kKept];
  for (Best& one : kept) one = {every(INFINITY), {of.largest, of.low}};
  for (int i = 0; i < count; ++i) {
    Side side{of.largest * ranges[2 * i], every(0.0f)};
    if (MINIMUM)
      side = {half * (ranges[2 * i] + ranges[2 * i + 1]) / g.highest,
              middle - half * ranges[2 * i]};
    Best refined = least_squares<MINIMUM>(g, fit<MINIMUM, kAll>(g, side), side);
    for (Best& one : kept) one.exchange(refined);
  }
  Best best{every(INFINITY), kept[0].side};
  for (const Best& one : kept) {
    Side side = one.side;
    for (int refit = 0; refit < kRefits; ++refit) {
      const Fit sums = fit<MINIMUM, kAll>(g, side);
      best.take(sums.cost, side);
      side = least_squares<MINIMUM>(g, sums, side).side;
    }
    best.take(fit<MINIMUM, kCost>(g, side).cost, side);
  }
  return best.side;
}

// The nearest multiples of a unit.
INLINE f32s multiples(f32s side, f32s unit) {
  const f32s steps = pick(unit == 0.0f, every(0.0f), side / unit);
  return nearest(steps, every(-kSideSteps), every(kSideSteps));
}

// The unit of which the sides of a row are multiples, of which the largest is `most`.
INLINE f32s unit_of(f32s most) { return near_bf16(most / kSideSteps, 0); }

// The storable number `by` steps away from the nearest: of bf16, or multiples of a unit. No scale
// that was none becomes 0.
template <bool DOUBLE>
INLINE f32s storable(f32s side, f32s unit, int by) {
  if (!DOUBLE) return near_bf16(side, by);
  f32s steps = multiples(side, unit);
  const f32s one = pick(side > 0.0f, every(1.0f), every(-1.0f));
  const i32s lost = (steps == 0.0f) & (side != 0.0f);
  steps = pick(lost, one, steps) + static_cast<float>(by);
  return lower_of(higher_of(steps, every(-kSideSteps)), every(kSideSteps)) * unit;
}

// Storable sides whose codes reach over the whole group, as far as their units let them.
template <bool MINIMUM, bool DOUBLE>
Side covering(const Group& g, const Side& unit) {
  const Extent of = extent(g);
  if (!MINIMUM)
    return {storable<DOUBLE>(absolute(of.largest) / g.highest, unit.scale, 1), every(0.0f)};
  const f32s near = storable<DOUBLE>(of.low, unit.minimum, 0);
  const f32s lower = lower_of(storable<DOUBLE>(of.low, unit.minimum, 1),
                              storable<DOUBLE>(of.low, unit.minimum, -1));
  const f32s least = pick(near <= of.low, near, lower);
  return {storable<DOUBLE>((of.high - least) / g.highest, unit.scale, 1), least};
}

// The storable sides of least error beside the best ones: the nearest scale and its neighbours, for
// each the nearest to the minimum that then is best and its neighbours.
template <bool MINIMUM, bool DOUBLE>
Side rounded_sides(const Group& g, const Side& best, const Side& unit) {
  const Side whole = covering<MINIMUM, DOUBLE>(g, unit);
  Best kept{fit<MINIMUM, kCost>(g, whole).cost, whole};
  for (int by = -1; by <= 1; ++by) {
    Side side{storable<DOUBLE>(best.scale, unit.scale, by), best.minimum};
    if (!MINIMUM) {
      kept.take(fit<MINIMUM, kCost>(g, side).cost, side);
      continue;
    }
    const f32s change = fit<MINIMUM, kMean>(g, side).first / (g.total > 0.0f ? g.total : 1.0f);
    const f32s minimum = best.minimum + change;
    for (int beside = -1; beside <= 1; ++beside) {
      side.minimum = storable<DOUBLE>(minimum, unit.minimum, beside);
      kept.take(fit<MINIMUM, kCost>(g, side).cost, side);
    }
  }
  return kept.side;
}

}  // namespace
}  // namespace edgewise
