// Every family through the whole pipeline: the default recipe at 4 bits, the report, and the
// published checkpoint, whose perplexity VERIFY measures.
#include <gmock/gmock.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <random>
#include <set>

#include "client/model_info/layout.h"
#include "client/model_info/model_config.h"
#include "client/objects/file.h"
#include "client/objects/publication.h"
#include "proto/spec/error.h"
#include "proto/spec/validate.h"
#include "tests/unit/worker/engine/model/family_case.h"
#include "tests/unit/worker/engine/model/hpu_stand_in.h"
#include "worker/engine/checkpoint/checkpoint.h"
#include "worker/engine/pipeline/run.h"

namespace teq::pipeline {
namespace {

constexpr int kWindow = 32;

class FamilyRun {
 public:
  explicit FamilyRun(const std::string& name)
      : directory_(testing::TempDir() + "teq-run-" + name + std::to_string(getpid())),
        family_(ReadFamilyCase(name)) {}
  virtual ~FamilyRun() { std::filesystem::remove_all(directory_); }

  // The checkpoint has no tokenizer: data of ids needs none.
  void WriteIds(const std::string& name, int lines, unsigned seed) {
    std::mt19937 random(seed);
    std::ofstream file(directory_ + "/" + name + ".jsonl");
    for (int line = 0; line < lines; ++line) {
      std::vector<unsigned> ids(kWindow);
      for (unsigned& id : ids) id = random() % static_cast<unsigned>(family_.logits.size(1));
      file << nlohmann::json{{"input_ids", ids}}.dump() << "\n";
    }
  }

  /// The last event of a job over the case's checkpoint, at 4 bits.
  teq::v1::EngineEvent RunJob(const std::vector<teq::v1::Format>& formats = {}) {
    return RunJobOn(teq::v1::DEVICE_ANY, {}, formats);
  }

  teq::v1::EngineEvent RunJobOn(teq::v1::Device device, const model::DeviceOptions& options,
                                const std::vector<teq::v1::Format>& formats) {
    teq::v1::JobSpec spec = Spec();
    spec.mutable_output()->mutable_formats()->Assign(formats.begin(), formats.end());
    spec.mutable_resources()->set_device(device);
    return RunSpec(spec, options);
  }

  /// A job at 4 bits over the case's checkpoint, which is written.
  teq::v1::JobSpec Spec() {
    WriteCheckpoint(family_, directory_ + "/model");
    WriteIds("calibration", 96, 1);
    WriteIds("evaluation", 8, 2);
    teq::v1::JobSpec spec;
    const std::string base = "file://" + directory_;
    spec.mutable_model()->set_uri(base + "/model");
    spec.mutable_recipe()->mutable_weights()->set_bits(4);
    spec.mutable_recipe()->mutable_weights()->set_group_size(16);
    spec.mutable_recipe()->mutable_weights()->set_symmetric(false);
    spec.mutable_calibration()->set_uri(base + "/calibration.jsonl");
    spec.mutable_calibration()->set_sequence_length(kWindow);
    spec.mutable_evaluation()->add_uris(base + "/evaluation.jsonl");
    spec.mutable_evaluation()->set_sequence_length(kWindow);
    spec.mutable_output()->set_uri(base + "/output");
    return spec;
  }

  teq::v1::EngineEvent RunSpec(
      const teq::v1::JobSpec& spec, const model::DeviceOptions& options = {},
      const EventSink& sink = [](const auto&) {}) {
    teq::v1::StartRun start;
    *start.mutable_spec() = WithDefaults(spec);
    start.set_attempt(1);
    return pipeline::Run(start, {.threads = 1, .device = options, .data = directory_ + "/data"},
                         sink, not_cancelled_);
  }

