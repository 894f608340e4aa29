// A BERT-family encoder: packed token ids in, one vector a sequence out.
#pragma once
#include <cstdint>
#include <vector>

#include "adapter.h"
#include "buffer.h"
#include "chunks.h"
#include "embedway_kernels.h"
#include "kernels.h"
#include "thread_pool.h"

namespace embedway {

// x · Wᵀ + b with its weights packed for one target and type.
struct PackedLinear {
  Buffer panels;
  std::vector<float> bias;   // [width]
  int depth = 0, width = 0;  // padded
};

struct EncoderLayer {
  PackedLinear qkv, attention, up, down;
  std::vector<float> attention_norm_weight, attention_norm_bias, output_norm_weight, output_norm_bias;
};

// A chunk's activations. All rows are padded to kColumnMultiple.
struct Workspace {
  Buffer hidden;       // float32 [rows, hidden]: the residual stream
  Buffer activations;  // [rows, hidden]; not used where they are float32
  Buffer qkv;          // [rows, 3 · hidden]
  Buffer context;      // [rows, hidden]
  Buffer up;           // [rows of a slice, intermediate]
  Buffer shrunk;       // [rows, widest of the batch's adapters]
};

class Encoder {
 public:
  // Throws std::invalid_argument, std::bad_alloc.
  Encoder(const embedway_encoder_config& config, const Target& target, GemmType type);

  void set_layer(int layer, const embedway_layer& weights);
  void run(const embedway_batch& batch, float* out);
  EncoderFit fit() const;

 private:
  void check(const embedway_batch& batch) const;
  PackedLinear pack(const float* weight, const float* bias, int out_features, int in_features);
  void reserve(Workspace& space, int rows, int shrunk_row) const;
  std::vector<Phase> phases(const Chunk& chunk, const Workspace& space, const embedway_batch& batch, float* out) const;
  void linear(LinearCall call, std::vector<ChangedRows> changes, const Workspace& space,
              std::vector<Phase>& phases) const;
  Phase norm(const Workspace& space, const float* weight, const float* bias, int rows) const;
  void embed_rows(const Chunk& chunk, const Workspace& space, const embedway_batch& batch, int first, int last) const;
  void attend(const Sequence& sequence, int head, const Workspace& space, void* scratch) const;
  void pool(const Sequence& sequence, const Workspace& space, const embedway_batch& batch, float* out) const;

  const embedway_encoder_config config_;
  const TypeKernels& kernels_;
  const Epilogue activation_;
  const bool is_float_;           // activations are float32: the residual stream itself serves as them
  const int hidden_, qkv_width_;  // padded
  std::vector<EncoderLayer> layers_;
  ThreadPool threads_;
  std::vector<Workspace> spaces_;  // one a thread; a shared chunk has the first
  std::vector<Buffer> scratch_;    // one a thread
};

}  // namespace embedway
