// Random shapes through every instruction set that the machine has, on buffers of just the right
// size: products against doubles, whole matrices, blocks and rounding against the portable code.
// Built with sanitizers, and for other processors, by test_sources.py. Prints what differs; exits
// with 1.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../../edgewise/kernels/src/matrix.h"

using namespace edgewise;

extern "C" {
int edgewise_use(const char*);
int edgewise_linear(const Matrix*, const float*, int, float*, int);
int edgewise_whole(const Matrix*, int, int, uint16_t*, int);
int edgewise_blocks(const Block* const*, int, const Step*);
int edgewise_round(const Rounding*, int);
double edgewise_read(const uint8_t*, size_t, int);
}

static std::mt19937 rng(20261121);
static int failures = 0;

static int draw(int from, int to) { return std::uniform_int_distribution<int>(from, to)(rng); }
static float real() { return std::normal_distribution<float>()(rng); }
static float wide(uint16_t x) {
  const uint32_t bits = uint32_t(x) << 16;
  float found;
  memcpy(&found, &bits, 4);
  return found;
}
static float half(uint16_t x) {
  const int exponent = x >> 10 & 31, digits = x & 1023;
  const double size = std::ldexp(exponent ? 1024.0 + digits : digits, exponent ? exponent - 25 : -24);
  return float(x >> 15 ? -size : size);
}
static uint16_t narrow(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return uint16_t(bits >> 16);
}

struct Owned {
  std::vector<uint8_t> codes;
  std::vector<uint16_t> scale, minimum, row_scale, row_minimum;
  std::vector<int8_t> scale8, minimum8;  // where quantized doubly
  std::vector<float> bias;
  Matrix m{};

  Owned() = default;
  // Of numbers; those of fp16 from the smallest subnormal one to 1.
  Owned(int rows, int columns, Type type, bool biased) {
    m.rows = rows, m.columns = columns, m.type = type;
    codes.resize(size_t(rows) * columns * (type == kFp32 ? 4 : 2));
    for (size_t i = 0; i < size_t(rows) * columns; ++i) {
      const float value = real() * 0.02f;
      const uint16_t half = uint16_t(draw(0, 1) << 15 | draw(0, 15 << 10));
      const uint16_t number = type == kFp16 ? half : narrow(value);
      if (type == kFp32) memcpy(&codes[4 * i], &value, 4);
      else memcpy(&codes[2 * i], &number, 2);
    }
    if (biased)
      for (int i = 0; i < rows; ++i) bias.push_back(real());
  }
  Owned(int rows, int columns, int bits, int group, bool asymmetric, bool twice, bool biased,
        bool sparse = false) {
    m.rows = rows, m.columns = columns, m.bits = bits, m.group = group;
    m.type = sparse ? kSparse : kPacked;
    m.sides = twice ? kInt8 : kBf16;
    codes.resize(m.block_bytes() * m.blocks());
    for (auto& x : codes) x = uint8_t(draw(0, 255));
    // Two codes of four neighbours, each of which has a place of its own.
    for (size_t i = 0; sparse && i < codes.size(); i += 2)
      if (int(i / 64 % m.lines()) >= bits)
        codes[i + 1] = uint8_t(codes[i] ^ (codes[i + 1] | (~(codes[i + 1] | codes[i + 1] >> 1) & 0x55)));
    const size_t sides = size_t(m.blocks()) * m.groups() * kRows, all = size_t(m.blocks()) * kRows;
    const auto fill = [&](auto& to, size_t count, float by) {
      for (size_t i = 0; i < count; ++i) to.push_back(narrow(real() * by));
    };
    const auto fill8 = [&](auto& to) {
      for (size_t i = 0; i < sides; ++i) to.push_back(int8_t(draw(-127, 127)));
    };
    if (twice) fill8(scale8), fill(row_scale, all, 3e-4f);
    else fill(scale, sides, 0.02f);
    if (asymmetric && twice) fill8(minimum8), fill(row_minimum, all, 1e-3f);
    else if (asymmetric) fill(minimum, sides, 0.1f);
    if (biased)
      for (int i = 0; i < rows; ++i) bias.push_back(real());
  }

