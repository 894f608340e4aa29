// Low-rank changes of a linear layer (LoRA, arXiv:2106.09685): x · downᵀ · upᵀ, added to what the layer computes.
//
// `shrink` computes x · downᵀ, a few columns, for the rows of each change. `expand` adds its product with upᵀ to the
// sums of a block before its epilogue, so that the layer's own product is computed in the same blocks as without a
// change, whatever rows share them, and is written once. Where several changes lie side by side in one layer (query,
// key and value), they are shrunk together, and a panel of columns is expanded from its own changes' columns only.
#pragma once
#include "gemm.h"
#include "kernels.h"
#include "panels.h"

namespace embedway::EMBEDWAY_TARGET {

// ── packing ──

// A change's memory: [width / kPanel] UpPanel, then the panels of down, then those of up.
template <class Type>
struct LowRankLayout {
  typedef typename Type::Weight Weight;
  static constexpr int kDepth = Blocks<Type>::kDepthMultiple;
  int rank = 0;
  size_t up_table, down, up = 0;  // bytes

  // The columns of x · downᵀ that a panel of the layer's columns is expanded from: its parts' and what lies between,
  // from one multiple of the depth's step to another.
  struct Span {
    int first, depth;
  };
  static Span span(const PackLowRankCall& call, int panel) {
    int first = 0, last = 0, at = 0;
    for (int i = 0; i < call.num_parts; at += call.parts[i++].rank) {
      const LowRankPart& part = call.parts[i];
      const bool meets = part.first_column < (panel + 1) * kPanel && panel * kPanel < part.first_column + part.columns;
      if (!meets || part.rank == 0) continue;
      if (last == 0) first = at / kDepth * kDepth;
      last = at + part.rank;
    }
    return {first, round_up(last - first, kDepth)};
  }

