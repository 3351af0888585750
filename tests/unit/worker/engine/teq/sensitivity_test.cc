#include "worker/engine/teq/sensitivity.h"

#include <gmock/gmock.h>

#include "tests/unit/worker/engine/model/tiny_decoder.h"
#include "worker/engine/quant/grid.h"

namespace teq::transform {
namespace {

using torch::Tensor;

const SetCallback kIgnore = [](std::int64_t, std::int64_t) {};
const std::atomic<bool> kNotCancelled{false};

class SensitivityTest : public testing::Test {
 protected:
  SensitivityTest()
      : decoder_(TinyDecoder(5, /*biases=*/true)),
        grids_(UniformGrids(decoder_, {true, 4, 16, false})),
        open_(2) {}

  absl::StatusOr<std::vector<BlockSensitivities>> Measure(const text::Windows& windows) {
    return MeasureSensitivities(decoder_, grids_, open_, windows, kIgnore, kNotCancelled);
  }

  /// The same by the definition: sum p log(p / q) of two whole models' softmaxes.
  double Divergence(std::size_t block, const LayerSet& layers, int bits, const Tensor& ids) {
    model::Decoder changed = decoder_;
    for (const std::size_t layer : layers) {
      Tensor& weight = changed.blocks[block].linears[layer].weight;
      LayerGrid grid = grids_[block][layer];
      grid.bits = bits;
      weight = quant::Dequantize(quant::QuantizeToNearest(weight, grid));
    }
    const Tensor p = torch::softmax(model::Logits(decoder_, ids).value().to(torch::kFloat64), -1);
    const Tensor q = torch::softmax(model::Logits(changed, ids).value().to(torch::kFloat64), -1);
    return (p * (p / q).log()).sum(-1).mean().item<double>();
  }

  model::Decoder decoder_;
  std::vector<BlockGrids> grids_;
  std::vector<std::vector<LayerSet>> open_;
};

Tensor Ids(const text::Windows& windows, std::int64_t count) {
  return torch::tensor(windows.ids, torch::kInt64)
      .view({windows.count, windows.length})
      .slice(0, 0, count);
}

TEST_F(SensitivityTest, IsTheDivergenceOfTheModelWithTheseLayersAloneRounded) {
  const std::vector<LayerSet> sets = {{kQuery, kKey, kValue}, {kDown}, {kOutput}};
  open_ = {sets, sets};
  grids_[1][kDown] = {true, 4, -1, true};
  const text::Windows windows = RandomWindows(8, 40);
  const auto found = Measure(windows);
  ASSERT_TRUE(found.ok()) << found.status();
  for (std::size_t block = 0; block < 2; ++block) {
    for (std::size_t set = 0; set < sets.size(); ++set) {
      const std::vector<quant::Candidate>& candidates = (*found)[block][set];
      ASSERT_EQ(candidates.size(), 4);
      int width = 0;
      for (const int bits : {2, 3, 4, 8}) {
        const quant::Candidate& candidate = candidates[static_cast<std::size_t>(width++)];
        EXPECT_EQ(candidate.bits, bits);
        const double expected = Divergence(block, sets[set], bits, Ids(windows, 8));
        EXPECT_GT(expected, 0);
        EXPECT_NEAR(candidate.error, expected, 1e-3 * expected)
            << "block " << block << " set " << set << " bits " << bits;
      }
      EXPECT_GT(candidates.front().error, 100 * candidates.back().error);
    }
  }
}

TEST_F(SensitivityTest, ReadsTheFirstWindowsOnly) {
  open_[1] = {{kDown}};
  const text::Windows many = RandomWindows(11, 24);
  EXPECT_NEAR((*Measure(many))[1][0][0].error, Divergence(1, {kDown}, 2, Ids(many, 8)), 1e-6);
  const text::Windows two_long = RandomWindows(3, 700);
  EXPECT_NEAR((*Measure(two_long))[1][0][0].error, Divergence(1, {kDown}, 2, Ids(two_long, 2)),
              1e-6);
  const text::Windows one_long = RandomWindows(2, 2100);
  EXPECT_NEAR((*Measure(one_long))[1][0][0].error, Divergence(1, {kDown}, 2, Ids(one_long, 1)),
              1e-6);
}

TEST_F(SensitivityTest, MeasuresOpenSetsOnlyAndTellsHowManyAreDone) {
  open_ = {{{kDown}}, {{kQuery}, {kDown}}};
  std::vector<std::pair<std::int64_t, std::int64_t>> calls;
  const auto found = MeasureSensitivities(
      decoder_, grids_, open_, RandomWindows(2, 12),
      [&](std::int64_t done, std::int64_t total) { calls.emplace_back(done, total); },
      kNotCancelled);
  ASSERT_TRUE(found.ok());
  EXPECT_THAT(calls, testing::ElementsAre(std::pair(1, 3), std::pair(2, 3), std::pair(3, 3)));
  EXPECT_EQ((*found)[0].size(), 1);
  EXPECT_EQ((*found)[1].size(), 2);
}

// Every group holds -1, 0, 1 and 2: at 2 bits the scale is 1 and nothing is rounded.
TEST_F(SensitivityTest, AWidthThatHoldsTheWeightsExactlyCostsNothing) {
  open_[0] = {{kDown}};
  decoder_.blocks[0].linears[kDown].weight =
      (torch::arange(32 * 48) % 4 - 1).to(torch::kFloat32).view({32, 48});
  const auto found = Measure(RandomWindows(3, 20));
  EXPECT_EQ((*found)[0][0][0].error, 0);
  EXPECT_GT((*found)[0][0][1].error, 0);
}

TEST_F(SensitivityTest, AModelThatIsNotFiniteIsToldByTheLayer) {
  open_[0] = {{kUp, kDown}};
  decoder_.blocks[0].linears[kDown].weight = torch::full({32, 48}, 1e9F);
  const auto found = Measure(RandomWindows(2, 12));
  EXPECT_EQ(found.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(found.status().message(),
              testing::HasSubstr("layer model.layers.0.mlp.down_proj: with it at 2 bits"));
}

TEST_F(SensitivityTest, CanBeCancelled) {
  open_ = {{{kDown}}, {{kDown}}};
  std::atomic<bool> cancelled{false};
  std::int64_t layers = 0;
  const auto found = MeasureSensitivities(
      decoder_, grids_, open_, RandomWindows(2, 12),
      [&](std::int64_t done, std::int64_t) {
        layers = done;
        cancelled = true;
      },
      cancelled);
  EXPECT_EQ(found.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(layers, 1);
}

}  // namespace
}  // namespace teq::transform
