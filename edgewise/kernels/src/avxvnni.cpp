// AVX2 with dot products of bytes (AVX-VNNI): Intel's processors from Alder Lake on, AMD's from Zen 5.
#include "target.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#if defined(EDGEWISE_EVEX)  // the same on a processor that has these instructions in AVX-512: to test
EDGEWISE_TARGET("avx512vnni,avx512vl,avx2,fma,f16c")
#define EDGEWISE_DPBUSD _mm256_dpbusd_epi32
#else
EDGEWISE_TARGET("avxvnni,avx2,fma,f16c")
#define EDGEWISE_DPBUSD _mm256_dpbusd_avx_epi32
#endif
#include "avx2.h"

namespace edgewise {
namespace {

const Table* make() { return table<Avx2>("avx-vnni"); }

}  // namespace
}  // namespace edgewise
EDGEWISE_TARGET_END

const edgewise::Table* edgewise::avxvnni() {
#if defined(EDGEWISE_EVEX)
  const bool dots = __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl");
#else
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool dots = __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4);
#endif
  return dots && avx2() ? make() : nullptr;
}
#else
const edgewise::Table* edgewise::avxvnni() { return nullptr; }
#endif
