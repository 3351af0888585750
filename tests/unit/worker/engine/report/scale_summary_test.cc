#include "worker/engine/report/scale_summary.h"

#include <gmock/gmock.h>

#include <cmath>

#include "tests/unit/worker/engine/model/tiny_decoder.h"

namespace teq::report {
namespace {

TEST(ScaleSummaryTest, SaysWhoAbsorbsWhatAndHowFarItSpreads) {
  const model::Decoder decoder = TinyDecoder(1);
  const transform::ScaleGroup group{.block = 1, .linear = kUp, .consumers = {kDown}, .width = 5};
  // Powers of two by bins of half a power from 2^-4 to 2^4.
  const torch::Tensor logs =
      torch::tensor({-5.0F, -0.9F, 0.1F, 1.1F, 6.0F}) * static_cast<float>(std::log(2.0));
  const teq::v1::ScaleGroupReport summary = SummarizeScales(group, decoder.blocks[1], logs);
  EXPECT_EQ(summary.producer(), "model.layers.1.mlp.up_proj");
  EXPECT_THAT(summary.consumers(), testing::ElementsAre("model.layers.1.mlp.down_proj"));
  EXPECT_NEAR(summary.min(), 1.0 / 32, 1e-6);
  EXPECT_NEAR(summary.median(), std::exp2(0.1), 1e-6);
  EXPECT_NEAR(summary.max(), 64, 1e-4);
  EXPECT_THAT(summary.histogram(),
              testing::ElementsAre(1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 1));
}

}  // namespace
}  // namespace teq::report
