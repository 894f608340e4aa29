// LayerNorm over rows of float32, in place, with the result's copy as the next layer's activations.
#pragma once
#include "kernels.h"
#include "vector.h"

namespace embedway::EMBEDWAY_TARGET {

template <class Activation>
inline void copy_row(const float* row, int columns, Activation* to) {
  for (int i = 0; i < columns; i += kLanes) store(to + i, load(row + i));
}

template <class Type>
void layer_norm(const NormCall& call, int first, int last) {
  typedef typename Type::Activation Activation;
  const int columns = padded(call.size), full = call.size / kLanes * kLanes;
  for (int r = first; r < last; r++) {
    float* const row = call.hidden + (size_t)r * columns;
    Vec sums{};
    for (int i = 0; i < full; i += kLanes) sums += load(row + i);
    float sum = sum_of(sums);
    for (int i = full; i < call.size; i++) sum += row[i];
    const float mean = sum / call.size;
    // in two passes: a sum of squares would lose what a large mean hides
    Vec squares{};
    for (int i = 0; i < full; i += kLanes) {
      const Vec distance = load(row + i) - mean;
      squares += distance * distance;
    }
    float variance = sum_of(squares);
    for (int i = full; i < call.size; i++) variance += (row[i] - mean) * (row[i] - mean);
    const float scale = 1 / __builtin_sqrtf(variance / call.size + call.epsilon);
    for (int i = 0; i < full; i += kLanes)
      store(row + i, (load(row + i) - mean) * scale * load(call.weight + i) + load(call.bias + i));
    for (int i = full; i < call.size; i++) row[i] = (row[i] - mean) * scale * call.weight[i] + call.bias[i];
    if (call.activations) copy_row(row, columns, (Activation*)call.activations + (size_t)r * columns);
  }
}

}  // namespace embedway::EMBEDWAY_TARGET
