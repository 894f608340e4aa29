#include "adapter.h"

#include <algorithm>
#include <array>
#include <stdexcept>

namespace embedway {
namespace {

LowRankPart part(const embedway_low_rank& change, int first_column, int columns) {
  if (change.rank < 0) throw std::invalid_argument("a rank is negative");
  return {change.down, change.up, change.rank, first_column, columns};
}

// A linear layer's change, and where it goes once it is packed.
struct Job {
  std::array<LowRankPart, 3> parts;
  PackLowRankCall call;  // without its parts
  LowRankChange* packed;
};

std::array<Job, 4> jobs(const EncoderFit& fit, const embedway_layer_adapter& given, LayerChanges& packed) {
  const int hidden = fit.hidden_size, intermediate = fit.intermediate_size;
  const auto call = [](int num_parts, int in_features, int out_features) {
    return PackLowRankCall{nullptr, num_parts, in_features, padded(in_features), padded(out_features)};
  };
  return {{
      {{part(given.query, 0, hidden), part(given.key, hidden, hidden), part(given.value, 2 * hidden, hidden)},
       call(3, hidden, 3 * hidden),
       &packed.qkv},
      {{part(given.attention, 0, hidden)}, call(1, hidden, hidden), &packed.attention},
      {{part(given.up, 0, intermediate)}, call(1, hidden, intermediate), &packed.up},
      {{part(given.down, 0, hidden)}, call(1, intermediate, hidden), &packed.down},
  }};
}

}  // namespace

Adapter::Adapter(const EncoderFit& fit, const embedway_layer_adapter* layers) : fit_(fit), layers_(fit.num_layers) {
  std::vector<Job> all;
  for (int i = 0; i < fit.num_layers; i++)
    for (const Job& job : jobs(fit, layers[i], layers_[i])) all.push_back(job);
  size_t bytes = 0;
  for (Job& job : all) {
    job.call.parts = job.parts.data();
    bytes += fit.kernels->low_rank_bytes(job.call);
  }
  memory_.reserve(bytes);
  char* next = memory_.as<char>();
  for (const Job& job : all) {
    *job.packed = fit.kernels->pack_low_rank(job.call, next);
    next += fit.kernels->low_rank_bytes(job.call);
    widest_ = std::max(widest_, padded(job.packed->rank));
  }
}

}  // namespace embedway
