// Attention within one sequence: softmax(q · kᵀ · scale + bias) · v, block of queries by block of queries.
//
// Keys and values of one head are laid out as panels once; then each block of query rows is two matrix products
// (gemm.h) with an exact softmax between them. The scores of a block's rows over all keys are kept, so memory grows
// with the length and never with its square: 8192 tokens with heads of 64 take 3 MB a thread in bf16.
#pragma once
#include "gemm.h"

namespace embedway::EMBEDWAY_TARGET {

constexpr float kUnseen = -1e30f;  // a score that softmax makes zero

// A thread's memory for one head: pointers into one block, each on a cache line.
template <class Type>
struct AttentionScratch {
  typedef typename Type::Activation Activation;
  typedef typename Type::Weight Weight;
  static constexpr int kRows = Blocks<Type>::kRows;
  Weight* keys;               // [keys / kPanel][key depth][kPanel], kStep values of a key side by side
  Weight* values;             // [value columns / kPanel][keys][kPanel], kStep keys of a column side by side
  float* scores;              // [kRows, keys]
  Activation* probabilities;  // [kRows, keys]; the scores' own memory where both are float32
  Activation* query;          // [kRows, key depth]: where the block may not read the caller's own
  size_t bytes;

  AttentionScratch(void* memory, int length, int key_size, int value_size) {
    char* next = (char*)memory;
    const size_t keys_padded = round_up(length, kColumnMultiple), depth = round_up(key_size, kColumnMultiple);
    keys = take<Weight>(next, keys_padded * depth);
    values = take<Weight>(next, keys_padded * round_up(value_size, kPanel));
    scores = take<float>(next, kRows * keys_padded);
    probabilities =
        sizeof(Activation) == sizeof(float) ? (Activation*)scores : take<Activation>(next, kRows * keys_padded);
    query = take<Activation>(next, kRows * depth);
    bytes = (size_t)(next - (char*)memory);
  }

