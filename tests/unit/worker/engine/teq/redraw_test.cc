#include "worker/engine/teq/redraw.h"

#include <gtest/gtest.h>

#include "tests/unit/worker/engine/model/tiny_decoder.h"
#include "worker/engine/model/block_runner.h"
#include "worker/engine/model/windows_tensor.h"

namespace teq::transform {
namespace {

using torch::Tensor;

TEST(RedrawTest, AShareOfTheTokensIsDrawnAndTheRestStays) {
  const model::Decoder decoder = TinyDecoder(11);
  const Tensor ids = model::WindowTensor(RandomWindows(64, 32));
  std::mt19937_64 generator(1);
  const RedrawnWindows windows = Redraw(decoder, ids, 0.25, generator).value();
  EXPECT_FALSE(windows.drawn.select(1, 0).any().item<bool>());
  // 1984 tokens: the share's standard error is .0097.
  EXPECT_NEAR(windows.drawn.slice(1, 1).to(torch::kFloat32).mean().item<double>(), 0.25, 0.04);
  EXPECT_TRUE(torch::equal(windows.ids.masked_select(windows.drawn.logical_not()),
                           ids.masked_select(windows.drawn.logical_not())));
  EXPECT_GT(
      (windows.ids != ids).masked_select(windows.drawn).to(torch::kFloat32).mean().item<double>(),
      0.5);
  EXPECT_TRUE(torch::equal(Redraw(decoder, ids, 0, generator)->ids, ids));
}

// One context, many windows: tokens come as often as the decoder says.
TEST(RedrawTest, TokensComeAsOftenAsTheDecoderPredictsThem) {
  const model::Decoder decoder = TinyDecoder(11);
  constexpr std::int64_t kWindows = 20'000;
  const Tensor context = torch::tensor({{3, 5, 7}}, torch::kInt64);
  std::mt19937_64 generator(2);
  const Tensor last =
      Redraw(decoder, context.repeat({kWindows, 1}), 1, generator)->ids.select(1, 2);
  const Tensor counts = torch::bincount(last, {}, 64).to(torch::kFloat32);
  const torch::NoGradGuard no_gradient;
  const Tensor expected = model::Logits(decoder, context)->select(1, 1).softmax(-1)[0] * kWindows;
  // Chi-squared of 63 degrees of freedom: 113.5 is passed once in 10,000 times.
  EXPECT_LT(((counts - expected).square() / expected).sum().item<double>(), 113.5);
}

TEST(RedrawTest, TheGeneratorAloneDecides) {
  const model::Decoder decoder = TinyDecoder(11);
  const Tensor ids = model::WindowTensor(RandomWindows(4, 32));
  const auto redraw = [&](std::uint64_t seed) {
    std::mt19937_64 generator(seed);
    return Redraw(decoder, ids, 0.5, generator)->ids;
  };
  EXPECT_TRUE(torch::equal(redraw(1), redraw(1)));
  EXPECT_FALSE(torch::equal(redraw(1), redraw(2)));
}

}  // namespace
}  // namespace teq::transform
