// ARM with products of matrices of bytes (ARMv8.6; phones since 2021, Graviton3, not the Raspberry Pi 5).
#include "target.h"

#if defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__clang__)
EDGEWISE_TARGET("dotprod,i8mm")
#else
EDGEWISE_TARGET("arch=armv8.2-a+dotprod+i8mm")
#endif
#define EDGEWISE_I8MM
#include "neon.h"
EDGEWISE_TARGET_END

const edgewise::Table* edgewise::neon_i8mm() {
#if !defined(__linux__)
  constexpr bool has = false;  // not asked for: Apple's first chips have none
#else
  constexpr unsigned long kMatrices = 1ul << 13;  // HWCAP2_I8MM
  const bool has = getauxval(AT_HWCAP2) & kMatrices;
#endif
  return has ? table<Neon>("neon-i8mm") : nullptr;
}
#else
const edgewise::Table* edgewise::neon_i8mm() { return nullptr; }
#endif
