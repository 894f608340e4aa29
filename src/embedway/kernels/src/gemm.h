// Matrix products over packed weights: out[rows, width] = x[rows, depth] · W, and what is done to the result.
//
// W is cut into panels of kPanel columns, each stored depth-major, so that a block of the result walks through its
// panel in order: [width / kPanel][depth / kStep][kPanel][kStep]. kStep values of one column lie side by side where an
// instruction multiplies them at once (2 for bf16). A block is at most kBlockRows rows of x against one panel; its sums
// stay in registers over the whole depth. Attention uses the same blocks with keys and values as panels.
#pragma once
#include "kernels.h"
#include "vector.h"

namespace embedway::EMBEDWAY_TARGET {

// Rows · vectors of a block fill the register file, with room for one step's panel vectors and one value of x.
#if defined(__AVX512F__)
constexpr int kTileRows = 13, kTileVecs = 2;
#elif defined(__AVX2__)
constexpr int kTileRows = 6, kTileVecs = 2;
#elif defined(__aarch64__)
constexpr int kTileRows = 6, kTileVecs = 4;
#else
constexpr int kTileRows = 4, kTileVecs = 2;
#endif
constexpr int kPanel = kTileVecs * kLanes;
static_assert(kColumnMultiple % kPanel == 0, "rows are padded to whole panels");

// ── what a type multiplies ──

// Each has: Activation (x), Weight (panel), kStep, and one step of a dot product: acc + left · right. Attention, where
// both sides are activations, is computed in the type BothActivations.
struct Float32 {
  typedef Float32 BothActivations;
  typedef float Activation;
  typedef float Weight;
  typedef Vec Left;
  typedef Vec Right;
  static constexpr int kStep = 1;
  static constexpr Precision kPrecision = Precision::kFloat32;
  static Left left(const float* x) { return splat(*x); }
  static Right right(const float* panel) { return load(panel); }
  static Vec add_product(Vec acc, Left a, Right b) { return acc + a * b; }
};

#if defined(EMBEDWAY_HAS_FP16)
// Weights at half the memory, widened as they are read; x and every product are float32.
struct Float16 : Float32 {
  typedef fp16 Weight;
  static Right right(const fp16* panel) { return load_fp16(panel); }
};
#endif

struct BFloat16 {
  typedef BFloat16 BothActivations;
  typedef bf16 Activation;
  typedef bf16 Weight;
  static constexpr int kStep = 2;
  static constexpr Precision kPrecision = Precision::kHalf;
#if defined(__AVX512BF16__)
  typedef __m512bh Left;
  typedef __m512bh Right;
  static Left left(const bf16* x) { return (__m512bh)_mm512_set1_epi32(load_as<int32_t>(x)); }
  static Right right(const bf16* panel) { return (__m512bh)_mm512_loadu_si512(panel); }
  static Vec add_product(Vec acc, Left a, Right b) { return _mm512_dpbf16_ps(acc, a, b); }
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  typedef bfloat16x8_t Left;
  typedef bfloat16x8_t Right;
  static Left left(const bf16* x) { return vreinterpretq_bf16_u32(vdupq_n_u32(load_as<uint32_t>(x))); }
  static Right right(const bf16* panel) { return vreinterpretq_bf16_u16(vld1q_u16(panel)); }
  static Vec add_product(Vec acc, Left a, Right b) { return (Vec)vbfdotq_f32((float32x4_t)acc, a, b); }
#else
  // no instruction for it: a pair is two floats, since bf16 is the upper half of one
  struct Pair {
    Vec even, odd;
  };
  typedef Pair Left;
  typedef Pair Right;
  static Pair widen(BitVec pairs) { return {vec_of(pairs << 16), vec_of(pairs & 0xffff0000u)}; }
  static Left left(const bf16* x) { return widen(load_as<uint32_t>(x) - BitVec{}); }
  static Right right(const bf16* panel) { return widen(load_as<BitVec>(panel)); }
  static Vec add_product(Vec acc, Left a, Right b) { return acc + a.even * b.even + a.odd * b.odd; }
#endif
};

// ── one block ──

// What a block asks the caches for while it computes: weights come from beyond them, and are waited for otherwise.
enum class Fetch {
  kNothing,
  kNextPart,  // a part of the next panel: the blocks of this one share the work
  kAhead,     // this panel and those behind it, a little ahead: it has one block, so it is read once
};
constexpr int kGroupSteps = 4;  // steps between two requests
constexpr int kLine = 64, kAheadBytes = 4096;

// c[rows, kPanel] = x · panel (+ bias) (+ c), in float32. depth is in values and a multiple of kStep, or of kGroupSteps
// of them where something is fetched: from `wanted` on.
template <class Type, int rows, Fetch fetch>
__attribute__((noinline)) void tile(const typename Type::Activation* x, ptrdiff_t ldx,
                                    const typename Type::Weight* panel, int depth, const float* bias, bool accumulate,
                                    float* c, ptrdiff_t ldc, const char* wanted) {
  Vec acc[rows][kTileVecs];  // in registers: every loop over it must be unrolled whole
#pragma GCC unroll 16
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
    for (int j = 0; j < kTileVecs; j++) acc[r][j] = bias ? load(bias + j * kLanes) : Vec{};
  const auto add_step = [&](int k) __attribute__((always_inline)) {
    typename Type::Right right[kTileVecs];
#pragma GCC unroll 4
    for (int j = 0; j < kTileVecs; j++) right[j] = Type::right(panel + (size_t)k * kPanel + j * kLanes * Type::kStep);
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
      const typename Type::Left left = Type::left(x + r * ldx + k);
#pragma GCC unroll 4
      for (int j = 0; j < kTileVecs; j++) acc[r][j] = Type::add_product(acc[r][j], left, right[j]);
    }
  };
  if constexpr (fetch == Fetch::kNothing) {
    for (int k = 0; k < depth; k += Type::kStep) add_step(k);
  } else {
    constexpr int group_bytes = kGroupSteps * Type::kStep * kPanel * sizeof(typename Type::Weight);
    constexpr int fetched = fetch == Fetch::kAhead ? group_bytes : kLine;
    for (int k = 0; k < depth; k += kGroupSteps * Type::kStep, wanted += fetched) {
#pragma GCC unroll 8
      for (int byte = 0; byte < fetched; byte += kLine) __builtin_prefetch(wanted + byte, 0, 2);
      for (int step = 0; step < kGroupSteps; step++) add_step(k + step * Type::kStep);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
    for (int j = 0; j < kTileVecs; j++) {
      float* out = c + r * ldc + j * kLanes;
      store(out, accumulate ? load(out) + acc[r][j] : acc[r][j]);
    }
}

template <class Type, Fetch fetch, int most = kTileRows>
inline void tile_of(int rows, const typename Type::Activation* x, ptrdiff_t ldx, const typename Type::Weight* panel,
                    int depth, const float* bias, bool accumulate, float* c, ptrdiff_t ldc, const char* wanted) {
  if (rows == most) return tile<Type, most, fetch>(x, ldx, panel, depth, bias, accumulate, c, ldc, wanted);
  if constexpr (most > 1) tile_of<Type, fetch, most - 1>(rows, x, ldx, panel, depth, bias, accumulate, c, ldc, wanted);
}

// How a type's blocks are computed on this target; the AMX target has its own for bf16 (gemm_amx.h).
template <class Type>
struct Blocks {
  static constexpr int kRows = kTileRows;
  static constexpr int kDepthMultiple = Type::kStep;
  static constexpr int kReadableRows = 1;  // x must have as many rows to read, however few the block has
  // Called once a thread before blocks of up to `rows` rows are computed, and after.
  struct Session {
    explicit Session(int) {}
  };
  template <Fetch fetch = Fetch::kNothing>
  static void run(const Session&, int rows, const typename Type::Activation* x, ptrdiff_t ldx,
                  const typename Type::Weight* panel, int depth, const float* bias, bool accumulate, float* c,
                  ptrdiff_t ldc, const char* wanted = nullptr) {
    tile_of<Type, fetch>(rows, x, ldx, panel, depth, bias, accumulate, c, ldc, wanted);
  }
};

}  // namespace embedway::EMBEDWAY_TARGET

#if defined(__AMX_BF16__) || defined(EMBEDWAY_EMULATE_AMX)
#include "gemm_amx.h"
#endif

namespace embedway::EMBEDWAY_TARGET {

// ── a linear layer ──

template <class Type, class Function>
inline void apply(int rows, const float* c, typename Type::Activation* out, ptrdiff_t ldo, Function function) {
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
    for (int j = 0; j < kPanel; j += kLanes) store(out + r * ldo + j, function(load(c + r * kPanel + j)));
}

template <class Type>
inline void finish(Epilogue epilogue, int rows, const float* c, typename Type::Activation* out, ptrdiff_t ldo) {
  constexpr Precision precision = Type::kPrecision;
  switch (epilogue) {
    case Epilogue::kGelu:
      return apply<Type>(rows, c, out, ldo, [](Vec x) { return gelu<precision>(x); });
    case Epilogue::kGeluTanh:
      return apply<Type>(rows, c, out, ldo, [](Vec x) { return gelu_tanh<precision>(x); });
    case Epilogue::kRelu:
      return apply<Type>(rows, c, out, ldo, [](Vec x) { return relu(x); });
    default:
      return apply<Type>(rows, c, out, ldo, [](Vec x) { return x; });
  }
}

// The blocks of a layer are numbered panel by panel, so that a thread with neighbouring numbers reads few panels.
template <class Type>
int linear_blocks(int rows, int width) {
  constexpr int most = Blocks<Type>::kRows;
  return width / kPanel * ((rows + most - 1) / most);
}

// Computes the blocks first … last - 1. `out` has rows of `width`: Activation, or float32 where the layer adds to it.
template <class Type>
void linear(const LinearCall& call, int first, int last) {
  typedef typename Type::Activation Activation;
  typedef typename Type::Weight Weight;
  typedef Blocks<Type> Block;
  const int blocks = (call.rows + Block::kRows - 1) / Block::kRows;  // of equal size: a small last one is slow
  const typename Block::Session session((call.rows + blocks - 1) / blocks);
  const auto run = blocks > 1 ? &Block::template run<Fetch::kNextPart> : &Block::template run<Fetch::kAhead>;
  const size_t panel_size = (size_t)kPanel * call.depth;
  const bool adds = call.epilogue == Epilogue::kAdd;
  alignas(64) float result[Block::kRows * kPanel];
  for (int i = first; i < last; i++) {
    const int panel = i / blocks, block = i % blocks;
    const int from = (int)((int64_t)call.rows * block / blocks), to = (int)((int64_t)call.rows * (block + 1) / blocks);
    const Activation* const x = (const Activation*)call.x + (size_t)from * call.depth;
    const Weight* const weight = (const Weight*)call.weight + panel * panel_size;
    const size_t place = (size_t)from * call.width + panel * kPanel;
    const size_t part = panel_size * sizeof(Weight) / blocks / kLine * kLine;
    const char* const wanted =
        (const char*)weight + (blocks > 1 ? panel_size * sizeof(Weight) + block * part : kAheadBytes);
    run(session, to - from, x, call.depth, weight, call.depth, call.bias + panel * kPanel, adds,
        adds ? (float*)call.out + place : result, adds ? call.width : kPanel, wanted);
    if (!adds) finish<Type>(call.epilogue, to - from, result, (Activation*)call.out + place, call.width);
  }
}

// ── packing ──

#if defined(EMBEDWAY_HAS_FP16)
inline fp16 fp16_of(float x) {
#if defined(__aarch64__)
  const __fp16 half = (__fp16)x;
  fp16 bits;
  __builtin_memcpy(&bits, &half, 2);
  return bits;
#else
  return (fp16)_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
#endif
}
#endif

template <class Type>
inline typename Type::Weight narrow(float x) {
  if constexpr (sizeof(typename Type::Weight) == sizeof(float)) return x;
#if defined(EMBEDWAY_HAS_FP16)
  else if constexpr (Type::kStep == 1)
    return fp16_of(x);
#endif
  else
    return bf16_of(x);
}

// weight [out, in] into panels of [padded width, padded depth]; what is padded is zero. Panels first … last - 1.
template <class Type>
void pack_weight(const PackCall& call, int first, int last) {
  typedef typename Type::Weight Weight;
  for (int panel = first; panel < last; panel++) {
    Weight* to = (Weight*)call.panels + (size_t)panel * kPanel * call.depth;
    for (int k = 0; k < call.depth; k += Type::kStep)
      for (int column = 0; column < kPanel; column++)
        for (int step = 0; step < Type::kStep; step++) {
          const int row = panel * kPanel + column, from = k + step;
          const bool inside = row < call.out_features && from < call.in_features;
          *to++ = inside ? narrow<Type>(call.weight[(size_t)row * call.in_features + from]) : 0;
        }
  }
}

}  // namespace embedway::EMBEDWAY_TARGET