  explicit LowRankLayout(const PackLowRankCall& call) {
    for (int i = 0; i < call.num_parts; i++) rank += call.parts[i].rank;
    up_table = round_up(call.width / kPanel * sizeof(UpPanel), kLine);
    down = (size_t)round_up(rank, kLanes) * call.depth * sizeof(Weight);
    for (int panel = 0; panel < call.width / kPanel; panel++)
      up += (size_t)span(call, panel).depth * kPanel * sizeof(Weight);
  }
};

template <class Type>
size_t low_rank_bytes(const PackLowRankCall& call) {
  const LowRankLayout<Type> layout(call);
  return layout.rank == 0 ? 0 : (layout.up_table + layout.down + layout.up + kLine - 1) / kLine * kLine;
}

// The `columns` rows of all parts' down, as one matrix [rank, in_features], from `first` on.
template <class Type>
inline typename Type::Weight* pack_down(const PackLowRankCall& call, int first, int columns,
                                        typename Type::Weight* to) {
  const float* rows[kPanel] = {};
  for (int i = 0, at = 0; i < call.num_parts; at += call.parts[i++].rank)
    for (int r = larger_of(first, at); r < smaller_of(first + columns, at + call.parts[i].rank); r++)
      rows[r - first] = call.parts[i].down + (size_t)(r - at) * call.in_features;
  return pack_panel<Type>(columns, call.depth, to, [&](int column, int k) {
    return rows[column] && k < call.in_features ? rows[column][k] : 0.f;
  });
}

// One panel of all parts' up, as one matrix [width, rank] that is zero outside the parts.
template <class Type>
inline typename Type::Weight* pack_up(const PackLowRankCall& call, int panel, int first, int depth,
                                      typename Type::Weight* to) {
  struct Row {
    const float* values;
    int first, last;  // which of the rank they are
  } rows[kPanel] = {};
  for (int i = 0, at = 0; i < call.num_parts; at += call.parts[i++].rank)
    for (int column = 0; column < kPanel; column++) {
      const LowRankPart& part = call.parts[i];
      const int row = panel * kPanel + column - part.first_column;
      if (row >= 0 && row < part.columns) rows[column] = {part.up + (size_t)row * part.rank, at, at + part.rank};
    }
  return pack_panel<Type>(kPanel, depth, to, [&](int column, int k) {
    const Row& row = rows[column];
    return first + k >= row.first && first + k < row.last ? row.values[first + k - row.first] : 0.f;
  });
}

template <class Type>
LowRankChange pack_low_rank(const PackLowRankCall& call, void* memory) {
  typedef LowRankLayout<Type> Layout;
  typedef typename Type::Weight Weight;
  const Layout layout(call);
  if (layout.rank == 0) return {};
  UpPanel* const up = (UpPanel*)memory;
  const Weight* const down = (const Weight*)((char*)memory + layout.up_table);
  Weight* to = (Weight*)((char*)memory + layout.up_table);
  for (int first = 0; first < layout.rank; first += kPanel)
    to = pack_down<Type>(call, first, smaller_of(kPanel, round_up(layout.rank - first, kLanes)), to);
  for (int panel = 0; panel < call.width / kPanel; panel++) {
    const typename Layout::Span span = Layout::span(call, panel);
    up[panel] = {to, span.first, span.depth};
    to = pack_up<Type>(call, panel, span.first, span.depth, to);
  }
  return {layout.rank, down, up};
}

// ── shrink ──

template <class Type>
inline int row_blocks(const ChangedRows& slice) {
  return (slice.rows + Blocks<Type>::kRows - 1) / Blocks<Type>::kRows;
}
inline int down_panels(const ChangedRows& slice) { return (slice.change.rank + kPanel - 1) / kPanel; }

// The blocks of all slices, slice by slice and then panel by panel.
template <class Type>
int shrink_blocks(const LinearCall& call) {
  int blocks = 0;
  for (int i = 0; i < call.low_rank.num_slices; i++)
    blocks += down_panels(call.low_rank.slices[i]) * row_blocks<Type>(call.low_rank.slices[i]);
  return blocks;
}

// A block of a panel that is `count` vectors wide.
template <class Type, int vecs = kTileVecs>
inline void run_narrow(int count, const typename Blocks<Type>::Session& session, int rows,
                       const typename Type::Activation* x, const typename Type::Weight* panel, int depth, float* c) {
  if (count == vecs)
    return Blocks<Type>::template run<vecs>(session, rows, x, depth, panel, depth, nullptr, false, c, kPanel);
  if constexpr (vecs > 1) run_narrow<Type, vecs - 1>(count, session, rows, x, panel, depth, c);
}

// Block `i` of a slice.
template <class Type>
inline void shrink_block(const typename Blocks<Type>::Session& session, const LinearCall& call,
                         const ChangedRows& slice, int i) {
  typedef typename Type::Activation Activation;
  typedef typename Type::Weight Weight;
  const int blocks = row_blocks<Type>(slice), column = i / blocks * kPanel, block = i % blocks;
  const int from = slice.first + (int)((int64_t)slice.rows * block / blocks),
            to = slice.first + (int)((int64_t)slice.rows * (block + 1) / blocks);
  const int columns = smaller_of(kPanel, round_up(slice.change.rank - column, kLanes));
  alignas(64) float sums[Blocks<Type>::kRows * kPanel];
  run_narrow<Type>(columns / kLanes, session, to - from, (const Activation*)call.x + (size_t)from * call.depth,
                   (const Weight*)slice.change.down + (size_t)column * call.depth, call.depth, sums);
  // what `expand` reads behind the rank is zero
  const int read = round_up(columns, Blocks<Type>::kDepthMultiple);
  for (int r = 0; r < to - from; r++) {
    Activation* const out = (Activation*)call.low_rank.shrunk + (size_t)(from + r) * call.low_rank.shrunk_row + column;
    for (int j = 0; j < read; j += kLanes) store(out + j, j < columns ? load(sums + r * kPanel + j) : Vec{});
  }
}

// Computes the blocks first … last - 1.
template <class Type>
void shrink(const LinearCall& call, int first, int last) {
  const typename Blocks<Type>::Session session(Blocks<Type>::kRows);
  int before = 0;
  for (int s = 0; s < call.low_rank.num_slices && before < last; s++) {
    const ChangedRows& slice = call.low_rank.slices[s];
    const int count = down_panels(slice) * row_blocks<Type>(slice);
    for (int i = larger_of(0, first - before); i < smaller_of(count, last - before); i++)
      shrink_block<Type>(session, call, slice, i);
    before += count;
  }
}

// ── expand ──

// Adds the changes of rows from … to - 1 to their sums in one panel: c[0] is that of row `from`.
template <class Type>
inline void expand(const typename Blocks<Type>::Session& session, const LowRank& low_rank, int panel, int from, int to,
                   float* c, ptrdiff_t ldc) {
  typedef typename Type::Activation Activation;
  for (int i = 0; i < low_rank.num_slices; i++) {
    const ChangedRows& slice = low_rank.slices[i];
    const UpPanel& up = slice.change.up[panel];
    const int first = larger_of(from, slice.first), last = smaller_of(to, slice.first + slice.rows);
    if (first >= last || up.depth == 0) continue;
    const Activation* const x = (const Activation*)low_rank.shrunk + (size_t)first * low_rank.shrunk_row + up.first;
    Blocks<Type>::run(session, last - first, x, low_rank.shrunk_row, (const typename Type::Weight*)up.weight, up.depth,
                      nullptr, true, c + (first - from) * ldc, ldc);
  }
}

}  // namespace embedway::EMBEDWAY_TARGET
