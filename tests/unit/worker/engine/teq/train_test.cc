#include "worker/engine/teq/train.h"

#include <gmock/gmock.h>

#include <limits>

#include "proto/spec/error.h"
#include "tests/unit/worker/engine/model/tiny_decoder.h"

namespace teq::transform {
namespace {

using torch::Tensor;

class TrainTest : public testing::Test {
 protected:
  TrainTest() : decoder_(TinyDecoder(21)), grids_(UniformGrids(decoder_, {true, 3, 16, false})) {
    groups_ = ScaleGroups(decoder_.config, grids_);
    windows_ = RandomWindows(16, 16);
    settings_.set_steps(30);
    settings_.set_batch_size(4);
    settings_.set_learning_rate(0.02);
    settings_.set_objective(teq::v1::OBJECTIVE_KL);
    settings_.set_gradient(teq::v1::GRADIENT_FULL);
    settings_.set_held_back_fraction(0.25);
  }

  absl::StatusOr<TrainedScales> Train() {
    std::vector<Tensor> start;
    for (const ScaleGroup& group : groups_) start.push_back(torch::zeros({group.width}));
    return TrainScales(
        {decoder_, groups_, grids_, windows_, settings_, torch::kFloat16, 4}, start,
        [this](const teq::v1::MetricSample& sample) {
          samples_.push_back(sample);
          if (sample.step() == cancel_at_) cancelled_ = true;
        },
        cancelled_);
  }

  model::Decoder decoder_;
  std::vector<BlockGrids> grids_;
  std::vector<ScaleGroup> groups_;
  text::Windows windows_;
  teq::v1::Teq settings_;
  std::atomic<bool> cancelled_{false};
  int cancel_at_ = 0;
  std::vector<teq::v1::MetricSample> samples_;
};

TEST_F(TrainTest, LowersTheHeldBackDivergenceFromTheFloatModel) {
  const auto trained = Train();
  ASSERT_TRUE(trained.ok()) << trained.status();
  EXPECT_LT(trained->report.final_loss(), 0.97 * trained->report.round_to_nearest_loss());
  EXPECT_GT(trained->report.best_step(), 0);
  EXPECT_EQ(trained->report.loss_curve_size(), 30);
  EXPECT_EQ(samples_.size(), 30U);
}

TEST_F(TrainTest, EveryTrainedScaleIsCounted) {
  settings_.set_steps(1);
  // Two blocks of 32 + 16 + 32 + 48 scales.
  EXPECT_EQ(Train()->report.trainable_parameters().scales(), 256);
}

TEST_F(TrainTest, AllScalesMove) {
  const auto trained = Train();
  ASSERT_TRUE(trained.ok());
  ASSERT_GT(trained->report.best_step(), 0);
  for (const Tensor& scale : trained->log_scales) {
    EXPECT_GT((scale != 0).to(torch::kFloat32).mean().item<float>(), 0.9);
  }
}

TEST_F(TrainTest, TheSameSeedGivesTheSameScales) {
  settings_.set_steps(4);
  const auto first = Train();
  const auto second = Train();
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    EXPECT_TRUE(torch::equal(first->log_scales[i], second->log_scales[i]));
  }
}

TEST_F(TrainTest, AUselessTrainingKeepsTheBestOfStartAndPlainRounding) {
  settings_.set_steps(3);
  settings_.set_learning_rate(1e-12);
  const auto trained = Train();
  ASSERT_TRUE(trained.ok());
  EXPECT_LE(trained->report.final_loss(), trained->report.round_to_nearest_loss());
  EXPECT_LE(trained->report.final_loss(), trained->report.initial_loss());
}

TEST_F(TrainTest, NoStepsAtAllIsAllowed) {
  settings_.set_steps(0);
  const auto trained = Train();
  ASSERT_TRUE(trained.ok());
  EXPECT_LE(trained->report.best_step(), 0);
}

TEST_F(TrainTest, AnInfiniteWeightFailsAndSaysAtWhichStep) {
  decoder_.blocks[1].linears[0].weight[0][0] = std::numeric_limits<float>::quiet_NaN();
  const auto trained = Train();
  ASSERT_FALSE(trained.ok());
  EXPECT_EQ(ErrorReason(trained.status()), "LOSS_NOT_FINITE");
  EXPECT_THAT(std::string(trained.status().message()), testing::HasSubstr("at step 0"));
}

TEST_F(TrainTest, StopsBetweenTwoStepsWhenCancelled) {
  cancel_at_ = 3;
  const auto trained = Train();
  EXPECT_EQ(trained.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(samples_.size(), 3U);
}

TEST_F(TrainTest, LanguageModelLossStartsAtTheCrossEntropyOfTheText) {
  settings_.set_objective(teq::v1::OBJECTIVE_LM_LOSS);
  settings_.set_steps(1);
  const auto trained = Train();
  ASSERT_TRUE(trained.ok());
  // Random ids under a random model: no better than the uniform distribution over 64.
  EXPECT_GT(samples_[0].loss(), std::log(64.0));
}

// 40 steps: 2 of warm-up to the peak, then 38 down by 1/39 of the peak each.
TEST(LearningRateTest, RisesThenFallsLinearly) {
  EXPECT_DOUBLE_EQ(LearningRate(0.4, 1, 40), 0.2);
  EXPECT_DOUBLE_EQ(LearningRate(0.4, 2, 40), 0.4);
  EXPECT_DOUBLE_EQ(LearningRate(0.39, 3, 40), 0.38);
  EXPECT_NEAR(LearningRate(0.39, 40, 40), 0.01, 1e-12);
}

}  // namespace
}  // namespace teq::transform
