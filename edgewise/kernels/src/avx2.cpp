// AVX2.
#include "target.h"

#if defined(__x86_64__)
EDGEWISE_TARGET("avx2,fma,f16c")
#include "avx2.h"

namespace edgewise {
namespace {

const Table* make() { return table<Avx2>("avx2"); }

}  // namespace
}  // namespace edgewise
EDGEWISE_TARGET_END

const edgewise::Table* edgewise::avx2() {
  const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                   __builtin_cpu_supports("f16c");
  return has ? make() : nullptr;
}
#else
const edgewise::Table* edgewise::avx2() { return nullptr; }
#endif
