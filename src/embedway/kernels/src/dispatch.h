// Which instruction sets this library was compiled for and this machine has.
#pragma once
#include <vector>

#include "kernels.h"

namespace embedway {

// Best first; the last one runs anywhere. Looks at the machine once.
const std::vector<const Target*>& usable_targets();
// By name; null: the best. Null where it is not usable here.
const Target* find_target(const char* name);

}  // namespace embedway
