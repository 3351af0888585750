#include "worker/engine/pack/bit_packing.h"

#include <gmock/gmock.h>

namespace teq::pack {
namespace {

using torch::Tensor;

std::vector<std::uint32_t> Words(const Tensor& packed) {
  const Tensor flat = packed.t().contiguous().flatten();
  const auto* begin = reinterpret_cast<const std::uint32_t*>(flat.data_ptr<std::int32_t>());
  return {begin, begin + flat.numel()};
}

Tensor Column(const std::vector<int>& codes) {
  return torch::tensor(codes, torch::kInt32).to(torch::kUInt8).unsqueeze(1);
}

// The words below were worked out by hand from the formats' descriptions.
TEST(BitPackingTest, FourBitCodesFillAWordLeastSignificantFirst) {
  EXPECT_THAT(Words(PackRows(Column({0, 5, 7, 15, 4, 5, 11, 2}), 4)),
              testing::ElementsAre(0x2b54f750U));
}

TEST(BitPackingTest, ThreeBitCodesStraddleWordsAsInTheClassicLayout) {
  std::vector<int> codes;
  for (int i = 0; i < 32; ++i) codes.push_back(i % 8);
  EXPECT_THAT(Words(PackRows(Column(codes), 3)),
              testing::ElementsAre(0x88fac688U, 0xc688fac6U, 0xfac688faU));
}

TEST(BitPackingTest, TwoBitCodesFillAWord) {
  std::vector<int> codes;
  for (int i = 0; i < 16; ++i) codes.push_back(i % 4);
  EXPECT_THAT(Words(PackRows(Column(codes), 2)), testing::ElementsAre(0xe4e4e4e4U));
}

TEST(BitPackingTest, EightBitCodesAreBytes) {
  EXPECT_THAT(Words(PackRows(Column({1, 2, 3, 255}), 8)), testing::ElementsAre(0xff030201U));
}

TEST(BitPackingTest, EveryColumnIsAStreamOfItsOwn) {
  const Tensor codes =
      torch::cat({Column({0, 5, 7, 15, 4, 5, 11, 2}), torch::zeros({8, 1}, torch::kUInt8),
                  Column({15, 15, 15, 15, 15, 15, 15, 15})},
                 1);
  EXPECT_THAT(Words(PackRows(codes, 4)), testing::ElementsAre(0x2b54f750U, 0U, 0xffffffffU));
}

// 5 codes of 3 bits, 7 6 5 4 3: 0b011'100'101'110'111.
TEST(BitPackingTest, TheLastWordIsPaddedWithZeros) {
  EXPECT_THAT(Words(PackRows(Column({7, 6, 5, 4, 3}), 3)), testing::ElementsAre(0x3977U));
  EXPECT_THAT(Words(PackColumns(Column({7, 6, 5, 4, 3}).t(), 3).t()),
              testing::ElementsAre(0x3977U));
}

TEST(BitPackingTest, RowsAreStreamsOfTheirOwnThatStraddleWords) {
  std::vector<int> codes;
  for (int i = 0; i < 32; ++i) codes.push_back(i % 8);
  const Tensor rows = torch::cat({Column(codes).t(), torch::zeros({1, 32}, torch::kUInt8)});
  const Tensor packed = PackColumns(rows, 3);
  EXPECT_EQ(packed.sizes(), (std::vector<std::int64_t>{2, 3}));
  EXPECT_THAT(Words(packed[0].unsqueeze(1)),
              testing::ElementsAre(0x88fac688U, 0xc688fac6U, 0xfac688faU));
  EXPECT_EQ(packed[1].abs().sum().item<int>(), 0);
}

/// Code `i` of a stream, bit by bit as the contract says.
int CodeAt(const std::vector<std::uint32_t>& words, std::int64_t i, int bits) {
  int code = 0;
  for (int b = 0; b < bits; ++b) {
    const auto bit = static_cast<std::size_t>(i * bits + b);
    code |= static_cast<int>(words[bit / 32] >> (bit % 32) & 1U) << b;
  }
  return code;
}

// Lengths around those of words, of blocks of 32 codes and of the kernel's chunks.
TEST(BitPackingTest, EveryCodeLiesAtItsBits) {
  torch::manual_seed(9);
  for (const int bits : {2, 3, 4, 8}) {
    for (const std::int64_t size : {1, 7, 31, 32, 33, 96, 1000, 1024, 1025, 4127}) {
      const Tensor codes = torch::randint(1 << bits, {1, size}, torch::kInt32).to(torch::kUInt8);
      const std::vector<std::uint32_t> words = Words(PackColumns(codes, bits).t());
      EXPECT_EQ(Words(PackRows(codes.t(), bits)), words) << bits << " bits, " << size << " codes";
      ASSERT_EQ(static_cast<std::int64_t>(words.size()), (size * bits + 31) / 32);
      for (std::int64_t i = 0; i < size; ++i) {
        ASSERT_EQ(CodeAt(words, i, bits), codes[0][i].item<int>())
            << bits << " bits, code " << i << " of " << size;
      }
    }
  }
}

}  // namespace
}  // namespace teq::pack
