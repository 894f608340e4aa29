#include "chunks.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <utility>

namespace embedway {
namespace {

// Tokens of a chunk: its activations stay in a core's own cache, and more of them make nothing faster.
constexpr int kChunkTokens = 128;
// Threads take chunks of their own where each has so many that the last one does not matter: a thread that has lost its
// core for a while ends its chunk late, where of a shared chunk it holds up a small unit only.
constexpr int kLeastRounds = 4;
// Threads with chunks of their own end together within this, or share one: that is 6% slower.
constexpr double kMostImbalance = 1.06;

std::vector<Sequence> longest_first(const embedway_batch& batch) {
  std::vector<Sequence> sequences(batch.num_sequences);
  for (int i = 0; i < batch.num_sequences; i++)
    sequences[i] = {i, 0, batch.cu_seqlens[i + 1] - batch.cu_seqlens[i],
                    batch.num_adapters ? batch.adapter_of_sequence[i] : -1};
  std::stable_sort(sequences.begin(), sequences.end(), [](const Sequence& a, const Sequence& b) {
    return a.length > b.length || (a.length == b.length && a.adapter < b.adapter);
  });
  return sequences;
}

// Each into the chunk that has least so far. Sequences of one length then take their places in the order of their
// adapters, which changes no chunk's load and leaves few adapters in each.
std::vector<std::vector<Sequence>> deal(const std::vector<Sequence>& sequences, int num_chunks) {
  std::vector<int> places;           // the chunk of each sequence
  typedef std::pair<int, int> Load;  // tokens, chunk
  std::priority_queue<Load, std::vector<Load>, std::greater<Load>> least;
  for (int i = 0; i < num_chunks; i++) least.push({0, i});
  for (const Sequence& sequence : sequences) {
    const auto [tokens, chunk] = least.top();
    least.pop();
    places.push_back(chunk);
    least.push({tokens + sequence.length, chunk});
  }
  std::vector<std::vector<Sequence>> hands(num_chunks);
  for (size_t first = 0, last; first < sequences.size(); first = last) {
    for (last = first + 1; last < sequences.size() && sequences[last].length == sequences[first].length;) last++;
    std::sort(places.begin() + first, places.begin() + last);
    for (size_t i = first; i < last; i++) hands[places[i]].push_back(sequences[i]);
  }
  return hands;
}

// Gives the sequences their rows, those of one adapter side by side.
Chunk chunk_of(std::vector<Sequence> sequences) {
  Chunk chunk;
  chunk.sequences = std::move(sequences);
  std::stable_sort(chunk.sequences.begin(), chunk.sequences.end(),
                   [](const Sequence& a, const Sequence& b) { return a.adapter < b.adapter; });
  for (Sequence& sequence : chunk.sequences) {
    sequence.start = chunk.rows;
    chunk.rows += sequence.length;
    chunk.longest = std::max(chunk.longest, sequence.length);
    if (sequence.adapter < 0) continue;
    if (chunk.slices.empty() || chunk.slices.back().adapter != sequence.adapter)
      chunk.slices.push_back({sequence.adapter, sequence.start, 0});
    chunk.slices.back().rows += sequence.length;
  }
  return chunk;
}

}  // namespace

Plan plan_batch(const embedway_batch& batch, int threads) {
  const int total = batch.cu_seqlens[batch.num_sequences] - batch.cu_seqlens[0];
  const int rounds = (total + threads * kChunkTokens - 1) / (threads * kChunkTokens);
  std::vector<Sequence> sequences = longest_first(batch);
  Plan plan{{}, false};
  int most = 0;
  for (std::vector<Sequence>& hand : deal(sequences, std::min(threads * rounds, batch.num_sequences))) {
    plan.chunks.push_back(chunk_of(std::move(hand)));
    most = std::max(most, plan.chunks.back().rows);
  }
  const double even = (double)total / (threads * rounds);
  if (threads == 1 || (rounds >= kLeastRounds && most <= even * kMostImbalance)) return plan;
  Plan shared{{}, true};
  shared.chunks.push_back(chunk_of(std::move(sequences)));
  return shared;
}

}  // namespace embedway
