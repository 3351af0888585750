#include "proto/spec/job_file.h"

#include <string>

#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"
#include "proto/spec/validate.h"

namespace teq {
namespace {

using ::testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

constexpr std::string_view kJobFile = R"(# a comment
project: search
priority: 10
labels: {team: "search", run: 7, final: true}
model:       {uri: "file:///models/llama"}
recipe:
  weights:   {bits: 3, group_size: 32, symmetric: false}
  transform: {teq: {steps: 1000, learning_rate: 5e-3, objective: LM_LOSS, init: AWQ}}
  rounding:  {nearest: {}}
  overrides:
    - {match: "re:.*down_proj$", weights: {bits: 8}}
    - match: model.layers.0.mlp.up_proj
      skip: true
calibration: {uri: "file:///data/calib.txt", samples: 0x80, sequence_length: 256, seed: 1}
evaluation:
  uris:
    - file:///data/test.txt
  max_perplexity_delta: .5
output:      {uri: "file:///models/llama-w3", formats: [GPTQ]}
resources:   {device: CPU}
limits:      {max_runtime: 6h, max_queue_time: "24h", max_attempts: 3}
)";

TEST(JobFileTest, EveryFieldOfAJobIsRead) {
  const auto file = ParseJobFile(kJobFile, "job.yaml");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->project, "search");
  EXPECT_EQ(file->job.priority(), 10);
  EXPECT_EQ(file->job.labels().at("team"), "search");
  EXPECT_EQ(file->job.labels().at("run"), "7");
  EXPECT_EQ(file->job.labels().at("final"), "true");
  const auto& spec = file->job.spec();
  EXPECT_EQ(spec.model().uri(), "file:///models/llama");
  EXPECT_EQ(spec.recipe().weights().bits(), 3);
  EXPECT_TRUE(spec.recipe().weights().has_symmetric());
  EXPECT_EQ(spec.recipe().transform().teq().steps(), 1000);
  EXPECT_EQ(spec.recipe().transform().teq().learning_rate(), 0.005);
  EXPECT_EQ(spec.recipe().transform().teq().objective(), teq::v1::OBJECTIVE_LM_LOSS);
  EXPECT_TRUE(spec.recipe().rounding().has_nearest());
  EXPECT_EQ(spec.recipe().overrides(0).match(), "re:.*down_proj$");
  EXPECT_TRUE(spec.recipe().overrides(1).skip());
  EXPECT_EQ(spec.calibration().samples(), 128);
  EXPECT_EQ(spec.evaluation().uris(0), "file:///data/test.txt");
  EXPECT_EQ(spec.evaluation().max_perplexity_delta(), 0.5);
  EXPECT_EQ(spec.output().formats(0), teq::v1::FORMAT_GPTQ);
  EXPECT_EQ(spec.resources().device(), teq::v1::DEVICE_CPU);
  EXPECT_EQ(spec.limits().max_runtime().seconds(), 6 * 3600);
  EXPECT_EQ(spec.limits().max_queue_time().seconds(), 24 * 3600);
  EXPECT_TRUE(ValidateSpec(WithDefaults(spec)).ok());
}

// The job of DESIGN.md's section 4, its comments too, with the formats and resources there are.
constexpr std::string_view kDesignJobFile = R"(
project: default                                       # resource name: projects/default/jobs/<id>
priority: 10                                           # larger runs sooner; may be changed later, as labels may
labels: {team: "search"}
model:       {uri: "file:///models/llama"}             # or s3://, https://, hf://owner/name@revision: a Hugging Face checkpoint directory
recipe:
  preset: BALANCED                                     # FAST, BALANCED, BEST; what is written beside it overrides it
  weights:   {bits: 4, group_size: 128, symmetric: false}      # or target_bits: 3.5
  transform: {teq: {steps: 1000, batch_size: 4, learning_rate: 0.005, objective: BLOCK_MSE, init: AWQ, gradient: FULL, block_inputs: QUANTIZED, held_back_fraction: 0.125}}   # or {awq: {}}
  clipping:  {learned: {}}                             # or {search: {}}
  rounding:  {gptq: {}}                                # or {nearest: {}}, {learned: {}}
  overrides: [{match: "re:.*down_proj$", weights: {bits: 8}}, {match: "model.layers.0.mlp.up_proj", skip: true}]
calibration: {uri: "file:///data/calib.txt", samples: 128, sequence_length: 2048, seed: 1}
evaluation:  {uris: ["file:///data/test.txt"], sequence_length: 2048, max_perplexity_delta: 0.5}
output:      {uri: "file:///models/llama-w4", formats: [GPTQ]}
resources:   {device: CUDA, memory_limit_bytes: 0}     # ANY, CPU, CUDA, HPU
limits:      {max_runtime: "6h", max_queue_time: "24h", max_attempts: 3, max_preemptions: 20}   # s, m, h, d
)";

