#include "proto/spec/validate.h"

#include <functional>
#include <limits>
#include <string>

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

TEST(WithDefaultsTest, EmptyRecipeIsFourBitTeqRoundedToNearest) {
  const JobSpec spec = WithDefaults(Minimal());
  EXPECT_EQ(spec.recipe().weights().bits(), 4);
  EXPECT_EQ(spec.recipe().weights().group_size(), 128);
  EXPECT_TRUE(spec.recipe().weights().has_symmetric());
  EXPECT_FALSE(spec.recipe().weights().symmetric());
  ASSERT_TRUE(spec.recipe().transform().has_teq());
  const auto& teq = spec.recipe().transform().teq();
  EXPECT_TRUE(teq.has_steps());
  EXPECT_TRUE(teq.has_batch_size());
  EXPECT_TRUE(teq.has_learning_rate());
  EXPECT_EQ(teq.objective(), teq::v1::OBJECTIVE_KL);
  EXPECT_EQ(teq.init(), teq::v1::INITIALIZATION_AWQ);
  EXPECT_EQ(teq.gradient(), teq::v1::GRADIENT_FULL);
  EXPECT_EQ(teq.held_back_fraction(), 0.125);
  EXPECT_TRUE(spec.recipe().rounding().has_nearest());
  EXPECT_EQ(spec.calibration().seed(), 1);
  EXPECT_EQ(spec.output().formats(0), teq::v1::FORMAT_GPTQ);
  EXPECT_EQ(spec.resources().device(), teq::v1::DEVICE_ANY);
  EXPECT_EQ(spec.limits().max_runtime().seconds(), 24 * 3600);
  EXPECT_FALSE(spec.limits().has_max_queue_time());
  EXPECT_EQ(spec.limits().max_attempts(), 3);
  EXPECT_EQ(spec.limits().max_preemptions(), 20);
  EXPECT_TRUE(ValidateSpec(spec).ok()) << ValidateSpec(spec);
}

TEST(WithDefaultsTest, RecipeWithOnlyWeightsIsTeq) {
  JobSpec spec = Minimal();
  spec.mutable_recipe()->mutable_weights()->set_bits(3);
  spec = WithDefaults(spec);
  EXPECT_TRUE(spec.recipe().transform().has_teq());
  EXPECT_EQ(spec.recipe().weights().bits(), 3);
  EXPECT_EQ(spec.recipe().weights().group_size(), 128);
}

TEST(WithDefaultsTest, RecipeWithARoundingHasNoTransform) {
  JobSpec spec = Minimal();
  spec.mutable_recipe()->mutable_rounding()->mutable_nearest();
  EXPECT_FALSE(WithDefaults(spec).recipe().has_transform());
}

TEST(WithDefaultsTest, RecipeWithATransformIsRoundedToNearest) {
  JobSpec spec = Minimal();
  spec.mutable_recipe()->mutable_transform()->mutable_teq()->set_steps(0);
  spec = WithDefaults(spec);
  EXPECT_EQ(spec.recipe().transform().teq().steps(), 0);
  EXPECT_TRUE(spec.recipe().transform().teq().has_learning_rate());
  EXPECT_TRUE(spec.recipe().rounding().has_nearest());
}

TEST(WithDefaultsTest, FillingInTwiceChangesNothing) {
  JobSpec rtn = Minimal();
  rtn.mutable_recipe()->mutable_rounding();
  JobSpec off = Minimal();
  off.mutable_recipe()->mutable_transform();
  for (const JobSpec& spec : {Minimal(), rtn, off}) {
    const JobSpec once = WithDefaults(spec);
    EXPECT_EQ(Digest(WithDefaults(once)), Digest(once));
  }
}

