#include "worker/engine/quant/fake_quantize.h"

#include <gmock/gmock.h>

#include "torch/autograd.h"
#include "worker/engine/quant/grid.h"
#include "worker/engine/quant/rounding.h"

namespace teq::quant {
namespace {

using torch::Tensor;

Tensor StraightThrough(const Tensor& value, const Tensor& rounded) {
  return value + (rounded - value).detach();
}

/// The quantizer written out in differentiable operators, rounding passed straight through:
/// LibTorch's autograd then derives what the closed form states. Clamps are differentiated as they
/// stand.
Tensor Reference(const Tensor& scaled, const Adjustment& adjustment, const LayerGrid& grid) {
  const int levels = (1 << grid.bits) - 1;
  const Tensor groups = scaled.view({scaled.size(0), -1, GroupSize(grid, scaled.size(1))});
  Tensor low = std::get<0>(groups.min(-1, true)).clamp_max(0);
  Tensor high = std::get<0>(groups.max(-1, true)).clamp_min(0);
  if (adjustment.clip.low.defined()) low = low * adjustment.clip.low.unsqueeze(-1);
  if (adjustment.clip.high.defined()) high = high * adjustment.clip.high.unsqueeze(-1);
  Tensor scale;
  Tensor zero;
  if (grid.symmetric) {
    scale = torch::maximum(-low, high) / ((1 << (grid.bits - 1)) - 1);
    scale = StraightThrough(scale, scale.to(torch::kFloat16).to(torch::kFloat32));
    zero = torch::full_like(scale, 1 << (grid.bits - 1));
  } else {
    scale = (high - low) / levels;
    scale = StraightThrough(scale, scale.to(torch::kFloat16).to(torch::kFloat32));
    const Tensor exact = -low / scale;
    zero = StraightThrough(exact, torch::round(exact)).clamp(1, levels);
  }
  Tensor ratio = groups / scale;
  if (adjustment.offset.defined()) ratio = ratio + adjustment.offset.view_as(ratio);
  const Tensor code = (StraightThrough(ratio, torch::round(ratio)) + zero).clamp(0, levels);
  Tensor rounded = (code - zero) * scale;
  if (adjustment.step_factor.defined()) rounded = rounded * adjustment.step_factor.unsqueeze(-1);
  return rounded.view_as(scaled);
}

struct Case {
  int bits;
  int group_size;
  bool symmetric;
  bool non_negative;  // groups whose zero point is clamped
  bool adjusted;      // with clip factors, step factors and offsets
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
    trained_ = {input_scale_, output_scale_};
    if (!GetParam().adjusted) return;
    const std::int64_t groups = 64 / GroupSize(grid_, 64);
    adjustment_ = {{torch::rand({70, groups}) * 0.5 + 0.6, torch::rand({70, groups}) * 0.5 + 0.6},
                   torch::rand({70, 64}) - 0.5,
                   torch::rand({70, groups}) * 0.4 + 0.8};
    for (Tensor* tensor : {&adjustment_.clip.low, &adjustment_.clip.high, &adjustment_.offset,
                           &adjustment_.step_factor}) {
      tensor->requires_grad_(true);
      trained_.push_back(*tensor);
    }
  }

