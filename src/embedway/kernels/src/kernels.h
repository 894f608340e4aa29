// What a target offers: one table of functions, filled by target.cpp once for each instruction set.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace embedway {

// Rows of activations and weights are padded with zeros to a multiple of this: whole panels on every target, and whole
// tiles on AMX. Zeros add nothing to a product, and stay zero through every activation function.
constexpr int kColumnMultiple = 32;
constexpr int padded(int columns) { return (columns + kColumnMultiple - 1) / kColumnMultiple * kColumnMultiple; }

enum class Epilogue : int { kNone, kGelu, kGeluTanh, kRelu, kAdd };

// ── low-rank changes of a linear layer (LoRA): x · downᵀ · upᵀ is added to x · weight ──

// What is added in one panel of columns: `depth` values of a row of x · downᵀ, from `first` on, times these weights.
struct UpPanel {
  const void* weight;  // [depth, panel]
  int first, depth;    // depth 0: these columns stay as they are
};

// Packed for one target and type, in one block of memory that somebody else owns.
struct LowRankChange {
  int rank = 0;                 // columns of x · downᵀ, those of all parts; 0: no change
  const void* down = nullptr;   // panels [rank, depth]; the last one is as narrow as whole vectors allow
  const UpPanel* up = nullptr;  // [width / panel]
};

// A change of some of a layer's columns. Several with columns of their own make up a LowRankChange.
struct LowRankPart {
  const float* down;  // [rank, in_features]
  const float* up;    // [columns, rank]
  int rank;           // 0: these columns stay as they are
  int first_column, columns;
};

struct PackLowRankCall {
  const LowRankPart* parts;  // in the order of their columns
  int num_parts;
  int in_features, depth, width;  // depth, width: padded
};

// Rows that one change is for.
struct ChangedRows {
  int first, rows;
  LowRankChange change;
};

// The changes of a LinearCall's rows; those that are in no slice stay as they are.
struct LowRank {
  const ChangedRows* slices = nullptr;  // by rows, disjoint
  int num_slices = 0;
  void* shrunk = nullptr;  // activations [rows, shrunk_row]: x · downᵀ, written by `shrink`
  int shrunk_row = 0;      // at least the padded rank of each
};

// out = epilogue(x · weight + bias), or out += x · weight + bias for kAdd.
struct LinearCall {
  const void* x;  // activations [rows, depth]
  int rows, depth, width;
  const void* weight;  // panels
  const float* bias;   // [width]
  Epilogue epilogue;
  void* out;  // activations [rows, width]; float32 for kAdd
  LowRank low_rank = {};
};

struct PackCall {
  const float* weight;  // [out_features, in_features]
  int out_features, in_features;
  int depth;     // padded in_features
  void* panels;  // [padded out_features, depth] weights
};

// h = layer_norm(h) · weight + bias for rows first … last - 1, and its copy as activations.
struct NormCall {
  float* hidden;  // [rows, padded(size)]
  int size;
  const float* weight;  // [size]
  const float* bias;
  float epsilon;
  void* activations;  // [rows, padded(size)], or null where hidden serves as them
};

// Attention of one sequence and one key-value head, for `group` query heads that share it.
struct AttentionCall {
  const void *query, *key, *value;          // the first row's first value of the first head of the group
  ptrdiff_t query_row, key_row, value_row;  // from row to row, in values
  ptrdiff_t query_head;                     // from head to head of the group
  void* out;
  ptrdiff_t out_row, out_head;
  int length;
  int key_size, value_size;  // head sizes, multiples of kColumnMultiple unless they are copied (see attention.h)
  int group;
  float scale;
  bool causal;
  int window;         // |i - j| < window; 0: no window
  const float* bias;  // added to the scores of query i and key j: bias[i · bias_row + j], or null
  ptrdiff_t bias_row, bias_head;
};

struct TypeKernels {
  size_t activation_bytes, weight_bytes;
  int (*linear_blocks)(int rows, int width);
  void (*linear)(const LinearCall&, int first, int last);
  int panel;  // columns
  void (*pack_weight)(const PackCall&, int first_panel, int last_panel);
  size_t (*attention_scratch)(int length, int key_size, int value_size);
  void (*attention)(const AttentionCall&, void* scratch);
  void (*layer_norm)(const NormCall&, int first, int last);
  size_t (*low_rank_bytes)(const PackLowRankCall&);
  LowRankChange (*pack_low_rank)(const PackLowRankCall&, void* memory);
  int (*shrink_blocks)(const LinearCall&);
  void (*shrink)(const LinearCall&, int first, int last);
};

enum class GemmType : int { kFloat32, kBFloat16, kFloat16 };
constexpr int kGemmTypes = 3;

struct Target {
  const char* name;
  const TypeKernels* types[kGemmTypes];  // null: not offered
};

}  // namespace embedway
