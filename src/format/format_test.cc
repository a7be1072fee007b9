// SPDX-License-Identifier: Apache-2.0
// The spelling of schemes and the places of codes in tiles.
#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "codecs/codec.h"
#include "format/tile_layout.h"
#include "polarquant/error.h"
#include "polarquant/scheme.h"

namespace polarquant {
namespace {

std::string MessageOf(const std::string& text) {
  try {
    Scheme::ParsePair(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kFormat) << text;
    return error.what();
  }
  return "";
}

// Each option alone at each of its values, or at the ends if they are many; then all of them at
// their first unusual one.
std::vector<std::string> OptionsOf(const CodecInfo& codec) {
  std::vector<std::string> all = {""};
  std::string together;
  for (const CodecOption& option : codec.options) {
    const bool few = option.most - option.least < 20;
    const int last = option.words.empty() ? option.most : static_cast<int>(option.words.size()) - 1;
    bool first = true;
    for (int value = option.least; value <= last; value += few ? 1 : option.most - option.least) {
      if (value == option.usual) continue;
      all.emplace_back(":").append(option.name).append("=").append(SpellingOf(option, value));
      if (first) together += all.back();
      first = false;
    }
  }
  if (codec.options.size() > 1) all.push_back(together);
  return all;
}

// Every scheme there is, in canonical spelling.
std::vector<std::string> AllSchemes() {
  std::vector<std::string> all;
  for (const CodecInfo& codec : Codecs()) {
    for (const std::string& options : OptionsOf(codec)) {
      for (const char* center :
           {"", ":center", ":balance", ":balance:center", ":balanced", ":balanced:step=16",
            ":balanced:step=128", ":center=step", ":center=step:step=32", ":dense"}) {
        for (const char* scale : {"", ":scale=mse", ":scale=norm"}) {
          for (const char* rotate : {"", ":rotate=none"}) {
            if (*center != 0 && !codec.normalises) continue;
            if (*scale != 0 && !codec.scale_rules) continue;
            if (*rotate != 0 && !codec.rotates) continue;
            all.push_back(std::string(codec.name) + options + center + scale + rotate);
          }
        }
      }
    }
  }
  return all;
}

TEST(Scheme, PrintsWhatItParsed) {
  const std::vector<std::string> all = AllSchemes();
  EXPECT_GE(all.size(), 3u + 2u * 12u + 8u * 36u);  // plain, ggml's blocks, turbo
  for (const std::string& text : all) {
    const Scheme scheme = Scheme::Parse(text);
    EXPECT_EQ(scheme.ToString(), text);
    EXPECT_EQ(Scheme::Parse(scheme.ToString()), scheme);
  }
}

TEST(Scheme, MeansWhatItSays) {
  const Scheme plain = Scheme::Parse("turbo4");
  EXPECT_EQ(plain.codec, "turbo4");
  EXPECT_FALSE(plain.normalisation.any());
  EXPECT_EQ(plain.scale_rule, ScaleRule::kUnbiased);
  EXPECT_TRUE(plain.rotate);
  EXPECT_FALSE(Scheme::Parse("f16").rotate);
  EXPECT_TRUE(Scheme::Parse("q8_0").rotate);
  EXPECT_FALSE(Scheme::Parse("q8_0:rotate=none").rotate);
  const Scheme full = Scheme::Parse("turbo3:center:scale=mse:rotate=none");
  EXPECT_EQ(full.normalisation, Normalisation{.center = true});
  EXPECT_EQ(full.scale_rule, ScaleRule::kMse);
  EXPECT_FALSE(full.rotate);
  EXPECT_EQ(Scheme(), Scheme::Parse("f16"));
  EXPECT_EQ(Scheme::Parse("turbo4:balanced").normalisation,
            (Normalisation{.balance = true, .step = 64}));
  EXPECT_EQ(Scheme::Parse("turbo4:balance:center").normalisation,
            (Normalisation{.center = true, .balance = true}));
  EXPECT_EQ(Scheme::Parse("turbo4:center=step:step=16").normalisation, Normalisation{.step = 16});
  EXPECT_TRUE(Scheme::Parse("turbo4:center=step").normalisation.needs_profile());
}

TEST(Scheme, TakesTheOptionsOfItsCodecAndLeavesOutTheUsualOnes) {
  for (const CodecInfo& codec : Codecs()) {
    for (const CodecOption& option : codec.options) {
      const std::string start = std::string(codec.name) + ":" + std::string(option.name) + "=";
      for (size_t word = 0; word < option.words.size(); ++word) {
        const std::string text = start + std::string(option.words[word]);
        const bool usual = static_cast<int>(word) == option.usual;
        EXPECT_EQ(Scheme::Parse(text).ToString(), usual ? codec.name : text);
      }
      EXPECT_NE(MessageOf(start + "nonsense").find(option.name), std::string::npos);
    }
  }
  EXPECT_NE(MessageOf("kivi2:group=33").find("group=32|64|128"), std::string::npos);
  EXPECT_NE(MessageOf("dual3:codes=rtn:codes=lloyd").find("once"), std::string::npos);
  EXPECT_EQ(Scheme::Parse("dual3:center:codes=rtn").ToString(), "dual3:codes=rtn:center");
}

TEST(Scheme, TakesModifiersInAnyOrderAndPrintsThemInOne) {
  EXPECT_EQ(Scheme::Parse("turbo4:rotate=none:scale=norm:center").ToString(),
            "turbo4:center:scale=norm:rotate=none");
  EXPECT_EQ(Scheme::Parse("turbo4:scale=unbiased").ToString(), "turbo4");
  EXPECT_EQ(Scheme::Parse("turbo4:rotate=none:sharpen=105").ToString(),
            "turbo4:sharpen=105:rotate=none");
  EXPECT_EQ(Scheme::Parse("turbo4:sharpen=100").ToString(), "turbo4");
  for (const auto& [text, canonical] : {std::pair("center:balance", "balance:center"),
                                        {"center=page", "center"},
                                        {"center=page:balance", "balance:center"},
                                        {"center=step:balance", "balanced"},
                                        {"balanced:center=step", "balanced"},
                                        {"step=64:center=step", "center=step"},
                                        {"step=32:balanced", "balanced:step=32"},
                                        {"step=16:balance:center=step", "balanced:step=16"},
                                        {"center:dense", "dense"}}) {
    EXPECT_EQ(Scheme::Parse(std::string("turbo4:") + text).ToString(),
              std::string("turbo4:") + canonical);
  }
}

TEST(Scheme, ReadsOptionsOfTheCodec) {
  const Scheme scheme = Scheme::Parse("ropepolar:pairs=adjacent:angle=5:radius=3");
  EXPECT_EQ(scheme.ToString(), "ropepolar:radius=3:angle=5:pairs=adjacent");
  EXPECT_EQ(OptionOf(scheme, "radius"), 3);
  EXPECT_EQ(OptionOf(scheme, "angle"), 5);
  EXPECT_EQ(OptionOf(scheme, "pairs"), 1);
  EXPECT_EQ(OptionOf(scheme, "arc"), 0);
  EXPECT_EQ(Scheme::Parse("ropepolar:radius=4:pairs=halves"), Scheme::Parse("ropepolar"));
  EXPECT_NE(Scheme::Parse("ropepolar:radius=3"), Scheme::Parse("ropepolar"));
  EXPECT_THROW(OptionOf(scheme, "states"), Error);
  EXPECT_THROW(OptionOf(Scheme::Parse("turbo4"), "radius"), Error);
  for (const CodecInfo& codec : Codecs()) {
    for (const CodecOption& option : codec.options) {
      EXPECT_EQ(OptionOf(Scheme::Parse(codec.name), option.name), option.usual) << codec.name;
      EXPECT_FALSE(option.summary.empty()) << codec.name << " " << option.name;
    }
  }
}

TEST(Scheme, RefusesOptionsItDoesNotKnow) {
  for (const char* text :
       {"ropepolar:radius", "ropepolar:radius=", "ropepolar:radius=0", "ropepolar:radius=8",
        "ropepolar:radius=-1", "ropepolar:radius=+3", "ropepolar:radius=03", "ropepolar:radius=3.0",
        "ropepolar:radius=3 ", "ropepolar:radius=99999999999", "ropepolar:Radius=3",
        "ropepolar:pairs=1", "ropepolar:pairs=Halves", "ropepolar:radius=3:radius=3",
        "ropepolar:radius=4:radius=3", "ropepolar:states=8", "turbo4:radius=3"}) {
    EXPECT_NE(MessageOf(text), "") << text << " was accepted";
  }
  const std::string message = MessageOf("ropepolar:radius=8");
  for (const char* word : {"radius=8", "radius=1..7", "pairs=halves|adjacent"}) {
    EXPECT_NE(message.find(word), std::string::npos) << message;
  }
}

TEST(Scheme, ParsesPairs) {
  const auto [key, value] = Scheme::ParsePair("turbo4:center/turbo3");
  EXPECT_EQ(key.ToString(), "turbo4:center");
  EXPECT_EQ(value.ToString(), "turbo3");
  const auto [both, same] = Scheme::ParsePair("q8_0:rotate=none");
  EXPECT_EQ(both, same);
  EXPECT_EQ(both.ToString(), "q8_0:rotate=none");
}

TEST(Scheme, RefusesWhatItDoesNotKnow) {
  for (const char* text : {"",
                           ":",
                           "turbo",
                           "turbo0",
                           "turbo9",
                           "Turbo4",
                           "TURBO4",
                           " turbo4",
                           "turbo4 ",
                           "turbo4:",
                           "turbo4::center",
                           "turbo4:center:",
                           "turbo4:centre",
                           "turbo4:Center",
                           "turbo4:center=1",
                           "turbo4:scale",
                           "turbo4:scale=",
                           "turbo4:scale=MSE",
                           "turbo4:scale=rms",
                           "turbo4:rotate",
                           "turbo4:rotate=haar",
                           "turbo4:rotate=",
                           "turbo4:center:center",
                           "turbo4,center",
                           "turbo4:scale=norm:scale=mse",
                           "turbo4:scale=norm:scale=norm",
                           "stock:q4_0",
                           "/",
                           "turbo4/",
                           "/turbo4",
                           "turbo4//turbo3",
                           "turbo4/turbo3/turbo2",
                           "turbo4\n",
                           "f16:f16"}) {
    EXPECT_NE(MessageOf(text), "") << "\"" << text << "\" was accepted";
  }
}

TEST(Scheme, RefusesModifiersThatDoNotApply) {
  for (const char* text :
       {"f16:center", "f32:center", "bf16:center", "f16:scale=norm", "f16:scale=mse",
        "q8_0:scale=mse", "q4_0:scale=unbiased", "f16:rotate=none", "bf16:rotate=none",
        "f32:rotate=none", "ropepolar:center", "ropepolar:rotate=none"}) {
    EXPECT_NE(MessageOf(text), "") << text << " was accepted";
  }
}

TEST(Scheme, NamesTheOffendingWordAndTheWordsAllowed) {
  const std::string wrong = MessageOf("turbo4:centre");
  for (const char* word :
       {"centre", "center", "scale=mse", "scale=norm", "scale=unbiased", "rotate=none", "turbo4"}) {
    EXPECT_NE(wrong.find(word), std::string::npos) << wrong;
  }
  const std::string plain = MessageOf("f16:scale=norm");
  EXPECT_NE(plain.find("scale=norm"), std::string::npos) << plain;
  EXPECT_NE(plain.find("f16 takes no modifier"), std::string::npos) << plain;
  const std::string block = MessageOf("q8_0:scale=mse");
  EXPECT_NE(
      block.find("q8_0 takes center, center=step, balance, balanced, dense, step=16|32|64|128, "
                 "sharpen=50..200, rotate=none"),
      std::string::npos)
      << block;
  EXPECT_NE(MessageOf("turbo9").find("turbo8"), std::string::npos);
  for (const char* bad : {"turbo4:sharpen=", "turbo4:sharpen=49", "turbo4:sharpen=201",
                          "turbo4:sharpen=1.05", "turbo4:sharpen=0100", "f16:sharpen=105"}) {
    EXPECT_NE(MessageOf(bad).find("sharpen="), std::string::npos) << bad;
  }
  for (const char* both :
       {"turbo4:dense:balance", "turbo4:balanced:dense", "q8_0:dense:center=step"}) {
    EXPECT_NE(MessageOf(both).find("takes the place of balance"), std::string::npos) << both;
  }
  EXPECT_NE(MessageOf("turbo4:center:center").find("once"), std::string::npos);
  EXPECT_NE(MessageOf("turbo4:center:center=step").find("once"), std::string::npos);
  for (const char* both : {"turbo4:balanced:center", "turbo4:center=page:balanced"}) {
    EXPECT_NE(MessageOf(both).find("balance:center"), std::string::npos) << both;
  }
  for (const char* alone : {"turbo4:step=32", "turbo4:center:step=32", "turbo4:step=64:balance"}) {
    EXPECT_NE(MessageOf(alone).find("center=step"), std::string::npos) << alone;
  }
  for (const char* bad : {"turbo4:balanced:step=", "turbo4:balanced:step=8", "turbo4:center=rope",
                          "turbo4:balanced:step=064", "f16:center=step"}) {
    EXPECT_NE(MessageOf(bad), "") << bad;
  }
}

struct TileShape {
  LaneOrder order;
  int bits, head_dim, page_tokens;
};

std::vector<TileShape> TileShapes() {
  std::vector<TileShape> shapes;
  for (const LaneOrder order : {LaneOrder::kTokens, LaneOrder::kChannels}) {
    for (int bits = 2; bits <= 4; ++bits) {
      for (int head_dim = 16; head_dim <= 256; head_dim += 16) {
        shapes.push_back({order, bits, head_dim, 64});
      }
      shapes.push_back({order, bits, 80, 128});
      shapes.push_back({order, bits, 128, 256});
      shapes.push_back({order, bits, 576, 64});
    }
  }
  return shapes;
}

class Page {
 public:
  explicit Page(const TileShape& shape)
      : shape_(shape),
        bytes_(static_cast<size_t>(shape.page_tokens / kTileTokens) *
               TileBytes(shape.bits, shape.head_dim)) {}

