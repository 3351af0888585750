#include "worker/engine/quant/fake_quantize.h"

#include <gmock/gmock.h>

#include "torch/autograd.h"
#include "worker/engine/quant/grid.h"
#include "worker/engine/quant/scale_gradient.h"

namespace teq::quant {
namespace {

using torch::Tensor;

Tensor StraightThrough(const Tensor& value, const Tensor& rounded) {
  return value + (rounded - value).detach();
}

/// The quantizer written out in differentiable operators, rounding passed straight through:
/// LibTorch's autograd then derives what the closed form states. Clamps are differentiated as they
/// stand.
Tensor Reference(const Tensor& scaled, const LayerGrid& grid) {
  const int levels = (1 << grid.bits) - 1;
  const Tensor groups = scaled.view({scaled.size(0), -1, GroupSize(grid, scaled.size(1))});
  Tensor scale;
  Tensor zero;
  if (grid.symmetric) {
    scale = std::get<0>(groups.abs().max(-1, true)) / ((1 << (grid.bits - 1)) - 1);
    scale = StraightThrough(scale, scale.to(torch::kFloat16).to(torch::kFloat32));
    zero = torch::full_like(scale, 1 << (grid.bits - 1));
  } else {
    const Tensor low = std::get<0>(groups.min(-1, true)).clamp_max(0);
    const Tensor high = std::get<0>(groups.max(-1, true)).clamp_min(0);
    scale = (high - low) / levels;
    scale = StraightThrough(scale, scale.to(torch::kFloat16).to(torch::kFloat32));
    const Tensor exact = -low / scale;
    zero = StraightThrough(exact, torch::round(exact)).clamp(1, levels);
  }
  const Tensor ratio = groups / scale;
  const Tensor code = (StraightThrough(ratio, torch::round(ratio)) + zero).clamp(0, levels);
  return ((code - zero) * scale).view_as(scaled);
}

struct Case {
  int bits;
  int group_size;
  bool symmetric;
  bool non_negative;  // groups whose zero point is clamped
};

class FakeQuantizeTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    torch::manual_seed(11);
    grid_ = {true, GetParam().bits, GetParam().group_size, GetParam().symmetric};
    weight_ = torch::randn({70, 64});
    if (GetParam().non_negative) weight_.slice(0, 0, 20).abs_();
    input_scale_ = (torch::randn({64}) * 0.3).exp().requires_grad_(true);
    output_scale_ = (torch::randn({70}) * 0.3).exp().requires_grad_(true);
    upstream_ = torch::randn({70, 64});
  }

  LayerGrid grid_;
  Tensor weight_, input_scale_, output_scale_, upstream_;
};

TEST_P(FakeQuantizeTest, EqualsQuantizeThenDequantizeBitByBit) {
  const Tensor scaled = weight_ * input_scale_ / output_scale_.unsqueeze(1);
  const Tensor expected = Dequantize(QuantizeToNearest(scaled.detach(), grid_));
  const Tensor actual =
      FakeQuantize(weight_, input_scale_, output_scale_, grid_, teq::v1::GRADIENT_FULL);
  EXPECT_TRUE(torch::equal(actual.detach(), expected));
}

TEST_P(FakeQuantizeTest, FullGradientEqualsAutogradThroughTheWrittenOutFormula) {
  const Tensor scaled = weight_ * input_scale_ / output_scale_.unsqueeze(1);
  const auto expected = torch::autograd::grad({(Reference(scaled, grid_) * upstream_).sum()},
                                              {input_scale_, output_scale_});
  const Tensor loss =
      (FakeQuantize(weight_, input_scale_, output_scale_, grid_, teq::v1::GRADIENT_FULL) *
       upstream_)
          .sum();
  const auto actual = torch::autograd::grad({loss}, {input_scale_, output_scale_});
  EXPECT_TRUE(torch::allclose(actual[0], expected[0], 1e-3, 2e-3));
  EXPECT_TRUE(torch::allclose(actual[1], expected[1], 1e-3, 2e-3));
}

TEST_P(FakeQuantizeTest, HostKernelAndDeviceOperatorsAgree) {
  const ScaledWeight operand{weight_, input_scale_.detach(), output_scale_.detach()};
  for (const bool full : {true, false}) {
    const ScaleGradients host = GradientOnCpu(operand, upstream_, grid_, full);
    const ScaleGradients device = GradientOnAnyDevice(operand, upstream_, grid_, full);
    EXPECT_TRUE(torch::allclose(host.columns, device.columns, 1e-4, 1e-3));
    EXPECT_TRUE(torch::allclose(host.rows, device.rows, 1e-4, 1e-3));
  }
}

INSTANTIATE_TEST_SUITE_P(Grids, FakeQuantizeTest,
                         testing::Values(Case{2, 32, false, false}, Case{3, 32, false, false},
                                         Case{4, 16, false, false}, Case{8, 64, false, false},
                                         Case{3, -1, false, false}, Case{3, 16, false, true},
                                         Case{2, 32, true, false}, Case{4, 32, true, false}));

// TEQ's paper: with the identity through the quantizer, the gradient of the whole layer
// y = (x/a) Q(W a)^T with respect to a is -(1/a_j) sum_i G_ij E_ij, E = Q(W a) - W a, G = dL/dQ.
TEST(FakeQuantizeStraightThroughTest, GivesThePapersGradientOfALayer) {
  torch::manual_seed(3);
  const LayerGrid grid{true, 3, 32, false};
  const Tensor weight = torch::randn({24, 64});
  const Tensor input = torch::randn({10, 64});
  const Tensor scale = (torch::randn({64}) * 0.2).exp().requires_grad_(true);
  const Tensor upstream = torch::randn({10, 24});
  const Tensor rounded = FakeQuantize(weight, scale, {}, grid, teq::v1::GRADIENT_STRAIGHT_THROUGH);
  const Tensor loss = (torch::matmul(input / scale, rounded.t()) * upstream).sum();
  const Tensor actual = torch::autograd::grad({loss}, {scale})[0];

  const Tensor gradient = torch::matmul(upstream.t(), (input / scale).detach());
  const Tensor error = (rounded - weight * scale).detach();
  const Tensor expected = -(gradient * error).sum(0) / scale.detach();
  EXPECT_TRUE(torch::allclose(actual, expected, 1e-3, 1e-3));
}

}  // namespace
}  // namespace teq::quant