 private:
  template <class T>
  static T* take(char*& next, size_t count) {
    T* const block = (T*)next;
    next += (count * sizeof(T) + 63) / 64 * 64;
    return block;
  }
};

template <class Type>
size_t attention_scratch(int length, int key_size, int value_size) {
  return AttentionScratch<Type>(nullptr, length, key_size, value_size).bytes;
}

// ── laying out keys and values ──

// kLanes keys by kLanes words (a float, or a pair of bf16) at a time; keys beyond the sequence and values beyond the
// head are zero.
template <class Type>
inline void pack_keys(const typename Type::Weight* key, ptrdiff_t row, int length, int size, int depth,
                      typename Type::Weight* panels) {
  typedef typename Type::Weight Weight;
  const int full = size / Type::kStep / kLanes * kLanes;  // words that come in whole vectors
  for (int from = 0; from < round_up(length, kPanel); from += kLanes) {
    Weight* const panel = panels + (size_t)(from / kPanel) * kPanel * depth + (from % kPanel) * Type::kStep;
    const int seen = smaller_of(kLanes, larger_of(0, length - from));
    for (int word = 0; word < full; word += kLanes) {
      BitVec block[kLanes];
      for (int i = 0; i < kLanes; i++)
        block[i] = i < seen ? load_as<BitVec>(key + (from + i) * row + word * Type::kStep) : BitVec{};
      transpose(block);
      for (int i = 0; i < kLanes; i++) store_as(panel + (size_t)(word + i) * kPanel * Type::kStep, block[i]);
    }
    for (int k = full * Type::kStep; k < depth; k++)
      for (int i = 0; i < kLanes; i++)
        panel[(size_t)(k / Type::kStep) * kPanel * Type::kStep + i * Type::kStep + k % Type::kStep] =
            i < seen && k < size ? key[(from + i) * row + k] : Weight(0);
  }
}

inline void pack_value_step(const float* rows[1], bool, float* to) { store(to, load(rows[0])); }
inline void pack_value_step(const bf16* rows[2], bool has_second, bf16* to) {
  const BitVec even = __builtin_convertvector(load_as<HalfBits>(rows[0]), BitVec);
  const BitVec odd = has_second ? __builtin_convertvector(load_as<HalfBits>(rows[1]), BitVec) : BitVec{};
  store_as(to, even | odd << 16);
}

template <class Type>
inline void pack_values(const typename Type::Weight* value, ptrdiff_t row, int length, int size, int keys,
                        typename Type::Weight* panels) {
  typedef typename Type::Weight Weight;
  const int full = size / kLanes * kLanes;
  for (int j = 0; j < keys; j += Type::kStep)
    for (int column = 0; column < round_up(size, kPanel); column += kLanes) {
      Weight* const to = panels + ((size_t)(column / kPanel) * keys + j) * kPanel + column % kPanel * Type::kStep;
      const Weight* rows[Type::kStep];
      for (int s = 0; s < Type::kStep; s++) rows[s] = value + (ptrdiff_t)(j + s) * row + column;
      if (j >= length || column >= size) {
        for (int s = 0; s < Type::kStep; s++) __builtin_memset(to + s * kLanes, 0, kLanes * sizeof(Weight));
      } else if (column >= full) {
        for (int i = 0; i < kLanes; i++)
          for (int s = 0; s < Type::kStep; s++)
            to[i * Type::kStep + s] = j + s < length && column + i < size ? rows[s][i] : Weight(0);
      } else {
        pack_value_step(rows, j + 1 < length, to);
      }
    }
}

// ── softmax ──

// What a query may see of the keys first … last - 1.
struct Visible {
  int first, last;
};
inline Visible visible(const AttentionCall& call, int i) {
  return {call.window ? larger_of(0, i - call.window + 1) : 0,
          call.causal ? i + 1 : (call.window ? smaller_of(call.length, i + call.window) : call.length)};
}

// Makes the scores of keys outside first … last - 1 that share a vector with those inside unseen.
inline void hide_edges(float* scores, Visible seen) {
  IntVec lane;
  for (int i = 0; i < kLanes; i++) lane[i] = i;
  const int low = seen.first / kLanes * kLanes, high = (seen.last - 1) / kLanes * kLanes;
  if (low != seen.first) store(scores + low, lane + low >= seen.first ? load(scores + low) : splat(kUnseen));
  if (high + kLanes != seen.last) store(scores + high, lane + high < seen.last ? load(scores + high) : splat(kUnseen));
}

// out[0 … count - 1] = e^(score - largest) of the keys that are seen, zero for the others; not yet divided by their
// sum, which is returned.
template <class Type>
inline float softmax(float* scores, int count, Visible seen, float scale, const float* bias,
                     typename Type::Activation* out) {
  scale *= kLog2E;
  if (bias) {
    int j = seen.first;
    for (; j + kLanes <= seen.last; j += kLanes) store(scores + j, load(scores + j) * scale + load(bias + j) * kLog2E);
    for (; j < seen.last; j++) scores[j] = scores[j] * scale + bias[j] * kLog2E;
    scale = 1;
  }
  hide_edges(scores, seen);
  const int start = seen.first / kLanes * kLanes;
  Vec top = splat(kUnseen);
  for (int j = start; j < seen.last; j += kLanes) top = larger(top, load(scores + j));
  const Vec shift = splat(largest_of(top) * scale);
  Vec total{};
  for (int j = 0; j < start; j += kLanes) store(out + j, Vec{});
  int j = start;
  for (; j < seen.last; j += kLanes) {
    const Vec power = exp2<Type::kPrecision>(load(scores + j) * scale - shift);
    total += power;
    store(out + j, power);
  }
  for (; j < count; j += kLanes) store(out + j, Vec{});
  return sum_of(total);
}

// ── one sequence ──

template <class Activation>
inline void store_head(Activation* out, const float* from, int count, float factor) {
  int c = 0;
  for (; c + kLanes <= count; c += kLanes) store(out + c, load(from + c) * factor);
  for (; c < count; c++) store_one(out + c, from[c] * factor);
}

template <class Type>
void attention(const AttentionCall& call, void* memory) {
  typedef typename Type::Activation Activation;
  typedef Blocks<Type> Block;
  const AttentionScratch<Type> scratch(memory, call.length, call.key_size, call.value_size);
  const int depth = round_up(call.key_size, Block::kDepthMultiple), row = round_up(call.length, kColumnMultiple);
  const int keys = round_up(call.length, Block::kDepthMultiple);  // as depth of the second product
  pack_keys<Type>((const Activation*)call.key, call.key_row, call.length, call.key_size, depth, scratch.keys);
  pack_values<Type>((const Activation*)call.value, call.value_row, call.length, call.value_size, keys, scratch.values);

  const int blocks = (call.length + Block::kRows - 1) / Block::kRows;
  const typename Block::Session session((call.length + blocks - 1) / blocks);
  alignas(64) float result[Block::kRows * kPanel];
  float factor[Block::kRows];
  for (int head = 0; head < call.group; head++) {
    for (int block = 0; block < blocks; block++) {
      const int from = (int)((int64_t)call.length * block / blocks),
                to = (int)((int64_t)call.length * (block + 1) / blocks);
      const int rows = to - from;
      const Activation* query = (const Activation*)call.query + head * call.query_head + from * call.query_row;
      ptrdiff_t query_row = call.query_row;
      if (depth != call.key_size || Block::kReadableRows > 1) {
        for (int r = 0; r < rows; r++)
          for (int k = 0; k < depth; k++)
            scratch.query[r * depth + k] = k < call.key_size ? query[r * query_row + k] : Activation(0);
        query = scratch.query, query_row = depth;
      }
      // keys that any of the rows sees
      const int start = visible(call, from).first / kColumnMultiple * kColumnMultiple;
      const int last = visible(call, to - 1).last, stop = round_up(last, Block::kDepthMultiple);
      for (int j = start; j < last; j += kPanel)
        Block::run(session, rows, query, query_row, scratch.keys + (size_t)j * depth, depth, nullptr, false,
                   scratch.scores + (j - start), row);
      for (int r = 0; r < rows; r++) {
        const Visible seen = visible(call, from + r);
        const float* bias =
            call.bias ? call.bias + head * call.bias_head + (from + r) * call.bias_row + start : nullptr;
        const float sum =
            softmax<Type>(scratch.scores + (size_t)r * row, stop - start, {seen.first - start, seen.last - start},
                          call.scale, bias, scratch.probabilities + (size_t)r * row);
        factor[r] = 1 / sum;
      }
      for (int column = 0; column < call.value_size; column += kPanel) {
        Block::run(session, rows, scratch.probabilities, row,
                   scratch.values + (size_t)column * keys + (size_t)start * kPanel, stop - start, nullptr, false,
                   result, kPanel);
        for (int r = 0; r < rows; r++)
          store_head((Activation*)call.out + head * call.out_head + (from + r) * call.out_row + column,
                     result + r * kPanel, smaller_of(kPanel, call.value_size - column), factor[r]);
      }
    }
  }
}

}  // namespace embedway::EMBEDWAY_TARGET
