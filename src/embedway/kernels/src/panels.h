// Weights, laid out as the panels that blocks read (gemm.h).
#pragma once
#include "gemm.h"
#include "kernels.h"

namespace embedway::EMBEDWAY_TARGET {

#if defined(EMBEDWAY_HAS_FP16)
inline fp16 fp16_of(float x) {
#if defined(__aarch64__)
  const __fp16 half = (__fp16)x;
  fp16 bits;
  __builtin_memcpy(&bits, &half, 2);
  return bits;
#else
  return (fp16)_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
#endif
}
#endif

template <class Type>
inline typename Type::Weight narrow(float x) {
  if constexpr (sizeof(typename Type::Weight) == sizeof(float)) return x;
#if defined(EMBEDWAY_HAS_FP16)
  else if constexpr (Type::kStep == 1)
    return fp16_of(x);
#endif
  else
    return bf16_of(x);
}

// One panel of `columns` columns and a depth that is a multiple of kStep, of value(column, k). Returns its end.
template <class Type, class Value>
inline typename Type::Weight* pack_panel(int columns, int depth, typename Type::Weight* to, Value value) {
  for (int k = 0; k < depth; k += Type::kStep)
    for (int column = 0; column < columns; column++)
      for (int step = 0; step < Type::kStep; step++) *to++ = narrow<Type>(value(column, k + step));
  return to;
}

// weight [out, in] into panels of [padded width, padded depth]; what is padded is zero. Panels first … last - 1.
template <class Type>
void pack_weight(const PackCall& call, int first, int last) {
  typedef typename Type::Weight Weight;
  for (int panel = first; panel < last; panel++)
    pack_panel<Type>(kPanel, call.depth, (Weight*)call.panels + (size_t)panel * kPanel * call.depth,
                     [&call, panel](int column, int k) {
                       const int row = panel * kPanel + column;
                       const bool inside = row < call.out_features && k < call.in_features;
                       return inside ? call.weight[(size_t)row * call.in_features + k] : 0.f;
                     });
}

}  // namespace embedway::EMBEDWAY_TARGET
