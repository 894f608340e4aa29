#include "encoder.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

namespace embedway {
namespace {

// Rows of the intermediate layer that exist at once, so that a long sequence does not need all.
constexpr int kSliceRows = 512;
// AMX loads 16 rows, however few are there.
constexpr int kSpareRows = 16;

Epilogue activation_of(int32_t activation) {
  switch (activation) {
    case 0:
      return Epilogue::kGelu;
    case 1:
      return Epilogue::kGeluTanh;
    case 2:
      return Epilogue::kRelu;
  }
  throw std::invalid_argument("unknown activation");
}

// Counts the batches that are under way.
struct Level {
  int& depth;
  explicit Level(int& outer) : depth(outer) { depth++; }
  ~Level() { depth--; }
};

const Adapter& adapter_of(const embedway_batch& batch, int i) {
  return *static_cast<const Adapter*>(batch.adapters[i]);
}

// What adapters change of rows from … from + count - 1 in one linear layer; those rows count from zero.
std::vector<ChangedRows> changed_rows(const Chunk& chunk, const embedway_batch& batch, int layer,
                                      LowRankChange LayerChanges::*linear, int from, int count) {
  std::vector<ChangedRows> changed;
  for (const AdapterRows& slice : chunk.slices) {
    const LowRankChange& change = adapter_of(batch, slice.adapter).layer(layer).*linear;
    const int first = std::max(slice.first, from), last = std::min(slice.first + slice.rows, from + count);
    if (first < last && change.rank > 0) changed.push_back({first - from, last - first, change});
  }
  return changed;
}

}  // namespace

Encoder::Encoder(const embedway_encoder_config& config, const Target& target, GemmType type)
    : config_(config),
      kernels_(*target.types[(int)type]),
      activation_(activation_of(config.activation)),
      is_float_(kernels_.activation_bytes == sizeof(float)),
      hidden_(padded(config.hidden_size)),
      qkv_width_(padded(3 * config.hidden_size)),
      layers_(config.num_layers),
      threads_(config.threads),
      scratch_(threads_.size()) {
  if (config.num_heads < 1 || config.hidden_size < 1 || config.hidden_size % config.num_heads != 0)
    throw std::invalid_argument("hidden_size must be a multiple of num_heads");
  for (std::vector<Lane>& lanes : lanes_) lanes.resize(threads_.size());
}

// ── weights ──

PackedLinear Encoder::pack(const float* weight, const float* bias, int out_features, int in_features) {
  PackedLinear packed;
  packed.depth = padded(in_features);
  packed.width = padded(out_features);
  packed.bias.assign(packed.width, 0.f);
  std::copy_n(bias, out_features, packed.bias.begin());
  packed.panels.reserve((size_t)packed.width * packed.depth * kernels_.weight_bytes);
  const PackCall call{weight, out_features, in_features, packed.depth, packed.panels.data()};
  const int panels = packed.width / kernels_.panel;
  threads_.run({panels, [&](int, int first, int last) { kernels_.pack_weight(call, first, last); }});
  return packed;
}

void Encoder::set_layer(int index, const embedway_layer& weights) {
  const int hidden = config_.hidden_size, intermediate = config_.intermediate_size;
  EncoderLayer& layer = layers_.at(index);
  layer.qkv = pack(weights.qkv_weight, weights.qkv_bias, 3 * hidden, hidden);
  layer.attention = pack(weights.attention_weight, weights.attention_bias, hidden, hidden);
  layer.up = pack(weights.up_weight, weights.up_bias, intermediate, hidden);
  layer.down = pack(weights.down_weight, weights.down_bias, hidden, intermediate);
  layer.attention_norm_weight.assign(weights.attention_norm_weight, weights.attention_norm_weight + hidden);
  layer.attention_norm_bias.assign(weights.attention_norm_bias, weights.attention_norm_bias + hidden);
  layer.output_norm_weight.assign(weights.output_norm_weight, weights.output_norm_weight + hidden);
  layer.output_norm_bias.assign(weights.output_norm_bias, weights.output_norm_bias + hidden);
}

EncoderFit Encoder::fit() const {
  return {&kernels_, config_.hidden_size, config_.intermediate_size, config_.num_layers};
}

// ── a batch ──

bool Preemption::is_due() const {
  if (!at) return false;
  const std::chrono::nanoseconds now = std::chrono::steady_clock::now().time_since_epoch();
  return now.count() >= __atomic_load_n(at, __ATOMIC_RELAXED);
}

void Encoder::run(const embedway_batch& batch, const Preemption& given, float* out) {
  check(batch);
  const Level level(depth_);
  std::vector<Lane>& lanes = lanes_[depth_ - 1];
  const Preemption preemption = depth_ == 1 ? given : Preemption{};
  const Plan plan = plan_batch(batch, threads_.size());
  int rows = 0, longest = 0, shrunk_row = 0;
  for (const Chunk& chunk : plan.chunks) {
    rows = std::max(rows, chunk.rows);
    longest = std::max(longest, chunk.longest);
  }
  for (int i = 0; i < batch.num_adapters; i++) shrunk_row = std::max(shrunk_row, adapter_of(batch, i).widest());
  const int size = config_.hidden_size / config_.num_heads;
  for (Buffer& scratch : scratch_) scratch.reserve(kernels_.attention_scratch(longest, size, size));
  if (plan.is_shared) {
    reserve(lanes[0].space, rows, shrunk_row);
    run_shared(plan.chunks[0], lanes[0].space, batch, preemption, out);
  } else {
    for (Lane& lane : lanes) reserve(lane.space, rows, shrunk_row);
    run_chunks(plan.chunks, lanes, batch, preemption, out);
  }
}

// All threads on each phase of the one chunk.
void Encoder::run_shared(const Chunk& chunk, const Workspace& space, const embedway_batch& batch,
                         const Preemption& preemption, float* out) {
  const auto phases = std::make_shared<const std::vector<Phase>>(this->phases(chunk, space, batch, out));
  const auto stop = [preemption] { return preemption.is_due(); };
  for (size_t next = 0; (next = threads_.run(phases, next, stop)) < phases->size();) preemption.run();
}

// Each thread on chunks of its own, lane by lane: the chunk that was stopped there, then others until none is left.
void Encoder::run_chunks(const std::vector<Chunk>& chunks, std::vector<Lane>& lanes, const embedway_batch& batch,
                         const Preemption& preemption, float* out) {
  std::atomic<size_t> next_chunk{0};
  const auto work = [&](int thread, Lane& lane) {
    do {
      if (lane.phases.empty()) {
        const size_t i = next_chunk.fetch_add(1);
        if (i >= chunks.size()) return;
        lane.phases = phases(chunks[i], lane.space, batch, out);
        lane.next = 0;
      }
      const Phase& phase = lane.phases[lane.next++];
      phase.work(thread, 0, phase.units);
      if (lane.next == lane.phases.size()) lane.phases.clear();
    } while (!preemption.is_due());
  };
  const auto is_idle = [](const Lane& lane) { return lane.phases.empty(); };
  for (;;) {
    threads_.run({(int)lanes.size(), [&](int thread, int first, int last) {
                    for (int i = first; i < last; i++) work(thread, lanes[i]);
                  }});
    if (next_chunk >= chunks.size() && std::all_of(lanes.begin(), lanes.end(), is_idle)) return;
    preemption.run();
  }
}

void Encoder::check(const embedway_batch& batch) const {
  for (int i = 0; i < batch.num_sequences; i++) {
    const int length = batch.cu_seqlens[i + 1] - batch.cu_seqlens[i];
    if (length < 1) throw std::invalid_argument("a sequence has no tokens");
    if (length > config_.positions - config_.first_position)
      throw std::invalid_argument("a sequence of " + std::to_string(length) +
                                  " tokens is longer than the position table");
    if (config_.relative_bias && length > config_.reach + 1)
      throw std::invalid_argument("a sequence of " + std::to_string(length) +
                                  " tokens is longer than the relative bias");
  }
  for (int i = batch.cu_seqlens[0]; i < batch.cu_seqlens[batch.num_sequences]; i++)
    if (batch.token_ids[i] < 0 || batch.token_ids[i] >= config_.vocabulary)
      throw std::invalid_argument("the token id " + std::to_string(batch.token_ids[i]) + " is outside the vocabulary");
  for (int i = 0; i < batch.num_adapters; i++)
    if (!(adapter_of(batch, i).fit() == fit()))
      throw std::invalid_argument("the adapter " + std::to_string(i) + " was made for another encoder");
  for (int i = 0; batch.num_adapters && i < batch.num_sequences; i++)
    if (batch.adapter_of_sequence[i] < -1 || batch.adapter_of_sequence[i] >= batch.num_adapters)
      throw std::invalid_argument("a sequence asks for the adapter " + std::to_string(batch.adapter_of_sequence[i]) +
                                  " of " + std::to_string(batch.num_adapters));
}

void Encoder::reserve(Workspace& space, int rows, int shrunk_row) const {
  const size_t all = rows + kSpareRows, slice = std::min(rows, kSliceRows) + kSpareRows;
  const size_t bytes = kernels_.activation_bytes;
  space.hidden.reserve(all * hidden_ * sizeof(float));
  if (!is_float_) space.activations.reserve(all * hidden_ * bytes);
  space.qkv.reserve(all * qkv_width_ * bytes);
  space.context.reserve(all * hidden_ * bytes);
  space.up.reserve(slice * padded(config_.intermediate_size) * bytes);
  space.shrunk.reserve(all * shrunk_row * bytes);
}

// ── a chunk ──

// The way of a chunk through the encoder. A thread that has it for itself does phase after phase whole.
std::vector<Phase> Encoder::phases(const Chunk& chunk, const Workspace& space, const embedway_batch& batch,
                                   float* out) const {
  const int rows = chunk.rows, heads = config_.num_heads;
  const char* const activations = is_float_ ? space.hidden.as<char>() : space.activations.as<char>();
  std::vector<Phase> phases;
  phases.push_back({rows, [&, this](int, int first, int last) { embed_rows(chunk, space, batch, first, last); }});
  phases.push_back(norm(space, config_.norm_weight, config_.norm_bias, rows));
  for (size_t i = 0; i < layers_.size(); i++) {
    const EncoderLayer& layer = layers_[i];
    const auto add_linear = [&](const PackedLinear& weight, LowRankChange LayerChanges::*change, const void* x,
                                int from, int count, Epilogue epilogue, void* out) {
      const LinearCall call{x,        count, weight.depth, weight.width, weight.panels.data(), weight.bias.data(),
                            epilogue, out};
      linear(call, changed_rows(chunk, batch, (int)i, change, from, count), space, phases);
    };
    add_linear(layer.qkv, &LayerChanges::qkv, activations, 0, rows, Epilogue::kNone, space.qkv.data());
    phases.push_back({(int)chunk.sequences.size() * heads, [&, this, heads](int thread, int first, int last) {
                        for (int i = first; i < last; i++)
                          attend(chunk.sequences[i / heads], i % heads, space, scratch_[thread].data());
                      }});
    add_linear(layer.attention, &LayerChanges::attention, space.context.data(), 0, rows, Epilogue::kAdd,
               space.hidden.data());
    phases.push_back(norm(space, layer.attention_norm_weight.data(), layer.attention_norm_bias.data(), rows));
    for (int from = 0; from < rows; from += kSliceRows) {
      const int count = std::min(kSliceRows, rows - from);
      const size_t first = (size_t)from * hidden_;
      add_linear(layer.up, &LayerChanges::up, activations + first * kernels_.activation_bytes, from, count, activation_,
                 space.up.data());
      add_linear(layer.down, &LayerChanges::down, space.up.data(), from, count, Epilogue::kAdd,
                 space.hidden.as<float>() + first);
    }
    phases.push_back(norm(space, layer.output_norm_weight.data(), layer.output_norm_bias.data(), rows));
  }
  phases.push_back({(int)chunk.sequences.size(), [&, this, out](int, int first, int last) {
                      for (int i = first; i < last; i++) pool(chunk.sequences[i], space, batch, out);
                    }});
  return phases;
}

// One phase, and one before it that shrinks the rows that adapters change.
void Encoder::linear(LinearCall call, std::vector<ChangedRows> changes, const Workspace& space,
                     std::vector<Phase>& phases) const {
  const int blocks = kernels_.linear_blocks(call.rows, call.width);
  if (changes.empty()) {
    phases.push_back({blocks, [this, call](int, int first, int last) { kernels_.linear(call, first, last); }});
    return;
  }
  const auto kept = std::make_shared<const std::vector<ChangedRows>>(std::move(changes));
  int shrunk_row = 0;
  for (const ChangedRows& slice : *kept) shrunk_row = std::max(shrunk_row, padded(slice.change.rank));
  call.low_rank = {kept->data(), (int)kept->size(), space.shrunk.data(), shrunk_row};
  phases.push_back({kernels_.shrink_blocks(call),
                    [this, call, kept](int, int first, int last) { kernels_.shrink(call, first, last); }});
  phases.push_back({blocks, [this, call, kept](int, int first, int last) { kernels_.linear(call, first, last); }});
}

Phase Encoder::norm(const Workspace& space, const float* weight, const float* bias, int rows) const {
  const NormCall call{space.hidden.as<float>(),
                      config_.hidden_size,
                      weight,
                      bias,
                      config_.layer_norm_epsilon,
                      is_float_ ? nullptr : space.activations.data()};
  return {rows, [this, call](int, int first, int last) { kernels_.layer_norm(call, first, last); }};
}

// hidden = word + position (+ type 0) for rows first … last - 1. What pads a row is zero from here on, in every buffer
// that is read as x.
void Encoder::embed_rows(const Chunk& chunk, const Workspace& space, const embedway_batch& batch, int first,
                         int last) const {
  const int size = config_.hidden_size;
  const size_t bytes = kernels_.activation_bytes;
  for (const Sequence& sequence : chunk.sequences) {
    const int32_t* const ids = batch.token_ids + batch.cu_seqlens[sequence.index];
    const int stop = std::min(last, sequence.start + sequence.length);
    for (int row = std::max(first, sequence.start); row < stop; row++) {
      const int at = row - sequence.start;
      const float* const word = config_.word_table + (size_t)ids[at] * size;
      const float* const position = config_.position_table + (size_t)(config_.first_position + at) * size;
      float* const hidden = space.hidden.as<float>() + (size_t)row * hidden_;
      for (int i = 0; i < size; i++) hidden[i] = word[i] + position[i];
      if (config_.token_type)
        for (int i = 0; i < size; i++) hidden[i] += config_.token_type[i];
      std::fill(hidden + size, hidden + hidden_, 0.f);
      std::memset(space.context.as<char>() + ((size_t)row * hidden_ + size) * bytes, 0, (hidden_ - size) * bytes);
    }
  }
}

void Encoder::attend(const Sequence& sequence, int head, const Workspace& space, void* scratch) const {
  const int hidden = config_.hidden_size, size = hidden / config_.num_heads;
  const size_t bytes = kernels_.activation_bytes;
  const char* const query = space.qkv.as<char>() + ((size_t)sequence.start * qkv_width_ + head * size) * bytes;
  AttentionCall call{};
  call.query = query;
  call.key = query + hidden * bytes;
  call.value = query + 2 * hidden * bytes;
  call.query_row = call.key_row = call.value_row = qkv_width_;
  call.out = space.context.as<char>() + ((size_t)sequence.start * hidden_ + head * size) * bytes;
  call.out_row = hidden_;
  call.length = sequence.length;
  call.key_size = call.value_size = size;
  call.group = 1;
  call.scale = 1 / std::sqrt((float)size);
  if (config_.relative_bias) {  // key j of query i is at j - i + reach
    call.bias = config_.relative_bias + (size_t)head * (2 * config_.reach + 1) + config_.reach;
    call.bias_row = -1;
  }
  kernels_.attention(call, scratch);
}

void Encoder::pool(const Sequence& sequence, const Workspace& space, const embedway_batch& batch, float* out) const {
  const int size = config_.hidden_size;
  const auto row_of = [&](int row) { return space.hidden.as<float>() + (size_t)row * hidden_; };
  const int start = sequence.start, last = start + sequence.length - 1;
  const int after_prompt = start + (batch.pool_starts ? batch.pool_starts[sequence.index] : 0);
  // where a prompt leaves no token, CLS reads the first one and the others the last
  const int first = std::min(after_prompt, last);
  float* const vector = out + (size_t)sequence.index * size;
  switch (batch.pooling) {
    case EMBEDWAY_ALL_TOKENS: {
      float* const states = out + (size_t)(batch.cu_seqlens[sequence.index] - batch.cu_seqlens[0]) * size;
      for (int row = start; row <= last; row++) std::copy_n(row_of(row), size, states + (size_t)(row - start) * size);
      break;
    }
    case EMBEDWAY_CLS:
      std::copy_n(row_of(after_prompt <= last ? after_prompt : start), size, vector);
      break;
    case EMBEDWAY_LAST_TOKEN:
      std::copy_n(row_of(last), size, vector);
      break;
    case EMBEDWAY_MAX:
      std::copy_n(row_of(first), size, vector);
      for (int row = first + 1; row <= last; row++)
        for (int c = 0; c < size; c++) vector[c] = std::max(vector[c], row_of(row)[c]);
      break;
    default:
      std::fill_n(vector, size, 0.f);
      for (int row = first; row <= last; row++)
        for (int c = 0; c < size; c++) vector[c] += row_of(row)[c];
      for (int c = 0; c < size; c++) vector[c] /= last + 1 - first;
  }
}

}  // namespace embedway
