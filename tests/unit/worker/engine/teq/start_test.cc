#include "worker/engine/teq/start.h"

#include <gmock/gmock.h>

#include "tests/unit/worker/engine/model/tiny_decoder.h"
#include "worker/engine/quant/grid.h"

namespace teq::transform {
namespace {

using model_info::NormPlace;
using torch::Tensor;

class StartTest : public testing::Test {
 protected:
  StartTest() : decoder_(TinyDecoder(9)), grids_(UniformGrids(decoder_, {true, 3, 16, false})) {
    groups_ = ScaleGroups(decoder_.config, grids_);
    windows_ = RandomWindows(6, 24);
  }

  /// The starts of block 0's groups, and its statistics.
  std::vector<Tensor> Starts(teq::v1::Initialization init) {
    std::vector<Tensor> starts;
    const absl::Status status = VisitBlockStatistics(
        decoder_, windows_, 2, scratch_,
        [&](const model::Block& block, const BlockStatistics& statistics) {
          if (block.number != 0) return absl::OkStatus();
          statistics_ = statistics;
          for (const ScaleGroup& group : groups_) {
            if (group.block != 0) continue;
            starts.push_back(StartingScales(init, group, block, grids_[0], statistics));
          }
          return absl::OkStatus();
        });
    EXPECT_TRUE(status.ok());
    return starts;
  }

  double RoundedError(const ScaleGroup& group, const Tensor& log_scale) {
    const Tensor scale = ConsumerScale(group, log_scale.exp());
    double error = 0;
    for (const std::size_t consumer : group.consumers) {
      const model::Linear& linear = decoder_.blocks[0].linears[consumer];
      const Tensor rounded =
          quant::Dequantize(quant::QuantizeToNearest(linear.weight * scale, grids_[0][consumer])) /
          scale;
      error += OutputError(statistics_[static_cast<std::size_t>(linear.layer.input)],
                           rounded - linear.weight);
    }
    return error;
  }

  model::Decoder decoder_;
  std::vector<BlockGrids> grids_;
  std::vector<ScaleGroup> groups_;
  text::Windows windows_;
  model::Scratch scratch_{testing::TempDir(), 0};
  BlockStatistics statistics_;
};

TEST_F(StartTest, OnesAreZeroLogarithms) {
  for (const Tensor& start : Starts(teq::v1::INITIALIZATION_ONES)) {
    EXPECT_EQ(start.abs().max().item<float>(), 0);
  }
}

TEST_F(StartTest, WeightNormIsTheReciprocalMeanColumnWithGeometricMeanOne) {
  const Tensor start = Starts(teq::v1::INITIALIZATION_WEIGHT_NORM)[0];
  const model::Block& block = decoder_.blocks[0];
  const Tensor columns = torch::cat({block.linears[kQuery].weight, block.linears[kKey].weight,
                                     block.linears[kValue].weight})
                             .abs()
                             .mean(0);
  const Tensor expected = -columns.log() + columns.log().mean();
  EXPECT_TRUE(torch::allclose(start, expected, 1e-4, 1e-5));
}

TEST_F(StartTest, AwqIsNeverWorseThanWeightNormAndFarBetterThanOnesWithAnOutlier) {
  // An outlier channel, which is what AWQ is for.
  decoder_.blocks[0].at(NormPlace::kMlp).weight[5] *= 40;
  const std::vector<Tensor> awq = Starts(teq::v1::INITIALIZATION_AWQ);
  const std::vector<Tensor> norm = Starts(teq::v1::INITIALIZATION_WEIGHT_NORM);
  for (std::size_t i = 0; i < awq.size(); ++i) {
    EXPECT_LE(RoundedError(groups_[i], awq[i]), RoundedError(groups_[i], norm[i]) * 1.0001) << i;
  }
  EXPECT_LT(RoundedError(groups_[2], awq[2]),
            0.8 * RoundedError(groups_[2], torch::zeros_like(awq[2])));
}

// Channels rescaled in a pair that leaves the function unchanged: the start undoes it.
TEST_F(StartTest, AwqDoesNotDependOnHowChannelsAreScaled) {
  const std::vector<Tensor> before = Starts(teq::v1::INITIALIZATION_AWQ);
  const Tensor factor = (torch::rand({32}) * 4.6 - 2.3).exp();
  model::Block& block = decoder_.blocks[0];
  block.at(NormPlace::kMlp).weight *= factor;
  for (const TinyLayer layer : {kGate, kUp}) block.linears[layer].weight /= factor;
  const std::vector<Tensor> after = Starts(teq::v1::INITIALIZATION_AWQ);
  const Tensor expected = before[2] + factor.log() - factor.log().mean();
  EXPECT_TRUE(torch::allclose(after[2] - after[2].mean(), expected - expected.mean(), 1e-3, 1e-3));
}

TEST_F(StartTest, OutputErrorIsTheMeanSquareOfTheOutputsDifference) {
  static_cast<void>(Starts(teq::v1::INITIALIZATION_ONES));
  const Tensor input = torch::randn({30, 32});
  const Tensor error = torch::randn({8, 32});
  const InputStatistics statistics{torch::matmul(input.t(), input), input.abs().mean(0), 30};
  const double expected = torch::matmul(input, error.t()).square().mean().item<double>();
  EXPECT_NEAR(OutputError(statistics, error), expected, 1e-3 * expected);
}

TEST_F(StartTest, StatisticsCountEveryTokenOnce) {
  static_cast<void>(Starts(teq::v1::INITIALIZATION_ONES));
  for (const InputStatistics& statistics : statistics_) EXPECT_EQ(statistics.tokens, 6 * 24);
}

}  // namespace
}  // namespace teq::transform
