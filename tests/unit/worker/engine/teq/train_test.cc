#include "worker/engine/teq/train.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <optional>
#include <random>

#include "proto/spec/error.h"
#include "tests/unit/worker/engine/model/tiny_decoder.h"
#include "worker/engine/model/windows_tensor.h"
#include "worker/engine/quant/grid.h"
#include "worker/engine/teq/fold.h"
#include "worker/engine/teq/redraw.h"
#include "worker/engine/teq/training_parts.h"

namespace teq::transform {
namespace {

using torch::Tensor;

class TrainTest : public testing::Test {
 protected:
  TrainTest() : decoder_(TinyDecoder(21)), grids_(UniformGrids(decoder_, {true, 3, 16, false})) {
    groups_ = ScaleGroups(decoder_.config, grids_);
    windows_ = RandomWindows(64, 32);
    schedule_.set_steps(30);
    schedule_.set_batch_size(8);
    schedule_.set_objective(teq::v1::OBJECTIVE_KL);
    schedule_.set_gradient(teq::v1::GRADIENT_FULL);
    schedule_.set_held_back_fraction(0.25);
    schedule_.set_block_inputs(teq::v1::BLOCK_INPUTS_QUANTIZED);
    rates_.scales = 0.01;
  }

  TrainingTask Task() {
    return {.decoder = decoder_,
            .groups = groups_,
            .grids = grids_,
            .windows = windows_,
            .schedule = schedule_,
            .scratch = *scratch_,
            .working = *scratch_,
            .rates = rates_,
            .stored = torch::kFloat16,
            .seed = 4,
            .products = products_,
            .next_token_share = next_token_share_,
            .redrawn_share = redrawn_share_,
            .rounds = rounds_,
            .rounding_margin = rounding_margin_,
            .stores_graph = stores_graph_};
  }

  absl::Status Train() {
    parameters_ = PlainParameters(groups_, grids_, torch::kFloat32);
    scratch_.emplace(testing::TempDir(), scratch_budget_);
    report_.Clear();
    const auto on_step = [this](const teq::v1::MetricSample& sample) {
      samples_.push_back(sample);
      if (sample.step() == cancel_at_) cancelled_ = true;
    };
    if (schedule_.objective() == teq::v1::OBJECTIVE_BLOCK_MSE) {
      return TrainBlocks(Task(), parameters_, report_, on_step, cancelled_);
    }
    return TrainEndToEnd(Task(), schedule_.steps(), schedule_.objective(), parameters_, report_,
                         on_step, cancelled_);
  }

  /// So that it does not matter which of them a step takes.
  void MakeWindowsEqual() {
    const auto length = static_cast<std::size_t>(windows_.length);
    for (std::size_t i = length; i < windows_.ids.size(); ++i) {
      windows_.ids[i] = windows_.ids[i % length];
    }
  }
  [[nodiscard]] Tensor FirstWindows(std::int64_t count) const {
    return model::WindowTensor(windows_).narrow(0, 0, count);
  }
  absl::Status TrainWithoutMoving() {
    schedule_.set_steps(1);
    rates_.scales = 1e-12;
    return Train();
  }
  /// By hand: the divergence over all tokens, with the next token's share where one follows that
  /// was not drawn.
  double ExpectedLoss(const Tensor& ids, const Tensor& drawn) {
    const torch::NoGradGuard no_gradient;
    const TrainingTask task = Task();
    model::Decoder student = decoder_;
    for (std::size_t i = 0; i < student.blocks.size(); ++i) {
      student.blocks[i] = StudentBlock(task, parameters_, decoder_.blocks[i], torch::kFloat32);
    }
    const Tensor log_p = torch::log_softmax(model::Logits(decoder_, ids).value(), -1);
    const Tensor log_q = torch::log_softmax(model::Logits(student, ids).value(), -1);
    const Tensor difference = log_p - log_q;
    const Tensor divergence = (log_p.exp() * difference).sum(-1);
    double sum = 0;
    for (std::int64_t window = 0; window < ids.size(0); ++window) {
      for (std::int64_t i = 0; i < ids.size(1); ++i) {
        const auto expected = divergence[window][i].item<double>();
        const bool follows = i + 1 < ids.size(1) && !drawn[window][i + 1].item<bool>();
        const double share = follows ? next_token_share_ : 0;
        const auto next = follows ? ids[window][i + 1].item<std::int64_t>() : 0;
        sum += (1 - share) * expected + share * difference[window][i][next].item<double>();
      }
    }
    return sum / static_cast<double>(ids.numel());
  }