TEST(WithDefaultsTest, OverridesKeepWhatTheyLeaveOpen) {
  JobSpec spec = Minimal();
  spec.mutable_recipe()->add_overrides()->mutable_weights()->set_bits(8);
  EXPECT_FALSE(WithDefaults(spec).recipe().overrides(0).weights().has_group_size());
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
        BadSpec{"OtherScheme", [](JobSpec& s) { s.mutable_model()->set_uri("s3://b/m"); },
                "model.uri: \"s3://b/m\" has scheme \"s3\", which is not supported; write file://"},
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
        BadSpec{"AllHeldBack", [](JobSpec& s) { TeqOf(s).set_held_back_fraction(0.6); },
                "held_back_fraction: 0.6 is out of range; give a number above 0, at most 0.5"},
        BadSpec{"UnknownObjective",
                [](JobSpec& s) { TeqOf(s).set_objective(static_cast<teq::v1::Objective>(9)); },
                "recipe.transform.teq.objective: 9 is not a known value"},
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
                "calibration.samples: 1 is too few; TEQ holds one window back: use at least 2"},
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
        BadSpec{"BadText", [](JobSpec& s) { s.mutable_evaluation()->add_uris("https://x/y.txt"); },
                "evaluation.uris[0]: \"https://x/y.txt\" has scheme \"https\""},
        BadSpec{"ManyTexts",
                [](JobSpec& s) {
                  for (int i = 0; i < 33; ++i) {
                    s.mutable_evaluation()->add_uris("file:///" + std::to_string(i));
                  }
                },
                "evaluation.uris: has 33 texts; at most 32"},
        BadSpec{"GateWithoutText",
                [](JobSpec& s) { s.mutable_evaluation()->set_max_perplexity_delta(0.5); },
                "evaluation.max_perplexity_delta: needs a text to measure on; give "
                "evaluation.uris"},
        BadSpec{"NanGate",
                [](JobSpec& s) { s.mutable_evaluation()->set_max_perplexity_delta(kNan); },
                "evaluation.max_perplexity_delta: nan is not a finite number"},
        BadSpec{"OutputInsideModel",
                [](JobSpec& s) { s.mutable_output()->set_uri("file:///models/llama/w4"); },
                "output.uri: file:///models/llama/w4 and the model's directory "
                "file:///models/llama lie in one another; give a directory of its own"},
        BadSpec{"ModelInsideOutput",
                [](JobSpec& s) { s.mutable_output()->set_uri("file:///models/"); },
                "lie in one another"},
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
  spec.mutable_calibration()->set_samples(2);
  spec.mutable_evaluation()->add_uris("file:///t");
  spec.mutable_evaluation()->set_max_perplexity_delta(-0.1);
  EXPECT_TRUE(ValidateSpec(spec).ok()) << ValidateSpec(spec);
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
  JobSpec output = spec;
  output.mutable_output()->set_uri("file:///etc/x");
  refused(output, "output.uri");
}

TEST(CheckUrisTest, BadUriKeepsItsReason) {
  JobSpec spec = Minimal();
  spec.mutable_output()->set_uri("file:///a/../b");
  EXPECT_EQ(ErrorReason(CheckUris(spec, {})), "INVALID_URI");
}

// ---- Digest and grids ----

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

TEST(GridOfTest, LastMatchingOverrideWinsAndTheRestIsTheRecipes) {
  teq::v1::Recipe recipe = WithDefaults(Minimal()).recipe();
  auto* down = recipe.add_overrides();
  down->set_match("re:.*down_proj");
  down->mutable_weights()->set_bits(8);
  down->mutable_weights()->set_symmetric(true);
  auto* first = recipe.add_overrides();
  first->set_match("model.layers.0.mlp.down_proj");
  first->mutable_weights()->set_group_size(-1);
  auto* lm = recipe.add_overrides();
  lm->set_match("re:model\\.layers\\.7\\..*");
  lm->set_skip(true);

  const LayerGrid plain = GridOf(recipe, "model.layers.1.mlp.up_proj");
  EXPECT_TRUE(plain.quantized);
  EXPECT_EQ(plain.bits, 4);
  EXPECT_EQ(plain.group_size, 128);
  EXPECT_FALSE(plain.symmetric);

  const LayerGrid eight = GridOf(recipe, "model.layers.1.mlp.down_proj");
  EXPECT_EQ(eight.bits, 8);
  EXPECT_EQ(eight.group_size, 128);
  EXPECT_TRUE(eight.symmetric);

  const LayerGrid whole = GridOf(recipe, "model.layers.0.mlp.down_proj");
  EXPECT_EQ(whole.bits, 4);
  EXPECT_EQ(whole.group_size, -1);
  EXPECT_FALSE(whole.symmetric);

  EXPECT_FALSE(GridOf(recipe, "model.layers.7.mlp.down_proj").quantized);
}

}  // namespace
}  // namespace teq
