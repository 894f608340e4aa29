// A LoRA adapter, packed for encoders of one shape, target and type.
#pragma once
#include <vector>

#include "buffer.h"
#include "embedway_kernels.h"
#include "kernels.h"

namespace embedway {

// The changes of one layer.
struct LayerChanges {
  LowRankChange qkv, attention, up, down;
};

// What an adapter is packed for: it fits every encoder that has the same.
struct EncoderFit {
  const TypeKernels* kernels;
  int hidden_size, intermediate_size, num_layers;

  bool operator==(const EncoderFit& other) const {
    return kernels == other.kernels && hidden_size == other.hidden_size &&
           intermediate_size == other.intermediate_size && num_layers == other.num_layers;
  }
};

// Never changes once it is made, so any number of threads may read it.
class Adapter {
 public:
  // Copies what it needs of `layers` [num_layers]. Throws std::invalid_argument, std::bad_alloc.
  Adapter(const EncoderFit& fit, const embedway_layer_adapter* layers);

  const EncoderFit& fit() const { return fit_; }
  const LayerChanges& layer(int i) const { return layers_[i]; }
  int widest() const { return widest_; }  // values of a row of x · downᵀ, padded

 private:
  EncoderFit fit_;
  std::vector<LayerChanges> layers_;
  int widest_ = 0;
  Buffer memory_;
};

}  // namespace embedway
