// AVX2.
#include "target.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
EDGEWISE_TARGET("avx2,fma,f16c")
#include "avx2.h"

namespace edgewise {
namespace {

const Table* make() { return table<Avx2>("avx2"); }

}  // namespace
}  // namespace edgewise
EDGEWISE_TARGET_END

const edgewise::Table* edgewise::avx2() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool halves = __get_cpuid(1, &a, &b, &c, &d) && (c & 1u << 29);  // clang does not know "f16c"
  return halves && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? make() : nullptr;
}
#else
const edgewise::Table* edgewise::avx2() { return nullptr; }
#endif
