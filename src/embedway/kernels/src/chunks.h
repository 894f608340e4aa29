// Which sequences of a batch are computed together, and by whom.
#pragma once
#include <vector>

#include "embedway_kernels.h"

namespace embedway {

struct Sequence {
  int index;  // in the batch
  int start;  // row in its chunk
  int length;
  int adapter;  // in the batch's adapters; -1: the base model
};

// Neighbouring rows of one adapter.
struct AdapterRows {
  int adapter;
  int first, rows;
};

struct Chunk {
  std::vector<Sequence> sequences;  // end to end
  std::vector<AdapterRows> slices;  // in the order of the rows, one for each adapter; the others are the base model's
  int rows = 0, longest = 0;
};

struct Plan {
  std::vector<Chunk> chunks;
  bool is_shared;  // one chunk, which all threads compute together
};

Plan plan_batch(const embedway_batch& batch, int threads);

}  // namespace embedway
