// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend: the table of a target out of the kernels compiled for it.
#pragma once

#include "kernels/cpu/tiles-inl.h"
// After tiles-inl.h: the blocks of rows are those of the integer kernels.
#include "kernels/cpu/decode-inl.h"
#include "kernels/cpu/encode-inl.h"
#include "kernels/cpu/records-inl.h"
#include "kernels/cpu/rotate-inl.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/softmax-inl.h"

namespace polarquant {
namespace {

constexpr Kernels kTable = {
    .target = Simd::kName,
    .tile2 = TileTable<2>(),
    .tile3 = TileTable<3>(),
    .tile4 = TileTable<4>(),
    .score_f16 = &ScoreRows<HalfRows>,
    .accumulate_f16 = &AccumulateRows<HalfRows>,
    .score_f32 = &ScoreRows<FloatRows>,
    .accumulate_f32 = &AccumulateRows<FloatRows>,
    .decode_q8_0 = &DecodeQ8,
    .decode_q4_0 = &DecodeQ4,
    .shape_logits = &ShapeLogits,
    .exp_sum = &ExpSum,
    .scale_row = &ScaleRow,
    .rotate = &RotateRows,
    .unrotate = &UnrotateRows,
    .prepare_rows = &PrepareRows,
    .encode_rows = &EncodeRows,
    .read_records = &ReadRecords,
    .write_records = &WriteRecords,
    .decode_tiles = &DecodeTiles,
    .half_to_float = &HalvesToFloats,
    .float_to_half = &FloatsToHalves,
};

}  // namespace
}  // namespace polarquant