  void Put(int token, int channel, unsigned code) {
    const CodeAddress at = AddressOf(shape_.order, shape_.bits, shape_.head_dim, token, channel);
    PutCode(bytes_.data() + at.segment_offset, shape_.bits, at.lane_blocks, at.depth, at.lane,
            at.step, code);
  }
  unsigned Get(int token, int channel) const {
    const CodeAddress at = AddressOf(shape_.order, shape_.bits, shape_.head_dim, token, channel);
    return GetCode(bytes_.data() + at.segment_offset, shape_.bits, at.lane_blocks, at.depth,
                   at.lane, at.step);
  }
  std::vector<uint8_t>& bytes() { return bytes_; }

 private:
  TileShape shape_;
  std::vector<uint8_t> bytes_;
};

TEST(TileLayout, GivesBackEveryCode) {
  for (const TileShape& shape : TileShapes()) {
    Page page(shape);
    std::mt19937 generator(1);
    std::vector<unsigned> codes;
    // Twice, so that the second round overwrites codes that are there.
    for (int round = 0; round < 2; ++round) {
      codes.clear();
      for (int t = 0; t < shape.page_tokens; ++t) {
        for (int c = 0; c < shape.head_dim; ++c) {
          codes.push_back(static_cast<unsigned>(generator()) & ((1u << shape.bits) - 1u));
          page.Put(t, c, codes.back());
        }
      }
    }
    size_t next = 0;
    for (int t = 0; t < shape.page_tokens; ++t) {
      for (int c = 0; c < shape.head_dim; ++c) {
        ASSERT_EQ(page.Get(t, c), codes[next++])
            << shape.bits << " bits, head_dim " << shape.head_dim << ", token " << t;
      }
    }
  }
}

// As many codes as fit, all of them kept (the test above): so no two share a bit. Here: none is
// unused, and setting a code touches as many bits as it has.
TEST(TileLayout, UsesEveryBit) {
  for (const TileShape& shape : TileShapes()) {
    Page page(shape);
    const unsigned ones = (1u << shape.bits) - 1u;
    for (int t = 0; t < shape.page_tokens; ++t) {
      for (int c = 0; c < shape.head_dim; ++c) page.Put(t, c, ones);
    }
    for (const uint8_t byte : page.bytes()) ASSERT_EQ(byte, 0xff) << "a bit is never used";
    page.Put(shape.page_tokens - 1, shape.head_dim / 2, 0);
    int cleared = 0;
    for (const uint8_t byte : page.bytes()) cleared += 8 - __builtin_popcount(byte);
    EXPECT_EQ(cleared, shape.bits);
  }
}

TEST(TileLayout, PutsFieldsWhereTheKernelsLook) {
  // Keys, four bits: vector p of group q holds lane blocks 2p (low nibbles) and 2p + 1 (high).
  Page four({LaneOrder::kTokens, 4, 64, 64});
  four.Put(16 * 3 + 5, 4 * 7 + 2, 0xb);  // lane block 3, lane 5, quad 7, step 2
  EXPECT_EQ(four.bytes()[(16 + 7) * 64 + 5 * 4 + 2], 0xb0);
  // Two bits: the four lane blocks are the four fields of a byte.
  Page two({LaneOrder::kTokens, 2, 64, 64});
  two.Put(16 * 2 + 1, 4 * 9 + 3, 0x3);
  EXPECT_EQ(two.bytes()[9 * 64 + 1 * 4 + 3], 0x30);
  // Three bits, odd quad, lane block 3: the upper three of the six bits kept in the tops of A, B,
  // C.
  Page three({LaneOrder::kTokens, 3, 64, 64});
  three.Put(16 * 3, 4 * 1, 0x5);  // 101: A gets none, B the low bit above, C the rest
  EXPECT_EQ(three.bytes()[0], 0x00);
  EXPECT_EQ(three.bytes()[64], 0x80);
  EXPECT_EQ(three.bytes()[128], 0x80);
  // Values of 80 channels: four lane blocks, then one; depth runs over tokens.
  Page values({LaneOrder::kChannels, 4, 80, 64});
  values.Put(63, 79, 0xf);  // segment of one block: quads 12..15 are the fields of its last group
  EXPECT_EQ(values.bytes()[64 * 64 * 4 / 8 + (4 + 3) * 64 + 15 * 4 + 3], 0xf0);
}

}  // namespace
}  // namespace polarquant
