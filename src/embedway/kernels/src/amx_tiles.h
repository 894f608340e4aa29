// AMX's tile instructions, or the same in plain C++ where EMBEDWAY_EMULATE_AMX is defined: the tests run gemm_amx.h
// that way on machines without AMX, so that all but the instructions themselves is proven there.
// Intel SDM volume 1 chapter 18, and volume 2 for each instruction.
#pragma once
#include "vector.h"

namespace embedway::EMBEDWAY_TARGET {

constexpr int kTileBytes = 64, kTileRegisters = 8, kTileLines = 16;

#if defined(EMBEDWAY_EMULATE_AMX)

inline thread_local uint8_t tiles[kTileRegisters][kTileLines][kTileBytes];

inline void tiles_on() {}
inline void tiles_off() { __builtin_memset(tiles, 0xff, sizeof(tiles)); }
template <int t>
inline void tile_zero() {
  __builtin_memset(tiles[t], 0, sizeof(tiles[t]));
}
template <int t>
inline void tile_load(const void* from, size_t stride) {
  for (int r = 0; r < kTileLines; r++) __builtin_memcpy(tiles[t][r], (const char*)from + r * stride, kTileBytes);
}
template <int t>
inline void tile_store(void* to, size_t stride) {
  for (int r = 0; r < kTileLines; r++) __builtin_memcpy((char*)to + r * stride, tiles[t][r], kTileBytes);
}
template <int sum, int left, int right>
inline void tile_add_product() {
  for (int r = 0; r < kTileLines; r++)
    for (int k = 0; k < kTileBytes / 4; k++)
      for (int c = 0; c < kTileBytes / 4; c++)
        for (int s = 0; s < 2; s++) {
          float total;
          __builtin_memcpy(&total, &tiles[sum][r][4 * c], 4);
          total += float_of(load_as<bf16>(&tiles[left][r][4 * k + 2 * s])) *
                   float_of(load_as<bf16>(&tiles[right][k][4 * c + 2 * s]));
          __builtin_memcpy(&tiles[sum][r][4 * c], &total, 4);
        }
}

#else

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

inline void tiles_on() {
  static constexpr TileConfig config;
  _tile_loadconfig(&config);
}
inline void tiles_off() { _tile_release(); }
// The headers' macros take only literal register numbers.
template <int t>
inline void tile_zero() {
  __asm__ volatile("tilezero %%tmm%c0" ::"i"(t));
}
template <int t>
inline void tile_load(const void* from, size_t stride) {
  __asm__ volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(t), "r"(from), "r"(stride) : "memory");
}
template <int t>
inline void tile_store(void* to, size_t stride) {
  __asm__ volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(t), "r"(to), "r"(stride) : "memory");
}
template <int sum, int left, int right>
inline void tile_add_product() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sum), "i"(left), "i"(right));
}

#endif

}  // namespace embedway::EMBEDWAY_TARGET