  // The one directory with a config.json below the output.
  std::filesystem::path Published() {
    std::vector<std::filesystem::path> found;
    for (const auto& entry :
         std::filesystem::recursive_directory_iterator(directory_ + "/output")) {
      if (entry.path().filename() == "config.json") found.push_back(entry.path().parent_path());
    }
    EXPECT_EQ(found.size(), 1U);
    return found.empty() ? std::filesystem::path() : found.front();
  }

  // The names of its tensors.
  std::set<std::string> PublishedTensors() {
    std::set<std::string> names;
    const auto checkpoint = checkpoint::Checkpoint::Open(Published());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    for (const auto& [name, info] : checkpoint->index().tensors) names.insert(name);
    return names;
  }

  std::string directory_;
  FamilyCase family_;

 private:
  const std::atomic<bool> not_cancelled_{false};
};

class FamilyRunTest : public FamilyRun, public testing::TestWithParam<std::string> {
 protected:
  FamilyRunTest() : FamilyRun(GetParam()) {}
};

TEST_P(FamilyRunTest, TheDefaultRecipePublishesItAtFourBits) {
  const teq::v1::EngineEvent last = RunJob();
  ASSERT_TRUE(last.has_finished()) << last.DebugString();
  const teq::v1::Report& report = last.finished().report();
  const teq::v1::Perplexity& perplexity = report.perplexity(0);
  const double plain = report.training().round_to_nearest_loss();
  EXPECT_LT(report.training().final_loss(), 0.95 * plain);
  EXPECT_LT(perplexity.kl_divergence(), 0.95 * plain);

  const model_info::ModelConfig config =
      model_info::ParseModelConfig(family_.config, "config.json").value();
  std::set<std::string> quantized;
  for (const auto& layer : model_info::LinearLayers(config)) {
    if (layer.quantizable) quantized.insert(layer.name);
  }
  std::set<std::string> reported;
  for (const auto& layer : report.layers()) {
    reported.insert(layer.name());
    EXPECT_EQ(layer.bits(), 4);
  }
  EXPECT_EQ(reported, quantized);

  // A loader of the family finds what it expects, with packed tensors in place of the weights.
  std::set<std::string> expected;
  for (const auto& [name, tensor] : family_.tensors) {
    const std::string module = name.substr(0, name.rfind('.'));
    if (!quantized.contains(module) || name.ends_with(".bias")) {
      expected.insert(name);
      continue;
    }
    for (const char* part : {".qweight", ".qzeros", ".scales", ".g_idx"}) {
      expected.insert(module + part);
    }
  }
  EXPECT_EQ(PublishedTensors(), expected);
}

INSTANTIATE_TEST_SUITE_P(All, FamilyRunTest, testing::ValuesIn(FamilyCases()),
                         [](const auto& each) {
                           std::string name = each.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

// OPT of 350M has linear layers outside its blocks, Mixtral experts, Falcon fused projections,
// Gemma 3 a vision tower.
class FormatsRunTest : public FamilyRun, public testing::TestWithParam<std::string> {
 protected:
  FormatsRunTest() : FamilyRun(GetParam()) {}
};

TEST_P(FormatsRunTest, OneJobWritesEveryFormatFromTheSameCodes) {
  const teq::v1::EngineEvent last =
      RunJob({teq::v1::FORMAT_DEQUANTIZED, teq::v1::FORMAT_AWQ, teq::v1::FORMAT_GPTQ,
              teq::v1::FORMAT_COMPRESSED_TENSORS});
  ASSERT_TRUE(last.has_finished()) << last.DebugString();
  const teq::v1::Report& report = last.finished().report();
  ASSERT_EQ(report.artifacts_size(), 4);
  std::map<std::string, double> perplexity;
  for (const teq::v1::Artifact& artifact : report.artifacts()) {
    // Products of four bits and a float16 scale do not fit float16.
    EXPECT_EQ(artifact.exact(), artifact.format() != "DEQUANTIZED") << artifact.format();
    ASSERT_EQ(artifact.perplexity_size(), 1);
    EXPECT_EQ(artifact.perplexity(0).dataset(), report.perplexity(0).dataset());
    EXPECT_NEAR(artifact.perplexity(0).delta(),
                artifact.perplexity(0).value() - report.perplexity(0).full_precision(), 1e-9);
    perplexity[artifact.format()] = artifact.perplexity(0).value();
    EXPECT_FALSE(artifact.path().empty());
  }
  // Exact formats are one model; the first format is the report's.
  EXPECT_EQ(perplexity.at("AWQ"), perplexity.at("GPTQ"));
  EXPECT_EQ(perplexity.at("AWQ"), perplexity.at("COMPRESSED_TENSORS"));
  EXPECT_NE(perplexity.at("AWQ"), perplexity.at("DEQUANTIZED"));
  EXPECT_NEAR(perplexity.at("AWQ"), perplexity.at("DEQUANTIZED"), 0.01 * perplexity.at("AWQ"));
  EXPECT_EQ(report.perplexity(0).quantized(), perplexity.at("DEQUANTIZED"));
  std::set<std::string> cards;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory_ + "/output")) {
    if (entry.path().filename() == "README.md") {
      cards.insert(entry.path().parent_path().filename().string());
    }
  }
  EXPECT_EQ(cards, (std::set<std::string>{"awq", "compressed_tensors", "dequantized", "gptq"}));
}

INSTANTIATE_TEST_SUITE_P(Some, FormatsRunTest,
                         testing::Values("llama", "mixtral", "opt-350m", "falcon-7b", "gemma3"),
                         [](const auto& each) {
                           std::string name = each.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

TEST(TransposedFormatsRunTest, DequantizedIsStoredAsTheSourceIs) {
  FamilyRun run("gpt2");
  const teq::v1::EngineEvent last = run.RunJob({teq::v1::FORMAT_GPTQ, teq::v1::FORMAT_DEQUANTIZED});
  ASSERT_TRUE(last.has_finished()) << last.DebugString();
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(run.directory_ + "/output")) {
    if (entry.path().filename() != "dequantized") continue;
    const auto checkpoint = checkpoint::Checkpoint::Open(entry.path());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    for (const auto& [name, tensor] : run.family_.tensors) {
      const auto stored = checkpoint->Read(name);
      ASSERT_TRUE(stored.ok()) << stored.status();
      EXPECT_EQ(stored->sizes(), tensor.sizes()) << name;
      EXPECT_EQ(stored->scalar_type(), tensor.scalar_type()) << name;
    }
    return;
  }
  FAIL() << "nothing was written";
}

// A larger model stays one: every format has all of it, but for GGUF.
TEST(OtherPartsRunTest, TheyArePublishedAsTheyAreStored) {
  FamilyRun run("mistral3");
  run.family_.config["text_config"]["dtype"] = "float32";
  const std::string positions = "vision_tower.position_ids";
  run.family_.tensors.emplace_back(positions, torch::arange(4, torch::kInt64));
  run.family_.tensors.emplace_back("vision_tower.scale", torch::tensor(1e30F));
  const teq::v1::EngineEvent last = run.RunJob({teq::v1::FORMAT_DEQUANTIZED});
  ASSERT_TRUE(last.has_finished()) << last.DebugString();
  EXPECT_THAT(last.finished().report().notes(),
              testing::Contains("multi_modal_projector, vision_tower: 7 tensors are published as "
                                "they are stored"));
  const std::filesystem::path published = run.Published();
  const auto config = nlohmann::json::parse(std::ifstream(published / "config.json"));
  EXPECT_EQ(config.at("text_config").at("dtype"), "float16");
  const auto checkpoint = checkpoint::Checkpoint::Open(published);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  for (const auto& [name, tensor] : run.family_.tensors) {
    const auto stored = checkpoint->Read(name);
    ASSERT_TRUE(stored.ok()) << stored.status();
    EXPECT_EQ(stored->scalar_type(), tensor.scalar_type()) << name;
    if (name.starts_with("language_model.")) continue;
    EXPECT_TRUE(torch::equal(*stored, tensor)) << name;
  }
}

// Routers are often float32 in a model of bfloat16, and loaders give a model one type. Two keys of
// the source that would be wrong of what is published: one names Python files, one is often null.
TEST(MixedTypesRunTest, WhatIsFloat32IsPublishedAsTheRestIs) {
  FamilyRun run("mixtral");
  run.family_.config["torch_dtype"] = "bfloat16";
  run.family_.config["quantization_config"] = nullptr;
  run.family_.config["auto_map"] = {{"AutoConfig", "configuration_mixtral.MixtralConfig"}};
  for (auto& [name, tensor] : run.family_.tensors) {
    tensor = tensor.to(name.ends_with("gate.weight") || name.ends_with("norm.weight")
                           ? torch::kFloat32
                           : torch::kBFloat16);
  }
  const teq::v1::EngineEvent last = run.RunJob({teq::v1::FORMAT_DEQUANTIZED});
  ASSERT_TRUE(last.has_finished()) << last.DebugString();
  const std::filesystem::path published = run.Published();
  const auto config = nlohmann::json::parse(std::ifstream(published / "config.json"));
  EXPECT_EQ(config.at("torch_dtype"), "bfloat16");
  EXPECT_FALSE(config.contains("auto_map"));
  EXPECT_FALSE(config.contains("quantization_config"));
  const auto checkpoint = checkpoint::Checkpoint::Open(published);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  for (const auto& [name, info] : checkpoint->index().tensors) {
    EXPECT_EQ(info.dtype, model_info::DType::kBF16) << name;
  }
}

// The engine asks a Gaudi for nothing that is not in the plugin's interface.
TEST(HpuRunTest, WholeJobRunsThroughAPluginAndEndsAGraphAtEveryStep) {
  const auto marked = model::StandInFunction<int(int)>("StandInMarkSteps");
  const auto synchronized = model::StandInFunction<int(int)>("StandInSynchronized");
  FamilyRun run("llama");
  const teq::v1::EngineEvent last =
      run.RunJobOn(teq::v1::DEVICE_HPU, {model::HpuStandIn("stand_in"), 1}, {});
  ASSERT_TRUE(last.has_finished()) << last.DebugString();
  const teq::v1::Report& report = last.finished().report();
  EXPECT_EQ(report.inputs().device(), "hpu (stand-in B)");
  EXPECT_EQ(report.peak_memory_bytes().device(), 200'000'000);
  int steps = report.training().loss_curve_size();
  for (const auto& block : report.training().blocks()) steps += block.loss_curve_size();
  EXPECT_GT(steps, 0);
  EXPECT_EQ(marked(1), steps);
  EXPECT_EQ(marked(0), 0);
  EXPECT_EQ(synchronized(1), report.timing_seconds_size());  // once a stage
}

TEST(HpuRunTest, IndexBeyondTheDevicesFailsTheJobForWhatItAsks) {
  const teq::v1::EngineEvent last =
      FamilyRun("llama").RunJobOn(teq::v1::DEVICE_HPU, {model::HpuStandIn("stand_in"), 2}, {});
  ASSERT_TRUE(last.has_failed());
  EXPECT_EQ(last.failed().failure_class(), teq::v1::FAILURE_CLASS_USER_ERROR);
  EXPECT_THAT(last.failed().status().message(), testing::HasSubstr("device_index is 2"));
}

// Fences go back where the server's database is restored: the server has to grant the job anew.
TEST(LeaseLostRunTest, PlaceOfANewerAttemptIsNoFaultOfTheJob) {
  FamilyRun run("llama");
  const teq::v1::JobSpec spec = run.Spec();
  const auto newer = objects::Publication::Begin(
      spec.output().uri(), {}, {.job_uid = "uid", .attempt = 1, .fence = 2}, {"gptq"});
  ASSERT_TRUE(newer.ok()) << newer.status();
  teq::v1::StartRun start;
  *start.mutable_spec() = WithDefaults(spec);
  start.set_job_uid("uid");
  start.set_attempt(1);
  start.set_fence(1);
  const std::atomic<bool> not_cancelled{false};
  const teq::v1::EngineEvent last = pipeline::Run(
      start, {.threads = 1, .data = run.directory_ + "/data"}, [](const auto&) {}, not_cancelled);
  ASSERT_TRUE(last.has_failed());
  EXPECT_EQ(ErrorReason(FromProto(last.failed().status())), "LEASE_LOST");
  EXPECT_EQ(last.failed().failure_class(), teq::v1::FAILURE_CLASS_INFRASTRUCTURE);
}

/// A preset with few steps.
void SetShort(teq::v1::Preset preset, int steps, int end_to_end_steps, teq::v1::Recipe& recipe) {
  recipe.set_preset(preset);
  recipe.mutable_transform()->mutable_teq()->set_steps(steps);
  recipe.mutable_transform()->mutable_teq()->set_end_to_end_steps(end_to_end_steps);
}

// The case's blocks have 9,216 weights each, in groups of 16.
TEST(PresetRunTest, BestTrainsOffsetsAndStepSizesOnTextThatIsDrawnAnew) {
  FamilyRun run("llama");
  teq::v1::JobSpec spec = run.Spec();
  SetShort(teq::v1::PRESET_BEST, 4, 8, *spec.mutable_recipe());
  const teq::v1::EngineEvent last = run.RunSpec(spec);
  ASSERT_TRUE(last.has_finished()) << last.DebugString();
  const teq::v1::Report& report = last.finished().report();
  EXPECT_GT(report.recipe().transform().teq().redrawn_fraction(), 0);
  const teq::v1::Training& training = report.training();
  EXPECT_EQ(training.trainable_parameters().rounding(), 2 * 9216);
  EXPECT_EQ(training.trainable_parameters().step_sizes(), 2 * 9216 / 16);
  EXPECT_EQ(training.loss_curve_size(), 8);
  ASSERT_EQ(training.blocks_size(), 2);
  for (const auto& block : training.blocks()) EXPECT_EQ(block.loss_curve_size(), 4);
  EXPECT_LE(training.final_loss(), training.round_to_nearest_loss());
}

struct Trained {
  teq::v1::Report report;
  std::string weights;  // model.safetensors as it was published
};

/// A short training of offsets, clip factors and scales under a limit of memory; 0: none.
Trained TrainUnder(std::int64_t limit_bytes, int end_to_end_steps) {
  FamilyRun run("llama");
  teq::v1::JobSpec spec = run.Spec();
  SetShort(teq::v1::PRESET_BALANCED, 4, end_to_end_steps, *spec.mutable_recipe());
  // What the plan counts with, whatever the text has.
  spec.mutable_calibration()->set_samples(4096);
  spec.mutable_resources()->set_memory_limit_bytes(limit_bytes);
  const teq::v1::EngineEvent last = run.RunSpec(spec);
  if (!last.has_finished()) {
    ADD_FAILURE() << last.DebugString();
    return {};
  }
  std::ifstream file(run.Published() / "model.safetensors", std::ios::binary);
  std::string weights(std::istreambuf_iterator<char>(file), {});
  return {last.finished().report(), std::move(weights)};
}

// 200 MiB are the process's. States of 4096 windows take 16 MiB, some stages hold two or three of
// them, and a step of the last pass takes 16 MiB for its logits.
constexpr std::int64_t kTightLimit = std::int64_t{220} << 20;

const auto kStatesInFiles =
    testing::Contains(testing::HasSubstr("hidden states of the calibration text lie in files"));
const auto kPassByBlock =
    testing::Contains(testing::HasSubstr("the end-to-end pass goes block by block"));

TEST(MemoryLimitRunTest, StatesInFilesPublishTheSameBytes) {
  const Trained roomy = TrainUnder(0, 0);
  const Trained tight = TrainUnder(kTightLimit, 0);
  EXPECT_THAT(roomy.report.notes(), testing::Not(kStatesInFiles));
  EXPECT_THAT(tight.report.notes(), kStatesInFiles);
  ASSERT_FALSE(roomy.weights.empty());
  EXPECT_TRUE(tight.weights == roomy.weights);
}

// Not the same bytes: the way back through one graph may add up in another order than the way
// through each block's, and where an offset is about to change a code, that decides.
TEST(MemoryLimitRunTest, APassBlockByBlockPublishesTheSamePerplexity) {
  const Trained roomy = TrainUnder(0, 10);
  const Trained tight = TrainUnder(kTightLimit, 10);
  EXPECT_THAT(roomy.report.notes(), testing::Not(kPassByBlock));
  EXPECT_THAT(tight.report.notes(), testing::AllOf(kStatesInFiles, kPassByBlock));
  EXPECT_EQ(tight.report.training().loss_curve_size(), 10);
  ASSERT_EQ(roomy.report.perplexity_size(), 1);
  ASSERT_EQ(tight.report.perplexity_size(), 1);
  const double expected = roomy.report.perplexity(0).quantized();
  EXPECT_NEAR(tight.report.perplexity(0).quantized(), expected, 1e-3 * expected);
}

/// Jobs whose model is changed by another program when a stage begins.
class ChangedModelTest : public testing::Test {
 protected:
  ChangedModelTest() : run_("llama"), spec_(run_.Spec()), model_(run_.directory_ + "/model") {
    spec_.mutable_recipe()->mutable_rounding()->mutable_nearest();
    std::ofstream(model_ / "generation_config.json") << R"({"top_k": 1})";
    // However coarse the file system's clock is.
    std::filesystem::last_write_time(
        model_ / "model.safetensors",
        std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
  }

  teq::v1::EngineEvent RunChanging(teq::v1::Stage stage, const std::function<void()>& change) {
    bool done = false;
    return run_.RunSpec(spec_, {}, [&](const teq::v1::EngineEvent& event) {
      if (done || !event.has_progress() || event.progress().stage() != stage) return;
      done = true;
      change();
    });
  }

  // In place, its size as it was: a bit of the last weight.
  void WriteOverWeights() const {
    std::fstream file(model_ / "model.safetensors", std::ios::in | std::ios::out);
    file.seekg(-1, std::ios::end);
    const int last = file.get();
    file.seekp(-1, std::ios::end);
    file.put(static_cast<char>(last ^ 1));
  }
  /// Another file takes the name, as downloads and editors do it.
  void Replace(const std::string& name, const std::string& content) const {
    std::ofstream(model_ / "new") << content;
    std::filesystem::rename(model_ / "new", model_ / name);
  }

  /// What a run that failed for it said; `last_stage` began, and nothing was published.
  void ExpectRefused(const teq::v1::EngineEvent& last, const std::string& file,
                     const std::string& last_stage) const {
    ASSERT_TRUE(last.has_failed()) << last.DebugString();
    const absl::Status status = FromProto(last.failed().status());
    EXPECT_EQ(ErrorReason(status), "OBJECT_CHANGED");
    EXPECT_EQ(last.failed().failure_class(), teq::v1::FAILURE_CLASS_USER_ERROR);
    EXPECT_THAT(last.failed().status().message(),
                testing::StartsWith((model_ / file).string() + ": "));
    const auto& timing = last.failed().report().timing_seconds();
    EXPECT_TRUE(timing.contains(last_stage));
    EXPECT_EQ(timing.contains("PACK"), last_stage == "VERIFY");
    EXPECT_FALSE(std::filesystem::exists(run_.directory_ + "/output"));
  }

  FamilyRun run_;
  teq::v1::JobSpec spec_;
  std::filesystem::path model_;
};

TEST_F(ChangedModelTest, WeightsThatChangeInPlaceBeforeRoundingAreNotRounded) {
  ExpectRefused(RunChanging(teq::v1::STAGE_BASELINE_EVAL, [&] { WriteOverWeights(); }),
                "model.safetensors", "ROUND");
}

TEST_F(ChangedModelTest, WeightsThatChangeInPlaceAfterRoundingAreNotPublished) {
  ExpectRefused(RunChanging(teq::v1::STAGE_VERIFY, [&] { WriteOverWeights(); }),
                "model.safetensors", "VERIFY");
}

// These would be published beside weights that they do not belong to.
TEST_F(ChangedModelTest, SmallFilesThatChangeOrComeOrGoAreNotPublished) {
  ExpectRefused(RunChanging(teq::v1::STAGE_BASELINE_EVAL,
                            [&] { Replace("config.json", run_.family_.config.dump(3)); }),
                "config.json", "ROUND");
  ExpectRefused(RunChanging(teq::v1::STAGE_BASELINE_EVAL,
                            [&] { Replace("generation_config.json", R"({"top_k": 50})"); }),
                "generation_config.json", "ROUND");
  ExpectRefused(RunChanging(teq::v1::STAGE_BASELINE_EVAL, [&] { Replace("NOTICE", "new"); }),
                "NOTICE", "ROUND");
  ExpectRefused(RunChanging(teq::v1::STAGE_PACK,
                            [&] { std::filesystem::remove(model_ / "generation_config.json"); }),
                "generation_config.json", "VERIFY");
}

// The name is another's, but the run has the file. A card may be written to meanwhile.
TEST_F(ChangedModelTest, WeightsWhoseNameAnotherFileTakesArePublishedAsTheyWere) {
  const std::string sha256 = objects::FileSha256(model_ / "model.safetensors").value();
  const teq::v1::EngineEvent untouched = run_.RunSpec(spec_);
  ASSERT_TRUE(untouched.has_finished()) << untouched.DebugString();
  const std::filesystem::path published = run_.Published() / "model.safetensors";
  const std::string expected = objects::FileSha256(published).value();
  std::filesystem::remove_all(run_.directory_ + "/output");

  const teq::v1::EngineEvent last = RunChanging(teq::v1::STAGE_BASELINE_EVAL, [&] {
    Replace("model.safetensors", "another model");
    Replace("README.md", "another card");
  });
  ASSERT_TRUE(last.has_finished()) << last.DebugString();
  EXPECT_EQ(objects::FileSha256(published).value(), expected);
  EXPECT_EQ(last.finished().report().inputs().model_sha256(),
            objects::Sha256(sha256 + " model.safetensors\n"));
}

// A router whose last two rows are zero: one of the first two, which are opposite, is always ahead.
TEST(StarvedExpertTest, IsRoundedToNearestAndReported) {
  FamilyRun run("mixtral");
  run.family_.config["num_experts_per_tok"] = 1;
  for (auto& [name, tensor] : run.family_.tensors) {
    if (!name.ends_with("block_sparse_moe.gate.weight")) continue;
    tensor[1] = -tensor[0];
    tensor.slice(0, 2).zero_();
  }
  const teq::v1::EngineEvent last = run.RunJob();
  ASSERT_TRUE(last.has_finished()) << last.DebugString();
  int starved = 0;
  for (const auto& layer : last.finished().report().layers()) {
    if (layer.name().find("experts.3") == std::string::npos) continue;
    ++starved;
    EXPECT_EQ(layer.changed_codes(), 0) << layer.name();
    EXPECT_EQ(layer.clipping().min(), 1) << layer.name();
    EXPECT_THAT(last.finished().report().notes(),
                testing::Contains(layer.name() + ": no calibration token reached this expert; it "
                                                 "was rounded to nearest"));
  }
  EXPECT_EQ(starved, 6);
}

}  // namespace
}  // namespace teq::pipeline
