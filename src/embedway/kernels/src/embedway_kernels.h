/* The library's C interface, called from native.py through ctypes. All arrays are contiguous; float is float32.
   Functions that can fail return 0, or write a sentence to `error` (of EMBEDWAY_ERROR_BYTES) and return non-zero. */
#ifndef EMBEDWAY_KERNELS_H
#define EMBEDWAY_KERNELS_H
#include <stdint.h>

#define EMBEDWAY_ABI_VERSION 3
#define EMBEDWAY_ERROR_BYTES 256

#define EMBEDWAY_API __attribute__((visibility("default")))

#if defined(__cplusplus)
extern "C" {
#endif

typedef struct {
  int32_t hidden_size, num_heads, intermediate_size, num_layers;
  int32_t activation; /* 0 exact GELU, 1 tanh GELU, 2 ReLU */
  float layer_norm_epsilon;
  int32_t first_position; /* row of the position table for a sequence's first token */
  int32_t vocabulary, positions;
  int32_t threads;
  /* read in place as long as the encoder lives */
  const float* word_table;     /* [vocabulary, hidden] */
  const float* position_table; /* [positions, hidden] */
  const float* token_type;     /* [hidden], or null */
  const float* norm_weight;    /* [hidden] */
  const float* norm_bias;
  const float* relative_bias; /* [heads, 2 · reach + 1] by distance j - i + reach, or null */
  int32_t reach;
} embedway_encoder_config;

/* Packed or copied by embedway_encoder_set_layer; weights are [out, in]. */
typedef struct {
  const float *qkv_weight, *qkv_bias;             /* [3 · hidden, hidden] */
  const float *attention_weight, *attention_bias; /* [hidden, hidden] */
  const float *attention_norm_weight, *attention_norm_bias;
  const float *up_weight, *up_bias;     /* [intermediate, hidden] */
  const float *down_weight, *down_bias; /* [hidden, intermediate] */
  const float *output_norm_weight, *output_norm_bias;
} embedway_layer;

/* The change of a linear layer: x · downᵀ · upᵀ is added to it. rank 0: there is none. */
typedef struct {
  const float* down; /* [rank, in] */
  const float* up;   /* [out, rank] */
  int32_t rank;
} embedway_low_rank;

/* Packed by embedway_adapter_new. */
typedef struct {
  embedway_low_rank query, key, value; /* [hidden, hidden] */
  embedway_low_rank attention;         /* [hidden, hidden] */
  embedway_low_rank up;                /* [intermediate, hidden] */
  embedway_low_rank down;              /* [hidden, intermediate] */
} embedway_layer_adapter;

enum { EMBEDWAY_MEAN, EMBEDWAY_CLS, EMBEDWAY_MAX, EMBEDWAY_LAST_TOKEN, EMBEDWAY_ALL_TOKENS };

typedef struct {
  const int32_t* token_ids;   /* [total] */
  const int32_t* cu_seqlens;  /* [num_sequences + 1] */
  const int32_t* pool_starts; /* [num_sequences], or null: leading tokens that the pooling leaves out */
  int32_t num_sequences;
  int32_t pooling; /* with EMBEDWAY_ALL_TOKENS the answer is [total, hidden] */
  int32_t num_adapters;
  const void* const* adapters;        /* [num_adapters], of embedway_adapter_new */
  const int32_t* adapter_of_sequence; /* [num_sequences], -1: the base model; not read where num_adapters is 0 */
} embedway_batch;

/* One call of attention over packed sequences; strides are in values. type: 0 float32, 1 bfloat16. */
typedef struct {
  const void *query, *key, *value;
  void* out;
  const int32_t* cu_seqlens;
  int32_t num_sequences, num_heads, num_kv_heads, key_size, value_size, type;
  int64_t query_row, query_head, key_row, key_head, value_row, value_head, out_row, out_head;
  float scale;
  int32_t causal, window; /* window: |i - j| < window; 0: none */
  const float* bias;      /* query i, key j of head h: bias[h · bias_head + i · bias_row + j], or null */
  int64_t bias_head, bias_row;
} embedway_attention_call;

/* GOMP_parallel's type: where torch has brought an OpenMP runtime its threads do the work, see embedway_attention. */
typedef void (*embedway_parallel)(void (*job)(void*), void* data, unsigned threads, unsigned flags);

EMBEDWAY_API int32_t embedway_abi_version(void);
/* The i-th instruction set that this machine can run, best first; null behind the last. */
EMBEDWAY_API const char* embedway_instruction_set(int32_t i);
/* 1 where the instruction set offers the GEMM type (0 float32, 1 bfloat16, 2 float16). */
EMBEDWAY_API int32_t embedway_offers(const char* instruction_set, int32_t gemm_type);

/* instruction_set null: the best. Returns null on failure. */
EMBEDWAY_API void* embedway_encoder_new(const embedway_encoder_config* config, const char* instruction_set,
                                        int32_t gemm_type, char* error);
EMBEDWAY_API int32_t embedway_encoder_set_layer(void* encoder, int32_t layer, const embedway_layer* weights,
                                                char* error);
/* out: [num_sequences, hidden], or [total, hidden] for EMBEDWAY_ALL_TOKENS.

   The batch makes way for another one where `preempt_at` is not null: several times a layer, once the monotonic clock
   has come to *preempt_at nanoseconds, which any thread may change, `preempt` is called by the calling thread. It may
   run another batch of this encoder, which makes way for nobody, and should put *preempt_at off. */
EMBEDWAY_API int32_t embedway_encoder_run(void* encoder, const embedway_batch* batch, float* out,
                                          const int64_t* preempt_at, void (*preempt)(void), char* error);
EMBEDWAY_API void embedway_encoder_free(void* encoder);

/* layers: [num_layers]. The adapter fits every encoder of the same shape, instruction set and GEMM type, and needs none
   of them to live. Only reads the encoder, so it may be called beside embedway_encoder_run. Returns null on failure. */
EMBEDWAY_API void* embedway_adapter_new(const void* encoder, const embedway_layer_adapter* layers, char* error);
/* No batch may be running with it. */
EMBEDWAY_API void embedway_adapter_free(void* adapter);

/* `parallel` null: on the calling thread alone. */
EMBEDWAY_API int32_t embedway_attention(const embedway_attention_call* call, const char* instruction_set,
                                        int32_t threads, embedway_parallel parallel, char* error);
/* out[rows, width] = epilogue(x[rows, depth] · weight[width, depth]ᵀ + bias), `repeats` times (at least once) on the
   calling thread; returns the seconds of one, packing not counted, or a negative number on failure. For bfloat16 x must
   be representable in it. For measuring the machine. */
EMBEDWAY_API double embedway_linear(const float* x, const float* weight, const float* bias, int32_t rows, int32_t width,
                                    int32_t depth, int32_t epilogue, const char* instruction_set, int32_t gemm_type,
                                    int32_t repeats, float* out, char* error);

#if defined(__cplusplus)
}
#endif
#endif
