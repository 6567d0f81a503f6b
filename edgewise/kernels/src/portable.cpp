// Plain C++, for any processor: the slow one, and the one to compare the others with.
#include "target.h"
#define EDGEWISE_LANES 16
#include "block.h"

namespace edgewise {
namespace {

struct Portable {
  static constexpr bool kSigned = false;
  static constexpr int kTogether = 4;
  static constexpr bool kUnpacks = false;

  // The codes of `count` bytes of each of a tile's 8 chunks, [8][count].
  template <int BITS, int COUNT>
  static INLINE void unpack(const uint8_t* tile, uint8_t* out) {
    memset(out, 0, 8 * COUNT);
    for (int shift = 0; shift < BITS;) {
      const int left = BITS - shift, plane = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
      const int fields = 8 / plane;
      for (int c = 0; c < 8; ++c)
        for (int i = 0; i < COUNT; ++i) {
          const int field = tile[64 * (c / fields) + i] >> (c % fields * plane);
          out[COUNT * c + i] |= static_cast<uint8_t>((field & ((1 << plane) - 1)) << shift);
        }
      tile += 64 * plane;
      shift += plane;
    }
  }

  template <int BITS>
  static INLINE void unpack(const uint8_t* tile, uint8_t* out) {
    unpack<BITS, 64>(tile, out);
  }

  template <int BITS, int LAID, int B, int G>
  static INLINE void dot(const uint8_t* codes, const int8_t* x, size_t stride, int tiles,
                         i32s (&sums)[G][B]) {
    for (auto& of : sums)
      for (auto& sum : of) sum = i32s{};
    for (int t = 0; t < tiles; ++t, codes += 64 * LAID, x += kColumns) {
      uint8_t chunks[8][kLanes][4];
      unpack<LAID, 4 * kLanes>(codes, chunks[0][0]);
      for (int b = 0; b < B; ++b)
        for (int c = 0; c < 8; ++c)
          for (int row = 0; row < kLanes; ++row)
            for (int i = 0; i < 4; ++i)
              sums[c * G / 8][b][row] += chunks[c][row][i] * x[b * stride + 4 * c + i];
    }
  }

  template <int BITS, int B, int G>
  static INLINE void kept(const uint8_t* tile, const int8_t* x, size_t stride, i32s (&sums)[G][B]) {
    for (auto& of : sums)
      for (auto& sum : of) sum = i32s{};
    uint8_t codes[8][kLanes][4], which[8][kLanes][4];
    unpack<BITS, 4 * kLanes>(tile, codes[0][0]);
    unpack<kWhich, 4 * kLanes>(tile + 64 * BITS, which[0][0]);
    for (int b = 0; b < B; ++b)
      for (int c = 0; c < 8; ++c)
        for (int row = 0; row < kLanes; ++row)
          for (int i = 0; i < 4; ++i)
            sums[c * G / 8][b][row] += (codes[c][row][i] - (1 << (BITS - 1))) *
                                       x[b * stride + 8 * c + i / 2 * 4 + which[c][row][i]];
  }
};

}  // namespace
}  // namespace edgewise

const edgewise::Table* edgewise::portable() { return table<Portable>("portable"); }