  LayerGrid grid_;
  Tensor weight_, input_scale_, output_scale_, upstream_;
  Adjustment adjustment_;
  std::vector<Tensor> trained_;
};

TEST_P(FakeQuantizeTest, EqualsQuantizeThenDequantizeBitByBit) {
  const torch::NoGradGuard no_gradient;
  const Tensor scaled = weight_ * input_scale_ / output_scale_.unsqueeze(1);
  const auto compare = [&](double tolerance) {
    const Tensor expected = Dequantize(QuantizeToNearest(scaled, grid_, adjustment_));
    const Tensor actual = FakeQuantize(weight_, input_scale_, output_scale_, adjustment_, grid_,
                                       teq::v1::GRADIENT_FULL);
    EXPECT_TRUE(torch::allclose(actual, expected, tolerance, 0));
  };
  compare(0x1p-11);  // a scale times its step factor is published as float16
  adjustment_.step_factor = Tensor();
  compare(0);
}

TEST_P(FakeQuantizeTest, FullGradientEqualsAutogradThroughTheWrittenOutFormula) {
  const Tensor scaled = weight_ * input_scale_ / output_scale_.unsqueeze(1);
  const auto expected = torch::autograd::grad(
      {(Reference(scaled, adjustment_, grid_) * upstream_).sum()}, trained_, {}, {}, false, true);
  const Tensor loss = (FakeQuantize(weight_, input_scale_, output_scale_, adjustment_, grid_,
                                    teq::v1::GRADIENT_FULL) *
                       upstream_)
                          .sum();
  const auto actual = torch::autograd::grad({loss}, trained_);
  for (std::size_t i = 0; i < trained_.size(); ++i) {
    EXPECT_TRUE(torch::allclose(actual[i], expected[i], 1e-3, 2e-3)) << "tensor " << i;
  }
}

TEST_P(FakeQuantizeTest, HostKernelAndDeviceOperatorsAgree) {
  const torch::NoGradGuard no_gradient;
  const RoundingOperand operand{weight_, input_scale_, output_scale_, adjustment_};
  for (const bool full : {true, false}) {
    const RoundingGradients host = GradientOnCpu(operand, upstream_, grid_, full);
    const RoundingGradients device = GradientOnAnyDevice(operand, upstream_, grid_, full);
    EXPECT_TRUE(torch::allclose(host.columns, device.columns, 1e-4, 1e-3));
    EXPECT_TRUE(torch::allclose(host.rows, device.rows, 1e-4, 1e-3));
    if (!GetParam().adjusted) continue;
    const Adjustment& a = host.adjustment;
    const Adjustment& b = device.adjustment;
    EXPECT_TRUE(torch::allclose(a.clip.low, b.clip.low, 1e-4, 1e-3));
    EXPECT_TRUE(torch::allclose(a.clip.high, b.clip.high, 1e-4, 1e-3));
    EXPECT_TRUE(torch::allclose(a.offset, b.offset, 1e-4, 1e-4));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Grids, FakeQuantizeTest,
    testing::Values(Case{2, 32, false, false, false}, Case{3, 32, false, false, false},
                    Case{4, 16, false, false, false}, Case{8, 64, false, false, false},
                    Case{3, -1, false, false, false}, Case{3, 16, false, true, false},
                    Case{2, 32, true, false, false}, Case{4, 32, true, false, false},
                    Case{3, 32, false, false, true}, Case{2, 16, false, true, true},
                    Case{4, -1, false, false, true}, Case{3, 32, true, false, true}));

// TEQ's paper: with the identity through the quantizer, the gradient of the whole layer
// y = (x/a) Q(W a)^T with respect to a is -(1/a_j) sum_i G_ij E_ij, E = Q(W a) - W a, G = dL/dQ.
TEST(FakeQuantizeStraightThroughTest, GivesThePapersGradientOfALayer) {
  torch::manual_seed(3);
  const LayerGrid grid{true, 3, 32, false};
  const Tensor weight = torch::randn({24, 64});
  const Tensor input = torch::randn({10, 64});
  const Tensor scale = (torch::randn({64}) * 0.2).exp().requires_grad_(true);
  const Tensor upstream = torch::randn({10, 24});
  const Tensor rounded =
      FakeQuantize(weight, scale, {}, {}, grid, teq::v1::GRADIENT_STRAIGHT_THROUGH);
  const Tensor loss = (torch::matmul(input / scale, rounded.t()) * upstream).sum();
  const Tensor actual = torch::autograd::grad({loss}, {scale})[0];

  const Tensor gradient = torch::matmul(upstream.t(), (input / scale).detach());
  const Tensor error = (rounded - weight * scale).detach();
  const Tensor expected = -(gradient * error).sum(0) / scale.detach();
  EXPECT_TRUE(torch::allclose(actual, expected, 1e-3, 1e-3));
}

}  // namespace
}  // namespace teq::quant
