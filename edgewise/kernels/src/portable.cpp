// Plain C++, for any processor: the slow one, and the one to compare the others with.
#include "target.h"
#include "block.h"

namespace edgewise {
namespace {

struct Portable {
  static constexpr bool kSigned = false;

  template <int BITS>
  static INLINE void unpack(const uint8_t* tile, uint8_t* out) {
    memset(out, 0, 512);
    for (int shift = 0; shift < BITS;) {
      const int left = BITS - shift, plane = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
      const int fields = 8 / plane;
      for (int c = 0; c < 8; ++c)
        for (int i = 0; i < 64; ++i) {
          const int field = tile[64 * (c / fields) + i] >> (c % fields * plane);
          out[64 * c + i] |= static_cast<uint8_t>((field & ((1 << plane) - 1)) << shift);
        }
      tile += 64 * plane;
      shift += plane;
    }
  }

  template <int BITS, int B, int G>
  static INLINE void dot(const uint8_t* codes, const int8_t* const* x, int tiles,
                         i32x16 (&sums)[G][B]) {
    for (int t = 0; t < tiles; ++t, codes += 64 * BITS) {
      uint8_t chunks[512];
      unpack<BITS>(codes, chunks);
      for (int b = 0; b < B; ++b)
        for (int c = 0; c < 8; ++c) {
          const int8_t* columns = x[b] + t * kColumns + 4 * c;
          i32x16& sum = sums[c * G / 8][b];
          for (int row = 0; row < kRows; ++row)
            for (int i = 0; i < 4; ++i) sum[row] += chunks[64 * c + 4 * row + i] * columns[i];
        }
    }
  }
};

}  // namespace
}  // namespace edgewise

const edgewise::Table* edgewise::portable() { return table<Portable>("portable"); }
