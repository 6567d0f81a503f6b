// Opens a stretch of code that is compiled for more than the library's base instruction set.
// Everything the code needs from the standard library is included before it: an inline function
// compiled in here could be the one that the linker keeps for everybody.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <type_traits>
#include <utility>

#include "scratch.h"
#include "table.h"

#define EDGEWISE_STRING(x) #x
#if defined(__clang__)
#define EDGEWISE_TARGET(set) \
  _Pragma(EDGEWISE_STRING(clang attribute push(__attribute__((target(set))), apply_to = function)))
#define EDGEWISE_TARGET_END _Pragma("clang attribute pop")
#else
#define EDGEWISE_TARGET(set) \
  _Pragma("GCC push_options") _Pragma(EDGEWISE_STRING(GCC target(set)))
#define EDGEWISE_TARGET_END _Pragma("GCC pop_options")
#endif