TEST(JobFileTest, DesignsJobIsReadAndValidAndItsFieldsWinOverThePreset) {
  const auto file = ParseJobFile(kDesignJobFile, "job.yaml");
  ASSERT_TRUE(file.ok()) << file.status();
  const auto& recipe = file->job.spec().recipe();
  EXPECT_EQ(recipe.preset(), teq::v1::PRESET_BALANCED);
  EXPECT_EQ(recipe.transform().teq().objective(), teq::v1::OBJECTIVE_BLOCK_MSE);
  EXPECT_EQ(recipe.transform().teq().block_inputs(), teq::v1::BLOCK_INPUTS_QUANTIZED);
  EXPECT_TRUE(recipe.clipping().has_learned());
  EXPECT_TRUE(recipe.rounding().has_gptq());
  const auto spec = WithDefaults(file->job.spec());
  EXPECT_EQ(spec.recipe().transform().teq().steps(), 1000);
  EXPECT_TRUE(spec.recipe().rounding().has_gptq());
  EXPECT_TRUE(ValidateSpec(spec).ok()) << ValidateSpec(spec);
}

TEST(JobFileTest, EveryKindAndSettingOfARecipeIsRead) {
  const auto file = ParseJobFile(R"(
recipe:
  weights: {target_bits: 3.5}
  transform: {awq: {}}
  clipping: {learned: {learning_rate: 0.002, start_from_search: false}}
  rounding: {learned: {learning_rate: 0.01, optimizer: SIGN_SGD}}
  schedule:
    steps: 9
    batch_size: 2
    objective: BLOCK_MSE
    gradient: STRAIGHT_THROUGH
    held_back_fraction: 0.25
    block_inputs: FLOAT
    end_to_end_steps: 5
    compute_type: BFLOAT16
evaluation: {tasks: ["file:///data/task.jsonl"]}
)",
                                 "job.yaml");
  ASSERT_TRUE(file.ok()) << file.status();
  const auto& recipe = file->job.spec().recipe();
  EXPECT_EQ(recipe.weights().target_bits(), 3.5);
  EXPECT_TRUE(recipe.transform().has_awq());
  EXPECT_EQ(recipe.clipping().learned().learning_rate(), 0.002);
  EXPECT_TRUE(recipe.clipping().learned().has_start_from_search());
  EXPECT_FALSE(recipe.clipping().learned().start_from_search());
  EXPECT_EQ(recipe.rounding().learned().learning_rate(), 0.01);
  EXPECT_EQ(recipe.rounding().learned().optimizer(), teq::v1::OPTIMIZER_SIGN_SGD);
  EXPECT_EQ(recipe.schedule().steps(), 9);
  EXPECT_EQ(recipe.schedule().batch_size(), 2);
  EXPECT_EQ(recipe.schedule().objective(), teq::v1::OBJECTIVE_BLOCK_MSE);
  EXPECT_EQ(recipe.schedule().gradient(), teq::v1::GRADIENT_STRAIGHT_THROUGH);
  EXPECT_EQ(recipe.schedule().held_back_fraction(), 0.25);
  EXPECT_EQ(recipe.schedule().block_inputs(), teq::v1::BLOCK_INPUTS_FLOAT);
  EXPECT_EQ(recipe.schedule().end_to_end_steps(), 5);
  EXPECT_EQ(recipe.schedule().compute_type(), teq::v1::COMPUTE_TYPE_BFLOAT16);
  EXPECT_EQ(file->job.spec().evaluation().tasks(0), "file:///data/task.jsonl");

  const auto gptq = ParseJobFile(
      "recipe: {clipping: {search: {}}, rounding: {gptq: {damping: 0.05, group_range: "
      "BEFORE_UPDATE, order_by_activation: false}}}",
      "job.yaml");
  ASSERT_TRUE(gptq.ok()) << gptq.status();
  EXPECT_TRUE(gptq->job.spec().recipe().clipping().has_search());
  const auto& settings = gptq->job.spec().recipe().rounding().gptq();
  EXPECT_EQ(settings.damping(), 0.05);
  EXPECT_EQ(settings.group_range(), teq::v1::GROUP_RANGE_BEFORE_UPDATE);
  EXPECT_TRUE(settings.has_order_by_activation());
  EXPECT_FALSE(settings.order_by_activation());
}

TEST(JobFileTest, EmptyPartOfARecipeIsPresent) {
  const auto file = ParseJobFile("recipe:\n  transform: {}\n", "job.yaml");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->job.spec().recipe().has_transform());
  EXPECT_FALSE(file->job.spec().recipe().has_clipping());
}

TEST(JobFileTest, ProjectIsDefaultWhereTheFileNamesNone) {
  EXPECT_EQ(ParseJobFile("model: {uri: x}", "j")->project, "default");
}

