#include "worker/engine/model/linear_product.h"

#include <gmock/gmock.h>

#include <vector>

#include "torch/autograd.h"
#include "torch/utils.h"

namespace teq::model {
namespace {

using torch::Tensor;

class LinearProductTest : public testing::Test {
 protected:
  LinearProductTest() {
    torch::manual_seed(10);
    input_ = torch::randn({3, 17, 40}).requires_grad_(true);
    weight_ = torch::randn({29, 40}).requires_grad_(true);
    bias_ = torch::randn({29}).requires_grad_(true);
    upstream_ = torch::randn({3, 17, 29});
  }

  /// As bfloat16 holds it, in float64.
  static Tensor Rounded(const Tensor& tensor) {
    return tensor.detach().to(torch::kBFloat16).to(torch::kFloat64);
  }

  /// A result of eight bits is within 2^-8 of itself; its sum in float32 is far closer.
  static void ExpectRoundedOnce(const Tensor& actual, const Tensor& exact) {
    ASSERT_EQ(actual.sizes(), exact.sizes());
    ASSERT_EQ(actual.scalar_type(), torch::kFloat32);
    const Tensor error = (actual.to(torch::kFloat64) - exact).abs();
    EXPECT_TRUE((error <= exact.abs() / 256 + 1e-4).all().item<bool>())
        << error.max().item<double>();
  }

  Tensor input_, weight_, bias_, upstream_;
};

TEST_F(LinearProductTest, InBfloat16FactorsAndResultsAreRounded) {
  const Tensor output = LinearProduct(input_, weight_, {}, torch::kBFloat16);
  ExpectRoundedOnce(output, torch::matmul(Rounded(input_), Rounded(weight_).t()));
  const auto gradients = torch::autograd::grad({output}, {input_, weight_}, {upstream_});
  ExpectRoundedOnce(gradients[0], torch::matmul(Rounded(upstream_), Rounded(weight_)));
  ExpectRoundedOnce(gradients[1], torch::matmul(Rounded(upstream_).flatten(0, 1).t(),
                                                Rounded(input_).flatten(0, 1)));
}

TEST_F(LinearProductTest, TheBiasIsAddedInFloat32) {
  const Tensor output = LinearProduct(input_, weight_, bias_, torch::kBFloat16);
  EXPECT_TRUE(torch::equal(output, LinearProduct(input_, weight_, {}, torch::kBFloat16) + bias_));
  const Tensor gradient = torch::autograd::grad({output}, {bias_}, {upstream_})[0];
  EXPECT_TRUE(torch::allclose(gradient, upstream_.flatten(0, 1).sum(0)));
}

TEST_F(LinearProductTest, TheInputsGradientComesThroughAFrozenWeightToo) {
  const Tensor frozen = weight_.detach();
  const Tensor output = LinearProduct(input_, frozen, {}, torch::kBFloat16);
  ExpectRoundedOnce(torch::autograd::grad({output}, {input_}, {upstream_})[0],
                    torch::matmul(Rounded(upstream_), Rounded(frozen)));
}

TEST_F(LinearProductTest, InFloat32ItIsLibTorchsOwn) {
  EXPECT_TRUE(torch::equal(LinearProduct(input_, weight_, bias_, torch::kFloat32),
                           torch::linear(input_, weight_, bias_)));
}

}  // namespace
}  // namespace teq::model