  const Matrix* get() {
    const auto at = [](const auto& x) { return x.empty() ? nullptr : x.data(); };
    const auto side = [&](const auto& a, const auto& b) -> const void* {
      return a.empty() ? static_cast<const void*>(at(b)) : at(a);
    };
    m.codes = codes.data(), m.scale = side(scale, scale8), m.minimum = side(minimum, minimum8);
    m.row_scale = at(row_scale), m.row_minimum = at(row_minimum), m.bias = at(bias);
    return &m;
  }

  int code(int row, int column) const {
    const uint8_t* tile = codes.data() + row / kRows * m.block_bytes() +
                          size_t(column / m.tile()) * m.lines() * 64;
    if (m.type != kSparse) return field(tile, m.bits, row, column % kColumns);
    const int first = column % m.tile() / 4 * 2;  // of the codes kept of four neighbours
    for (int kept = first; kept < first + 2; ++kept)
      if (field(tile + m.bits * 64, kWhich, row, kept) == column % 4)
        return field(tile, m.bits, row, kept);
    return 1 << (m.bits - 1);
  }

  static int field(const uint8_t* tile, int bits, int row, int column) {
    const int chunk = column / 4, byte = row % kRows * 4 + column % 4;
    int found = 0;
    for (int shift = 0; shift < bits;) {
      const int left = bits - shift, plane = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
      const int fields = 8 / plane;
      const int field = tile[64 * (chunk / fields) + byte] >> (chunk % fields * plane);
      found |= (field & ((1 << plane) - 1)) << shift;
      tile += 64 * plane;
      shift += plane;
    }
    return found;
  }

  double number(size_t i) const {
    if (m.type == kFp32) {
      float found;
      memcpy(&found, &codes[4 * i], 4);
      return found;
    }
    uint16_t found;
    memcpy(&found, &codes[2 * i], 2);
    return m.type == kFp16 ? half(found) : wide(found);
  }

  double weight(int row, int column) const {
    if (!m.packed()) return number(size_t(row) * m.columns + column);
    const size_t at = (size_t(row / kRows) * m.groups() + column / m.group) * kRows + row % kRows;
    const double step = scale.empty() ? double(wide(row_scale[row])) * scale8[at] : wide(scale[at]);
    if (!m.minimum) return (code(row, column) - (1 << (m.bits - 1))) * step;
    const double least =
        minimum.empty() ? double(wide(row_minimum[row])) * minimum8[at] : wide(minimum[at]);
    return code(row, column) * step + least;
  }
};

static void expect(bool good, const std::string& what) {
  if (good) return;
  printf("wrong: %s\n", what.c_str());
  ++failures;
}

static const int kBits[] = {2, 3, 4, 5, 6, 8}, kGroups[] = {16, 32, 64, 128};

static Owned drawn(int rows, int columns, bool biased) {
  static const Type kPlain[] = {kBf16, kFp16, kFp32};
  if (draw(0, 3) == 0) return Owned(rows, columns, kPlain[draw(0, 2)], biased);
  if (draw(0, 3) == 0)
    return Owned(rows, columns, kBits[draw(1, 5)], kGroups[draw(1, 2)], false, draw(0, 1), biased, true);
  const int bits = kBits[draw(0, 5)], group = kGroups[draw(0, 3)];
  return Owned(rows, columns, bits, group, draw(0, 1), draw(0, 1), biased);
}

// Matrices of so many rows below each other, as one.
struct Stack {
  std::vector<Owned> parts;

  Stack(const std::vector<int>& rows, int columns, bool biased) {
    for (int count : rows) parts.push_back(drawn(count, columns, biased));
  }

  const Matrix* get() {
    const Matrix* below = nullptr;
    for (size_t i = parts.size(); i-- > 0;) {
      parts[i].get();
      parts[i].m.next = below;
      below = &parts[i].m;
    }
    return below;
  }
};

// Rows in one part, or in several.
static std::vector<int> split(const std::vector<int>& rows) {
  int all = 0;
  for (int count : rows) all += count;
  return draw(0, 1) ? rows : std::vector<int>{all};
}

