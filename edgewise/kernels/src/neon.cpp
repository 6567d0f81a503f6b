// ARM with the dot-product instructions (ARMv8.2): 16 rows in four registers.
#include "target.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#include <sys/auxv.h>
#if defined(__clang__)
EDGEWISE_TARGET("dotprod")
#else
EDGEWISE_TARGET("arch=armv8.2-a+dotprod")
#endif
#define EDGEWISE_NEAREST(x, lowest, highest) \
  (f32s) vminq_f32(vmaxq_f32(vrndnq_f32(x), lowest), highest)
#include "block.h"

namespace edgewise {
namespace {

struct Neon {
  static constexpr bool kSigned = true;
  static constexpr int kTogether = 8;
  static constexpr bool kUnpacks = true;

  template <int P, int SHIFT>
  static INLINE uint8x16_t field(const uint8_t* plane, int chunk) {
    constexpr int kFields = 8 / P;
    const uint8x16_t codes = vld1q_u8(plane + 64 * (chunk / kFields));
    if (P == 8) return codes;
    const int by = SHIFT - chunk % kFields * P;  // negative: to the right
    const uint8x16_t moved = vshlq_u8(codes, vdupq_n_s8(static_cast<int8_t>(by)));
    return vandq_u8(moved, vdupq_n_u8(static_cast<uint8_t>(((1 << P) - 1) << SHIFT)));
  }

  template <int BITS>
  static INLINE uint8x16_t chunk(const uint8_t* tile, int number) {
    constexpr int kLow = BITS == 8 ? 8 : BITS >= 4 ? 4 : 2, kHigh = BITS - kLow;
    uint8x16_t codes = field<kLow, 0>(tile, number);
    if constexpr (kHigh > 0)
      codes = vorrq_u8(codes, field<kHigh, kLow>(tile + 64 * kLow, number));
    return codes;
  }

  template <int BITS, int LAID, int B, int G>
  static INLINE void dot(const uint8_t* codes, const int8_t* x, size_t stride, int tiles,
                         i32s (&sums)[G][B]) {
    int32x4_t total[G][B];
    for (auto& of : total)
      for (auto& sum : of) sum = vdupq_n_s32(0);
    for (int t = 0; t < tiles; ++t, codes += 64 * LAID, x += kColumns)
#pragma GCC unroll 8
      for (int c = 0; c < 8; ++c) {
        const uint8x16_t raw = chunk<LAID>(codes, c);
        const int8x16_t here =
            vreinterpretq_s8_u8(BITS == 8 ? veorq_u8(raw, vdupq_n_u8(0x80)) : raw);
        for (int b = 0; b < B; ++b) {
          int32_t columns;
          memcpy(&columns, x + b * stride + 4 * c, sizeof columns);
          int32x4_t& sum = total[c * G / 8][b];
          sum = vdotq_s32(sum, here, vreinterpretq_s8_s32(vdupq_n_s32(columns)));
        }
      }
    for (int g = 0; g < G; ++g)
      for (int b = 0; b < B; ++b) sums[g][b] = (i32s)total[g][b];
  }

  template <int BITS>
  static INLINE void unpack(const uint8_t* tile, uint8_t* out) {
#pragma GCC unroll 8
    for (int c = 0; c < 8; ++c)
      for (int quarter = 0; quarter < 4; ++quarter)
        vst1q_u8(out + 64 * c + 16 * quarter, chunk<BITS>(tile + 16 * quarter, c));
  }
};

const Table* make() { return table<Neon>("neon-dotprod"); }

}  // namespace
}  // namespace edgewise
EDGEWISE_TARGET_END

const edgewise::Table* edgewise::neon() {
#if defined(__APPLE__)
  return make();
#else
  constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  return getauxval(AT_HWCAP) & kDotProduct ? make() : nullptr;
#endif
}
#else
const edgewise::Table* edgewise::neon() { return nullptr; }
#endif
