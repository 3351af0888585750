// Expected words are those of the format's public descriptions and of examples packed by hand.
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"
#include "torch/torch.h"
#include "worker/engine/verify/packed_model.h"

namespace teq::verify {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

torch::Tensor Words(const std::vector<std::uint32_t>& words, std::int64_t rows,
                    std::int64_t columns) {
  std::vector<std::int32_t> values(words.begin(), words.end());
  return torch::tensor(values, torch::kInt32).view({rows, columns});
}

/// `words` as a column, repeated for `columns` outputs.
torch::Tensor Columns(const std::vector<std::uint32_t>& words, std::int64_t columns) {
  return Words(words, static_cast<std::int64_t>(words.size()), 1).repeat({1, columns});
}

torch::Tensor Halves(std::int64_t groups, std::int64_t outputs, double value = 1.0) {
  return torch::full({groups, outputs}, value, torch::kFloat16);
}

torch::Tensor GroupIndex(std::int64_t columns, std::int64_t group_size) {
  return torch::arange(columns, torch::kInt32).div(group_size, "floor");
}

template <typename T>
std::vector<T> Row(const torch::Tensor& tensor, std::int64_t row) {
  const torch::Tensor values = tensor[row].contiguous();
  return {values.data_ptr<T>(), values.data_ptr<T>() + values.numel()};
}

std::vector<std::uint8_t> Bytes(const std::vector<int>& values) {
  return {values.begin(), values.end()};
}

void ExpectRejected(const absl::StatusOr<UnpackedLayer>& layer, const std::string& message) {
  ASSERT_FALSE(layer.ok());
  EXPECT_EQ(layer.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ErrorReason(layer.status()), "VERIFY_FAILED");
  EXPECT_THAT(std::string(layer.status().message()), HasSubstr(message));
}

TEST(UnpackGptqTest, FourBitWordGivesItsCodesAndWeights) {
  // [-0.7, 0.05, 0.31, 1.4, -0.2, 0, 0.9, -0.44]: scale 0x307b, zero point 5, stored as 4.
  const auto layer = UnpackGptq(4, Columns({0x2b54f750}, 8), Words({0x44444444}, 1, 1),
                                Halves(1, 8, 0.1400146484375), GroupIndex(8, 8));
  ASSERT_TRUE(layer.ok()) << layer.status();
  EXPECT_EQ(layer->bits, 4);
  EXPECT_EQ(layer->group_size, 8);
  EXPECT_THAT(Row<std::uint8_t>(layer->codes, 7),
              ElementsAreArray(Bytes({0, 5, 7, 15, 4, 5, 11, 2})));
  EXPECT_EQ(layer->zeros.min().item<int>(), 5);
  EXPECT_EQ(layer->zeros.max().item<int>(), 5);
  const std::vector<float> expected = {-0.7000732421875F, 0, 0.280029296875F, 1.400146484375F,
                                       -0.1400146484375F, 0, 0.840087890625F, -0.4200439453125F};
  EXPECT_THAT(Row<float>(layer->weight, 0), ElementsAreArray(expected));
}

TEST(UnpackGptqTest, ZeroPointsAreStoredMinusOneAlongTheOutputs) {
  const auto layer =
      UnpackGptq(4, Columns({0}, 8), Words({0xb26e7004}, 1, 1), Halves(1, 8), GroupIndex(8, 8));
  ASSERT_TRUE(layer.ok()) << layer.status();
  EXPECT_THAT(Row<std::int32_t>(layer->zeros.t(), 0), ElementsAreArray({5, 1, 1, 8, 15, 7, 3, 12}));
  EXPECT_EQ(layer->weight[4][0].item<float>(), -15.0F);
}

TEST(UnpackGptqTest, WrappedZeroPointIsRejectedBecauseLoadersDisagree) {
  // Zero points 5, 0, 1, 8, 15, 7, 3, 12, each minus one and masked.
  ExpectRejected(
      UnpackGptq(4, Columns({0}, 8), Words({0xb26e70f4}, 1, 1), Halves(1, 8), GroupIndex(8, 8)),
      "qzeros: means a zero point of 16 at [0, 1]; expected 1 to 15");
}

TEST(UnpackGptqTest, ThreeBitCodesStraddleWords) {
  const auto layer = UnpackGptq(3, Columns({0x88fac688, 0xc688fac6, 0xfac688fa}, 32),
                                Words({0xdb6db6db, 0xb6db6db6, 0x6db6db6d}, 1, 3),
                                Halves(1, 32, 0.5), GroupIndex(32, 32));
  ASSERT_TRUE(layer.ok()) << layer.status();
  std::vector<int> codes;
  std::vector<float> weights;
  for (int i = 0; i < 32; ++i) {
    codes.push_back(i % 8);
    weights.push_back(0.5F * static_cast<float>(i % 8 - 4));  // stored 3: zero point 4
  }
  EXPECT_THAT(Row<std::uint8_t>(layer->codes, 31), ElementsAreArray(Bytes(codes)));
  EXPECT_EQ(layer->zeros.min().item<int>(), 4);
  EXPECT_EQ(layer->zeros.max().item<int>(), 4);
  EXPECT_THAT(Row<float>(layer->weight, 17), ElementsAreArray(weights));
}

TEST(UnpackGptqTest, TwoBitWordGivesItsCodes) {
  const auto layer = UnpackGptq(2, Columns({0xe4e4e4e4}, 16), Words({0x55555555}, 1, 1),
                                Halves(1, 16), GroupIndex(16, 16));
  ASSERT_TRUE(layer.ok()) << layer.status();
  EXPECT_THAT(Row<std::uint8_t>(layer->codes, 3),
              ElementsAreArray(Bytes({0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3})));
  EXPECT_EQ(layer->zeros.max().item<int>(), 2);
  EXPECT_EQ(layer->weight[0][3].item<float>(), 1.0F);
}

TEST(UnpackGptqTest, EightBitWordsAreUnsigned) {
  const auto layer = UnpackGptq(8, Columns({0x03020100, 0xfffefdfc}, 4), Words({0x7f7f7f7f}, 1, 1),
                                Halves(1, 4), GroupIndex(8, 8));
  ASSERT_TRUE(layer.ok()) << layer.status();
  EXPECT_THAT(Row<std::uint8_t>(layer->codes, 0),
              ElementsAreArray(Bytes({0, 1, 2, 3, 252, 253, 254, 255})));
  EXPECT_THAT(Row<float>(layer->weight, 0),
              ElementsAreArray({-128.F, -127.F, -126.F, -125.F, 124.F, 125.F, 126.F, 127.F}));
}

TEST(UnpackGptqTest, EachOutputHasItsOwnCodes) {
  torch::Tensor qweight = Columns({0x76543210}, 8).clone();
  qweight[0][2] = static_cast<std::int32_t>(0xfedcba98);
  const auto layer =
      UnpackGptq(4, qweight, Words({0x77777777}, 1, 1), Halves(1, 8), GroupIndex(8, 8));
  ASSERT_TRUE(layer.ok()) << layer.status();
  EXPECT_THAT(Row<std::uint8_t>(layer->codes, 1),
              ElementsAreArray(Bytes({0, 1, 2, 3, 4, 5, 6, 7})));
  EXPECT_THAT(Row<std::uint8_t>(layer->codes, 2),
              ElementsAreArray(Bytes({8, 9, 10, 11, 12, 13, 14, 15})));
}

TEST(UnpackGptqTest, ColumnsFollowTheirGroupIndex) {
  torch::Tensor scales = Halves(2, 8, 1.0);
  scales[1].fill_(10.0);
  // Zero points 8 in group 0 and 1 in group 1; every code is 9.
  const auto layer = UnpackGptq(4, Columns({0x99999999}, 8), Words({0x77777777, 0x00000000}, 2, 1),
                                scales, torch::tensor({1, 0, 0, 1, 0, 1, 1, 0}, torch::kInt32));
  ASSERT_TRUE(layer.ok()) << layer.status();
  EXPECT_EQ(layer->group_size, 4);
  EXPECT_THAT(Row<float>(layer->weight, 5),
              ElementsAreArray({80.F, 1.F, 1.F, 80.F, 1.F, 80.F, 80.F, 1.F}));
}

TEST(UnpackGptqTest, GroupIndexBeyondTheGroupsIsRejected) {
  ExpectRejected(UnpackGptq(4, Columns({0}, 8), Words({0}, 1, 1), Halves(1, 8),
                            torch::tensor({0, 0, 0, 1, 0, 0, 0, 0}, torch::kInt32)),
                 "g_idx: is 1 at [3], but there are 1 groups");
  ExpectRejected(UnpackGptq(4, Columns({0}, 8), Words({0}, 1, 1), Halves(1, 8),
                            torch::tensor({0, 0, 0, 0, -1, 0, 0, 0}, torch::kInt32)),
                 "g_idx: is -1 at [4]");
}

TEST(UnpackGptqTest, ScaleThatIsNotFiniteIsRejected) {
  torch::Tensor scales = Halves(1, 8);
  scales[0][6] = std::numeric_limits<float>::infinity();
  ExpectRejected(UnpackGptq(4, Columns({0}, 8), Words({0}, 1, 1), scales, GroupIndex(8, 8)),
                 "scales: is not finite at [0, 6]");
}

TEST(UnpackGptqTest, ShapesThatDisagreeAreRejected) {
  const torch::Tensor qweight = Columns({0}, 8);
  const torch::Tensor qzeros = Words({0}, 1, 1);
  const torch::Tensor scales = Halves(1, 8);
  const torch::Tensor g_idx = GroupIndex(8, 8);
  ExpectRejected(UnpackGptq(5, qweight, qzeros, scales, g_idx),
                 "bits: is 5; expected 2, 3, 4 or 8");
  ExpectRejected(UnpackGptq(4, Columns({0, 0}, 8), qzeros, scales, g_idx),
                 "qweight: has shape [2, 8]; expected [1, 8]");
  ExpectRejected(UnpackGptq(4, qweight, Words({0, 0}, 1, 2), scales, g_idx),
                 "qzeros: has shape [1, 2]; expected [1, 1]");
  ExpectRejected(UnpackGptq(4, qweight, qzeros, Halves(1, 7), g_idx),
                 "scales: has shape [1, 7]; expected [1, 8]");
  ExpectRejected(UnpackGptq(4, qweight, qzeros, Halves(3, 8), g_idx),
                 "scales: has 3 groups, which do not divide 8 columns");
  ExpectRejected(UnpackGptq(4, qweight, qzeros, scales, GroupIndex(7, 7)),
                 "g_idx: has 7 entries, whose codes of 4 bits do not fill whole words");
  ExpectRejected(UnpackGptq(4, Columns({0}, 7), qzeros, Halves(1, 7), g_idx),
                 "qzeros: cannot hold 7 zero points of 4 bits in whole words");
  ExpectRejected(UnpackGptq(4, qweight, qzeros, scales, GroupIndex(8, 8).view({2, 4})),
                 "g_idx: has shape [2, 4]; expected [8]");
}

TEST(UnpackGptqTest, TypesThatDisagreeAreRejected) {
  ExpectRejected(UnpackGptq(4, Columns({0}, 8).to(torch::kInt64), Words({0}, 1, 1), Halves(1, 8),
                            GroupIndex(8, 8)),
                 "qweight: has type Long; expected Int");
  ExpectRejected(UnpackGptq(4, Columns({0}, 8), Words({0}, 1, 1), Halves(1, 8).to(torch::kFloat32),
                            GroupIndex(8, 8)),
                 "scales: has type Float; expected Half");
}

}  // namespace
}  // namespace teq::verify
