// Expected numbers are worked out by hand, from the shapes in tiny_job.h.
#include "client/model_info/cost.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/client/model_info/tiny_job.h"

namespace teq::model_info {
namespace {

// Of 1000 tokens in windows of 32: 81920 weights, and 2 * 32 operations for each of 64 * 2 values.
constexpr double kForward = 1000 * (2 * 81920 + 2 * 32 * 128);
constexpr double kHead = 1000 * 2 * 512 * 64;

StageCost Cost(const teq::v1::JobSpec& spec, teq::v1::Stage stage,
               teq::v1::EndToEndPass pass = teq::v1::END_TO_END_PASS_ONE_GRAPH) {
  const ModelConfig config = TinyConfig();
  MemoryPlan memory;
  memory.end_to_end_pass = pass;
  const auto costs = CostOf(spec, config, PlanLayers(spec, config).value(), memory, 1000);
  return *std::ranges::find(costs, stage, &StageCost::stage);
}

TEST(CostTest, BaselineIsTwoModelsOverTheText) {
  teq::v1::JobSpec spec = TinySpec();
  spec.mutable_evaluation()->add_uris("file:///text");
  EXPECT_DOUBLE_EQ(Cost(spec, teq::v1::STAGE_BASELINE_EVAL).operations, 2 * (kForward + kHead));
}

// Two blocks of four sets of layers at four widths, from the middle of the model on average, each
// with the head; 512 tokens.
TEST(CostTest, TargetBitsRunsHalfTheModelForAllThatIsOpen) {
  teq::v1::JobSpec spec = TinySpec();
  const StageCost without = Cost(spec, teq::v1::STAGE_BASELINE_EVAL);
  teq::v1::Recipe& recipe = *spec.mutable_recipe();
  recipe.mutable_weights()->clear_bits();
  recipe.mutable_weights()->set_target_bits(3.5);
  const auto expect_runs = [&](double runs) {
    const StageCost cost = Cost(spec, teq::v1::STAGE_BASELINE_EVAL);
    EXPECT_NEAR(cost.operations - without.operations, runs * 0.512 * (kForward / 2 + kHead), 1);
    EXPECT_DOUBLE_EQ(cost.moved_bytes - without.moved_bytes, runs * 82176 / 2 * 6);
  };
  expect_runs(4 * 2 * 4);
  teq::v1::Override& change = *recipe.add_overrides();
  change.set_match("re:.*mlp.*");
  change.set_skip(true);
  expect_runs(4 * 2 * 2);
}

TEST(CostTest, ATrainingStepIsThreeForwardOnesAndFourWhereItIsRecomputed) {
  teq::v1::JobSpec spec = TinySpec();
  teq::v1::Teq& teq = *spec.mutable_recipe()->mutable_transform()->mutable_teq();
  teq.set_objective(teq::v1::OBJECTIVE_KL);
  teq.set_steps(100);
  const double one = Cost(spec, teq::v1::STAGE_TRANSFORM).operations;
  const double recomputed =
      Cost(spec, teq::v1::STAGE_TRANSFORM, teq::v1::END_TO_END_PASS_BLOCK_BY_BLOCK).operations;
  // 100 steps of 64 tokens.
  EXPECT_DOUBLE_EQ(recomputed - one, 6.4 * kForward);
  teq.set_steps(200);
  EXPECT_NEAR(Cost(spec, teq::v1::STAGE_TRANSFORM).operations - one, 6.4 * 3 * (kForward + kHead),
              1);
}

TEST(CostTest, RedrawingRunsTheFloatModelTwiceInEveryStepThatIsDrawn) {
  teq::v1::JobSpec spec = TinySpec();
  teq::v1::Teq& teq = *spec.mutable_recipe()->mutable_transform()->mutable_teq();
  teq.set_objective(teq::v1::OBJECTIVE_KL);
  teq.set_steps(100);
  const double as_it_is = Cost(spec, teq::v1::STAGE_TRANSFORM).operations;
  teq.set_redrawn_fraction(0.25);
  // A quarter of 100 steps of 64 tokens: 50 steps, half of whose tokens go through the head once
  // more.
  EXPECT_NEAR(Cost(spec, teq::v1::STAGE_TRANSFORM).operations - as_it_is,
              3.2 * (2 * kForward + 1.5 * kHead), 1);
  teq.set_redrawn_fraction(0.75);
  EXPECT_NEAR(Cost(spec, teq::v1::STAGE_TRANSFORM).operations - as_it_is,
              6.4 * (2 * kForward + 1.75 * kHead), 1);
}

TEST(CostTest, StepsInBfloat16AreCountedApart) {
  teq::v1::JobSpec spec = TinySpec();
  teq::v1::Teq& teq = *spec.mutable_recipe()->mutable_transform()->mutable_teq();
  teq.set_objective(teq::v1::OBJECTIVE_KL);
  teq.set_steps(100);
  const StageCost exact = Cost(spec, teq::v1::STAGE_TRANSFORM);
  EXPECT_EQ(exact.bfloat16_operations, 0);
  teq.set_compute_type(teq::v1::COMPUTE_TYPE_BFLOAT16);
  const StageCost cost = Cost(spec, teq::v1::STAGE_TRANSFORM);
  // The layers' products alone, forward and twice backward, of 100 steps of 64 tokens.
  EXPECT_DOUBLE_EQ(cost.bfloat16_operations, 3 * 6400.0 * 2 * 81920);
  EXPECT_DOUBLE_EQ(cost.operations + cost.bfloat16_operations, exact.operations);
}

TEST(CostTest, WhatIsLeftOutCostsNothing) {
  teq::v1::JobSpec spec = TinySpec();
  const double without = Cost(spec, teq::v1::STAGE_TRANSFORM).operations;
  spec.mutable_recipe()->mutable_transform()->mutable_teq()->set_end_to_end_steps(50);
  EXPECT_GT(Cost(spec, teq::v1::STAGE_TRANSFORM).operations, without);
  EXPECT_EQ(Cost(spec, teq::v1::STAGE_TRANSFORM, teq::v1::END_TO_END_PASS_LEFT_OUT).operations,
            without);
}

TEST(CostTest, SecondsAreOperationsAndBytesOverTheDevicesSpeeds) {
  teq::v1::DeviceCalibration device;
  EXPECT_EQ(SecondsOf({teq::v1::STAGE_ROUND, 100, 30}, device), 0);  // not measured
  device.set_operations_per_second(50);
  device.set_copied_bytes_per_second(10);
  EXPECT_EQ(SecondsOf({teq::v1::STAGE_ROUND, 100, 30}, device), 5);
  // Where there are no fast products in bfloat16, those are as slow as the others.
  EXPECT_EQ(SecondsOf({teq::v1::STAGE_ROUND, 100, 30, 200}, device), 9);
  device.set_bfloat16_operations_per_second(100);
  EXPECT_EQ(SecondsOf({teq::v1::STAGE_ROUND, 100, 30, 200}, device), 7);
}

}  // namespace
}  // namespace teq::model_info
