#include "worker/engine/eval/perplexity.h"

#include <gmock/gmock.h>

#include <cmath>

#include "tests/unit/worker/engine/model/tiny_decoder.h"

namespace teq::eval {
namespace {

const EvaluationCallback kIgnore = [](std::int64_t, std::int64_t) {};
const std::atomic<bool> kNotCancelled{false};

TEST(PerplexityTest, AUniformModelHasThePerplexityOfItsVocabulary) {
  model::Decoder decoder = TinyDecoder(1);
  decoder.head = torch::zeros({64, 32});
  const auto evaluation = Evaluate(decoder, nullptr, RandomWindows(5, 12), kIgnore, kNotCancelled);
  ASSERT_TRUE(evaluation.ok());
  EXPECT_NEAR(evaluation->Perplexity(), 64, 1e-4);
  EXPECT_EQ(evaluation->tokens, 5 * 11);
  EXPECT_NEAR(StandardError(*evaluation), 0, 1e-4);
}

TEST(PerplexityTest, TheFirstTokenOfAWindowIsContextOnly) {
  const model::Decoder decoder = TinyDecoder(1);
  const text::Windows window = RandomWindows(1, 3);
  const torch::Tensor ids = torch::tensor(window.ids, torch::kInt64).view({1, 3});
  const torch::Tensor log_probability =
      torch::log_softmax(model::Logits(decoder, ids).value()[0], -1).to(torch::kFloat64);
  const double expected =
      -(log_probability[0][window.ids[1]] + log_probability[1][window.ids[2]]).item<double>() / 2;
  const auto evaluation = Evaluate(decoder, nullptr, window, kIgnore, kNotCancelled);
  EXPECT_NEAR(evaluation->window_losses.at(0), expected, 1e-5);
}

TEST(PerplexityTest, AModelAgreesWithItself) {
  const model::Decoder decoder = TinyDecoder(1);
  const auto evaluation = Evaluate(decoder, &decoder, RandomWindows(4, 16), kIgnore, kNotCancelled);
  EXPECT_NEAR(evaluation->kl_divergence, 0, 1e-6);
  EXPECT_EQ(evaluation->top1_agreement, 1);
}

// Mean over the tokens of sum p_ref (log p_ref - log p), and how often both have one favourite: by
// whole logits, where Evaluate has slices of them.
TEST(PerplexityTest, DivergenceIsTheReferencesRelativeEntropy) {
  model::Decoder decoder = TinyDecoder(1);
  // A head of its own, as a tied one would have each token predict itself.
  decoder.head = torch::randn({64, 32});
  model::Decoder of_another_norm = decoder;
  of_another_norm.final_norm.weight = decoder.final_norm.weight * (torch::rand({32}) + 0.5);
  model::Decoder of_another_head = decoder;
  of_another_head.head = decoder.head + torch::randn({64, 32}) * 0.3;
  const text::Windows windows = RandomWindows(8, 16);
  const torch::Tensor ids = torch::tensor(windows.ids, torch::kInt64).view({8, 16});
  const auto log_probability = [&](const model::Decoder& of) {
    const torch::Tensor logits = model::Logits(of, ids).value().to(torch::kFloat64);
    return torch::log_softmax(logits.slice(1, 0, -1), -1);
  };
  for (const model::Decoder& reference : {of_another_norm, of_another_head}) {
    const torch::Tensor q = log_probability(decoder);
    const torch::Tensor p = log_probability(reference);
    const double divergence = (p.exp() * (p - q)).sum(-1).mean().item<double>();
    const double agreement =
        (p.argmax(-1) == q.argmax(-1)).to(torch::kFloat64).mean().item<double>();
    ASSERT_GT(divergence, 0.01);
    ASSERT_GT(agreement, 0);
    ASSERT_LT(agreement, 1);
    const auto evaluation = Evaluate(decoder, &reference, windows, kIgnore, kNotCancelled);
    ASSERT_TRUE(evaluation.ok());
    EXPECT_NEAR(evaluation->kl_divergence, divergence, 1e-4);
    EXPECT_NEAR(evaluation->top1_agreement, agreement, 1e-9);
  }
}

// Losses ln 2, ln 8: mean ln 4, standard deviation ln 2 * sqrt(2), standard error ln 2.
TEST(PerplexityTest, StandardErrorIsByTheDeltaMethod) {
  const Evaluation evaluation{{std::log(2.0), std::log(8.0)}, 2};
  EXPECT_NEAR(evaluation.Perplexity(), 4, 1e-12);
  EXPECT_NEAR(StandardError(evaluation), 4 * std::log(2.0), 1e-12);
}

// The same offset on every window: a constant difference has no spread but the factor of the two
// perplexities, 4 and 8: windows differ by 8 l + const - 4 l = 4 l.
TEST(PerplexityTest, PairedStandardErrorIsOfTheWindowsDifferences) {
  const Evaluation a{{std::log(4.0), std::log(16.0)}, 2};
  const Evaluation b{{std::log(2.0), std::log(8.0)}, 2};
  EXPECT_NEAR(PairedStandardError(a, b), 4 * std::log(2.0), 1e-12);
  EXPECT_EQ(PairedStandardError(a, a), 0);
}

TEST(PerplexityTest, CanBeCancelled) {
  const std::atomic<bool> cancelled{true};
  EXPECT_EQ(
      Evaluate(TinyDecoder(1), nullptr, RandomWindows(2, 8), kIgnore, cancelled).status().code(),
      absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace teq::eval
