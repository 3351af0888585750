#include "worker/engine/quant/grid.h"

#include <gmock/gmock.h>

namespace teq::quant {
namespace {

using torch::Tensor;

std::vector<int> Codes(const Quantized& quantized) {
  const Tensor codes = quantized.codes.flatten().to(torch::kInt32);
  return {codes.data_ptr<int>(), codes.data_ptr<int>() + codes.numel()};
}

// Worked by hand: range [-0.7, 1.4], scale 0.14, which float16 holds as 0.1400146484375 (0x307b).
TEST(GridTest, RoundsAnAsymmetricGroupToTheCodesWorkedByHand) {
  const Tensor weight = torch::tensor({{-0.7F, 0.05F, 0.31F, 1.4F, -0.2F, 0.0F, 0.9F, -0.44F}});
  const Quantized quantized = QuantizeToNearest(weight, {true, 4, 8, false});
  EXPECT_EQ(quantized.scales.item<c10::Half>().x, 0x307b);
  EXPECT_EQ(quantized.zeros.item<int>(), 5);
  EXPECT_THAT(Codes(quantized), testing::ElementsAre(0, 5, 7, 15, 4, 5, 11, 2));
  const Tensor expected = torch::tensor(
      {{-0.700073F, 0.0F, 0.280029F, 1.400146F, -0.140015F, 0.0F, 0.840088F, -0.420044F}});
  EXPECT_TRUE(torch::allclose(Dequantize(quantized), expected, 0, 1e-6));
}

// max|w| = 1.4, 2^(4-1) - 1 = 7 steps: scale 0.2 (float16 0.199951), zero point 8.
TEST(GridTest, RoundsASymmetricGroupAroundTheMiddleCode) {
  const Tensor weight = torch::tensor({{-0.7F, 0.05F, 0.31F, 1.4F, -0.2F, 0.0F, 0.9F, -1.39F}});
  const Quantized quantized = QuantizeToNearest(weight, {true, 4, 8, true});
  EXPECT_FLOAT_EQ(quantized.scales.item<float>(), 0.19995117F);
  EXPECT_EQ(quantized.zeros.item<int>(), 8);
  // -0.7 / 0.199951 = -3.5009 rounds to -4; 0.9 / 0.199951 = 4.5011 to 5.
  EXPECT_THAT(Codes(quantized), testing::ElementsAre(4, 8, 10, 15, 7, 8, 13, 1));
}

// The codes of the first test, whose scale is then 0.1400146 * 1.1 = 0.1540161, and as float16
// 0.1540527.
TEST(GridTest, AStepFactorScalesWhatTheCodesStandFor) {
  const Tensor weight = torch::tensor({{-0.7F, 0.05F, 0.31F, 1.4F, -0.2F, 0.0F, 0.9F, -0.44F}});
  const Quantized quantized =
      QuantizeToNearest(weight, {true, 4, 8, false},
                        {.clip = {}, .offset = {}, .step_factor = torch::full({1, 1}, 1.1)});
  EXPECT_EQ(quantized.zeros.item<int>(), 5);
  EXPECT_THAT(Codes(quantized), testing::ElementsAre(0, 5, 7, 15, 4, 5, 11, 2));
  EXPECT_FLOAT_EQ(quantized.scales.item<float>(), 0.1540527F);
}

TEST(GridTest, ZeroPointIsNeverBelowOneSoThatGptqCanStoreItLessOne) {
  const Tensor weight = torch::tensor({{0.0F, 1.0F, 2.0F, 3.0F, 4.0F, 5.0F, 6.0F, 7.0F}});
  const Quantized quantized = QuantizeToNearest(weight, {true, 3, 8, false});
  EXPECT_EQ(quantized.zeros.item<int>(), 1);
  EXPECT_THAT(Codes(quantized), testing::ElementsAre(1, 2, 3, 4, 5, 6, 7, 7));
}

TEST(GridTest, AGroupOfZerosStaysZero) {
  for (const bool symmetric : {false, true}) {
    for (const int bits : {2, 3, 4, 8}) {
      const Quantized quantized =
          QuantizeToNearest(torch::zeros({3, 16}), {true, bits, 8, symmetric});
      EXPECT_EQ(Dequantize(quantized).abs().max().item<float>(), 0) << bits;
    }
  }
}

TEST(GridTest, TinyWeightsKeepAPositiveScale) {
  const Quantized quantized = QuantizeToNearest(torch::full({1, 8}, -1e-12), {true, 4, 8, false});
  EXPECT_GT(quantized.scales.item<float>(), 0);
  EXPECT_TRUE(torch::isfinite(Dequantize(quantized)).all().item<bool>());
  const Adjustment smaller{.clip = {}, .offset = {}, .step_factor = torch::full({1, 1}, 0.1)};
  EXPECT_GT(QuantizeToNearest(torch::full({1, 8}, -1e-12), {true, 4, 8, false}, smaller)
                .scales.item<float>(),
            0);
}

TEST(GridTest, EveryWeightIsWithinHalfAStepOfItsCodeUnlessClamped) {
  torch::manual_seed(7);
  const Tensor weight = torch::randn({16, 64});
  for (const int bits : {2, 3, 4, 8}) {
    const Quantized quantized = QuantizeToNearest(weight, {true, bits, 32, false});
    const Tensor error = (Dequantize(quantized) - weight).abs().view({16, 2, 32});
    const Tensor step = quantized.scales.to(torch::kFloat32).unsqueeze(-1);
    // The range's ends may lie half a step outside after the zero point was rounded.
    EXPECT_TRUE((error <= step * 1.01).all().item<bool>()) << bits;
    EXPECT_LT((error > step * 0.501).to(torch::kFloat32).mean().item<float>(), 0.06) << bits;
  }
}

// The first test's group: w / 0.1400146 = -4.9995, 0.3571, 2.2141, 9.9990, -1.4284, 0, 6.4279,
// -3.1425. Those next to a half move to 0.4 from their code; the offset of 0.5 at the sixth, a tie
// that goes to 0, moves back.
TEST(GridTest, OffsetsMoveAwayFromWhereTheCodeChangesAsWorkedByHand) {
  const Tensor weight = torch::tensor({{-0.7F, 0.05F, 0.31F, 1.4F, -0.2F, 0.0F, 0.9F, -0.44F}});
  const Tensor offset = torch::tensor({{0.0F, 0.5F, 0.0F, 0.0F, 0.0F, 0.5F, 0.0F, -0.1F}});
  const LayerGrid grid{true, 4, 8, false};
  const Tensor moved = OffsetsWithMargin(weight, grid, {{}, offset}, 0.1);
  const Tensor expected =
      torch::tensor({{0.0F, 0.5F, 0.0F, 0.0F, 0.02842F, 0.4F, -0.0279F, -0.1F}});
  EXPECT_TRUE(torch::allclose(moved, expected, 0, 1e-4)) << moved;
}

TEST(GridTest, OffsetsWithAMarginMakeTheSameCodesAndStayInTheirRange) {
  torch::manual_seed(7);
  const Tensor weight = torch::randn({16, 64});
  const ClipFactors clip{torch::rand({16, 2}) * 0.4 + 0.6, torch::rand({16, 2}) * 0.4 + 0.6};
  const Tensor offset = torch::rand({16, 64}) - 0.5;
  for (const int bits : {2, 3, 4}) {
    const LayerGrid grid{true, bits, 32, false};
    const Tensor moved = OffsetsWithMargin(weight, grid, {clip, offset}, 0.2);
    EXPECT_TRUE(torch::equal(QuantizeToNearest(weight, grid, {clip, moved}).codes,
                             QuantizeToNearest(weight, grid, {clip, offset}).codes))
        << bits;
    EXPECT_LE(moved.abs().max().item<float>(), 0.5F) << bits;
    EXPECT_GT((moved != offset).to(torch::kFloat32).mean().item<float>(), 0.2) << bits;
  }
}

TEST(GridTest, GroupSizeMinusOneIsTheWholeRow) {
  EXPECT_EQ(GroupSize({true, 4, -1, false}, 96), 96);
  const Quantized quantized = QuantizeToNearest(torch::randn({4, 96}), {true, 4, -1, false});
  EXPECT_EQ(quantized.scales.sizes(), (std::vector<std::int64_t>{4, 1}));
}

}  // namespace
}  // namespace teq::quant