// Two matrices in one product: its rows are those of one, and then those of the other.
static void stacked_products(const char* isa, int rounds) {
  for (int round = 0; round < rounds; ++round) {
    const int columns = draw(1, 300), tokens = draw(1, 19), above = draw(1, 50), below = draw(1, 50);
    Stack stack({above, below}, columns, draw(0, 1));
    std::vector<float> x(size_t(tokens) * columns), whole(size_t(tokens) * (above + below));
    for (auto& value : x) value = real();
    edgewise_linear(stack.get(), x.data(), tokens, whole.data(), draw(1, 3));
    int row = 0;
    for (Owned& part : stack.parts) {
      part.m.next = nullptr;
      std::vector<float> alone(size_t(tokens) * part.m.rows);
      edgewise_linear(&part.m, x.data(), tokens, alone.data(), 1);
      for (int t = 0; t < tokens; ++t)
        expect(!memcmp(&alone[size_t(t) * part.m.rows], &whole[size_t(t) * (above + below) + row],
                       sizeof(float) * part.m.rows),
               std::string(isa) + ": a part of " + std::to_string(part.m.rows) + " rows");
      row += int(part.m.rows);
    }
  }
}

static void products(const char* isa, int rounds) {
  for (int round = 0; round < rounds; ++round) {
    Owned owned = drawn(draw(1, 70), draw(1, 300), draw(0, 1));
    const Matrix& m = *owned.get();
    const int tokens = draw(1, 19), threads = draw(1, 3);
    const std::string what = std::string(isa) + " " + std::to_string(m.rows) + "x" +
                             std::to_string(m.columns) + " type " + std::to_string(m.type) +
                             " bits " + std::to_string(m.bits) +
                             " group " + std::to_string(m.group);
    // Whole numbers up to 127, the largest in every group: their rounding to 8 bits is exact.
    std::vector<float> x(size_t(tokens) * m.columns), y(size_t(tokens) * m.rows);
    for (size_t i = 0; i < x.size(); ++i)
      x[i] = i % m.columns % (m.packed() ? m.group : 32) == 0 ? 127.0f : float(draw(-127, 127));
    expect(!edgewise_linear(&m, x.data(), tokens, y.data(), threads), what + ": memory");
    for (int t = 0; t < tokens; ++t)
      for (int r = 0; r < m.rows; ++r) {
        double right = m.bias ? m.bias[r] : 0.0, size = 1e-3;
        for (int c = 0; c < m.columns; ++c) {
          const double part = owned.weight(r, c) * x[size_t(t) * m.columns + c];
          right += part, size += std::abs(part);
        }
        if (std::abs(y[size_t(t) * m.rows + r] - right) > 3e-6 * size) {
          expect(false, what + ": product");
          return;
        }
      }
    if (!m.packed()) continue;
    std::vector<uint16_t> out(size_t(m.rows) * m.columns);
    edgewise_whole(&m, 0, m.blocks(), out.data(), threads);
    for (int r = 0; r < m.rows; ++r)
      for (int c = 0; c < m.columns; ++c) {
        const double right = owned.weight(r, c);
        const double most = 0.004 * std::abs(right) + 1e-6 + 1e-5 * std::abs(right);
        if (std::abs(wide(out[size_t(r) * m.columns + c]) - right) > most) {
          expect(false, what + ": whole");
          return;
        }
      }
  }
}

// What an adapter adds to some rows of matrices of so many columns.
struct OwnedLowRank {
  std::vector<float> down, up;
  LowRank part;

  OwnedLowRank(int rows, int columns) {
    const int first = draw(0, rows - 1), rank = draw(1, 9), count = draw(1, rows - first);
    down.resize(size_t(rank) * columns), up.resize(size_t(rank) * count);
    for (auto* numbers : {&down, &up})
      for (auto& x : *numbers) x = real();
    part = {down.data(), up.data(), nullptr, first, count, columns, rank};
  }
};

