// One vector of floats, as wide as the target's registers, and the arithmetic on it.
//
// The compilers' own vector types (`vector_size`, GCC and Clang) give operators, conversions and shuffles on every
// architecture, so each formula stands here once; only what they have no word for (bf16 dot products, a few
// conversions) is written with intrinsics. Nothing from the C++ library is used in this or any header that a target is
// compiled from: an inline function of its templates, compiled for one machine's instructions, could be the copy that
// the linker keeps for all.
#pragma once
#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace embedway::EMBEDWAY_TARGET {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t IntVec __attribute__((vector_size(4 * kLanes)));
typedef uint32_t BitVec __attribute__((vector_size(4 * kLanes)));
typedef uint16_t HalfBits __attribute__((vector_size(2 * kLanes)));
typedef uint16_t bf16;
typedef uint16_t fp16;

template <class T, class Memory>
inline T load_as(const Memory* p) {
  typedef T Unaligned __attribute__((aligned(1), may_alias));
  return *reinterpret_cast<const Unaligned*>(p);
}
template <class T, class Memory>
inline void store_as(Memory* p, T x) {
  typedef T Unaligned __attribute__((aligned(1), may_alias));
  *reinterpret_cast<Unaligned*>(p) = x;
}
inline Vec load(const float* p) { return load_as<Vec>(p); }
inline void store(float* p, Vec x) { store_as(p, x); }
inline Vec splat(float x) { return x - Vec{}; }
inline BitVec bits_of(Vec x) { return (BitVec)x; }
inline Vec vec_of(BitVec x) { return (Vec)x; }
inline Vec smaller(Vec a, Vec b) { return a < b ? a : b; }
inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }
inline Vec magnitude(Vec x) { return vec_of(bits_of(x) & 0x7fffffffu); }

inline float sum_of(Vec x) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(x);
#else
  float total = 0;
  for (int i = 0; i < kLanes; i++) total += x[i];
  return total;
#endif
}
inline float largest_of(Vec x) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps(x);
#else
  float top = x[0];
  for (int i = 1; i < kLanes; i++) top = x[i] > top ? x[i] : top;
  return top;
#endif
}

// ── 16-bit types ──

