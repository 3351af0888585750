#include "proto/spec/validate.h"

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"

namespace teq {
namespace {

using teq::v1::JobSpec;
using ::testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

JobSpec Minimal() {
  JobSpec spec;
  spec.mutable_model()->set_uri("file:///models/llama");
  spec.mutable_calibration()->set_uri("file:///data/calib.txt");
  spec.mutable_output()->set_uri("file:///out/llama-w4");
  return spec;
}

// ---- Defaults ----

TEST(WithDefaultsTest, MinimalSpecIsFilledInAndValid) {
  const JobSpec spec = WithDefaults(Minimal());
  EXPECT_EQ(spec.recipe().preset(), teq::v1::PRESET_BALANCED);
  EXPECT_EQ(spec.recipe().weights().bits(), 4);
  EXPECT_EQ(spec.calibration().samples(), 256);
  EXPECT_EQ(spec.calibration().sequence_length(), 256);
  EXPECT_EQ(spec.calibration().seed(), 1);
  EXPECT_EQ(spec.evaluation().sequence_length(), 256);
  EXPECT_EQ(spec.output().formats(0), teq::v1::FORMAT_GPTQ);
  EXPECT_EQ(spec.resources().device(), teq::v1::DEVICE_ANY);
  EXPECT_EQ(spec.limits().max_runtime().seconds(), 24 * 3600);
  EXPECT_FALSE(spec.limits().has_max_queue_time());
  EXPECT_EQ(spec.limits().max_attempts(), 3);
  EXPECT_EQ(spec.limits().max_preemptions(), 20);
  EXPECT_TRUE(ValidateSpec(spec).ok()) << ValidateSpec(spec);
}

TEST(WithDefaultsTest, FillingInTwiceChangesNothing) {
  const JobSpec once = WithDefaults(Minimal());
  EXPECT_EQ(Digest(WithDefaults(once)), Digest(once));
}

// ---- Validation ----

struct BadSpec {
  std::string name;
  std::function<void(JobSpec&)> change;
  std::string message;
};

class BadSpecTest : public ::testing::TestWithParam<BadSpec> {};

TEST_P(BadSpecTest, IsRefusedWithFieldValueAndRemedy) {
  JobSpec spec = WithDefaults(Minimal());
  GetParam().change(spec);
  const absl::Status status = ValidateSpec(spec);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ErrorReason(status), "INVALID_SPEC");
  EXPECT_THAT(Message(status), HasSubstr(GetParam().message));
}

teq::v1::Teq& TeqOf(JobSpec& spec) {
  return *spec.mutable_recipe()->mutable_transform()->mutable_teq();
}

teq::v1::Recipe& RecipeOf(JobSpec& spec) { return *spec.mutable_recipe(); }

// Replaces what is trained by learned clipping with a schedule of its own.
teq::v1::Schedule& ScheduleIn(JobSpec& spec) {
  auto& recipe = *spec.mutable_recipe();
  recipe.Clear();
  recipe.mutable_clipping()->mutable_learned();
  recipe = RecipeWithDefaults(recipe);
  return *recipe.mutable_schedule();
}

teq::v1::GptqRounding& GptqOf(JobSpec& spec) {
  auto& recipe = *spec.mutable_recipe();
  recipe.mutable_rounding()->mutable_gptq();
  recipe = RecipeWithDefaults(recipe);
  return *recipe.mutable_rounding()->mutable_gptq();
}

void SetTargetBits(JobSpec& spec, double target) {
  auto& weights = *spec.mutable_recipe()->mutable_weights();
  weights.clear_bits();
  weights.set_target_bits(target);
}

teq::v1::Override& Added(JobSpec& spec) { return *spec.mutable_recipe()->add_overrides(); }

const double kNan = std::numeric_limits<double>::quiet_NaN();

INSTANTIATE_TEST_SUITE_P(
    All, BadSpecTest,
    ::testing::Values(
        BadSpec{"NoModel", [](JobSpec& s) { s.clear_model(); },
                "model.uri: is missing; write file:// and an absolute path"},
        BadSpec{"NoOutput", [](JobSpec& s) { s.clear_output(); }, "output.uri: is missing"},
        BadSpec{"NoCalibration", [](JobSpec& s) { s.mutable_calibration()->clear_uri(); },
                "calibration.uri: is missing"},
        BadSpec{"OtherScheme", [](JobSpec& s) { s.mutable_model()->set_uri("ftp://b/m"); },
                "model.uri: \"ftp://b/m\" has scheme \"ftp\", which is not supported; write "
                "file://, s3://, https:// or hf://"},
        BadSpec{"ModelsOnlyScheme",
                [](JobSpec& s) { s.mutable_calibration()->set_uri("hf://owner/texts"); },
                "calibration.uri: \"hf://owner/texts\" cannot serve here: hf:// is for models only; "
                "write file://, s3:// or https://"},
        BadSpec{"BucketAsText",
                [](JobSpec& s) { s.mutable_calibration()->set_uri("s3://bucket/"); },
                "calibration.uri: \"s3://bucket/\" names no object"},
        BadSpec{"OutputOnTheWeb",
                [](JobSpec& s) { s.mutable_output()->set_uri("https://host/out"); },
                "output.uri: \"https://host/out\" cannot serve here: https:// is for input only; "
                "write file:// or s3://"},
        BadSpec{"DotDot", [](JobSpec& s) { s.mutable_output()->set_uri("file:///a/../b"); },
                "output.uri: \"file:///a/../b\" has a \"..\" segment"},
        BadSpec{"FiveBits", [](JobSpec& s) { s.mutable_recipe()->mutable_weights()->set_bits(5); },
                "recipe.weights.bits: 5 is not a supported width; use 2, 3, 4 or 8"},
        BadSpec{"NoBits", [](JobSpec& s) { s.mutable_recipe()->mutable_weights()->clear_bits(); },
                "recipe.weights.bits: is missing"},
        BadSpec{"OddGroup",
                [](JobSpec& s) { s.mutable_recipe()->mutable_weights()->set_group_size(12); },
                "recipe.weights.group_size: 12 is not a group size; use a positive multiple of 8, "
                "or -1"},
        BadSpec{"ZeroGroup",
                [](JobSpec& s) { s.mutable_recipe()->mutable_weights()->set_group_size(0); },
                "recipe.weights.group_size: 0 is not a group size"},
        BadSpec{"NegativeGroup",
                [](JobSpec& s) { s.mutable_recipe()->mutable_weights()->set_group_size(-8); },
                "recipe.weights.group_size: -8 is not a group size"},
        BadSpec{"NegativeSteps", [](JobSpec& s) { TeqOf(s).set_steps(-1); },
                "recipe.transform.teq.steps: -1 is out of range; give a whole number from 0 to "
                "100000"},
        BadSpec{"ManySteps", [](JobSpec& s) { TeqOf(s).set_steps(100'001); },
                "steps: 100001 is out of range"},
        BadSpec{"NoBatch", [](JobSpec& s) { TeqOf(s).set_batch_size(0); },
                "batch_size: 0 is out of range; give a whole number from 1 to 4096"},
        BadSpec{"ZeroRate", [](JobSpec& s) { TeqOf(s).set_learning_rate(0); },
                "learning_rate: 0 is out of range; give a number above 0, at most 1"},
        BadSpec{"NanRate", [](JobSpec& s) { TeqOf(s).set_learning_rate(kNan); },
                "learning_rate: nan is out of range"},
        BadSpec{"MoreThanAllRedrawn", [](JobSpec& s) { TeqOf(s).set_redrawn_fraction(1.5); },
                "recipe.transform.teq.redrawn_fraction: 1.5 is out of range; give a number from 0 "
                "to 1"},
        BadSpec{"RedrawnBelowNothing", [](JobSpec& s) { TeqOf(s).set_redrawn_fraction(-0.1); },
                "redrawn_fraction: -0.1 is out of range"},
        BadSpec{"RedrawnText",
                [](JobSpec& s) {
                  TeqOf(s).set_objective(teq::v1::OBJECTIVE_LM_LOSS);
                  TeqOf(s).set_redrawn_fraction(0.5);
                },
                "recipe.transform.teq.redrawn_fraction: 0.5 stands beside objective LM_LOSS, which "
                "trains on the text as it is; take KL, or write redrawn_fraction: 0"},
        BadSpec{"RedrawnWithoutAPass",
                [](JobSpec& s) {
                  TeqOf(s).set_objective(teq::v1::OBJECTIVE_BLOCK_MSE);
                  TeqOf(s).set_redrawn_fraction(0.5);
                  TeqOf(s).set_end_to_end_steps(0);
                },
                "recipe.transform.teq.redrawn_fraction: 0.5 acts in the steps of all blocks "
                "together, and end_to_end_steps is 0"},
        BadSpec{"AllHeldBack", [](JobSpec& s) { TeqOf(s).set_held_back_fraction(0.6); },
                "held_back_fraction: 0.6 is out of range; give a number above 0, at most 0.5"},
        BadSpec{"UnknownObjective",
                [](JobSpec& s) { TeqOf(s).set_objective(static_cast<teq::v1::Objective>(9)); },
                "recipe.transform.teq.objective: 9 is not a known value"},
        BadSpec{"UnknownPreset",
                [](JobSpec& s) { RecipeOf(s).set_preset(static_cast<teq::v1::Preset>(9)); },
                "recipe.preset: 9 is not a known value"},
        BadSpec{"UnknownBlockInputs",
                [](JobSpec& s) { TeqOf(s).set_block_inputs(static_cast<teq::v1::BlockInputs>(9)); },
                "recipe.transform.teq.block_inputs: 9 is not a known value"},
        BadSpec{
            "UnknownComputeType",
            [](JobSpec& s) { TeqOf(s).set_compute_type(static_cast<teq::v1::ComputeType>(9)); },
            "recipe.transform.teq.compute_type: 9 is not a known value"},
        BadSpec{"EndToEndStepsAfterKl",
                [](JobSpec& s) {
                  TeqOf(s).set_objective(teq::v1::OBJECTIVE_KL);
                  TeqOf(s).set_end_to_end_steps(5);
                },
                "recipe.transform.teq.end_to_end_steps: 5 only follows objective BLOCK_MSE; KL is end to "
"end itself: write end_to_end_steps: 0"},
        BadSpec{"ManyEndToEndSteps", [](JobSpec& s) { TeqOf(s).set_end_to_end_steps(100'001); },
                "recipe.transform.teq.end_to_end_steps: 100001 is out of range; give a whole "
                "number from 0 to 100000"},
        BadSpec{"NegativeEndToEndSteps", [](JobSpec& s) { TeqOf(s).set_end_to_end_steps(-1); },
                "end_to_end_steps: -1 is out of range"},
        BadSpec{"ZeroClippingRate",
                [](JobSpec& s) {
                  RecipeOf(s).mutable_clipping()->mutable_learned()->set_learning_rate(0);
                },
                "recipe.clipping.learned.learning_rate: 0 is out of range; give a number above 0, "
                "at most 1"},
        BadSpec{"ClippingThatNothingMoves",
                [](JobSpec& s) {
                  RecipeOf(s).mutable_clipping()->mutable_learned()->set_learning_rate(0.01);
                  TeqOf(s).set_gradient(teq::v1::GRADIENT_STRAIGHT_THROUGH);
                },
                "recipe.transform.teq.gradient: STRAIGHT_THROUGH stands beside clipping.learned, "
                "whose factors it never moves; take FULL, or clipping: {search: {}}"},
        BadSpec{"ClippingThatItsScheduleNeverMoves",
                [](JobSpec& s) {
                  ScheduleIn(s).set_gradient(teq::v1::GRADIENT_STRAIGHT_THROUGH);
                },
                "recipe.schedule.gradient: STRAIGHT_THROUGH stands beside clipping.learned"},
        BadSpec{"LargeRoundingRate",
                [](JobSpec& s) {
                  RecipeOf(s).mutable_rounding()->mutable_learned()->set_learning_rate(1.5);
                },
                "recipe.rounding.learned.learning_rate: 1.5 is out of range; give a number above "
                "0, at most 1"},
        BadSpec{"UnknownOptimizer",
                [](JobSpec& s) {
                  RecipeOf(s).mutable_rounding()->mutable_learned()->set_optimizer(
                      static_cast<teq::v1::Optimizer>(9));
                },
                "recipe.rounding.learned.optimizer: 9 is not a known value"},
        BadSpec{"ZeroDamping", [](JobSpec& s) { GptqOf(s).set_damping(0); },
                "recipe.rounding.gptq.damping: 0 is out of range; give a number above 0, at most "
                "1"},
        BadSpec{"NanDamping", [](JobSpec& s) { GptqOf(s).set_damping(kNan); },
                "recipe.rounding.gptq.damping: nan is out of range"},
        BadSpec{"UnknownGroupRange",
                [](JobSpec& s) { GptqOf(s).set_group_range(static_cast<teq::v1::GroupRange>(9)); },
                "recipe.rounding.gptq.group_range: 9 is not a known value"},
        BadSpec{"ScheduleBesideTeq", [](JobSpec& s) { RecipeOf(s).mutable_schedule(); },
                "recipe.schedule: stands beside transform.teq, whose own fields say how all is "
                "trained; move its fields there"},
        BadSpec{"ScheduleOfNothing",
                [](JobSpec& s) {
                  RecipeOf(s).Clear();
                  RecipeOf(s).mutable_transform()->mutable_awq();
                  RecipeOf(s).mutable_schedule()->set_steps(5);
                  s = WithDefaults(s);
                },
                "recipe.schedule: is given, but nothing is trained; leave it out, or give "
                "clipping: {learned: {}} or rounding: {learned: {}}"},
        BadSpec{"NegativeScheduleSteps", [](JobSpec& s) { ScheduleIn(s).set_steps(-1); },
                "recipe.schedule.steps: -1 is out of range; give a whole number from 0 to 100000"},
        BadSpec{"NoScheduleBatch", [](JobSpec& s) { ScheduleIn(s).set_batch_size(0); },
                "recipe.schedule.batch_size: 0 is out of range"},
        BadSpec{"UnknownScheduleObjective",
                [](JobSpec& s) { ScheduleIn(s).set_objective(static_cast<teq::v1::Objective>(9)); },
                "recipe.schedule.objective: 9 is not a known value"},
        BadSpec{"NothingHeldBackOfASchedule",
                [](JobSpec& s) { ScheduleIn(s).set_held_back_fraction(0); },
                "recipe.schedule.held_back_fraction: 0 is out of range; give a number above 0, at "
                "most 0.5"},
        BadSpec{"OneSampleOfASchedule",
                [](JobSpec& s) {
                  ScheduleIn(s);
                  s.mutable_calibration()->set_samples(1);
                },
                "calibration.samples: 1 is too few"},
        BadSpec{"SmallTarget", [](JobSpec& s) { SetTargetBits(s, 1.9); },
                "recipe.weights.target_bits: 1.9 is out of range; give a number from 2 to 8"},
        BadSpec{"LargeTarget", [](JobSpec& s) { SetTargetBits(s, 8.1); },
                "recipe.weights.target_bits: 8.1 is out of range"},
        BadSpec{"NanTarget", [](JobSpec& s) { SetTargetBits(s, kNan); },
                "recipe.weights.target_bits: nan is out of range"},
        BadSpec{"TargetBesideBits",
                [](JobSpec& s) { RecipeOf(s).mutable_weights()->set_target_bits(3.5); },
                "recipe.weights.target_bits: stands beside bits: 4; keep one of them"},
        BadSpec{"TargetInAnOverride",
                [](JobSpec& s) {
                  auto& change = Added(s);
                  change.set_match("a");
                  change.mutable_weights()->set_target_bits(3.5);
                },
                "recipe.overrides[0].weights.target_bits: stands in an override; give bits here, "
                "or target_bits in recipe.weights"},
        BadSpec{"OverrideWithoutBitsBesideATarget",
                [](JobSpec& s) {
                  SetTargetBits(s, 3.5);
                  auto& change = Added(s);
                  change.set_match("a");
                  change.mutable_weights()->set_group_size(32);
                },
                "recipe.overrides[0].weights.bits: is missing; recipe.weights.target_bits chooses "
                "no bits for a layer that an override names: give them"},
        BadSpec{"NoMatch", [](JobSpec& s) { Added(s).set_skip(true); },
                "recipe.overrides[0].match: is empty"},
        BadSpec{"BadPattern",
                [](JobSpec& s) {
                  Added(s).set_skip(true);
                  s.mutable_recipe()->mutable_overrides(0)->set_match("re:(");
                },
                "recipe.overrides[0].match: \"(\" is not a PCRE2 pattern"},
        BadSpec{"LongPattern",
                [](JobSpec& s) {
                  Added(s).set_skip(true);
                  s.mutable_recipe()->mutable_overrides(0)->set_match(std::string(1025, 'a'));
                },
                "recipe.overrides[0].match: has 1025 bytes; at most 1024"},
        BadSpec{"EmptyOverride", [](JobSpec& s) { Added(s).set_match("a"); },
                "recipe.overrides[0]: changes nothing; give weights, or skip: true"},
        BadSpec{"SkipAndWeights",
                [](JobSpec& s) {
                  auto& change = Added(s);
                  change.set_match("a");
                  change.set_skip(true);
                  change.mutable_weights()->set_bits(8);
                },
                "recipe.overrides[0]: has both weights and skip; keep one of them"},
        BadSpec{"OverrideBits",
                [](JobSpec& s) {
                  auto& change = Added(s);
                  change.set_match("a");
                  change.mutable_weights()->set_bits(16);
                },
                "recipe.overrides[0].weights.bits: 16 is not a supported width"},
        BadSpec{"ManyOverrides",
                [](JobSpec& s) {
                  for (int i = 0; i < 257; ++i) {
                    auto& change = Added(s);
                    change.set_match("a");
                    change.set_skip(true);
                  }
                },
                "recipe.overrides: has 257 entries; at most 256"},
        BadSpec{"OneSample", [](JobSpec& s) { s.mutable_calibration()->set_samples(1); },
                "calibration.samples: 1 is too few; the training holds one window back: use at least 2"},
        BadSpec{"NoSample", [](JobSpec& s) { s.mutable_calibration()->set_samples(0); },
                "calibration.samples: 0 is out of range"},
        BadSpec{"OneToken", [](JobSpec& s) { s.mutable_calibration()->set_sequence_length(1); },
                "calibration.sequence_length: 1 is out of range; give a whole number from 2 to "
                "1048576"},
        BadSpec{"OneEvaluationToken",
                [](JobSpec& s) { s.mutable_evaluation()->set_sequence_length(1); },
                "evaluation.sequence_length: 1 is out of range"},
        BadSpec{"TextTwice",
                [](JobSpec& s) {
                  s.mutable_evaluation()->add_uris("file:///a%20b");
                  s.mutable_evaluation()->add_uris("file:///a b");
                },
                "evaluation.uris[1]: file:///a b is given twice; give each text once"},
        BadSpec{"BadText", [](JobSpec& s) { s.mutable_evaluation()->add_uris("http://x/y.txt"); },
                "evaluation.uris[0]: \"http://x/y.txt\" has scheme \"http\""},
        BadSpec{"TextTwiceOnTheWeb",
                [](JobSpec& s) {
                  s.mutable_evaluation()->add_uris("https://Host:443/a%2Db");
                  s.mutable_evaluation()->add_uris("https://host/a-b");
                },
                "evaluation.uris[1]: https://host/a-b is given twice"},
        BadSpec{"ManyTexts",
                [](JobSpec& s) {
                  for (int i = 0; i < 33; ++i) {
                    s.mutable_evaluation()->add_uris("file:///" + std::to_string(i));
                  }
                },
                "evaluation.uris: has 33 texts; at most 32"},
        BadSpec{"TaskTwice",
                [](JobSpec& s) {
                  s.mutable_evaluation()->add_tasks("file:///t.jsonl");
                  s.mutable_evaluation()->add_tasks("file:///t.jsonl");
                },
                "evaluation.tasks[1]: file:///t.jsonl is given twice; give each task once"},
        BadSpec{"BadTask", [](JobSpec& s) { s.mutable_evaluation()->add_tasks("t.jsonl"); },
                "evaluation.tasks[0]: \"t.jsonl\""},
        BadSpec{"EmptyTask", [](JobSpec& s) { s.mutable_evaluation()->add_tasks(""); },
                "evaluation.tasks[0]: is missing; write file:// and an absolute path"},
        BadSpec{"ManyTasks",
                [](JobSpec& s) {
                  for (int i = 0; i < 33; ++i) {
                    s.mutable_evaluation()->add_tasks("file:///" + std::to_string(i));
                  }
                },
                "evaluation.tasks: has 33 tasks; at most 32"},
        BadSpec{"GateWithoutText",
                [](JobSpec& s) { s.mutable_evaluation()->set_max_perplexity_delta(0.5); },
                "evaluation.max_perplexity_delta: needs a text to measure on; give "
                "evaluation.uris"},
        BadSpec{"NanGate",
                [](JobSpec& s) { s.mutable_evaluation()->set_max_perplexity_delta(kNan); },
                "evaluation.max_perplexity_delta: nan is not a finite number"},
        BadSpec{"OutputInsideModelInABucket",
                [](JobSpec& s) {
                  s.mutable_model()->set_uri("s3://bucket/models/llama");
                  s.mutable_output()->set_uri("s3://bucket/models/llama/w4");
                },
                "output.uri: s3://bucket/models/llama/w4 and the model's directory "
                "s3://bucket/models/llama lie in one another"},
        BadSpec{"ModelInsideOutputThatIsAWholeBucket",
                [](JobSpec& s) {
                  s.mutable_model()->set_uri("s3://bucket/models/llama");
                  s.mutable_output()->set_uri("s3://bucket");
                },
                "output.uri: s3://bucket and the model's directory"},
        BadSpec{"OutputInsideModel",
                [](JobSpec& s) { s.mutable_output()->set_uri("file:///models/llama/w4"); },
                "output.uri: file:///models/llama/w4 and the model's directory "
                "file:///models/llama lie in one another; give a directory of its own"},
        BadSpec{"ModelInsideOutput",
                [](JobSpec& s) { s.mutable_output()->set_uri("file:///models/"); },
                "lie in one another"},
        BadSpec{"NoFormat",
                [](JobSpec& s) { s.mutable_output()->clear_formats(); },
                "output.formats: is empty; give GPTQ, AWQ, COMPRESSED_TENSORS, GGUF or "
                "DEQUANTIZED, or several"},
        BadSpec{"FormatTwice",
                [](JobSpec& s) { s.mutable_output()->add_formats(teq::v1::FORMAT_GPTQ); },
                "output.formats[1]: GPTQ is given twice"},
        BadSpec{"UnknownFormat",
                [](JobSpec& s) {
                  s.mutable_output()->set_formats(0, static_cast<teq::v1::Format>(77));
                },
                "output.formats[0]: 77 is not a known value"},
        BadSpec{"ZeroRuntime",
                [](JobSpec& s) { s.mutable_limits()->mutable_max_runtime()->set_seconds(0); },
                "limits.max_runtime: 0 s is out of range; from 1s to 3650d"},
        BadSpec{"LongQueueTime",
                [](JobSpec& s) {
                  s.mutable_limits()->mutable_max_queue_time()->set_seconds(400'000'000);
                },
                "limits.max_queue_time: 400000000 s is out of range"},
        BadSpec{"NegativeMemory",
                [](JobSpec& s) { s.mutable_resources()->set_memory_limit_bytes(-1); },
                "resources.memory_limit_bytes: -1 is out of range; give bytes, at least 67108864 "
                "(64 MiB), or 0 for three fifths of the worker's memory"},
        BadSpec{"MemoryInAnotherUnit",
                [](JobSpec& s) { s.mutable_resources()->set_memory_limit_bytes(16); },
                "resources.memory_limit_bytes: 16 is out of range"},
        BadSpec{"NoAttempts", [](JobSpec& s) { s.mutable_limits()->set_max_attempts(0); },
                "limits.max_attempts: 0 is out of range; give a whole number from 1 to 100"},
        BadSpec{"ManyPreemptions",
                [](JobSpec& s) { s.mutable_limits()->set_max_preemptions(1001); },
                "limits.max_preemptions: 1001 is out of range"},
        BadSpec{"Huge", [](JobSpec& s) { s.mutable_model()->set_uri(std::string(300'000, 'a')); },
                "spec: has 3"}),
    [](const auto& test) { return test.param.name; });

TEST(ValidateSpecTest, AllThatIsWrongIsTold) {
  JobSpec spec = WithDefaults(Minimal());
  spec.mutable_recipe()->mutable_weights()->set_bits(5);
  spec.clear_model();
  const std::string message = Message(ValidateSpec(spec));
  EXPECT_THAT(message, HasSubstr("recipe.weights.bits: 5"));
  EXPECT_THAT(message, HasSubstr("model.uri: is missing"));
}

TEST(ValidateSpecTest, LimitsOfTheRangesAreAllowed) {
  JobSpec spec = WithDefaults(Minimal());
  spec.mutable_recipe()->mutable_weights()->set_group_size(-1);
  TeqOf(spec).set_steps(0);
  TeqOf(spec).set_learning_rate(1);
  TeqOf(spec).set_held_back_fraction(0.5);
  TeqOf(spec).set_end_to_end_steps(100'000);
  RecipeOf(spec).mutable_clipping()->mutable_learned()->set_learning_rate(1);
  GptqOf(spec).set_damping(1);
  spec.mutable_calibration()->set_samples(2);
  spec.mutable_evaluation()->add_uris("file:///t");
  spec.mutable_evaluation()->set_max_perplexity_delta(-0.1);
  EXPECT_TRUE(ValidateSpec(spec).ok()) << ValidateSpec(spec);
}

TEST(ValidateSpecTest, TargetBitsTakeBothEndsAndOverridesWithBits) {
  for (const double target : {2.0, 3.5, 8.0}) {
    JobSpec spec = Minimal();
    RecipeOf(spec).mutable_weights()->set_target_bits(target);
    Added(spec).set_match("a");
    RecipeOf(spec).mutable_overrides(0)->mutable_weights()->set_bits(8);
    Added(spec).set_match("b");
    RecipeOf(spec).mutable_overrides(1)->set_skip(true);
    spec = WithDefaults(spec);
    EXPECT_TRUE(ValidateSpec(spec).ok()) << ValidateSpec(spec);
  }
}

TEST(ValidateSpecTest, OneSampleIsEnoughWhereNothingIsTrained) {
  JobSpec spec = Minimal();
  RecipeOf(spec).set_preset(teq::v1::PRESET_FAST);
  spec.mutable_calibration()->set_samples(1);
  spec = WithDefaults(spec);
  EXPECT_TRUE(ValidateSpec(spec).ok()) << ValidateSpec(spec);
}

TEST(ValidateSpecTest, TransformsClippingsAndRoundingsAllCompose) {
  using Change = std::function<void(teq::v1::Recipe&)>;
  const std::vector<Change> transforms = {[](auto& r) { r.mutable_transform(); },
                                          [](auto& r) { r.mutable_transform()->mutable_teq(); },
                                          [](auto& r) { r.mutable_transform()->mutable_awq(); }};
  const std::vector<Change> clippings = {[](auto& r) { r.mutable_clipping(); },
                                         [](auto& r) { r.mutable_clipping()->mutable_search(); },
                                         [](auto& r) { r.mutable_clipping()->mutable_learned(); }};
  const std::vector<Change> roundings = {[](auto& r) { r.mutable_rounding()->mutable_nearest(); },
                                         [](auto& r) { r.mutable_rounding()->mutable_gptq(); },
                                         [](auto& r) { r.mutable_rounding()->mutable_learned(); }};
  for (const auto preset : {teq::v1::PRESET_UNSPECIFIED, teq::v1::PRESET_FAST,
                            teq::v1::PRESET_BALANCED, teq::v1::PRESET_BEST}) {
    for (const Change& transform : transforms) {
      for (const Change& clipping : clippings) {
        for (const Change& rounding : roundings) {
          JobSpec spec = Minimal();
          RecipeOf(spec).set_preset(preset);
          transform(RecipeOf(spec));
          clipping(RecipeOf(spec));
          rounding(RecipeOf(spec));
          const JobSpec once = WithDefaults(spec);
          EXPECT_TRUE(ValidateSpec(once).ok()) << ValidateSpec(once) << once.DebugString();
          EXPECT_EQ(Digest(WithDefaults(once)), Digest(once)) << spec.DebugString();
        }
      }
    }
  }
}

TEST(ValidateSpecTest, RoundingAloneNeedsCalibrationTextForItsReport) {
  JobSpec spec = Minimal();
  spec.mutable_recipe()->mutable_rounding()->mutable_nearest();
  spec.mutable_calibration()->clear_uri();
  EXPECT_FALSE(ValidateSpec(WithDefaults(spec)).ok());
}

TEST(ValidateSpecTest, NeighboursOfTheModelsDirectoryAreAllowed) {
  JobSpec spec = WithDefaults(Minimal());
  spec.mutable_output()->set_uri("file:///models/llama-w4");
  EXPECT_TRUE(ValidateSpec(spec).ok());
}

// ---- Attributes ----

TEST(ValidateAttributesTest, LabelsAndAnyPriorityAreAllowed) {
  teq::v1::Job job;
  job.set_priority(std::numeric_limits<std::int32_t>::min());
  (*job.mutable_labels())["teqd.dev/team_a-1"] = std::string(128, 'x');
  EXPECT_TRUE(ValidateAttributes(job).ok());
}

TEST(ValidateAttributesTest, BadLabelsAreNamed) {
  teq::v1::Job job;
  (*job.mutable_labels())["Team"] = "x";
  (*job.mutable_labels())["big"] = std::string(129, 'x');
  (*job.mutable_labels())[""] = "x";
  const absl::Status status = ValidateAttributes(job);
  EXPECT_EQ(ErrorReason(status), "INVALID_SPEC");
  EXPECT_THAT(Message(status), HasSubstr("labels.Team: is not a label key; use 1 to 63 of a-z"));
  EXPECT_THAT(Message(status), HasSubstr("labels.big: has a value of 129 bytes; at most 128"));
  EXPECT_THAT(Message(status), HasSubstr("labels.: is not a label key"));
}

TEST(ValidateAttributesTest, SixtyFiveLabelsAreTooMany) {
  teq::v1::Job job;
  for (int i = 0; i < 65; ++i) (*job.mutable_labels())[std::to_string(i)] = "x";
  EXPECT_THAT(Message(ValidateAttributes(job)), HasSubstr("labels: has 65 entries; at most 64"));
}

// ---- URIs ----

TEST(CheckUrisTest, EveryUriOfTheSpecIsHeldAgainstThePolicy) {
  const UriPolicy policy{{"file:///models", "file:///data", "file:///out"}};
  JobSpec spec = WithDefaults(Minimal());
  spec.mutable_evaluation()->add_uris("file:///data/test.txt");
  spec.mutable_evaluation()->add_tasks("file:///data/task.jsonl");
  EXPECT_TRUE(CheckUris(spec, policy).ok()) << CheckUris(spec, policy);

  const auto refused = [&policy](const JobSpec& changed, const std::string& field) {
    const absl::Status status = CheckUris(changed, policy);
    EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
    EXPECT_EQ(ErrorReason(status), "URI_NOT_ALLOWED");
    EXPECT_THAT(Message(status), HasSubstr(field + ": \"file:///etc/x\" is not below"));
    const google::rpc::Status proto = ToProto(status);
    google::rpc::BadRequest request;
    for (const auto& detail : proto.details()) detail.UnpackTo(&request);
    ASSERT_EQ(request.field_violations_size(), 1);
    EXPECT_EQ(request.field_violations(0).field(), field);
  };
  JobSpec model = spec;
  model.mutable_model()->set_uri("file:///etc/x");
  refused(model, "model.uri");
  JobSpec calibration = spec;
  calibration.mutable_calibration()->set_uri("file:///etc/x");
  refused(calibration, "calibration.uri");
  JobSpec evaluation = spec;
  evaluation.mutable_evaluation()->set_uris(0, "file:///etc/x");
  refused(evaluation, "evaluation.uris[0]");
  JobSpec task = spec;
  task.mutable_evaluation()->set_tasks(0, "file:///etc/x");
  refused(task, "evaluation.tasks[0]");
  JobSpec output = spec;
  output.mutable_output()->set_uri("file:///etc/x");
  refused(output, "output.uri");
}

TEST(CheckUrisTest, BadUriKeepsItsReason) {
  JobSpec spec = Minimal();
  spec.mutable_output()->set_uri("file:///a/../b");
  EXPECT_EQ(ErrorReason(CheckUris(spec, {})), "INVALID_URI");
}

// ---- Digest ----

TEST(DigestTest, IsSha256OfTheSerialization) {
  // printf '' | sha256sum
  EXPECT_EQ(Digest(JobSpec()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  // printf '\n\001a' | sha256sum: field 1, length 1, "a"
  teq::v1::ModelSource source;
  source.set_uri("a");
  EXPECT_EQ(Digest(source), "23dca2a7429612378554b0bb5b85012dec00a17cc2c673f17d2b76a50b839cd5");
}

TEST(DigestTest, OrderOfAMapDoesNotMatter) {
  teq::v1::Job one;
  teq::v1::Job other;
  for (int i = 0; i < 50; ++i) (*one.mutable_labels())[std::to_string(i)] = "x";
  for (int i = 49; i >= 0; --i) (*other.mutable_labels())[std::to_string(i)] = "x";
  EXPECT_EQ(Digest(one), Digest(other));
}

}  // namespace
}  // namespace teq
