// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: the one list of codecs. Everything else (schemes, pages, tests, commands)
// loops over it.
#include <string>
#include <vector>

#include "codecs/codec.h"
#include "codecs/codecs.h"
#include "polarquant/error.h"

namespace polarquant {
namespace {

const std::vector<Codec>& Table() {
  static const std::vector<Codec> table = {
      F32Codec("f32", "the row as it is, 32 bits a value"),
      F16Codec("f16", "half precision, what caches use by default"),
      Bf16Codec("bf16", "bfloat16"),
      Q8_0Codec("q8_0", "ggml's 8-bit blocks of 32 with an f16 scale"),
      Q4_0Codec("q4_0", "ggml's 4-bit blocks of 32 with an f16 scale"),
      TurboCodec<1>("turbo1", "rotated, 1 bit a value: the sign"),
      TurboCodec<2>("turbo2", "rotated, 2-bit Lloyd-Max codes"),
      TurboCodec<3>("turbo3", "rotated, 3-bit Lloyd-Max codes"),
      TurboCodec<4>("turbo4", "rotated, 4-bit Lloyd-Max codes"),
      TurboCodec<5>("turbo5", "rotated, 5-bit Lloyd-Max codes"),
      TurboCodec<6>("turbo6", "rotated, 6-bit Lloyd-Max codes"),
      TurboCodec<7>("turbo7", "rotated, 7-bit Lloyd-Max codes"),
      TurboCodec<8>("turbo8", "rotated, 8-bit Lloyd-Max codes"),
      TurboSplitCodec<2>("turbo2.5", "turbo2, with more bits for the loudest channels of a page"),
      TurboSplitCodec<3>("turbo3.5", "turbo3, with more bits for the loudest channels of a page"),
      ByteScaleCodec<2>("turbo2s8", "turbo2 with row scales of 8 bits"),
      ByteScaleCodec<3>("turbo3s8", "turbo3 with row scales of 8 bits"),
      ByteScaleCodec<4>("turbo4s8", "turbo4 with row scales of 8 bits"),
      MixedCodec<4>("mixed2", "0 to 6 bits a channel as the page needs them, 2 on average"),
      MixedCodec<5>("mixed2.5", "0 to 6 bits a channel as the page needs them, 2.5 on average"),
      MixedCodec<6>("mixed3", "0 to 6 bits a channel as the page needs them, 3 on average"),
      MixedCodec<8>("mixed4", "0 to 6 bits a channel as the page needs them, 4 on average"),
      E8Codec<2>("e8-2", "rotated, eight values to the lattice E8 within +-2: 2.25 bits"),
      E8Codec<3>("e8-3", "rotated, eight values to the lattice E8 within +-4: 3.125 bits"),
      E8pCodec("e8p", "rotated, eight values to a codebook of 65536 near the lattice E8"),
      TrellisCodec<1>("trellis1", "rotated, 1 bit a value on a trellis of 256 states"),
      TrellisCodec<2>("trellis2", "rotated, 2 bits a value on a trellis of 256 states"),
      TrellisCodec<3>("trellis3", "rotated, 3 bits a value on a trellis of 256 states"),
      TrellisCodec<4>("trellis4", "rotated, 4 bits a value on a trellis of 256 states"),
      PolarCodec("polar", "rotated, angles and radii of sixteen values: 3.875 bits in all"),
      RopePolarCodec("ropepolar", "bare keys, radius and angle of the pairs that RoPE turns"),
      Fp8E4m3Codec("fp8_e4m3", "8-bit floats under an f16 scale for each row"),
      IntGroupCodec<2>("int2", "quanto's 2-bit affine groups of 64 channels"),
      IntGroupCodec<4>("int4", "quanto's 4-bit affine groups of 64 channels"),
      TurboBlockCodec<2>("turbo2_0", "the llama.cpp fork's 2-bit blocks of 128"),
      TurboBlockCodec<3>("turbo3_0", "the llama.cpp fork's 3-bit blocks of 128"),
      TurboBlockCodec<4>("turbo4_0", "the llama.cpp fork's 4-bit blocks of 128"),
      QjlCodec<1>("qjl", "unbiased logits from the signs of head_dim sketch rows"),
      QjlCodec<2>("qjl2", "unbiased logits from the signs of 2 head_dim sketch rows"),
      QjlCodec<4>("qjl4", "unbiased logits from the signs of 4 head_dim sketch rows"),
      TurboProdCodec<2>("turboprod2", "1-bit Lloyd-Max codes and a sketch of what they leave"),
      TurboProdCodec<3>("turboprod3", "2-bit Lloyd-Max codes and a sketch of what they leave"),
      TurboProdCodec<4>("turboprod4", "3-bit Lloyd-Max codes and a sketch of what they leave"),
      EquatorCodec("equator", "rotated, 1 bit an angle, which is the sign; an 8-bit norm"),
      ZScoreCodec<2>("zscore2", "z-scored by channel and page, 2-bit Lloyd-Max codes"),
      ZScoreCodec<3>("zscore3", "z-scored by channel and page, 3-bit Lloyd-Max codes"),
      ZScoreCodec<4>("zscore4", "z-scored by channel and page, 4-bit Lloyd-Max codes"),
      ZScoreCodec<5>("zscore5", "z-scored by channel and page, 5-bit Lloyd-Max codes"),
      KiviCodec<2>("kivi2",
                   "2-bit affine groups of 32 tokens a channel; of 32 channels for values"),
      KiviCodec<4>("kivi4",
                   "4-bit affine groups of 32 tokens a channel; of 32 channels for values"),
      DualCodec<2>("dual2", "rotated, scaled by channel and by token, 2-bit Lloyd-Max codes"),
      DualCodec<3>("dual3", "rotated, scaled by channel and by token, 3-bit Lloyd-Max codes"),
      DualCodec<4>("dual4", "rotated, scaled by channel and by token, 4-bit Lloyd-Max codes"),
      DualCodec<5>("dual5", "rotated, scaled by channel and by token, 5-bit Lloyd-Max codes"),
  };
  return table;
}

}  // namespace

std::span<const Codec> CodecTable() { return Table(); }

std::span<const CodecInfo> Codecs() {
  static const std::vector<CodecInfo> infos = [] {
    std::vector<CodecInfo> all;
    for (const Codec& codec : Table()) all.push_back(codec.info);
    return all;
  }();
  return infos;
}

const Codec& FindCodec(std::string_view name) {
  std::string names;
  for (const Codec& codec : Table()) {
    if (codec.info.name == name) return codec;
    names += names.empty() ? "" : ", ";
    names += codec.info.name;
  }
  throw Error(ErrorCode::kFormat,
              "there is no codec \"" + std::string(name) + "\"; choose one of " + names);
}

}  // namespace polarquant
