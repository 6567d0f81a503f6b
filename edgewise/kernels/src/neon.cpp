// ARM with the dot-product instructions (ARMv8.2).
#include "target.h"

#if defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__clang__)
EDGEWISE_TARGET("dotprod")
#else
EDGEWISE_TARGET("arch=armv8.2-a+dotprod")
#endif
#include "neon.h"
EDGEWISE_TARGET_END

const edgewise::Table* edgewise::neon() {
#if !defined(__linux__)
  constexpr bool has = true;
#else
  constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  const bool has = getauxval(AT_HWCAP) & kDotProduct;
#endif
  return has ? table<Neon>("neon-dotprod") : nullptr;
}
#else
const edgewise::Table* edgewise::neon() { return nullptr; }
#endif
