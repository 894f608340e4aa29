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

inline int round_up(int x, int multiple) { return (x + multiple - 1) / multiple * multiple; }
inline int smaller_of(int a, int b) { return a < b ? a : b; }
inline int larger_of(int a, int b) { return a > b ? a : b; }

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

// c[rows, columns] = x · panel (+ bias) (+ c), in float32, for a panel of `vecs` vectors. depth is in values and a
// multiple of kStep, or of kGroupSteps of them where something is fetched: from `wanted` on.
template <class Type, int rows, int vecs, Fetch fetch>
__attribute__((noinline)) void tile(const typename Type::Activation* x, ptrdiff_t ldx,
                                    const typename Type::Weight* panel, int depth, const float* bias, bool accumulate,
                                    float* c, ptrdiff_t ldc, const char* wanted) {
  constexpr int columns = vecs * kLanes;
  Vec acc[rows][vecs];  // in registers: every loop over it must be unrolled whole
#pragma GCC unroll 16
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
    for (int j = 0; j < vecs; j++) acc[r][j] = bias ? load(bias + j * kLanes) : Vec{};
  const auto add_step = [&](int k) __attribute__((always_inline)) {
    typename Type::Right right[vecs];
#pragma GCC unroll 4
    for (int j = 0; j < vecs; j++) right[j] = Type::right(panel + (size_t)k * columns + j * kLanes * Type::kStep);
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
      const typename Type::Left left = Type::left(x + r * ldx + k);
#pragma GCC unroll 4
      for (int j = 0; j < vecs; j++) acc[r][j] = Type::add_product(acc[r][j], left, right[j]);
    }
  };
  if constexpr (fetch == Fetch::kNothing) {
    for (int k = 0; k < depth; k += Type::kStep) add_step(k);
  } else {
    constexpr int group_bytes = kGroupSteps * Type::kStep * columns * sizeof(typename Type::Weight);
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
    for (int j = 0; j < vecs; j++) {
      float* out = c + r * ldc + j * kLanes;
      store(out, accumulate ? load(out) + acc[r][j] : acc[r][j]);
    }
}

template <class Type, int vecs, Fetch fetch, int most = kTileRows>
inline void tile_of(int rows, const typename Type::Activation* x, ptrdiff_t ldx, const typename Type::Weight* panel,
                    int depth, const float* bias, bool accumulate, float* c, ptrdiff_t ldc, const char* wanted) {
  if (rows == most) return tile<Type, most, vecs, fetch>(x, ldx, panel, depth, bias, accumulate, c, ldc, wanted);
  if constexpr (most > 1)
    tile_of<Type, vecs, fetch, most - 1>(rows, x, ldx, panel, depth, bias, accumulate, c, ldc, wanted);
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
  template <int vecs = kTileVecs, Fetch fetch = Fetch::kNothing>
  static void run(const Session&, int rows, const typename Type::Activation* x, ptrdiff_t ldx,
                  const typename Type::Weight* panel, int depth, const float* bias, bool accumulate, float* c,
                  ptrdiff_t ldc, const char* wanted = nullptr) {
    tile_of<Type, vecs, fetch>(rows, x, ldx, panel, depth, bias, accumulate, c, ldc, wanted);
  }
};

}  // namespace embedway::EMBEDWAY_TARGET

#if defined(__AMX_BF16__) || defined(EMBEDWAY_EMULATE_AMX)
#include "gemm_amx.h"
#endif
