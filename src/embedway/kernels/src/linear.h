// A linear layer: blocks of its product, and what is done to their results while they are in the nearest cache.
#pragma once
#include "gemm.h"
#include "kernels.h"
#include "low_rank.h"

namespace embedway::EMBEDWAY_TARGET {

template <class Type, class Function>
inline void apply(int rows, const float* c, typename Type::Activation* out, ptrdiff_t ldo, Function function) {
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
    for (int j = 0; j < kPanel; j += kLanes) store(out + r * ldo + j, function(load(c + r * kPanel + j)));
}

template <class Type>
inline void finish(Epilogue epilogue, int rows, const float* c, typename Type::Activation* out, ptrdiff_t ldo) {
  constexpr Precision precision = Type::kPrecision;
  switch (epilogue) {
    case Epilogue::kGelu:
      return apply<Type>(rows, c, out, ldo, [](Vec x) { return gelu<precision>(x); });
    case Epilogue::kGeluTanh:
      return apply<Type>(rows, c, out, ldo, [](Vec x) { return gelu_tanh<precision>(x); });
    case Epilogue::kRelu:
      return apply<Type>(rows, c, out, ldo, [](Vec x) { return relu(x); });
    default:
      return apply<Type>(rows, c, out, ldo, [](Vec x) { return x; });
  }
}

// The blocks of a layer are numbered panel by panel, so that a thread with neighbouring numbers reads few panels.
template <class Type>
int linear_blocks(int rows, int width) {
  constexpr int most = Blocks<Type>::kRows;
  return width / kPanel * ((rows + most - 1) / most);
}

// Computes the blocks first … last - 1. `out` has rows of `width`: Activation, or float32 where the layer adds to it.
template <class Type>
void linear(const LinearCall& call, int first, int last) {
  typedef typename Type::Activation Activation;
  typedef typename Type::Weight Weight;
  typedef Blocks<Type> Block;
  const int blocks = (call.rows + Block::kRows - 1) / Block::kRows;  // of equal size: a small last one is slow
  const typename Block::Session session((call.rows + blocks - 1) / blocks);
  const auto run =
      blocks > 1 ? &Block::template run<kTileVecs, Fetch::kNextPart> : &Block::template run<kTileVecs, Fetch::kAhead>;
  const size_t panel_size = (size_t)kPanel * call.depth;
  const bool adds = call.epilogue == Epilogue::kAdd;
  alignas(64) float result[Block::kRows * kPanel];
  for (int i = first; i < last; i++) {
    const int panel = i / blocks, block = i % blocks;
    const int from = (int)((int64_t)call.rows * block / blocks), to = (int)((int64_t)call.rows * (block + 1) / blocks);
    const Activation* const x = (const Activation*)call.x + (size_t)from * call.depth;
    const Weight* const weight = (const Weight*)call.weight + panel * panel_size;
    const size_t place = (size_t)from * call.width + panel * kPanel;
    const size_t part = panel_size * sizeof(Weight) / blocks / kLine * kLine;
    const char* const wanted =
        (const char*)weight + (blocks > 1 ? panel_size * sizeof(Weight) + block * part : kAheadBytes);
    float* const sums = adds ? (float*)call.out + place : result;
    const ptrdiff_t row = adds ? call.width : kPanel;
    run(session, to - from, x, call.depth, weight, call.depth, call.bias + panel * kPanel, adds, sums, row, wanted);
    expand<Type>(session, call.low_rank, panel, from, to, sums, row);
    if (!adds) finish<Type>(call.epilogue, to - from, result, (Activation*)call.out + place, call.width);
  }
}

}  // namespace embedway::EMBEDWAY_TARGET