static void blocks(const char* isa, int rounds) {
  for (int round = 0; round < rounds; ++round) {
    Block b{};
    const bool many = !draw(0, 3), far = !draw(0, 2);  // heads to a key; positions, and tokens
    b.kv_heads = draw(1, 3), b.heads = b.kv_heads * draw(1, many ? 26 : 3);
    b.head_dim = 16 * draw(1, many ? 2 : 5);
    b.hidden = draw(1, 90), b.ffn = draw(1, 150), b.gated = draw(0, 1), b.activation = draw(0, 2);
    b.window = draw(0, 1) * draw(1, far ? 100 : 9);
    const int queries = b.heads * b.head_dim, fused = queries + 2 * b.kv_heads * b.head_dim;
    const int keys_rows = (fused - queries) / 2;
    Stack qkv(split({queries, keys_rows, keys_rows}), b.hidden, draw(0, 1));
    Stack up(b.gated ? split({b.ffn, b.ffn}) : std::vector<int>{b.ffn}, b.hidden, draw(0, 1));
    Owned out = drawn(b.hidden, queries, draw(0, 1));
    Owned down = drawn(b.hidden, b.ffn, draw(0, 1));
    b.qkv = *qkv.get(), b.out = *out.get(), b.up = *up.get(), b.down = *down.get();
    std::vector<float> weight(std::max(b.hidden, b.head_dim), 1.1f), bias(weight.size(), 0.01f);
    b.attention_norm = {weight.data(), bias.data(), 1e-5f, draw(0, 1)};
    b.mlp_norm = {weight.data(), nullptr, 1e-5f, draw(0, 1)};
    if (draw(0, 1)) b.q_norm = b.k_norm = {weight.data(), nullptr, 1e-6f, 0};
    const int slots = 3, context = far ? draw(40, 200) : draw(6, 20), kind = draw(0, 3);
    const size_t positions = size_t(slots) * b.kv_heads * context;
    const size_t bytes = positions * b.head_dim * (kind == kFp32 ? 4 : kind == kInt8 ? 1 : 2);
    std::vector<uint8_t> keys[2], values[2];
    std::vector<float> key_scale[2], value_scale[2], x[2];
    std::vector<Lane> lanes;
    int tokens = 0;
    for (int slot = 0; slot < draw(1, 3); ++slot) {
      const int length = draw(1, far ? 40 : 5), start = draw(0, 1) ? 0 : draw(0, context - length);
      lanes.push_back({slot, start, length});
      tokens += length;
    }
    std::vector<float> cos(size_t(tokens) * b.head_dim), sin(cos.size());
    for (size_t i = 0; i < cos.size(); ++i) cos[i] = std::cos(float(i)), sin[i] = std::sin(float(i));
    OwnedLowRank to_qkv(fused, b.hidden), too(fused, b.hidden), to_out(b.hidden, queries);
    OwnedLowRank to_up(b.ffn, b.hidden), to_down(b.hidden, b.ffn);
    to_qkv.part.next = &too.part;
    const Adapter adapter{&to_qkv.part, &to_out.part, &to_up.part, draw(0, 1) ? &to_down.part : nullptr};
    std::vector<const Adapter*> adapters;
    for (size_t i = 0; i < lanes.size(); ++i) adapters.push_back(draw(0, 1) ? &adapter : nullptr);
    const bool adapted = draw(0, 1);
    std::vector<float> start(size_t(tokens) * b.hidden);
    for (auto& value : start) value = real();
    for (int which = 0; which < 2; ++which) {
      keys[which].assign(bytes, 0), values[which].assign(bytes, 0);
      key_scale[which].assign(positions, 0.01f), value_scale[which].assign(positions, 0.01f);
      x[which] = start;
      b.cache = {keys[which].data(), values[which].data(), key_scale[which].data(),
                 value_scale[which].data(), context, kind, slots};
      const Step step{x[which].data(), cos.data(), sin.data(), lanes.data(),
                      adapted ? adapters.data() : nullptr, tokens, int(lanes.size()), draw(1, 3)};
      const Block* one = &b;
      edgewise_use(which ? isa : "portable");
      expect(!edgewise_blocks(&one, 1, &step), "memory");
    }
    double most = 0, worst = 0;
    for (size_t i = 0; i < start.size(); ++i) {
      most = std::max(most, double(std::abs(x[0][i])));
      worst = std::max(worst, double(std::abs(x[0][i] - x[1][i])));
      if (!std::isfinite(x[1][i])) worst = INFINITY;
    }
    // A last digit may tip an 8-bit code, or a cached number, over to its neighbour.
    if (!(worst <= 0.03 * most + 1e-4))
      expect(false, std::string(isa) + ": block " + std::to_string(round) + " differs by " +
                        std::to_string(worst) + " of " + std::to_string(most));
  }
}