inline float float_of(bf16 x) {
  const uint32_t bits = (uint32_t)x << 16;
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}
// Rounds to nearest, ties to even, as every hardware does.
inline bf16 bf16_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return (bf16)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}
inline Vec load(const bf16* p) { return vec_of(__builtin_convertvector(load_as<HalfBits>(p), BitVec) << 16); }
inline void store(bf16* p, Vec x) {
#if defined(__AVX512BF16__)
  store_as(p, (__m256i)_mm512_cvtneps_pbh(x));
#else
  const BitVec bits = bits_of(x);
  store_as(p, __builtin_convertvector((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16, HalfBits));
#endif
}
inline void store_one(float* p, float x) { *p = x; }
inline void store_one(bf16* p, float x) { *p = bf16_of(x); }

#if defined(__AVX512F__)
#define EMBEDWAY_HAS_FP16 1
inline Vec load_fp16(const fp16* p) { return _mm512_cvtph_ps(load_as<__m256i>(p)); }
#elif defined(__F16C__)
#define EMBEDWAY_HAS_FP16 1
inline Vec load_fp16(const fp16* p) { return _mm256_cvtph_ps(load_as<__m128i>(p)); }
#elif defined(__aarch64__)
#define EMBEDWAY_HAS_FP16 1
inline Vec load_fp16(const fp16* p) { return (Vec)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
#endif

// ── functions ──

enum class Precision {
  kFloat32,  // errors of about 1e-7
  kHalf,     // errors far below bf16's own 2^-9
};

// 2^x for x ≤ 127; what would be below 2^-126 becomes (nearly) that, or zero. Minimax polynomials on [-1/2, 1/2].
template <Precision precision>
inline Vec exp2(Vec x) {
#if defined(__AVX512F__)
  const Vec whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const Vec part = x - whole;
#else
  x = larger(x, splat(-126.f));
  constexpr float kRound = 12582912.f;  // 1.5 · 2^23: adding it leaves the nearest whole number in the low bits
  const Vec shifted = x + kRound;
  const Vec part = x - (shifted - kRound);
#endif
  Vec power;
  if constexpr (precision == Precision::kFloat32) {
    power = splat(1.5345794963650405e-4f);
    power = power * part + 1.3399930903688073e-3f;
    power = power * part + 9.618489071726799e-3f;
    power = power * part + 5.550328642129898e-2f;
    power = power * part + 2.4022646248340607e-1f;
    power = power * part + 6.931471824645996e-1f;
    power = power * part + 1.f;
  } else {
    power = splat(5.517149344086647e-2f);
    power = power * part + 2.426111102104187e-1f;
    power = power * part + 6.932610273361206e-1f;
    power = power * part + 9.999280571937561e-1f;
  }
#if defined(__AVX512F__)
  return _mm512_scalef_ps(power, whole);
#else
  return vec_of(bits_of(power) + (bits_of(shifted) << 23));
#endif
}

constexpr float kLog2E = 1.44269504f;

// x · Φ(x), the exact form.
template <Precision precision>
inline Vec gelu(Vec x) {
  if constexpr (precision == Precision::kFloat32) {
    // Abramowitz and Stegun 7.1.26: 1 - erf(z) = t(a1 + … + a5 t⁴) e^(-z²), within 1.5e-7
    const Vec z = magnitude(x) * 0.70710678f;
    const Vec t = 1.f / (z * 0.3275911f + 1.f);
    Vec tail = splat(1.061405429f);
    tail = tail * t - 1.453152027f;
    tail = tail * t + 1.421413741f;
    tail = tail * t - 0.284496736f;
    tail = tail * t + 0.254829592f;
    tail = tail * t * exp2<precision>(z * z * -kLog2E);
    return x * 0.5f * (x < 0.f ? tail : 2.f - tail);
  } else {
    // Φ(x) - 1/2 as an odd polynomial, within 4e-5 once x is cut to ±3.96
    constexpr float kReach = 3.9597979f;
    const Vec cut = smaller(larger(x, splat(-kReach)), splat(kReach));
    const Vec square = cut * cut;
    Vec phi = splat(-1.6723085138892202e-9f);
    phi = phi * square + 1.2671651461459987e-7f;
    phi = phi * square - 4.209564849588787e-6f;
    phi = phi * square + 8.185900514945388e-5f;
    phi = phi * square - 1.0551258455961943e-3f;
    phi = phi * square + 9.685240685939789e-3f;
    phi = phi * square - 6.62013590335846e-2f;
    phi = phi * square + 3.9885687828063965e-1f;
    return x * (phi * cut + 0.5f);
  }
}

// x/2 · (1 + tanh(√(2/π)(x + 0.044715 x³))), which is x / (1 + e^(-2u))
template <Precision precision>
inline Vec gelu_tanh(Vec x) {
  constexpr float kSlope = -2.f * 0.7978845608f * kLog2E;
  const Vec exponent = x * (x * x * 0.044715f + 1.f) * kSlope;
  return x / (exp2<precision>(smaller(exponent, splat(126.f))) + 1.f);
}

inline Vec relu(Vec x) { return larger(x, Vec{}); }

// ── transposing ──

// Rows of 32-bit words: the block rows[0 … kLanes-1] becomes its transpose. One stage swaps the off-diagonal halves of
// all blocks of 2·step × 2·step.
template <int step>
inline void transpose_stage(BitVec (&rows)[kLanes]) {
  BitVec low, high;
  for (int i = 0; i < kLanes; i++) {
    low[i] = i & step ? kLanes + i - step : i;
    high[i] = i & step ? kLanes + i : i + step;
  }
  for (int i = 0; i < kLanes; i++) {
    if (i & step) continue;
    const BitVec a = rows[i], b = rows[i + step];
#if defined(__clang__)
    for (int c = 0; c < kLanes; c++) {
      rows[i][c] = low[c] < kLanes ? a[low[c]] : b[low[c] - kLanes];
      rows[i + step][c] = high[c] < kLanes ? a[high[c]] : b[high[c] - kLanes];
    }
#else
    rows[i] = __builtin_shuffle(a, b, low);
    rows[i + step] = __builtin_shuffle(a, b, high);
#endif
  }
}
inline void transpose(BitVec (&rows)[kLanes]) {
  transpose_stage<1>(rows);
  transpose_stage<2>(rows);
  if constexpr (kLanes > 4) transpose_stage<(kLanes > 4 ? 4 : 1)>(rows);
  if constexpr (kLanes > 8) transpose_stage<(kLanes > 8 ? 8 : 1)>(rows);
}

}  // namespace embedway::EMBEDWAY_TARGET