  model::Decoder decoder_;
  std::vector<BlockGrids> grids_;
  std::vector<ScaleGroup> groups_;
  text::Windows windows_;
  teq::v1::Schedule schedule_;
  LearningRates rates_;
  torch::ScalarType products_ = torch::kFloat32;
  double next_token_share_ = 0;
  double redrawn_share_ = 0;
  int rounds_ = 1;
  double rounding_margin_ = 0;
  bool stores_graph_ = true;
  std::int64_t scratch_budget_ = 1 << 30;
  std::optional<model::Scratch> scratch_;
  Parameters parameters_;
  teq::v1::Training report_;
  std::atomic<bool> cancelled_{false};
  int cancel_at_ = 0;
  std::vector<teq::v1::MetricSample> samples_;
};

TEST_F(TrainTest, LowersTheHeldBackDivergenceFromTheFloatModel) {
  ASSERT_TRUE(Train().ok());
  EXPECT_LT(report_.final_loss(), 0.97 * report_.round_to_nearest_loss());
  EXPECT_GT(report_.best_step(), 0);
  EXPECT_EQ(report_.loss_curve_size(), 30);
  EXPECT_EQ(samples_.size(), 30U);
}

/// The same but for float32's rounding in another order of sums.
void ExpectSameCourse(const teq::v1::Training& a, const teq::v1::Training& b) {
  ASSERT_EQ(a.loss_curve_size(), b.loss_curve_size());
  for (int i = 0; i < a.loss_curve_size(); ++i) {
    EXPECT_NEAR(a.loss_curve(i).loss(), b.loss_curve(i).loss(), 1e-3 * a.loss_curve(i).loss()) << i;
  }
  EXPECT_NEAR(a.final_loss(), b.final_loss(), 1e-3 * a.final_loss());
}

TEST_F(TrainTest, WithoutAStoredGraphTheCourseIsTheSame) {
  rates_.clipping = 0.001;
  rates_.step_sizes = 0.002;
  rates_.rounding = 0.005;
  for (const auto objective : {teq::v1::OBJECTIVE_KL, teq::v1::OBJECTIVE_LM_LOSS}) {
    schedule_.set_objective(objective);
    stores_graph_ = true;
    ASSERT_TRUE(Train().ok());
    const teq::v1::Training stored = report_;
    stores_graph_ = false;
    ASSERT_TRUE(Train().ok());
    ExpectSameCourse(stored, report_);
  }
}

TEST_F(TrainTest, InFilesTheCourseIsTheSame) {
  rates_.clipping = 0.001;
  rates_.rounding = 0.005;
  for (const auto objective : {teq::v1::OBJECTIVE_BLOCK_MSE, teq::v1::OBJECTIVE_KL}) {
    schedule_.set_objective(objective);
    ASSERT_TRUE(Train().ok());
    const teq::v1::Training in_memory = report_;
    scratch_budget_ = 0;
    stores_graph_ = false;
    ASSERT_TRUE(Train().ok());
    ExpectSameCourse(in_memory, report_);
  }
}

TEST_F(TrainTest, BlocksAreReadWhenTheirTurnComes) {
  schedule_.set_objective(teq::v1::OBJECTIVE_BLOCK_MSE);
  ASSERT_TRUE(Train().ok());
  const teq::v1::Training held = report_;
  const std::vector<model::Block> blocks = std::move(decoder_.blocks);
  decoder_.blocks.clear();
  std::vector<std::size_t> read;
  decoder_.read_block = [&](std::size_t number) -> absl::StatusOr<model::Block> {
    read.push_back(number);
    return blocks[number];
  };
  ASSERT_TRUE(Train().ok());
  EXPECT_EQ(read, (std::vector<std::size_t>{0, 1}));
  ExpectSameCourse(held, report_);
  decoder_.read_block = [](std::size_t) -> absl::StatusOr<model::Block> {
    return absl::UnavailableError("the model's store does not answer");
  };
  EXPECT_EQ(Train().code(), absl::StatusCode::kUnavailable);
}

TEST_F(TrainTest, EveryTrainedValueIsCounted) {
  schedule_.set_steps(1);
  rates_.clipping = 0.001;
  rates_.rounding = 0.005;
  ASSERT_TRUE(Train().ok());
  // Two blocks of 32 + 16 + 32 + 48 scales.
  EXPECT_EQ(report_.trainable_parameters().scales(), 256);
  // Weights of a block: q 32x32, k and v 16x32, o 32x32, gate and up 48x32, down 32x48.
  EXPECT_EQ(report_.trainable_parameters().rounding(), 2 * 7680);
  EXPECT_EQ(report_.trainable_parameters().clipping(), 2 * 2 * 7680 / 16);
}

TEST_F(TrainTest, WithNothingToTrainNoStepIsMade) {
  groups_.clear();
  for (const auto objective : {teq::v1::OBJECTIVE_KL, teq::v1::OBJECTIVE_BLOCK_MSE}) {
    schedule_.set_objective(objective);
    for (const bool stores_graph : {true, false}) {
      stores_graph_ = stores_graph;
      EXPECT_TRUE(Train().ok());
      EXPECT_TRUE(samples_.empty());
      EXPECT_EQ(report_.loss_curve_size(), 0);
    }
  }
}

TEST_F(TrainTest, AllScalesMove) {
  ASSERT_TRUE(Train().ok());
  ASSERT_GT(report_.best_step(), 0);
  for (const Tensor& scale : parameters_.log_scales) {
    EXPECT_GT((scale != 0).to(torch::kFloat32).mean().item<float>(), 0.9);
  }
}

TEST_F(TrainTest, StepSizesAloneLowerTheDivergenceAndChangeNoCode) {
  rates_ = {.step_sizes = 0.005};
  ASSERT_TRUE(Train().ok());
  EXPECT_LT(report_.final_loss(), 0.95 * report_.round_to_nearest_loss());
  std::int64_t count = 0;
  for (std::size_t number = 0; number < decoder_.size(); ++number) {
    const model::Block& block = decoder_.blocks[number];
    for (std::size_t i = 0; i < block.linears.size(); ++i) {
      const quant::Adjustment& adjustment = parameters_.adjustments[number][i];
      count += adjustment.step_factor.numel();
      const Tensor& weight = block.linears[i].weight;
      const quant::Quantized plain = quant::QuantizeToNearest(weight, grids_[number][i]);
      const quant::Quantized trained =
          quant::QuantizeToNearest(weight, grids_[number][i], adjustment);
      EXPECT_TRUE(torch::equal(trained.codes, plain.codes));
      EXPECT_FALSE(torch::equal(trained.scales, plain.scales));
    }
  }
  EXPECT_EQ(report_.trainable_parameters().step_sizes(), count);
}

TEST_F(TrainTest, LearnedRoundingAndClippingGoFurtherThanScales) {
  schedule_.set_steps(60);
  ASSERT_TRUE(Train().ok());
  const double scales_alone = report_.final_loss();
  rates_.clipping = 0.005;
  rates_.rounding = 0.02;
  ASSERT_TRUE(Train().ok());
  EXPECT_LT(report_.final_loss(), 0.9 * scales_alone);
  for (const BlockAdjustments& block : parameters_.adjustments) {
    for (const quant::Adjustment& layer : block) {
      EXPECT_LE(layer.offset.abs().max().item<float>(), 0.5);
      EXPECT_GE(layer.clip.low.min().item<float>(), 0.1);
      EXPECT_FALSE(layer.offset.requires_grad());
    }
  }
}

TEST_F(TrainTest, OffsetsCanBeMovedByTheSignOfTheirGradients) {
  rates_ = {.rounding = 0.02, .rounding_optimizer = teq::v1::OPTIMIZER_SIGN_SGD};
  ASSERT_TRUE(Train().ok());
  EXPECT_LT(report_.final_loss(), 0.95 * report_.round_to_nearest_loss());
  // What has no learning rate stays.
  for (const Tensor& scale : parameters_.log_scales) EXPECT_TRUE((scale == 0).all().item<bool>());
}

// Held-back losses are exact, so that they show what the trained values are worth. Noise of the
// gradients costs a little of it, most with KL, whose gradient is small where the models are close.
TEST_F(TrainTest, ProductsInBfloat16TrainNearlyAsWell) {
  rates_.rounding = 0.02;
  for (const auto objective :
       {teq::v1::OBJECTIVE_KL, teq::v1::OBJECTIVE_LM_LOSS, teq::v1::OBJECTIVE_BLOCK_MSE}) {
    schedule_.set_objective(objective);
    products_ = torch::kFloat32;
    ASSERT_TRUE(Train().ok());
    const teq::v1::Training exact = report_;
    products_ = torch::kBFloat16;
    ASSERT_TRUE(Train().ok());
    EXPECT_NE(report_.SerializeAsString(), exact.SerializeAsString());
    if (objective == teq::v1::OBJECTIVE_BLOCK_MSE) {
      EXPECT_EQ(report_.blocks(0).initial_loss(), exact.blocks(0).initial_loss());
      EXPECT_NEAR(report_.blocks(0).final_loss(), exact.blocks(0).final_loss(),
                  0.03 * exact.blocks(0).final_loss());
    } else {
      EXPECT_EQ(report_.initial_loss(), exact.initial_loss());
      EXPECT_NEAR(report_.final_loss(), exact.final_loss(), 0.15 * exact.final_loss());
      EXPECT_LT(report_.final_loss(), report_.round_to_nearest_loss());
    }
  }
}

TEST_F(TrainTest, BlocksAreTrainedOneAfterAnother) {
  schedule_.set_objective(teq::v1::OBJECTIVE_BLOCK_MSE);
  rates_.rounding = 0.02;
  for (const auto inputs : {teq::v1::BLOCK_INPUTS_QUANTIZED, teq::v1::BLOCK_INPUTS_FLOAT}) {
    schedule_.set_block_inputs(inputs);
    samples_.clear();
    ASSERT_TRUE(Train().ok());
    ASSERT_EQ(report_.blocks_size(), 2);
    for (const teq::v1::BlockTraining& block : report_.blocks()) {
      EXPECT_LT(block.final_loss(), 0.9 * block.round_to_nearest_loss());
      EXPECT_EQ(block.loss_curve_size(), 30);
    }
    EXPECT_EQ(samples_.size(), 60U);
    EXPECT_EQ(samples_.back().step(), 60);
    EXPECT_EQ(samples_.back().total_steps(), 60);
  }
}

// The first block reads the embedding whatever the others do; what later ones read differs.
TEST_F(TrainTest, BlockInputsChangeWhatLaterBlocksSee) {
  schedule_.set_objective(teq::v1::OBJECTIVE_BLOCK_MSE);
  ASSERT_TRUE(Train().ok());
  const teq::v1::Training quantized = report_;
  schedule_.set_block_inputs(teq::v1::BLOCK_INPUTS_FLOAT);
  ASSERT_TRUE(Train().ok());
  EXPECT_EQ(quantized.blocks(0).final_loss(), report_.blocks(0).final_loss());
  EXPECT_GT(quantized.blocks(1).final_loss(), 1.2 * report_.blocks(1).final_loss());
}

TEST_F(TrainTest, TheSameSeedGivesTheSameScales) {
  schedule_.set_steps(4);
  ASSERT_TRUE(Train().ok());
  const Parameters first = parameters_;
  ASSERT_TRUE(Train().ok());
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    EXPECT_TRUE(torch::equal(first.log_scales[i], parameters_.log_scales[i]));
  }
}

TEST_F(TrainTest, AUselessTrainingKeepsTheBestOfStartAndPlainRounding) {
  schedule_.set_steps(3);
  rates_.scales = 1e-12;
  ASSERT_TRUE(Train().ok());
  EXPECT_LE(report_.final_loss(), report_.round_to_nearest_loss());
  EXPECT_LE(report_.final_loss(), report_.initial_loss());
}

TEST_F(TrainTest, NoStepsAtAllIsAllowed) {
  schedule_.set_steps(0);
  ASSERT_TRUE(Train().ok());
  EXPECT_LE(report_.best_step(), 0);
}

TEST_F(TrainTest, AnInfiniteWeightFailsAndSaysAtWhichStep) {
  decoder_.blocks[1].linears[0].weight[0][0] = std::numeric_limits<float>::quiet_NaN();
  const absl::Status status = Train();
  EXPECT_EQ(ErrorReason(status), "LOSS_NOT_FINITE");
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("at step 0"));
}

