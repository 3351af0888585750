#include "worker/engine/quant/clip_search.h"

#include <gtest/gtest.h>

namespace teq::quant {
namespace {

using torch::Tensor;

constexpr LayerGrid kGrid{true, 3, 16, false};

double OutputError(const Tensor& weight, const Tensor& gram, const ClipFactors& clip) {
  const Tensor off = Dequantize(QuantizeToNearest(weight, kGrid, {clip, {}})) - weight;
  return (torch::matmul(off, gram) * off).sum().item<double>();
}

TEST(SearchClippingTest, LowersTheOutputErrorOfHeavyTails) {
  torch::manual_seed(5);
  const Tensor weight = torch::randn({40, 64}).pow(3);
  const Tensor gram = torch::eye(64);
  const ClipFactors clip = SearchClipping(weight, gram, kGrid);
  EXPECT_LT(OutputError(weight, gram, clip), 0.95 * OutputError(weight, gram, {}));
  EXPECT_LT(clip.low.min().item<float>(), 1);
  EXPECT_LT(clip.high.min().item<float>(), 1);
  EXPECT_GE(torch::minimum(clip.low, clip.high).min().item<float>(), 0.5);
}

// One input is far stronger than the others, so the group's range serves its weight alone: by hand,
// the range 0..7 holds the strong weight 3 exactly, and the weak outlier 9 may be cut.
TEST(SearchClippingTest, WeighsErrorsByTheInputs) {
  Tensor weight = torch::zeros({1, 16});
  weight[0][0] = 3.0;
  weight[0][1] = 9.0;
  weight[0][2] = -1.0;
  Tensor gram = torch::eye(16) * 1e-6;
  gram[0][0] = 1;
  const ClipFactors clip = SearchClipping(weight, gram, kGrid);
  const Tensor rounded = Dequantize(QuantizeToNearest(weight, kGrid, {clip, {}}));
  const Tensor plain = Dequantize(QuantizeToNearest(weight, kGrid));
  EXPECT_LT(std::abs(rounded[0][0].item<float>() - 3), std::abs(plain[0][0].item<float>() - 3));
}

TEST(SearchClippingTest, KeepsAnExactGroupWhole) {
  const Tensor weight = torch::arange(-1, 7, torch::kFloat32).repeat({1, 2});
  const ClipFactors clip = SearchClipping(weight, torch::eye(16), kGrid);
  EXPECT_EQ(clip.low.item<float>(), 1);
  EXPECT_EQ(clip.high.item<float>(), 1);
}

}  // namespace
}  // namespace teq::quant
