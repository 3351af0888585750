// Expected numbers are worked out by hand, from the shapes in tiny_job.h.
#include "client/model_info/memory_plan.h"

#include <gmock/gmock.h>

#include "client/model_info/workload.h"
#include "proto/spec/error.h"
#include "tests/unit/client/model_info/tiny_job.h"

namespace teq::model_info {
namespace {

using teq::v1::Stage;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::int64_t kProcess = 200 << 20;
constexpr std::int64_t kStates = 512 * 64 * 4;      // of 16 windows of 32 tokens
constexpr std::int64_t kBlock = 4 * (40960 + 128);  // as float32
constexpr std::int64_t kGrams = 4 * (3 * 64 * 64 + 128 * 128);
constexpr std::int64_t kBatch = 8 * 4 * 2048 * (64 + 128);  // activations of 2048 tokens
constexpr std::int64_t kStep = 8 * 4 * 64 * (64 + 128);     // of a step's 64
// Seven copies of every offset, and of two factors for each of 40960 / 32 groups.
constexpr std::int64_t kTrained = 4 * 7 * (40960 + 2 * 1280);
// With an end-to-end pass, of each group's step size too.
constexpr std::int64_t kTrainedLast = 4 * 7 * (40960 + 3 * 1280);

// The most that any stage needs: ROUND holds a block twice, its codes and offsets.
constexpr std::int64_t kRound =
    kProcess + 2 * kBlock + 40960 + kGrams + 5 * 4 * 8192 + 4 * 40960 + kBatch + kStates;
// What the end-to-end pass needs: of the model 82176 weights three times, of its largest layer the
// gradient once more, ...
constexpr std::int64_t kStepLogits = 2 * 4 * (1 << 21);
constexpr std::int64_t kHead = 4 * 512 * 64;
constexpr std::int64_t kOneGraph = kProcess + 3 * 2 * kBlock + 2 * kTrainedLast + 4 * 8192 +
                                   2 * kStep + kHead + kStepLogits + 2 * kStates;
// ... or the head when no block is held, and in memory or in files what each block reads.
constexpr std::int64_t kByBlock = kProcess + kHead + kStepLogits;
constexpr std::int64_t kInputs = 2 * 64 * 64 * 4;
// A byte for each code and three for each group; offsets and factors as float32.
constexpr std::int64_t kCodes = 81920 + 3 * 2560;
constexpr std::int64_t kLearned = 4 * (81920 + 2 * 2560);

class MemoryPlanTest : public testing::Test {
 protected:
  absl::StatusOr<MemoryPlan> Plan(std::int64_t limit, bool on_device = false) const {
    const auto layers = PlanLayers(spec_, config_);
    EXPECT_TRUE(layers.ok()) << layers.status();
    return PlanMemory(spec_, config_, *layers, {.limit_bytes = limit, .on_device = on_device});
  }
  MemoryPlan Fitting(std::int64_t limit, bool on_device = false) const {
    const auto plan = Plan(limit, on_device);
    EXPECT_TRUE(plan.ok()) << plan.status();
    return plan.value_or(MemoryPlan());
  }

  teq::v1::Teq& teq() { return *spec_.mutable_recipe()->mutable_transform()->mutable_teq(); }