// Alerts go by it.
TEST_F(TrainTest, ALossThatDivergesIsToldBeforeItFails) {
  rates_.scales = 1e4;
  EXPECT_EQ(ErrorReason(Train()), "LOSS_NOT_FINITE");
  ASSERT_FALSE(samples_.empty());
  EXPECT_FALSE(std::isfinite(samples_.back().loss()));
  EXPECT_GT(samples_.back().step(), 0);
}

TEST_F(TrainTest, StopsBetweenTwoStepsWhenCancelled) {
  cancel_at_ = 3;
  EXPECT_EQ(Train().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(samples_.size(), 3U);
}

TEST_F(TrainTest, LanguageModelLossStartsAtTheCrossEntropyOfTheText) {
  schedule_.set_objective(teq::v1::OBJECTIVE_LM_LOSS);
  schedule_.set_steps(1);
  ASSERT_TRUE(Train().ok());
  // Random ids under a random model: no better than the uniform distribution over 64.
  EXPECT_GT(samples_[0].loss(), std::log(64.0));
}

TEST_F(TrainTest, TheNextTokenHasItsShareOfTheTeachersDistribution) {
  next_token_share_ = 0.25;
  MakeWindowsEqual();
  ASSERT_TRUE(TrainWithoutMoving().ok());
  const Tensor ids = FirstWindows(1);
  EXPECT_NEAR(samples_[0].loss(), ExpectedLoss(ids, torch::zeros_like(ids, torch::kBool)), 1e-5);
}

// The redrawn text is both models', and what was drawn is no text to come nearer to.
TEST_F(TrainTest, AStepIsOnWhatWasRedrawn) {
  next_token_share_ = 0.25;
  redrawn_share_ = 0.5;
  MakeWindowsEqual();
  ASSERT_TRUE(TrainWithoutMoving().ok());
  std::mt19937_64 generator(4);  // the task's seed
  const RedrawnWindows windows =
      Redraw(decoder_, FirstWindows(8), redrawn_share_, generator).value();
  EXPECT_NEAR(samples_[0].loss(), ExpectedLoss(windows.ids, windows.drawn), 1e-5);
  const Tensor none = torch::zeros_like(windows.drawn);
  EXPECT_GT(std::abs(samples_[0].loss() - ExpectedLoss(FirstWindows(8), none)), 1e-3);
  EXPECT_GT(std::abs(samples_[0].loss() - ExpectedLoss(windows.ids, none)), 1e-3);
}

TEST_F(TrainTest, AQuarterIsHalfOfEverySecondStepsTokens) {
  next_token_share_ = 0.25;
  redrawn_share_ = 0.25;
  MakeWindowsEqual();
  schedule_.set_steps(2);
  rates_.scales = 1e-12;
  ASSERT_TRUE(Train().ok());
  const Tensor ids = FirstWindows(8);
  EXPECT_NEAR(samples_[0].loss(), ExpectedLoss(ids, torch::zeros_like(ids, torch::kBool)), 1e-5);
  std::mt19937_64 generator(4);
  const RedrawnWindows windows = Redraw(decoder_, ids, 0.5, generator).value();
  EXPECT_NEAR(samples_[1].loss(), ExpectedLoss(windows.ids, windows.drawn), 1e-5);
}

TEST_F(TrainTest, RedrawingIsOfTheStepsAloneAndRepeatsWithTheSeed) {
  ASSERT_TRUE(Train().ok());
  const teq::v1::Training as_it_is = report_;
  redrawn_share_ = 0.5;
  ASSERT_TRUE(Train().ok());
  const teq::v1::Training redrawn = report_;
  // The held-back windows stay what they are.
  EXPECT_EQ(redrawn.initial_loss(), as_it_is.initial_loss());
  EXPECT_NE(redrawn.loss_curve(0).loss(), as_it_is.loss_curve(0).loss());
  EXPECT_LT(redrawn.final_loss(), 0.97 * redrawn.round_to_nearest_loss());
  for (const bool stores_graph : {true, false}) {
    stores_graph_ = stores_graph;
    ASSERT_TRUE(Train().ok());
    ExpectSameCourse(report_, redrawn);
  }
}

// One step moves an offset by its rate: further than a margin of less, and not as far as one of
// more.
TEST_F(TrainTest, NoCodeChangesBeforeItsOffsetHasCrossedTheMargin) {
  schedule_.set_steps(1);
  rates_ = {.rounding = 0.1};
  for (const double margin : {0.0, 0.05, 0.15}) {
    rounding_margin_ = margin;
    ASSERT_TRUE(Train().ok());
    EXPECT_DOUBLE_EQ(report_.initial_loss(), report_.round_to_nearest_loss()) << margin;
    const double changed =
        std::abs(report_.loss_curve(0).held_back_loss() - report_.initial_loss());
    if (margin < 0.1) {
      EXPECT_GT(changed, 1e-4 * report_.initial_loss()) << margin;
    } else {
      EXPECT_DOUBLE_EQ(changed, 0) << margin;
    }
  }
}

// A step moves an offset by its rate, two of them further than the margin: in rounds of one step
// every one starts behind it again.
TEST_F(TrainTest, EveryRoundStartsBehindTheMargin) {
  schedule_.set_steps(4);
  rates_ = {.rounding = 0.1};
  rounding_margin_ = 0.15;
  for (const int rounds : {1, 4}) {
    rounds_ = rounds;
    ASSERT_TRUE(Train().ok());
    ASSERT_EQ(report_.loss_curve_size(), 4);
    const double changed =
        std::abs(report_.loss_curve(3).held_back_loss() - report_.initial_loss());
    if (rounds == 1) {
      EXPECT_GT(changed, 1e-4 * report_.initial_loss());
    } else {
      EXPECT_DOUBLE_EQ(changed, 0);
    }
  }
}

// A round's step is too short to leave the margin, so that by block only the first round changes
// codes, and the held-back loss stays what it ended with.
TEST_F(TrainTest, ByBlockEveryRoundButTheFirstStartsBehindTheMargin) {
  schedule_.set_objective(teq::v1::OBJECTIVE_BLOCK_MSE);
  schedule_.set_steps(4);
  rates_ = {.rounding = 0.1};
  rounding_margin_ = 0.15;
  rounds_ = 4;
  ASSERT_TRUE(Train().ok());
  for (const teq::v1::BlockTraining& block : report_.blocks()) {
    ASSERT_EQ(block.loss_curve_size(), 4);
    const double first = std::min(block.initial_loss(), block.loss_curve(0).held_back_loss());
    for (int step = 1; step < 4; ++step) {
      EXPECT_NEAR(block.loss_curve(step).held_back_loss(), first, 1e-9);
    }
  }
}

TEST_F(TrainTest, CountsWhatAnEarlierTrainingTrained) {
  rates_ = {.scales = 0.002, .rounding = 0.005};
  ASSERT_TRUE(Train().ok());
  const std::int64_t scales = report_.trainable_parameters().scales();
  EXPECT_GT(scales, 0);
  rates_.scales = 0;
  ASSERT_TRUE(
      TrainEndToEnd(
          Task(), 1, teq::v1::OBJECTIVE_KL, parameters_, report_, [](const auto&) {}, cancelled_)
          .ok());
  EXPECT_EQ(report_.trainable_parameters().scales(), scales);
  EXPECT_GT(report_.trainable_parameters().rounding(), 0);
}

TEST(AverageTest, GoesBackATwentiethOfTheStepsOrTwelve) {
  EXPECT_EQ(AverageSteps(1000), 50);
  EXPECT_EQ(AverageSteps(250), 12.5);
  EXPECT_EQ(AverageSteps(120), 12);
  EXPECT_EQ(AverageSteps(40), 5);
  EXPECT_EQ(AverageSteps(4), 1);
}

// One value that its gradient's sign moves by the learning rate: every iterate is known.
class FitTest : public testing::Test {
 protected:
  FitTask Task(int steps) {
    return {.steps = steps,
            .windows = {0},
            .step = [this](const Tensor&, const GradientsReady& ready) -> absl::StatusOr<double> {
              trainable_.value.sum().neg().backward();
              ready({0, 1});
              return 0;
            },
            .held_back_loss = [this]() -> absl::StatusOr<double> {
              compared_.push_back(Value());
              return loss_per_value_ * Value();
            }};
  }
  void Run(const FitTask& task) {
    model::Scratch scratch(testing::TempDir(), 1 << 20);
    const auto on_step = [this](const teq::v1::MetricSample& sample) {
      rates_.push_back(sample.learning_rate());
    };
    const absl::StatusOr<FitResult> result = Fit({trainable_}, task, scratch, on_step, false);
    ASSERT_TRUE(result.ok());
    result_ = *result;
  }
  [[nodiscard]] double Value() const { return trainable_.value.item<double>(); }

  const Trainable trainable_{.value = torch::zeros({1}),
                             .learning_rate = 1,
                             .low = -100,
                             .high = 100,
                             .optimizer = teq::v1::OPTIMIZER_SIGN_SGD};
  double loss_per_value_ = 0;
  std::vector<double> compared_;
  std::vector<double> rates_;
  FitResult result_;
};

TEST_F(FitTest, ComparesTheAverageOfTheIterates) {
  constexpr int kSteps = 40;
  Run(Task(kSteps));
  double iterate = 0;
  double average = 0;
  std::vector<double> expected = {0, 0};  // plain rounding and the start
  for (int step = 1; step <= kSteps; ++step) {
    iterate += LearningRateFactor(step, kSteps);
    average += (iterate - average) / 5;
    if (step % 4 == 0) expected.push_back(average);
  }
  EXPECT_THAT(compared_, testing::Pointwise(testing::DoubleNear(1e-4), expected));
}

TEST_F(FitTest, CurvesOfLongTrainingsKeepTheirEndsAndWhatWasHeldBack) {
  Run(Task(10'000));
  EXPECT_NEAR(static_cast<double>(result_.curve.size()), 2000, 20);
  EXPECT_EQ(result_.curve.front().step(), 1);
  EXPECT_EQ(result_.curve.back().step(), 10'000);
  const auto measured = std::ranges::count_if(
      result_.curve, [](const auto& point) { return point.has_held_back_loss(); });
  EXPECT_EQ(measured, 10);
}

// Rounds of 3, 3 and 4 steps, in which the average is the iterate: the first step is at the peak,
// the next at 2/3 and 1/3 of it, or at 3/4, 2/4 and 1/4.
TEST_F(FitTest, EveryRoundStartsAtTheBestIterateWithRatesOfItsOwn) {
  for (const double loss_per_value : {-1.0, 1.0}) {
    loss_per_value_ = loss_per_value;
    rates_.clear();
    FitTask task = Task(10);
    task.rounds = 3;
    std::vector<double> starts;
    task.begin_round = [&](int) {
      starts.push_back(Value());
      return absl::OkStatus();
    };
    Run(task);
    const std::vector<double> rates = {1,      2. / 3, 1. / 3, 1,      2. / 3,
                                       1. / 3, 1,      3. / 4, 2. / 4, 1. / 4};
    EXPECT_THAT(rates_, testing::Pointwise(testing::DoubleNear(1e-6), rates));
    const std::vector<double> expected =
        loss_per_value < 0 ? std::vector<double>{0, 2, 4} : std::vector<double>{0, 0, 0};
    EXPECT_THAT(starts, testing::Pointwise(testing::DoubleNear(1e-4), expected));
    EXPECT_EQ(result_.best_step, loss_per_value < 0 ? 10 : -1);
    EXPECT_EQ(result_.curve.size(), 10);
    EXPECT_EQ(result_.curve.back().step(), 10);
    torch::NoGradGuard no_gradient;
    Tensor(trainable_.value).zero_();
  }
}

// As where a batch has no token for the experts that are trained.
TEST(DescendTest, ALossOfNothingTrainedHasNoGradients) {
  int ready = 0;
  EXPECT_EQ(Descend(torch::tensor(2.5), {0, 0}, [&](TrainableRange) { ++ready; }), 2.5);
  EXPECT_EQ(ready, 1);
}

// 40 steps: 2 of warm-up to the peak, then 38 down by 1/39 of the peak each.
TEST(LearningRateTest, RisesThenFallsLinearly) {
  EXPECT_DOUBLE_EQ(LearningRateFactor(1, 40), 0.5);
  EXPECT_DOUBLE_EQ(LearningRateFactor(2, 40), 1);
  EXPECT_DOUBLE_EQ(LearningRateFactor(3, 40), 38.0 / 39);
  EXPECT_NEAR(LearningRateFactor(40, 40), 1.0 / 39, 1e-12);
}

}  // namespace
}  // namespace teq::transform
