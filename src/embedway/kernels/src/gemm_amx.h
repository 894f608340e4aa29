// bf16 blocks on Intel's AMX tiles: 32 rows by 32 columns in four 16 × 16 tiles of sums.
//
// A tile register is 16 rows of 64 bytes. One tdpbf16ps multiplies a tile of x (16 rows, 32 values deep) with a tile of
// the panel (16 pairs deep, 16 columns): the panels of gemm.h are already laid out for it. Blocks of few rows would
// leave most of a tile empty and are faster with AVX-512 BF16.
#pragma once
#include "amx_tiles.h"
#include "gemm.h"

namespace embedway::EMBEDWAY_TARGET {

constexpr int kAmxRows = 16, kAmxDepth = 32;
constexpr int kFewRows = 8;  // up to here AVX-512 BF16 computes a block

template <>
struct Blocks<BFloat16> {
  static constexpr int kRows = 2 * kAmxRows;
  static constexpr int kDepthMultiple = kAmxDepth;
  static constexpr int kReadableRows = kAmxRows;
  static_assert(kPanel == 2 * 16 && kColumnMultiple % kAmxDepth == 0, "a panel is two tiles wide");

  // Tiles are configured for as long as one is alive.
  struct Session {
    const bool has_tiles;
    explicit Session(int rows) : has_tiles(rows > kFewRows) {
      if (has_tiles) tiles_on();
    }
    ~Session() {
      if (has_tiles) tiles_off();
    }
    Session(const Session&) = delete;
  };

  template <int vecs = kTileVecs, Fetch fetch = Fetch::kNothing>
  static void run(const Session&, int rows, const bf16* x, ptrdiff_t ldx, const bf16* panel, int depth,
                  const float* bias, bool accumulate, float* c, ptrdiff_t ldc, const char* wanted = nullptr) {
    if (rows <= kFewRows) {
      tile_of<BFloat16, vecs, fetch>(rows, x, ldx, panel, depth, bias, accumulate, c, ldc, wanted);
    } else if (rows <= kAmxRows) {
      one_tile<vecs>(rows, x, ldx, panel, depth, bias, accumulate, c, ldc);
    } else {
      two_tiles<vecs>(rows, x, ldx, panel, depth, bias, accumulate, c, ldc);
    }
  }

 private:
  // From pair to pair of the depth. A panel of one vector is one tile wide, and leaves out what the second would do.
  template <int vecs>
  static constexpr int kPanelBytes = vecs* kLanes * 2 * sizeof(bf16);

  // Reads kAmxRows rows of x; what those behind the block give is not written.
  template <int vecs>
  static void one_tile(int rows, const bf16* x, ptrdiff_t ldx, const bf16* panel, int depth, const float* bias,
                       bool accumulate, float* c, ptrdiff_t ldc) {
    tile_zero<0>();
    tile_zero<1>();
    for (int k = 0; k < depth; k += kAmxDepth) {
      tile_load<4>(x + k, ldx * sizeof(bf16));
      tile_load<6>(panel + (size_t)k * vecs * kLanes, kPanelBytes<vecs>);
      if (vecs == 2) tile_load<7>(panel + (size_t)k * kPanel + kPanel, kPanelBytes<vecs>);
      tile_add_product<0, 4, 6>();
      if (vecs == 2) tile_add_product<1, 4, 7>();
    }
    write<vecs, 0, 1>(0, rows, bias, accumulate, c, ldc);
  }

  // The second tile ends at the last row, so it overlaps the first where there are fewer than 32.
  template <int vecs>
  static void two_tiles(int rows, const bf16* x, ptrdiff_t ldx, const bf16* panel, int depth, const float* bias,
                        bool accumulate, float* c, ptrdiff_t ldc) {
    const int second = rows - kAmxRows;
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
    for (int k = 0; k < depth; k += kAmxDepth) {
      tile_load<4>(x + k, ldx * sizeof(bf16));
      tile_load<5>(x + second * ldx + k, ldx * sizeof(bf16));
      tile_load<6>(panel + (size_t)k * vecs * kLanes, kPanelBytes<vecs>);
      if (vecs == 2) tile_load<7>(panel + (size_t)k * kPanel + kPanel, kPanelBytes<vecs>);
      tile_add_product<0, 4, 6>();
      if (vecs == 2) tile_add_product<1, 4, 7>();
      tile_add_product<2, 5, 6>();
      if (vecs == 2) tile_add_product<3, 5, 7>();
    }
    write<vecs, 0, 1>(0, kAmxRows, bias, accumulate, c, ldc);
    write<vecs, 2, 3>(kAmxRows - second, kAmxRows, bias, accumulate, c + second * ldc, ldc);
  }

  // Rows first … last - 1 of two neighbouring tiles of sums, or of the left one where a panel is one vector wide.
  template <int vecs, int left, int right>
  static void write(int first, int last, const float* bias, bool accumulate, float* c, ptrdiff_t ldc) {
    alignas(64) float sums[kAmxRows * kPanel];
    tile_store<left>(sums, kPanel * sizeof(float));
    if (vecs == 2) tile_store<right>(sums + kLanes, kPanel * sizeof(float));
    for (int r = first; r < last; r++)
      for (int j = 0; j < vecs * kLanes; j += kLanes) {
        Vec sum = load(sums + r * kPanel + j);
        if (bias) sum += load(bias + j);
        store(c + r * ldc + j, accumulate ? load(c + r * ldc + j) + sum : sum);
      }
  }
};

}  // namespace embedway::EMBEDWAY_TARGET