// What rounding a matrix loses: the squares, in doubles, as `isa` does it.
static double lost(const char* isa, Owned& from, int bits, int group, bool asymmetric, bool doubled) {
  const int rows = int(from.m.rows), columns = int(from.m.columns);
  Owned to(rows, columns, bits, group, asymmetric, doubled, false);
  to.get();
  std::vector<float> by_column(to.m.width()), ranges;
  const int half = 1 << (bits - 1);
  for (int i = 0; i < columns; ++i) by_column[i] = 1.0f;
  for (float share : {1.0f, 0.9f, 0.8f})
    for (int end : {-half, half - 1})
      ranges.insert(ranges.end(), {asymmetric ? share : share / end, asymmetric ? share : 0.0f});
  Rounding r{};
  r.weight = from.codes.data(), r.by_column = by_column.data(), r.ranges = ranges.data();
  r.codes = to.codes.data(), r.type = from.m.type, r.bits = bits, r.group = group;
  r.scale = doubled ? static_cast<void*>(to.scale8.data()) : to.scale.data();
  r.minimum = doubled ? static_cast<void*>(to.minimum8.data()) : to.minimum.data();
  r.row_scale = to.row_scale.data(), r.row_minimum = to.row_minimum.data();
  r.rows = rows, r.columns = r.stride = columns, r.width = to.m.width();
  r.asymmetric = asymmetric, r.doubled = doubled, r.num_ranges = int(ranges.size() / 2);
  edgewise_use(isa);
  expect(!edgewise_round(&r, draw(1, 3)), "memory");
  double total = 0;
  for (int row = 0; row < rows; ++row)
    for (int column = 0; column < columns; ++column)
      total += std::pow(to.weight(row, column) - from.weight(row, column), 2);
  return total;
}

static void roundings(const char* isa, int rounds) {
  static const Type kPlain[] = {kBf16, kFp16, kFp32};
  for (int round = 0; round < rounds; ++round) {
    Owned from(draw(1, 40), draw(1, 200), kPlain[draw(0, 2)], false);
    const int bits = kBits[draw(0, 5)], group = kGroups[draw(0, 3)];
    const bool asymmetric = draw(0, 1), doubled = draw(0, 1);
    const double right = lost("portable", from, bits, group, asymmetric, doubled);
    const double other = lost(isa, from, bits, group, asymmetric, doubled);
    if (!(std::abs(other - right) <= 0.02 * right + 1e-9))
      expect(false, std::string(isa) + ": rounding to " + std::to_string(bits) + " bits loses " +
                        std::to_string(other) + ", not " + std::to_string(right));
  }
  edgewise_use(isa);
}

int main(int count, char** given) {
  const int rounds = count > 1 ? atoi(given[1]) : 200;
  int sets = 0;
  for (const char* isa : {"avx512-vnni", "avx-vnni", "avx2", "neon-i8mm", "neon-dotprod", "portable"}) {
    if (edgewise_use(isa)) continue;
    ++sets;
    products(isa, rounds);
    stacked_products(isa, rounds / 2);
    blocks(isa, rounds / 4);
    roundings(isa, rounds / 4);
    printf("%s: done\n", isa);
  }
  std::vector<uint8_t> bytes(1 << 16);
  expect(edgewise_read(bytes.data(), bytes.size(), 2) > 0, "reading");
  return failures || sets < 1;
}