TEST(JobFileTest, TextFieldTakesAnUnquotedNumberWordOrDate) {
  const auto file =
      ParseJobFile("project: 123\nmodel: {uri: 2024-01-31}\nlabels: {a: 1.50, b: 0x1}", "j");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->project, "123");
  EXPECT_EQ(file->job.spec().model().uri(), "2024-01-31");
  EXPECT_EQ(file->job.labels().at("a"), "1.50");  // as written, not as a number prints
  EXPECT_EQ(file->job.labels().at("b"), "0x1");
}

TEST(JobFileTest, AliasIsItsAnchor) {
  const auto file = ParseJobFile(
      "calibration: &text {uri: 'file:///a', sequence_length: 64}\nmodel: {uri: 'file:///m'}\n"
      "recipe:\n  overrides:\n  - {match: a, weights: &w {bits: 8}}\n  - {match: b, weights: *w}\n",
      "j");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->job.spec().recipe().overrides(1).weights().bits(), 8);
}

struct BadFile {
  std::string yaml;
  std::string message;
};

class BadJobFileTest : public ::testing::TestWithParam<BadFile> {};

TEST_P(BadJobFileTest, ErrorNamesFileLineAndField) {
  const auto file = ParseJobFile(GetParam().yaml, "job.yaml");
  ASSERT_FALSE(file.ok());
  EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ErrorReason(file.status()), "INVALID_JOB_FILE");
  EXPECT_THAT(Message(file.status()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadJobFileTest,
    ::testing::Values(
        BadFile{"model:\n  uri: file:///m\nrecipe:\n  weigths:\n    bits: 4\n",
                "job.yaml:4: recipe.weigths: unknown field; known: weights, transform, rounding, "
                "overrides, preset, clipping, schedule"},
        BadFile{
            "model: {uri: a}\n\nmodle: 1\n",
            "job.yaml:3: modle: unknown field; known: project, priority, labels, model, recipe"},
        BadFile{"state: RUNNING\n", "job.yaml:1: state: unknown field"},
        BadFile{"name: x\n", "job.yaml:1: name: unknown field"},
        BadFile{"recipe:\n  overrides:\n  - match: a\n  - {match: b,\n     bits: 3}\n",
                "job.yaml:5: recipe.overrides[1].bits: unknown field; known: match, weights, skip"},
        BadFile{"priority: 1\nmodel: {uri: a}\npriority: 2\n",
                "job.yaml:3: priority: is given twice; keep one of them"},
        BadFile{"recipe:\n  weights: {bits: 3,\n    bits: 4}\n",
                "job.yaml:3: recipe.weights.bits: is given twice"},
        BadFile{"recipe:\n  weights: {bits: four}\n",
                "job.yaml:2: recipe.weights.bits: expected a whole number, got \"four\""},
        BadFile{"recipe: {weights: {bits: '4'}}", "expected a whole number, got \"4\""},
        BadFile{"priority: 99999999999\n",
                "job.yaml:1: priority: 99999999999 is out of range; between"},
        BadFile{"recipe: {weights: {symmetric: yes}}",
                "recipe.weights.symmetric: expected true or false, got \"yes\""},
        BadFile{"recipe: {transform: {teq: {learning_rate: .inf}}}",
                "recipe.transform.teq.learning_rate: expected a finite number"},
        BadFile{"recipe:\n  transform:\n    teq:\n",
                "job.yaml:3: recipe.transform.teq: has no value; write {} for its defaults"},
        BadFile{"recipe: {transform: {teq: {objective: MSE}}}",
                "recipe.transform.teq.objective: \"MSE\" is not a known value; known: LM_LOSS, KL, "
                "BLOCK_MSE"},
        BadFile{"recipe:\n  preset: GOOD\n",
                "job.yaml:2: recipe.preset: \"GOOD\" is not a known value; known: FAST, BALANCED, "
                "BEST"},
        BadFile{"recipe:\n  transform:\n    teq: {}\n    awq: {}\n",
                "job.yaml:4: recipe.transform.awq: excludes teq, which is given too; keep one of "
                "them"},
        BadFile{"recipe:\n  rounding: {gptq: {dampening: 1}}\n",
                "recipe.rounding.gptq.dampening: unknown field; known: damping, group_range, "
                "order_by_activation"},
        BadFile{"recipe:\n  clipping: {search: {steps: 3}}\n",
                "recipe.clipping.search.steps: unknown field; known: none"},
        BadFile{"recipe: {schedule: {learning_rate: 0.1}}",
                "recipe.schedule.learning_rate: unknown field; known: steps, batch_size"},
        BadFile{"recipe: {weights: {target_bits: many}}",
                "recipe.weights.target_bits: expected a finite number, got \"many\""},
        BadFile{"recipe: {weights: {target_bits: .nan}}",
                "recipe.weights.target_bits: expected a finite number, got nan"},
        BadFile{"recipe: {weights: {bits: .inf}}", "recipe.weights.bits: inf is out of range"},
        BadFile{"recipe:\n  transform: {}\n  clipping:\n",
                "job.yaml:3: recipe.clipping: has no value; give it one, or leave the line out"},
        BadFile{"labels:\n  a: [1]\n", "job.yaml:2: labels.a: expected a string, got [1]"},
        BadFile{"labels:\n  a:\n", "job.yaml:2: labels.a: expected a string, got null"},
        BadFile{"labels:\n  ? [x]\n  : y\n", "labels: has a key that is not a plain word"},
        BadFile{"project: Search\n", "job.yaml:1: project: \"Search\" is not a project"},
        BadFile{"project: '-'\n", "project: \"-\" is not a project"},
        BadFile{"project: ''\n", "project: \"\" is not a project"},
        BadFile{"priority: 1\nproject:\n",
                "job.yaml:2: project: has no value; give it one, or leave the line out"},
        BadFile{"priority: 1\nproject: [a]\n", "job.yaml:2: project: expected a name, got a list"},
        BadFile{"project: {a: b}\n", "job.yaml:1: project: expected a name, got a map"},
        BadFile{"limits:\n  max_runtime: 3600\n",
                "job.yaml:2: limits.max_runtime: expected a duration: a number and s, m, h or d"},
        BadFile{"model: {uri: !secret x}\n", "job.yaml:1: model.uri: has the tag !secret"},
        BadFile{"model: {uri: a}\n---\nmodel: {uri: b}\n",
                "job.yaml: holds 2 documents; write one job to a file"},
        BadFile{"", "job.yaml: is empty"}, BadFile{"# nothing\n", "job.yaml: is empty"},
        BadFile{"- a\n", "job.yaml:1: is not a map"}, BadFile{"text", "job.yaml:1: is not a map"},
        BadFile{"model:\n\turi: x\n", "job.yaml:2: is not YAML: "},
        BadFile{"model:\n\turi: x\n",
                "; the line is indented by a tab, which YAML does not take; write spaces"},
        BadFile{"recipe:\n  weights:\n  \tbits: 3\n",
                "the line is indented by a tab, which YAML does not take; write spaces"},
        BadFile{"\xff", "job.yaml:1: is not UTF-8; save the file in that encoding"},
        BadFile{"labels: {a: \"ä\"}\n# \xe4\n", "job.yaml:2: is not UTF-8"},
        BadFile{"labels: {a: \"\xc3\n\xa4\"}\n", "job.yaml:1: is not UTF-8"},
        BadFile{"model: {uri: x\n", "is not YAML: "}, BadFile{"model: *nothing\n", "is not YAML: "},

        BadFile{std::string(1024 * 1024 + 1, ' '),
                "job.yaml: has 1048577 bytes; a job file has at most 1048576"}));

TEST(JobFileTest, ProblemsAreToldInTheOrderOfTheFile) {
  const auto file =
      ParseJobFile("recipe: {weights: {bits: x}}\nmodle: 1\nlabels: {a: []}\n", "job.yaml");
  const std::string message = Message(file.status());
  EXPECT_LT(message.find("job.yaml:1: recipe.weights.bits"), message.find("job.yaml:2: modle"));
  EXPECT_LT(message.find("job.yaml:2: modle"), message.find("job.yaml:3: labels.a"));
}

TEST(JobFileTest, AliasBombIsRefused) {
  std::string yaml = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n";
  for (int i = 1; i < 10; ++i) {
    const std::string last = fmt::format("*a{}", i - 1);
    yaml += fmt::format("a{0}: &a{0} [{1},{1},{1},{1},{1},{1},{1},{1},{1},{1}]\n", i, last);
  }
  const auto file = ParseJobFile(yaml, "bomb.yaml");
  EXPECT_EQ(ErrorReason(file.status()), "INVALID_JOB_FILE");
  EXPECT_THAT(Message(file.status()), HasSubstr("aliases expand to too much"));
}

TEST(JobFileTest, AliasOfItselfIsRefused) {
  const auto file = ParseJobFile("labels: &l {a: *l}\n", "loop.yaml");
  EXPECT_EQ(ErrorReason(file.status()), "INVALID_JOB_FILE");
}

TEST(JobFileTest, DeepNestingIsRefused) {
  const auto file = ParseJobFile("model: " + std::string(100'000, '['), "deep.yaml");
  EXPECT_EQ(ErrorReason(file.status()), "INVALID_JOB_FILE");
  const auto closed =
      ParseJobFile("model: " + std::string(100, '[') + std::string(100, ']'), "deep.yaml");
  EXPECT_THAT(Message(closed.status()), HasSubstr("nested too deeply"));
}

}  // namespace
}  // namespace teq
