// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: what codec_table.cc lists. A new codec is a file here and a row there.
#pragma once

#include <string_view>

#include "codecs/codec.h"

namespace polarquant {

// plain.cc
Codec F32Codec(std::string_view name, std::string_view summary);
Codec F16Codec(std::string_view name, std::string_view summary);
Codec Bf16Codec(std::string_view name, std::string_view summary);
// ggml_blocks.cc
Codec Q8_0Codec(std::string_view name, std::string_view summary);
Codec Q4_0Codec(std::string_view name, std::string_view summary);
// turbo.cc, 1 to 8 bits
template <int kBits>
Codec TurboCodec(std::string_view name, std::string_view summary);
// turbo_split.cc, 2 or 3 bits and a half
template <int kBits>
Codec TurboSplitCodec(std::string_view name, std::string_view summary);
// e8.cc, 2 and 3 bits
template <int kBits>
Codec E8Codec(std::string_view name, std::string_view summary);
// e8p.cc
Codec E8pCodec(std::string_view name, std::string_view summary);
// trellis.cc, 1 to 4 bits
template <int kBits>
Codec TrellisCodec(std::string_view name, std::string_view summary);
// polar.cc
Codec PolarCodec(std::string_view name, std::string_view summary);
// ropepolar.cc
Codec RopePolarCodec(std::string_view name, std::string_view summary);
// fp8.cc
Codec Fp8E4m3Codec(std::string_view name, std::string_view summary);
// int_groups.cc, 2 or 4 bits
template <int kBits>
Codec IntGroupCodec(std::string_view name, std::string_view summary);
// turbo_blocks.cc, 2, 3 or 4 bits
template <int kBits>
Codec TurboBlockCodec(std::string_view name, std::string_view summary);
// qjl.cc, sketches of 1, 2 or 4 times head_dim rows
template <int kSketches>
Codec QjlCodec(std::string_view name, std::string_view summary);
// turbo_prod.cc, 2, 3 or 4 bits
template <int kBits>
Codec TurboProdCodec(std::string_view name, std::string_view summary);
// mixed.cc, 4, 5, 6 or 8 half bits
template <int kHalfBits>
Codec MixedCodec(std::string_view name, std::string_view summary);
// byte_scales.cc, 2, 3 or 4 bits
template <int kBits>
Codec ByteScaleCodec(std::string_view name, std::string_view summary);
// equator.cc
Codec EquatorCodec(std::string_view name, std::string_view summary);
// zscore.cc, 2 to 5 bits
template <int kBits>
Codec ZScoreCodec(std::string_view name, std::string_view summary);
// kivi.cc, 2 or 4 bits
template <int kBits>
Codec KiviCodec(std::string_view name, std::string_view summary);
// dual.cc, 2 to 5 bits
template <int kBits>
Codec DualCodec(std::string_view name, std::string_view summary);

}  // namespace polarquant
