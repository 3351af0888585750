// Expected bytes are ggml's own quantizers' for these values.
#include "worker/engine/pack/gguf_blocks.h"

#include <gmock/gmock.h>

#include "proto/spec/error.h"

namespace teq::pack {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using torch::Tensor;

std::vector<int> Bytes(const absl::StatusOr<Tensor>& blocks) {
  EXPECT_TRUE(blocks.ok()) << blocks.status();
  const Tensor bytes = blocks->contiguous();
  const auto* data = bytes.data_ptr<std::uint8_t>();
  return {data, data + bytes.numel()};
}

/// One row of codes with one group.
quant::Quantized Row(const Tensor& codes, double scale, int zero, int bits) {
  return {.codes = codes.to(torch::kUInt8).view({1, -1}),
          .scales = torch::full({1, 1}, scale, torch::kFloat16),
          .zeros = torch::full({1, 1}, zero, torch::kUInt8),
          .bits = bits};
}

Tensor SixteenTwice() { return torch::arange(16).repeat(2); }

TEST(GgufBlocksTest, FourBitsArePairsSixteenApartBehindTheScale) {
  EXPECT_THAT(Bytes(EncodeBlocks(GgufType::kQ4_0, Row(SixteenTwice(), 0.25, 8, 4))),
              ElementsAre(0x00, 0x34, 0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99,
                          0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff));
}

TEST(GgufBlocksTest, AsymmetricCodesHaveTheOffsetOfTheirZeroPoint) {
  // -6 * 0.25 = -1.5.
  EXPECT_THAT(Bytes(EncodeBlocks(GgufType::kQ4_1, Row(SixteenTwice(), 0.25, 6, 4))),
              ElementsAre(0x00, 0x34, 0x00, 0xbe, 0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77,
                          0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff));
}

TEST(GgufBlocksTest, AnOffsetBeyondFloat16IsRefused) {
  const auto blocks = EncodeBlocks(GgufType::kQ4_1, Row(SixteenTwice(), 60000, 15, 4));
  EXPECT_EQ(ErrorReason(blocks.status()), "NOT_REPRESENTABLE");
}

TEST(GgufBlocksTest, EightBitsAreSignedBytes) {
  const std::vector<int> bytes =
      Bytes(EncodeBlocks(GgufType::kQ8_0, Row(torch::arange(112, 144), 0.25, 128, 8)));
  ASSERT_EQ(bytes.size(), 34U);
  EXPECT_EQ(bytes[1], 0x34);
  EXPECT_EQ(bytes[2], 256 - 16);  // code 112 is -16
  EXPECT_EQ(bytes[2 + 16], 0);
  EXPECT_EQ(bytes[33], 15);
}

TEST(GgufBlocksTest, TernaryDigitsAreFiveToAByte) {
  Tensor codes = torch::full({256}, 2);
  // Of byte 0: values 1, -1, 0, 1, -1, which stand 32 apart.
  const int values[] = {1, -1, 0, 1, -1};
  for (int i = 0; i < 5; ++i) codes[32 * i] = values[i] + 2;
  const std::vector<int> bytes = Bytes(EncodeBlocks(GgufType::kTq1_0, Row(codes, 0.25, 2, 2)));
  ASSERT_EQ(bytes.size(), 54U);
  EXPECT_EQ(bytes[0], 187);
  // Zeros: 11111 of base 3 is 121, and ceil(121 * 256 / 243) = 128. 1111 is 40 of 81: 120 of 243.
  EXPECT_EQ(bytes[1], 128);
  EXPECT_EQ(bytes[48], 127);
  EXPECT_EQ(bytes[52], 0x00);
  EXPECT_EQ(bytes[53], 0x34);
}

TEST(GgufBlocksTest, TheLowestOfTwoBitsIsHeldByANegativeScale) {
  Tensor codes = torch::full({256}, 2);
  const int values[] = {-1, 1, 0, -2};  // times -0.25: digits 1, -1, 0, 2
  for (int i = 0; i < 4; ++i) codes[32 * i] = values[i] + 2;
  const std::vector<int> bytes = Bytes(EncodeBlocks(GgufType::kTq2_0, Row(codes, 0.25, 2, 2)));
  ASSERT_EQ(bytes.size(), 66U);
  EXPECT_EQ(bytes[0], 2 | 0 << 2 | 1 << 4 | 3 << 6);
  EXPECT_EQ(bytes[1], 0x55);
  EXPECT_EQ(bytes[65], 0xb4);
}

TEST(GgufBlocksTest, AGroupsScaleRepeatsInItsBlocks) {
  const quant::Quantized quantized{
      .codes = torch::zeros({2, 128}, torch::kUInt8),
      .scales = torch::tensor({{1.0, 2.0}, {3.0, 4.0}}, torch::kFloat16),
      .zeros = torch::full({2, 2}, 8, torch::kUInt8),
      .bits = 4};
  const Tensor blocks = EncodeBlocks(GgufType::kQ4_0, quantized).value();
  ASSERT_EQ(blocks.sizes(), (std::vector<std::int64_t>{2, 72}));
  std::vector<int> high;  // 1, 2, 3, 4 as float16: 3c00, 4000, 4200, 4400
  for (int row = 0; row < 2; ++row) {
    for (int block = 0; block < 4; ++block) high.push_back(blocks[row][block * 18 + 1].item<int>());
  }
  EXPECT_THAT(high, ElementsAre(0x3c, 0x3c, 0x40, 0x40, 0x42, 0x42, 0x44, 0x44));
}

TEST(GgufBlocksTest, TypesFollowFromTheGridAndTheCodes) {
  const quant::Quantized ternary = Row(torch::tensor({1, 2, 3}), 1, 2, 2);
  const quant::Quantized lowest = Row(torch::tensor({0, 2, 3}), 1, 2, 2);
  const auto type = [](int bits, bool symmetric, const quant::Quantized& codes) {
    return TypeOf({.bits = bits, .symmetric = symmetric}, codes);
  };
  EXPECT_EQ(type(4, true, ternary).value(), GgufType::kQ4_0);
  EXPECT_EQ(type(4, false, ternary).value(), GgufType::kQ4_1);
  EXPECT_EQ(type(8, true, ternary).value(), GgufType::kQ8_0);
  EXPECT_EQ(type(2, true, ternary).value(), GgufType::kTq1_0);
  EXPECT_EQ(type(2, true, lowest).value(), GgufType::kTq2_0);
  for (const auto& refused :
       {type(3, true, ternary), type(8, false, ternary), type(2, false, ternary)}) {
    EXPECT_EQ(ErrorReason(refused.status()), "FORMAT_CANNOT_HOLD");
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("it has no type"));
  }
}

TEST(GgufBlocksTest, GroupsThatCutABlockAreRefused) {
  const quant::Quantized quantized{.codes = torch::zeros({1, 64}, torch::kUInt8),
                                   .scales = torch::ones({1, 4}, torch::kFloat16),
                                   .zeros = torch::full({1, 4}, 8, torch::kUInt8)};
  EXPECT_EQ(ErrorReason(EncodeBlocks(GgufType::kQ4_0, quantized).status()), "FORMAT_CANNOT_HOLD");
}

}  // namespace
}  // namespace teq::pack
