#include "worker/engine/model/head_loss.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <string>

#include "torch/autograd.h"
#include "torch/nn/functional/loss.h"
#include "torch/utils.h"
#include "worker/engine/model/block_runner.h"

namespace teq::model {
namespace {

using torch::Tensor;

struct Case {
  const char* name;
  std::int64_t tokens;
  std::int64_t vocabulary;  // several slices, the last one ragged, where it is above 512
  std::int64_t width;
  double scale;  // of the states: logits from nearly equal to far apart
  bool bias;
  double cap;
};

Decoder HeadOnly(const Case& shape) {
  Decoder decoder;
  decoder.config.logit_softcap = shape.cap;
  decoder.config.vocabulary_size = shape.vocabulary;
  decoder.head = torch::randn({shape.vocabulary, shape.width});
  if (shape.bias) decoder.head_bias = torch::randn({shape.vocabulary});
  return decoder;
}

/// Losses by LibTorch's operators over whole rows of logits, in double precision.
class HeadLossTest : public testing::TestWithParam<Case> {
 protected:
  HeadLossTest() {
    torch::manual_seed(5);
    decoder_ = HeadOnly(GetParam());
    states_ = States().requires_grad_(true);
    exact_ = states_.detach().to(torch::kFloat64).requires_grad_(true);
  }

  static Tensor States() {
    return torch::randn({GetParam().tokens, GetParam().width}) * GetParam().scale;
  }

  Tensor ExactLogits(const Tensor& states) const {
    const Tensor bias =
        decoder_.head_bias.defined() ? decoder_.head_bias.to(torch::kFloat64) : decoder_.head_bias;
    const Tensor logits = torch::linear(states, decoder_.head.to(torch::kFloat64), bias);
    const double cap = GetParam().cap;
    return cap > 0 ? torch::tanh(logits / cap) * cap : logits;
  }

  /// A gradient is a difference of means of the head's rows, whose entries are of the order of 1:
  /// float32 cannot know it better than to its last place for them.
  void ExpectEqual(const Tensor& loss, const Tensor& exact_loss) {
    const Tensor gradient = torch::autograd::grad({loss * 3}, {states_})[0];
    const Tensor exact = torch::autograd::grad({exact_loss * 3}, {exact_})[0];
    EXPECT_NEAR(loss.item<double>(), exact_loss.item<double>(),
                2e-5 * std::max(1.0, std::abs(exact_loss.item<double>())));
    const double error = (gradient.to(torch::kFloat64) - exact).abs().max().item<double>();
    EXPECT_LT(error, 2e-5 * exact.abs().max().item<double>() +
                         3e-6 / static_cast<double>(GetParam().tokens));
  }

  Decoder decoder_;
  Tensor states_;
  Tensor exact_;
};

TEST_P(HeadLossTest, CrossEntropyIsThatOfWholeRowsOfLogits) {
  const Tensor next = torch::randint(GetParam().vocabulary, {GetParam().tokens}, torch::kInt64);
  ExpectEqual(HeadCrossEntropy(decoder_, states_, next),
              torch::nn::functional::cross_entropy(ExactLogits(exact_), next));
}

TEST_P(HeadLossTest, DivergenceIsThatOfWholeRowsOfLogits) {
  const Tensor reference = States();
  const Tensor log_p = torch::log_softmax(ExactLogits(reference.to(torch::kFloat64)), 1);
  const Tensor exact = torch::kl_div(torch::log_softmax(ExactLogits(exact_), 1), log_p,
                                     at::Reduction::Sum, /*log_target=*/true) /
                       static_cast<double>(GetParam().tokens);
  ExpectEqual(HeadDivergence(decoder_, states_, MakeHeadReference(decoder_, reference)), exact);
}

TEST_P(HeadLossTest, NextTokensTakeTheirShareOfTheDivergence) {
  constexpr double kShare = 0.3;
  const std::int64_t tokens = GetParam().tokens;
  const Tensor reference = States();
  Tensor next = torch::randint(GetParam().vocabulary, {tokens}, torch::kInt64);
  next[tokens - 1] = -1;
  const Tensor log_p = torch::log_softmax(ExactLogits(reference.to(torch::kFloat64)), 1);
  const Tensor log_q = torch::log_softmax(ExactLogits(exact_), 1);
  const Tensor divergence = (log_p.exp() * (log_p - log_q)).sum(1);
  const Tensor excess = (log_p - log_q).gather(1, next.clamp_min(0).unsqueeze(1)).squeeze(1);
  const Tensor exact =
      torch::where(next < 0, divergence, (1 - kShare) * divergence + kShare * excess).mean();
  ExpectEqual(
      HeadDivergence(decoder_, states_, MakeHeadReference(decoder_, reference, {next, kShare})),
      exact);
}

TEST_P(HeadLossTest, WithoutAGradientTheLossIsTheSame) {
  const Tensor next = torch::randint(GetParam().vocabulary, {GetParam().tokens}, torch::kInt64);
  const Tensor loss = HeadCrossEntropy(decoder_, states_, next);
  const torch::NoGradGuard no_gradient;
  EXPECT_TRUE(torch::equal(HeadCrossEntropy(decoder_, states_, next), loss));
}

INSTANTIATE_TEST_SUITE_P(Heads, HeadLossTest,
                         testing::Values(Case{"OneToken", 1, 7, 5, 1, false, 0},
                                         Case{"OneSlice", 33, 500, 24, 1, false, 0},
                                         Case{"RaggedSlices", 4100, 1111, 20, 1, false, 0},
                                         Case{"Bias", 4096, 1024, 9, 1, true, 0},
                                         Case{"NearlyEqualLogits", 70, 800, 16, 1e-4, true, 0},
                                         Case{"LogitsFarApart", 70, 800, 16, 60, false, 0},
                                         Case{"SoftCap", 5000, 700, 12, 2, true, 10}),
                         [](const auto& instance) { return std::string(instance.param.name); });

TEST(HeadLossTest, ADistributionDoesNotDivergeFromItself) {
  torch::manual_seed(6);
  const Decoder decoder = HeadOnly({"", 0, 3000, 16, 1, true, 0});
  const Tensor states = torch::randn({2, 30, 16}).requires_grad_(true);
  const Tensor loss = HeadDivergence(decoder, states, MakeHeadReference(decoder, states.detach()));
  EXPECT_EQ(loss.item<double>(), 0);
  EXPECT_EQ(torch::autograd::grad({loss}, {states})[0].abs().max().item<double>(), 0);
}

// Training reports a loss that is not finite; it must not be hidden.
TEST(HeadLossTest, NotANumberIsPassedOn) {
  const Decoder decoder = HeadOnly({"", 0, 40, 4, 1, false, 0});
  const Tensor next = torch::zeros({2}, torch::kInt64);
  Tensor states = torch::ones({2, 4});
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    states[1][2] = bad;
    EXPECT_FALSE(std::isfinite(HeadCrossEntropy(decoder, states, next).item<double>()));
  }
}

}  // namespace
}  // namespace teq::model
