// Compiled once for each instruction set, with EMBEDWAY_TARGET as its name and the compiler's flags for it.
#include "attention.h"
#include "gemm.h"
#include "kernels.h"
#include "layer_norm.h"
#include "linear.h"
#include "low_rank.h"
#include "panels.h"

namespace embedway::EMBEDWAY_TARGET {

template <class Type>
constexpr TypeKernels kernels_of = {
    sizeof(typename Type::Activation),
    sizeof(typename Type::Weight),
    linear_blocks<Type>,
    linear<Type>,
    kPanel,
    pack_weight<Type>,
    attention_scratch<typename Type::BothActivations>,
    attention<typename Type::BothActivations>,
    layer_norm<Type>,
    low_rank_bytes<Type>,
    pack_low_rank<Type>,
    shrink_blocks<Type>,
    shrink<Type>,
};

#define EMBEDWAY_TEXT(x) #x
#define EMBEDWAY_NAME(x) EMBEDWAY_TEXT(x)

extern const Target target = {
    EMBEDWAY_NAME(EMBEDWAY_TARGET),
    {&kernels_of<Float32>, &kernels_of<BFloat16>,
#if defined(EMBEDWAY_HAS_FP16)
     &kernels_of<Float16>
#else
     nullptr
#endif
    },
};

}  // namespace embedway::EMBEDWAY_TARGET
