// A BERT-family encoder: packed token ids in, one vector a sequence out.
#pragma once
#include <array>
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

// When a batch makes way for another one, and what then runs it. It never does where `at` is null.
struct Preemption {
  const int64_t* at;  // nanoseconds of the steady clock; any thread may write it
  void (*run)(void);

  bool is_due() const;
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

// Where a chunk is computed.
struct Lane {
  Workspace space;
  std::vector<Phase> phases;  // of the chunk that is there; empty where none is
  size_t next = 0;            // of them
};

class Encoder {
 public:
  // Throws std::invalid_argument, std::bad_alloc.
  Encoder(const embedway_encoder_config& config, const Target& target, GemmType type);

  void set_layer(int layer, const embedway_layer& weights);
  // `preemption.run` may call this for another batch, which is not preempted in turn.
  void run(const embedway_batch& batch, const Preemption& preemption, float* out);
  EncoderFit fit() const;

 private:
  void check(const embedway_batch& batch) const;
  PackedLinear pack(const float* weight, const float* bias, int out_features, int in_features);
  void reserve(Workspace& space, int rows, int shrunk_row) const;
  void run_shared(const Chunk& chunk, const Workspace& space, const embedway_batch& batch, const Preemption& preemption,
                  float* out);
  void run_chunks(const std::vector<Chunk>& chunks, std::vector<Lane>& lanes, const embedway_batch& batch,
                  const Preemption& preemption, float* out);
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
  int depth_ = 0;                           // batches under way: at most one, and one that it makes way for
  std::array<std::vector<Lane>, 2> lanes_;  // of each, one a thread; a shared chunk has the first
  std::vector<Buffer> scratch_;             // one a thread, for what lasts no longer than a phase
};

}  // namespace embedway