  ModelConfig config_ = TinyConfig();
  teq::v1::JobSpec spec_ = TinySpec();
};

TEST_F(MemoryPlanTest, WithoutALimitEverythingIsInMemory) {
  const MemoryPlan plan = Fitting(0);
  std::vector<Stage> stages;
  for (const StageMemory& stage : plan.stages) {
    stages.push_back(stage.stage);
    EXPECT_EQ(stage.device, 0);
  }
  EXPECT_THAT(stages,
              ElementsAre(teq::v1::STAGE_FETCH, teq::v1::STAGE_BASELINE_EVAL,
                          teq::v1::STAGE_CALIBRATE, teq::v1::STAGE_TRANSFORM, teq::v1::STAGE_ROUND,
                          teq::v1::STAGE_PACK, teq::v1::STAGE_VERIFY, teq::v1::STAGE_PUBLISH));
  EXPECT_EQ(plan.at(teq::v1::STAGE_FETCH).host, kProcess);
  EXPECT_EQ(plan.at(teq::v1::STAGE_BASELINE_EVAL).host, kProcess);  // nothing is measured
  EXPECT_EQ(plan.at(teq::v1::STAGE_CALIBRATE).host, kProcess);      // nor looked at
  EXPECT_EQ(plan.at(teq::v1::STAGE_TRANSFORM).host,
            kProcess + 3 * kBlock + kTrained + kStep + 2 * kStates);
  EXPECT_EQ(plan.at(teq::v1::STAGE_TRANSFORM).states, 2 * kStates);
  EXPECT_EQ(plan.at(teq::v1::STAGE_ROUND).host, kRound);
  EXPECT_EQ(plan.at(teq::v1::STAGE_PACK).host, kProcess + 3 * 4 * 8192);
  EXPECT_EQ(plan.at(teq::v1::STAGE_TRANSFORM).scratch, kLearned);
  EXPECT_EQ(plan.at(teq::v1::STAGE_ROUND).scratch, kCodes + kLearned);
  EXPECT_EQ(plan.at(teq::v1::STAGE_PACK).scratch, kCodes);
  EXPECT_EQ(plan.hidden_states, teq::v1::HIDDEN_STATES_IN_MEMORY);
  EXPECT_EQ(plan.end_to_end_pass, teq::v1::END_TO_END_PASS_UNSPECIFIED);
  EXPECT_THAT(plan.notes, IsEmpty());
}

TEST_F(MemoryPlanTest, StepsInBfloat16HoldTheirFactorsToo) {
  const std::int64_t exact = Fitting(0).at(teq::v1::STAGE_TRANSFORM).host;
  teq().set_compute_type(teq::v1::COMPUTE_TYPE_BFLOAT16);
  EXPECT_EQ(Fitting(0).at(teq::v1::STAGE_TRANSFORM).host, exact + kBlock / 2);
}

TEST_F(MemoryPlanTest, EvaluationTakesTheLargerOfItsBlocksAndItsHead) {
  spec_.mutable_evaluation()->add_uris("file:///text");
  constexpr std::int64_t kChunk = 2 * 8192 * 64 * 4;
  EXPECT_EQ(Fitting(0).at(teq::v1::STAGE_BASELINE_EVAL).host,
            kProcess + kChunk + kHead + 4 * 4 * 2048 * 512);
  config_.vocabulary_size = 16;
  EXPECT_EQ(Fitting(0).at(teq::v1::STAGE_VERIFY).host, kProcess + kChunk + 2 * kBlock + kBatch);
}

TEST_F(MemoryPlanTest, SensitivitiesAreMeasuredWithTheHeadInMemory) {
  spec_.mutable_recipe()->mutable_weights()->set_target_bits(3.5);
  constexpr std::int64_t kChunk = 2 * 8192 * 64 * 4;
  EXPECT_EQ(Fitting(0).at(teq::v1::STAGE_BASELINE_EVAL).host,
            kProcess + kChunk + 2 * kHead + 4 * 4 * 2048 * 512 + 4 * 40960);
}

TEST_F(MemoryPlanTest, GptqHoldsTheRoundedBlockAndItsFactors) {
  spec_.mutable_recipe()->mutable_rounding()->mutable_gptq();
  EXPECT_EQ(Fitting(0).at(teq::v1::STAGE_ROUND).host,
            kRound - 4 * 40960 + kStates + 4 * (40960 + 5 * 128 * 128));
}

// Eight experts have an input of 128 each, which are gathered together.
TEST_F(MemoryPlanTest, GptqGathersAllExpertsInputsOfAStepAtOnce) {
  nlohmann::ordered_json source = TinyConfig().source;
  source.update({{"model_type", "mixtral"},
                 {"num_key_value_heads", 4},
                 {"num_local_experts", 8},
                 {"num_experts_per_tok", 2}});
  config_ = ParseModelConfig(source, "config.json").value();
  constexpr std::int64_t kQuantized = 4 * 64 * 64 + 8 * 3 * 64 * 128;
  spec_.mutable_recipe()->mutable_rounding()->mutable_nearest();
  const std::int64_t nearest = Fitting(0).at(teq::v1::STAGE_ROUND).host;
  spec_.mutable_recipe()->mutable_rounding()->mutable_gptq();
  EXPECT_EQ(Fitting(0).at(teq::v1::STAGE_ROUND).host - nearest,
            kStates + 4 * (kQuantized + (8 + 4) * 128 * 128));
}

// Its 33088 values that are not rounded become half precision.
TEST_F(MemoryPlanTest, FloatsOfAFloat32ModelLieInFiles) {
  const std::int64_t without = Fitting(0).at(teq::v1::STAGE_PACK).scratch;
  nlohmann::ordered_json source = TinyConfig().source;
  source["torch_dtype"] = "float32";
  config_ = ParseModelConfig(source, "config.json").value();
  EXPECT_EQ(Fitting(0).at(teq::v1::STAGE_PACK).scratch - without, 2 * 33088);
}

// Half precision is only taken where the weights are float32 as config.json says; offsets go as
// codes come; and of the end-to-end pass's states no number is certain.
TEST_F(MemoryPlanTest, LeastScratchIsWhatLiesInFilesAtOneTimeForCertain) {
  nlohmann::ordered_json source = TinyConfig().source;
  source["torch_dtype"] = "float32";
  config_ = ParseModelConfig(source, "config.json").value();
  spec_.mutable_calibration()->set_samples(32 << 10);
  constexpr std::int64_t kText = 2048 * kStates;
  for (const int end_to_end_steps : {0, 5}) {
    teq().set_end_to_end_steps(end_to_end_steps);
    const MemoryPlan plan = Fitting(0);
    ASSERT_EQ(plan.hidden_states, teq::v1::HIDDEN_STATES_IN_FILES);
    EXPECT_EQ(plan.at(teq::v1::STAGE_FETCH).least_scratch, 0);
    EXPECT_EQ(plan.at(teq::v1::STAGE_TRANSFORM).least_scratch, kLearned + 2 * kText);
    EXPECT_EQ(plan.at(teq::v1::STAGE_ROUND).least_scratch, kLearned + kText);
    EXPECT_GE(plan.at(teq::v1::STAGE_ROUND).scratch, kLearned + kText + kCodes + 2 * 33088);
    EXPECT_EQ(plan.at(teq::v1::STAGE_PACK).least_scratch, kCodes);
    EXPECT_EQ(plan.at(teq::v1::STAGE_VERIFY).least_scratch, kCodes);
  }
}

// Other things may take the memory that hidden states leave.
TEST_F(MemoryPlanTest, LeastScratchIsLessByTheMemoryThatStatesMayTake) {
  const MemoryPlan plan = Fitting(0);
  EXPECT_EQ(plan.at(teq::v1::STAGE_TRANSFORM).least_scratch, kLearned - 2 * kStates);
  EXPECT_EQ(plan.at(teq::v1::STAGE_ROUND).least_scratch, kLearned - 2 * kStates);
  EXPECT_EQ(plan.at(teq::v1::STAGE_PACK).least_scratch, 0);
}

TEST_F(MemoryPlanTest, SearchesHoldAFoldedBlockAndThreeOfItsLargestLayer) {
  teq().set_init(teq::v1::INITIALIZATION_WEIGHT_NORM);
  constexpr std::int64_t kWithout = kProcess + kBlock + kGrams + kBatch + kStates;
  EXPECT_EQ(Fitting(0).at(teq::v1::STAGE_CALIBRATE).host, kWithout);
  spec_.mutable_recipe()->mutable_clipping()->mutable_search();
  EXPECT_EQ(Fitting(0).at(teq::v1::STAGE_CALIBRATE).host, kWithout + kBlock + 3 * 4 * 8192);
}

TEST_F(MemoryPlanTest, FactorsThatAreSearchedAreKeptUntilTheirBlockIsRounded) {
  constexpr std::int64_t kFactors = 4 * 2 * 2560;
  spec_.mutable_recipe()->mutable_rounding()->mutable_nearest();
  spec_.mutable_recipe()->clear_clipping();
  const std::int64_t without = Fitting(0).at(teq::v1::STAGE_ROUND).scratch;
  EXPECT_EQ(Fitting(0).at(teq::v1::STAGE_CALIBRATE).scratch, 0);
  spec_.mutable_recipe()->mutable_clipping()->mutable_search();
  EXPECT_EQ(Fitting(0).at(teq::v1::STAGE_CALIBRATE).scratch, kFactors);
  EXPECT_EQ(Fitting(0).at(teq::v1::STAGE_ROUND).scratch, without + kFactors);
}

TEST_F(MemoryPlanTest, HiddenStatesGoToFilesOneByteBelowWhatTheyNeed) {
  EXPECT_EQ(Fitting(kRound).hidden_states, teq::v1::HIDDEN_STATES_IN_MEMORY);
  const MemoryPlan plan = Fitting(kRound - 1);
  EXPECT_EQ(plan.hidden_states, teq::v1::HIDDEN_STATES_IN_FILES);
  EXPECT_EQ(plan.at(teq::v1::STAGE_ROUND).host, kRound - kStates);
  EXPECT_EQ(plan.at(teq::v1::STAGE_ROUND).scratch,
            Fitting(0).at(teq::v1::STAGE_ROUND).scratch + kStates);
  EXPECT_EQ(plan.at(teq::v1::STAGE_ROUND).states, 0);
  EXPECT_EQ(plan.limit_bytes, kRound - 1);
  EXPECT_EQ(plan.least_limit_bytes, kRound - kStates);
  EXPECT_THAT(plan.notes, ElementsAre(HasSubstr("with them in memory stage ROUND needs about 213 "
                                                "MiB, and 213 MiB may be used")));
}

TEST_F(MemoryPlanTest, AJobThatDoesNotFitEvenSpilledIsRefusedWithTheNumberItNeeds) {
  spec_.mutable_resources()->set_memory_limit_bytes(kRound - kStates - 1);
  EXPECT_TRUE(Plan(kRound - kStates).ok());
  const absl::Status refused = Plan(kRound - kStates - 1).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ErrorReason(refused), "MEMORY_LIMIT");
  EXPECT_EQ(std::string(refused.message()),
            "resources.memory_limit_bytes: 223110143 bytes are allowed, and stage ROUND needs "
            "223110144 bytes (213 MiB) even with all in files that can be; raise it to that");
  spec_.mutable_resources()->clear_memory_limit_bytes();
  EXPECT_THAT(std::string(Plan(kRound - kStates - 1).status().message()),
              HasSubstr("use a worker with more memory"));
}

TEST_F(MemoryPlanTest, TheEndToEndPassIsOneGraphThenBlockByBlockThenLeftOut) {
  teq().set_end_to_end_steps(5);
  EXPECT_EQ(Fitting(0).end_to_end_pass, teq::v1::END_TO_END_PASS_ONE_GRAPH);
  EXPECT_EQ(Fitting(kOneGraph).end_to_end_pass, teq::v1::END_TO_END_PASS_ONE_GRAPH);
  EXPECT_EQ(Fitting(kOneGraph).at(teq::v1::STAGE_TRANSFORM).host, kOneGraph);
  // The teacher's two, and while it is made those that it is made from.
  EXPECT_EQ(Fitting(kOneGraph).end_to_end_states, 3 * kStates);

  const MemoryPlan beside = Fitting(kOneGraph - 1);
  EXPECT_EQ(beside.end_to_end_pass, teq::v1::END_TO_END_PASS_BLOCK_BY_BLOCK);
  EXPECT_EQ(beside.at(teq::v1::STAGE_TRANSFORM).host, kByBlock + 3 * kStates);
  EXPECT_EQ(beside.end_to_end_states, 3 * kStates);
  static_assert(kInputs < kStates);
  EXPECT_EQ(beside.at(teq::v1::STAGE_TRANSFORM).scratch, 2 * kTrainedLast / 7 * 6);
  EXPECT_THAT(beside.notes, ElementsAre(HasSubstr("each step runs every block twice")));

  const MemoryPlan by_block = Fitting(kByBlock);
  EXPECT_EQ(by_block.end_to_end_pass, teq::v1::END_TO_END_PASS_BLOCK_BY_BLOCK);
  EXPECT_EQ(by_block.at(teq::v1::STAGE_TRANSFORM).host, kByBlock);
  EXPECT_EQ(by_block.at(teq::v1::STAGE_TRANSFORM).scratch, 2 * kTrainedLast / 7 * 6 + 3 * kStates);
  // Every value with its average, its best and two moments; blocks' states may have left memory.
  EXPECT_EQ(by_block.at(teq::v1::STAGE_TRANSFORM).least_scratch,
            2 * kTrainedLast / 7 * 5 - 2 * kStates);
  // Nothing of them may lie in memory then, though the blocks' may before.
  EXPECT_EQ(by_block.end_to_end_states, 0);
  EXPECT_EQ(by_block.at(teq::v1::STAGE_TRANSFORM).states, 2 * kStates);

  const MemoryPlan without = Fitting(kByBlock - 1);
  EXPECT_EQ(without.end_to_end_pass, teq::v1::END_TO_END_PASS_LEFT_OUT);
  EXPECT_EQ(without.at(teq::v1::STAGE_TRANSFORM).host,
            kProcess + 3 * kBlock + kTrainedLast + kStep + 2 * kStates);
  EXPECT_THAT(without.notes, ElementsAre(HasSubstr("left out: even block by block")));
}

// Logits, softmax and sums of as many tokens as are drawn at once, or of one, where these are more
// than a step's logits.
TEST_F(MemoryPlanTest, DrawingTokensTakesWholeRowsOfLogits) {
  teq().set_end_to_end_steps(5);
  teq().set_redrawn_fraction(0.5);
  EXPECT_EQ(Fitting(0).at(teq::v1::STAGE_TRANSFORM).host, kOneGraph);
  config_.vocabulary_size = 1 << 20;
  const std::int64_t drawing = Fitting(0).at(teq::v1::STAGE_TRANSFORM).host;
  teq().set_redrawn_fraction(0);
  EXPECT_EQ(drawing - Fitting(0).at(teq::v1::STAGE_TRANSFORM).host,
            3 * 4 * (std::int64_t{1} << 23) - kStepLogits);
}

TEST_F(MemoryPlanTest, WithoutALimitDepthTakesNoMemory) {
  teq().set_end_to_end_steps(5);
  config_.hidden_size = 512;
  config_.head_size = 128;
  config_.intermediate_size = 2048;
  std::vector<std::int64_t> bytes;
  for (const int layers : {16, 64}) {
    config_.layers = layers;
    const MemoryPlan plan = Fitting(std::int64_t{64} << 30);
    EXPECT_EQ(plan.end_to_end_pass, teq::v1::END_TO_END_PASS_BLOCK_BY_BLOCK);
    EXPECT_THAT(plan.notes, IsEmpty());
    bytes.push_back(plan.at(teq::v1::STAGE_TRANSFORM).host - kProcess);
  }
  // What each block reads of a batch, 128 KiB, is all that grows.
  EXPECT_LE(bytes[1] - bytes[0], 48 * 64 * 512 * 4);
  // With a limit the graph is stored where it fits.
  spec_.mutable_resources()->set_memory_limit_bytes(std::int64_t{64} << 30);
  EXPECT_EQ(Fitting(std::int64_t{64} << 30).end_to_end_pass, teq::v1::END_TO_END_PASS_ONE_GRAPH);
}

TEST_F(MemoryPlanTest, AnObjectiveThatIsEndToEndIsNotLeftOutButRefused) {
  teq().set_objective(teq::v1::OBJECTIVE_KL);
  EXPECT_EQ(Fitting(kByBlock).end_to_end_pass, teq::v1::END_TO_END_PASS_BLOCK_BY_BLOCK);
  const absl::Status refused = Plan(kByBlock - 1).status();
  EXPECT_EQ(ErrorReason(refused), "MEMORY_LIMIT");
  EXPECT_THAT(std::string(refused.message()), HasSubstr("stage TRANSFORM needs 226623488 bytes"));
}

TEST_F(MemoryPlanTest, OnADeviceTheLimitIsItsMemoryAndPackingIsTheHosts) {
  constexpr std::int64_t kContext = 512 << 20;
  // There is the vocabulary's one matrix too, in half precision, and scores of 2048 tokens on 32 by
  // 4 heads, three times.
  constexpr std::int64_t kVocabulary = 2 * 512 * 64;
  constexpr std::int64_t kScores = 3 * 4 * 2048 * 32 * 4;
  constexpr std::int64_t kOnDevice = kRound - kProcess - kStates + kContext + kVocabulary + kScores;
  const MemoryPlan plan = Fitting(kOnDevice, /*on_device=*/true);
  EXPECT_EQ(plan.at(teq::v1::STAGE_ROUND).device, kOnDevice);
  EXPECT_EQ(plan.at(teq::v1::STAGE_ROUND).host, kProcess + kBlock + kStates);
  EXPECT_EQ(plan.at(teq::v1::STAGE_PACK).device, 0);
  EXPECT_EQ(plan.at(teq::v1::STAGE_PACK).host, kProcess + 3 * 4 * 8192);
  EXPECT_EQ(plan.hidden_states, teq::v1::HIDDEN_STATES_IN_MEMORY);
  EXPECT_EQ(ErrorReason(Plan(kOnDevice - 1, true).status()), "MEMORY_LIMIT");
  // No kernel there attends in one pass: four times the weights of attention stay for the gradient.
  EXPECT_EQ(plan.at(teq::v1::STAGE_TRANSFORM).device,
            kContext + 3 * kBlock + kTrained + kStep + 4 * 4 * (2 * 4 * 32 * 32) + kVocabulary);
}

// Where the graph fits the device, the host's memory still does not grow with the text.
TEST_F(MemoryPlanTest, OnADeviceMuchTextsStatesLieInFiles) {
  teq().set_end_to_end_steps(5);
  EXPECT_EQ(Fitting(0, /*on_device=*/true).end_to_end_states, 3 * kStates);
  spec_.mutable_calibration()->set_samples(16 << 10);
  const MemoryPlan plan = Fitting(0, /*on_device=*/true);
  EXPECT_EQ(plan.end_to_end_pass, teq::v1::END_TO_END_PASS_ONE_GRAPH);
  EXPECT_EQ(plan.end_to_end_states, 0);
  EXPECT_GE(plan.at(teq::v1::STAGE_TRANSFORM).scratch, 3 * 1024 * kStates);
}

// The pass over all blocks keeps on the device six values of every offset: 6,476,005,376 weights
// have one each. Training by block keeps one block's.
TEST_F(MemoryPlanTest, WhatIsTrainedTogetherLiesOnTheDevice) {
  config_ = Llama7B();
  teq::v1::JobSpec asked;
  asked.mutable_recipe()->set_preset(teq::v1::PRESET_BALANCED);
  spec_ = WithDefaults(asked);
  for (const std::int64_t gib : {16, 80}) {
    EXPECT_EQ(Fitting(gib << 30, true).end_to_end_pass, teq::v1::END_TO_END_PASS_LEFT_OUT);
  }
  const MemoryPlan roomy = Fitting(std::int64_t{240} << 30, true);
  EXPECT_EQ(roomy.end_to_end_pass, teq::v1::END_TO_END_PASS_BLOCK_BY_BLOCK);
  EXPECT_GT(roomy.at(teq::v1::STAGE_TRANSFORM).device, 6 * 4 * 6'476'005'376);
}

TEST_F(MemoryPlanTest, TheJobsOwnLimitIsCheckedOnEveryDeviceThatItMayRunOn) {
  const auto check = [this] {
    return CheckMemoryLimit(spec_, config_, PlanLayers(spec_, config_).value());
  };
  EXPECT_TRUE(check().ok());
  spec_.mutable_resources()->set_memory_limit_bytes(kRound);
  EXPECT_TRUE(check().ok());
  spec_.mutable_resources()->set_device(teq::v1::DEVICE_CUDA);  // a context is larger there
  EXPECT_EQ(ErrorReason(check()), "MEMORY_LIMIT");
  spec_.mutable_resources()->set_device(teq::v1::DEVICE_ANY);
  EXPECT_TRUE(check().ok());
  spec_.mutable_resources()->set_memory_limit_bytes(100 << 20);
  EXPECT_EQ(ErrorReason(check()), "MEMORY_LIMIT");
}

TEST_F(MemoryPlanTest, TheLimitIsTheJobsButNeverMoreThanThereIs) {
  EXPECT_EQ(LimitOf(spec_, 0), 0);
  EXPECT_EQ(LimitOf(spec_, 1000), 600);
  spec_.mutable_resources()->set_memory_limit_bytes(700);
  EXPECT_EQ(LimitOf(spec_, 0), 700);
  EXPECT_EQ(LimitOf(spec_, 1000), 700);
  EXPECT_EQ(LimitOf(spec_, 500), 500);
}

TEST_F(MemoryPlanTest, Llama7BHoldsOneBlockNotTheModel) {
  config_ = Llama7B();
  teq::v1::JobSpec asked;
  asked.mutable_evaluation()->add_uris("file:///text");
  asked.mutable_evaluation()->set_sequence_length(2048);
  asked.mutable_calibration()->set_samples(128);
  asked.mutable_calibration()->set_sequence_length(2048);
  asked.mutable_recipe()->set_preset(teq::v1::PRESET_FAST);
  spec_ = WithDefaults(asked);
  const Workload work = WorkloadOf(spec_, config_, PlanLayers(spec_, config_).value());
  EXPECT_EQ(work.parameters, 6'738'415'616);  // as its authors count
  EXPECT_EQ(4 * work.largest.parameters, 809'533'440);
  EXPECT_EQ(work.largest.grams, 3 * 4096 * 4096 + 11008 * 11008);

  // Two blocks, 8192 states of two models, and a batch's activations.
  const MemoryPlan plan = Fitting(0);
  EXPECT_EQ(plan.at(teq::v1::STAGE_BASELINE_EVAL).host,
            kProcess + 2 * 809'533'440LL + 2LL * 8192 * 4096 * 4 + 8LL * 4 * 2048 * (4096 + 11008));
  // 262144 tokens of 16 KiB are 4 GiB, twice where GPTQ runs; they lie in files if no limit says
  // that there is room. A float32 model would be 27 GB.
  EXPECT_EQ(plan.hidden_states, teq::v1::HIDDEN_STATES_IN_FILES);
  EXPECT_EQ(plan.at(teq::v1::STAGE_ROUND).states, 0);
  EXPECT_LT(plan.at(teq::v1::STAGE_ROUND).host, std::int64_t{8} << 30);
  EXPECT_GT(plan.at(teq::v1::STAGE_ROUND).scratch, std::int64_t{8} << 30);
  spec_.mutable_resources()->set_memory_limit_bytes(std::int64_t{32} << 30);
  const MemoryPlan roomy = Fitting(std::int64_t{32} << 30);
  EXPECT_EQ(roomy.hidden_states, teq::v1::HIDDEN_STATES_IN_MEMORY);
  EXPECT_EQ(roomy.at(teq::v1::STAGE_ROUND).states, std::int64_t{8} << 30);
}

}  // namespace
}  // namespace teq::model_info
