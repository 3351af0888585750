#include "worker/engine/pipeline/job_run.h"

#include <cmath>

#include "ATen/Parallel.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "proto/spec/error.h"
#include "proto/spec/json.h"
#include "proto/spec/recipe.h"
#include "worker/engine/quant/bit_choice.h"
#include "worker/engine/quant/clip_search.h"
#include "worker/engine/quant/grid.h"
#include "worker/engine/report/environment.h"
#include "worker/engine/report/page.h"
#include "worker/engine/report/scale_summary.h"
#include "worker/engine/teq/start.h"
#include "worker/engine/text/tokenizer.h"
#include "worker/engine/verify/packed_model.h"

namespace teq::pipeline {
namespace {

using teq::v1::EngineEvent;
using teq::v1::PerplexitySample;
using teq::v1::Stage;
using torch::Tensor;

constexpr const char* kGptqDirectory = "gptq";
// Tokens that pass through a block at once while statistics are gathered.
constexpr std::int64_t kStatisticsBatchTokens = 2048;

/// Float32 sources publish as float16; others keep their type.
torch::ScalarType PublishedType(torch::ScalarType source) {
  return source == torch::kFloat32 ? torch::kFloat16 : source;
}

absl::StatusOr<std::string> WeightsDigest(const model_info::CheckpointIndex& index) {
  std::string names_and_digests;
  for (const std::filesystem::path& file : index.files) {
    TEQ_ASSIGN_OR_RETURN(const std::string digest, objects::FileSha256(file));
    names_and_digests += fmt::format("{} {}\n", digest, file.filename().string());
  }
  return objects::Sha256(names_and_digests);
}

/// The ids of a text must have an embedding.
absl::Status CheckVocabulary(const text::Tokenizer& tokenizer,
                             const model_info::ModelConfig& config) {
  if (tokenizer.vocabulary_size() <= config.vocabulary_size) return absl::OkStatus();
  return Error(absl::StatusCode::kInvalidArgument, "VOCABULARY_MISMATCH",
               fmt::format("the tokenizer has {} tokens, but config.json's vocab_size is {}; the "
                           "tokenizer belongs to another model",
                           tokenizer.vocabulary_size(), config.vocabulary_size));
}

std::int64_t BatchSize(const text::Windows& windows) {
  return std::max<std::int64_t>(1, kStatisticsBatchTokens / windows.length);
}

/// "target_bits 3.5: average 3.47 over 28 layers: 3 x 2 bits, 25 x 4 bits".
std::string DescribeChoice(double target, const std::vector<quant::OpenLayer>& layers,
                           const std::vector<int>& bits) {
  std::map<int, int> counts;
  double weights = 0;
  double total = 0;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    ++counts[bits[i]];
    weights += static_cast<double>(layers[i].weights);
    total += static_cast<double>(layers[i].weights) * bits[i];
  }
  std::vector<std::string> widths;
  for (const auto& [width, count] : counts) {
    widths.push_back(fmt::format("{} x {} bits", count, width));
  }
  return fmt::format("target_bits {}: average {:.3f} over {} layers: {}", target, total / weights,
                     layers.size(), fmt::join(widths, ", "));
}

}  // namespace

absl::Status JobRun::ToSealedContent() {
  report_.set_job(start_.job());
  TEQ_RETURN_IF_ERROR(Timed(teq::v1::STAGE_FETCH, &JobRun::Fetch));
  TEQ_RETURN_IF_ERROR(Timed(teq::v1::STAGE_BASELINE_EVAL, &JobRun::BaselineEval));
  if (transforms() || recipe().has_clipping()) {
    TEQ_RETURN_IF_ERROR(Timed(teq::v1::STAGE_CALIBRATE, &JobRun::Calibrate));
  }
  if (transforms() || Trains(recipe())) {
    TEQ_RETURN_IF_ERROR(Timed(teq::v1::STAGE_TRANSFORM, &JobRun::Transform));
  }
  TEQ_RETURN_IF_ERROR(Timed(teq::v1::STAGE_ROUND, &JobRun::Round));
  TEQ_RETURN_IF_ERROR(Timed(teq::v1::STAGE_PACK, &JobRun::Pack));
  TEQ_RETURN_IF_ERROR(Timed(teq::v1::STAGE_VERIFY, &JobRun::Verify));
  return Seal();
}

void JobRun::Abandon() {
  if (publication_) publication_->Abandon().IgnoreError();
}

absl::Status JobRun::Timed(Stage stage, absl::Status (JobRun::*run)()) {
  TEQ_RETURN_IF_ERROR(CheckCancelled());
  stage_ = stage;
  stage_start_ = std::chrono::steady_clock::now();
  SendProgress(0, 0, "");
  const absl::Status status = (this->*run)();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - stage_start_;
  (*report_.mutable_timing_seconds())[ShortEnumName(teq::v1::Stage_descriptor(), stage)] =
      elapsed.count();
  return status;
}

void JobRun::SendProgress(std::int64_t done, std::int64_t total, const char* unit) {
  EngineEvent event;
  teq::v1::Progress& progress = *event.mutable_progress();
  progress.set_stage(stage_);
  progress.set_done(done);
  progress.set_total(total);
  progress.set_unit(unit);
  if (done > 0 && total > 0) {
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - stage_start_;
    progress.set_remaining_seconds(elapsed.count() / static_cast<double>(done) *
                                   static_cast<double>(total - done));
  }
  sink_(event);
}

absl::Status JobRun::CheckCancelled() const {
  if (!cancelled_) return absl::OkStatus();
  return Error(absl::StatusCode::kCancelled, "CANCELLED", "the run was cancelled");
}

absl::Status JobRun::Fetch() {
  TEQ_RETURN_IF_ERROR(FetchModel());
  TEQ_RETURN_IF_ERROR(FetchTexts());
  const objects::Publisher publisher{start_.job(), start_.job_uid(), Digest(spec_),
                                     start_.attempt(), start_.fence()};
  TEQ_ASSIGN_OR_RETURN(publication_,
                       objects::Publication::Begin(spec_.output().uri(), options_.uri_policy,
                                                   publisher, {kGptqDirectory}));
  teq::v1::Inputs& inputs = *report_.mutable_inputs();
  inputs.set_recipe_sha256(Digest(recipe()));
  *report_.mutable_recipe() = recipe();
  inputs.set_engine_version(TEQ_VERSION);
  inputs.set_device(device_.description);
  inputs.set_instruction_set(report::InstructionSet());
  inputs.set_threads(at::get_num_threads());
  inputs.set_evaluation_dtype("float32");
  return absl::OkStatus();
}

absl::Status JobRun::FetchModel() {
  TEQ_ASSIGN_OR_RETURN(device_, model::OpenDevice(spec_.resources().device(), options_.hpu_plugin));
  TEQ_ASSIGN_OR_RETURN(model_directory_, ResolveUri(spec_.model().uri(), options_.uri_policy));
  TEQ_ASSIGN_OR_RETURN(config_, model_info::ReadModelConfig(model_directory_));
  architecture_ = model_info::FindArchitecture(config_.model_type);
  TEQ_ASSIGN_OR_RETURN(checkpoint_, checkpoint::Checkpoint::Open(model_directory_));
  TEQ_RETURN_IF_ERROR(model_info::CheckTensors(*architecture_, config_, checkpoint_->index()));
  TEQ_ASSIGN_OR_RETURN(packable_.plan, model_info::PlanLayers(spec_, *architecture_, config_));
  TEQ_ASSIGN_OR_RETURN(vocabulary_, model_info::FindVocabularyTensors(*architecture_, config_,
                                                                      checkpoint_->index()));
  packable_.config = config_.source;
  packable_.source = model_directory_;
  grids_ = transform::GridsByBlock(packable_.plan);
  const auto source = [this](const std::string& name) { return checkpoint_->Read(name); };
  TEQ_ASSIGN_OR_RETURN(
      decoder_, model::LoadDecoder(*architecture_, config_, vocabulary_, source, device_.torch));
  TEQ_ASSIGN_OR_RETURN(const Tensor norm, checkpoint_->Read(decoder_.final_norm.name + ".weight"));
  norm_type_ = PublishedType(norm.scalar_type());
  if (transforms()) groups_ = transform::ScaleGroups(config_, grids_);
  parameters_ = transform::PlainParameters(groups_, grids_.size(), decoder_.embedding.options());
  teq::v1::Inputs& inputs = *report_.mutable_inputs();
  inputs.set_model_uri(spec_.model().uri());
  TEQ_ASSIGN_OR_RETURN(*inputs.mutable_model_sha256(), WeightsDigest(checkpoint_->index()));
  return absl::OkStatus();
}

absl::Status JobRun::FetchTexts() {
  TEQ_ASSIGN_OR_RETURN(const auto tokenizer, text::OpenTokenizer(model_directory_));
  TEQ_RETURN_IF_ERROR(CheckVocabulary(*tokenizer, config_));
  teq::v1::Inputs& inputs = *report_.mutable_inputs();

  const teq::v1::Calibration& calibration = spec_.calibration();
  TEQ_ASSIGN_OR_RETURN(const auto file, ResolveUri(calibration.uri(), options_.uri_policy));
  TEQ_ASSIGN_OR_RETURN(calibration_,
                       text::ReadCalibrationWindows(file, *tokenizer, config_.vocabulary_size,
                                                    calibration.sequence_length(),
                                                    calibration.samples(), calibration.seed()));
  if (Trains(recipe()) && calibration_.count < 2) {
    return Error(
        absl::StatusCode::kInvalidArgument, "TEXT_TOO_SHORT",
        fmt::format("{}: {} window of {} tokens; training needs one more to hold back; give "
                    "more text or lower calibration.sequence_length",
                    calibration.uri(), calibration_.count, calibration_.length));
  }
  inputs.set_calibration_uri(calibration.uri());
  TEQ_ASSIGN_OR_RETURN(*inputs.mutable_calibration_sha256(), objects::FileSha256(file));
  inputs.set_seed(calibration.seed());
  inputs.set_calibration_samples(static_cast<int>(calibration_.count));
  inputs.set_calibration_sequence_length(static_cast<int>(calibration_.length));

  for (const std::string& uri : spec_.evaluation().uris()) {
    TEQ_RETURN_IF_ERROR(CheckCancelled());
    TEQ_ASSIGN_OR_RETURN(const auto path, ResolveUri(uri, options_.uri_policy));
    TEQ_ASSIGN_OR_RETURN(text::Windows windows,
                         text::ReadEvaluationWindows(path, *tokenizer, config_.vocabulary_size,
                                                     spec_.evaluation().sequence_length()));
    inputs.add_evaluation_uris(uri);
    TEQ_ASSIGN_OR_RETURN(*inputs.add_evaluation_sha256(), objects::FileSha256(path));
    datasets_.push_back({uri, std::move(windows), {}, {}});
  }
  for (const std::string& uri : spec_.evaluation().tasks()) {
    TEQ_ASSIGN_OR_RETURN(const auto path, ResolveUri(uri, options_.uri_policy));
    TEQ_ASSIGN_OR_RETURN(eval::Task task, eval::ReadTask(uri, path, *tokenizer, config_));
    tasks_.push_back({std::move(task), {}});
  }
  return absl::OkStatus();
}

absl::StatusOr<eval::Evaluation> JobRun::Measure(const model::Decoder& decoder,
                                                 const model::Decoder* reference,
                                                 const Dataset& dataset,
                                                 PerplexitySample::Phase phase) {
  TEQ_ASSIGN_OR_RETURN(
      eval::Evaluation evaluation,
      eval::Evaluate(
          decoder, reference, dataset.windows,
          [this](std::int64_t done, std::int64_t total) { SendProgress(done, total, "windows"); },
          cancelled_));
  EngineEvent event;
  event.mutable_perplexity()->set_dataset(dataset.uri);
  event.mutable_perplexity()->set_phase(phase);
  event.mutable_perplexity()->set_value(evaluation.Perplexity());
  sink_(event);
  return evaluation;
}

absl::StatusOr<eval::TaskScores> JobRun::Score(const model::Decoder& decoder, const Task& task) {
  return eval::ScoreTask(
      decoder, task.task,
      [this](std::int64_t done, std::int64_t total) { SendProgress(done, total, "choices"); },
      cancelled_);
}

absl::Status JobRun::BaselineEval() {
  for (Dataset& dataset : datasets_) {
    TEQ_ASSIGN_OR_RETURN(dataset.full_precision, Measure(decoder_, nullptr, dataset,
                                                         PerplexitySample::PHASE_FULL_PRECISION));
    if (!std::isfinite(dataset.full_precision.Perplexity())) {
      return Error(
          absl::StatusCode::kInvalidArgument, "MODEL_NOT_FINITE",
          fmt::format("{}: the float model's perplexity on {} is {}; its weights hold "
                      "infinities, or it is no language model for this text",
                      spec_.model().uri(), dataset.uri, dataset.full_precision.Perplexity()));
    }
  }
  for (Task& task : tasks_) {
    TEQ_ASSIGN_OR_RETURN(task.full_precision, Score(decoder_, task));
  }
  if (recipe().weights().has_target_bits()) TEQ_RETURN_IF_ERROR(ChooseBits());
  if (datasets_.empty()) return absl::OkStatus();
  const model::Decoder rounded = transform::FakeQuantizeDecoder(
      decoder_, {}, transform::PlainParameters({}, grids_.size(), decoder_.embedding.options()),
      grids_, norm_type_, teq::v1::GRADIENT_FULL);
  for (Dataset& dataset : datasets_) {
    TEQ_ASSIGN_OR_RETURN(
        dataset.round_to_nearest,
        Measure(rounded, nullptr, dataset, PerplexitySample::PHASE_ROUND_TO_NEAREST));
  }
  return absl::OkStatus();
}

absl::Status JobRun::ChooseBits() {
  std::vector<transform::BlockFlags> open(grids_.size());
  std::vector<model_info::PlannedLayer*> layers;
  for (model_info::PlannedLayer& planned : packable_.plan) {
    if (!BitsAreOpen(recipe(), planned.layer.name)) continue;
    open[static_cast<std::size_t>(planned.layer.block)]
        [static_cast<std::size_t>(planned.layer.role)] = true;
    layers.push_back(&planned);
  }
  if (layers.empty()) {
    report_.add_notes("target_bits chose no bits: overrides name every layer");
    return absl::OkStatus();
  }
  TEQ_ASSIGN_OR_RETURN(sensitivities_, transform::MeasureSensitivities(
                                           decoder_, grids_, open, calibration_,
                                           [this](std::int64_t done, std::int64_t total) {
                                             SendProgress(done, total, "layers");
                                           },
                                           cancelled_));
  std::vector<quant::OpenLayer> candidates;
  for (const model_info::PlannedLayer* planned : layers) {
    candidates.push_back({planned->layer.in * planned->layer.out,
                          sensitivities_[static_cast<std::size_t>(planned->layer.block)]
                                        [static_cast<std::size_t>(planned->layer.role)]});
  }
  const double target = recipe().weights().target_bits();
  const std::vector<int> bits = quant::ChooseBits(candidates, target);
  for (std::size_t i = 0; i < layers.size(); ++i) layers[i]->grid.bits = bits[i];
  grids_ = transform::GridsByBlock(packable_.plan);
  report_.add_notes(DescribeChoice(target, candidates, bits));
  return absl::OkStatus();
}

absl::Status JobRun::Calibrate() {
  return transform::VisitBlockStatistics(
      decoder_, calibration_, BatchSize(calibration_),
      [&](std::size_t number, const transform::BlockStatistics& statistics) -> absl::Status {
        CalibrateBlock(number, statistics);
        SendProgress(static_cast<std::int64_t>(number) + 1, config_.layers, "blocks");
        return CheckCancelled();
      });
}

void JobRun::CalibrateBlock(std::size_t number, const transform::BlockStatistics& statistics) {
  const model::Block& block = decoder_.blocks[number];
  const teq::v1::Initialization init = recipe().transform().has_awq()
                                           ? teq::v1::INITIALIZATION_AWQ
                                           : recipe().transform().teq().init();
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    if (groups_[i].block != number) continue;
    parameters_.log_scales[i] =
        transform::StartingScales(init, groups_[i], block, grids_[number], statistics);
  }
  const teq::v1::Clipping& clipping = recipe().clipping();
  if (!clipping.has_search() && !clipping.learned().start_from_search()) return;
  const transform::BlockScales scales =
      transform::ResolveScales(block, number, groups_, parameters_.log_scales, norm_type_);
  const model::Block folded = transform::FoldBlock(block, scales);
  for (std::size_t role = 0; role < folded.linears.size(); ++role) {
    if (!grids_[number][role].quantized) continue;
    Tensor gram = statistics[role].gram;
    if (scales.input[role].defined()) {
      gram = gram / torch::outer(scales.input[role], scales.input[role]);
    }
    parameters_.adjustments[number][role].clip =
        quant::SearchClipping(folded.linears[role].weight, gram, grids_[number][role]);
  }
}

absl::Status JobRun::Transform() {
  if (Trains(recipe())) {
    const teq::v1::Schedule schedule = ScheduleOf(recipe());
    const teq::v1::LearnedRounding& rounding = recipe().rounding().learned();
    // What the recipe does not learn has no learning rate.
    const transform::LearningRates rates{.scales = recipe().transform().teq().learning_rate(),
                                         .clipping = recipe().clipping().learned().learning_rate(),
                                         .rounding = rounding.learning_rate(),
                                         .rounding_optimizer = rounding.optimizer()};
    TEQ_RETURN_IF_ERROR(Train({decoder_, groups_, grids_, calibration_, schedule, rates, norm_type_,
                               spec_.calibration().seed()}));
  }
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    *report_.add_scale_groups() = report::SummarizeScales(
        groups_[i], decoder_.blocks[groups_[i].block], parameters_.log_scales[i]);
  }
  return absl::OkStatus();
}

absl::Status JobRun::Train(const transform::TrainingTask& task) {
  const auto on_step = [this](const teq::v1::MetricSample& sample) {
    EngineEvent event;
    *event.mutable_sample() = sample;
    sink_(event);
    SendProgress(sample.step(), sample.total_steps(), "steps");
  };
  teq::v1::Training& training = *report_.mutable_training();
  const teq::v1::Schedule& schedule = task.schedule;
  if (schedule.objective() == teq::v1::OBJECTIVE_BLOCK_MSE) {
    TEQ_RETURN_IF_ERROR(transform::TrainBlocks(task, parameters_, training, on_step, cancelled_));
    const std::int64_t needed = transform::EndToEndBytes(task);
    const std::int64_t available = model::UsableMemory(device_);
    if (schedule.end_to_end_steps() > 0 && needed > available) {
      report_.add_notes(fmt::format(
          "the end-to-end pass was left out: it needs about {} MiB, and {} MiB may be used",
          needed >> 20, available >> 20));
    } else if (schedule.end_to_end_steps() > 0) {
      TEQ_RETURN_IF_ERROR(transform::TrainEndToEnd(task, schedule.end_to_end_steps(),
                                                   teq::v1::OBJECTIVE_KL, parameters_, training,
                                                   on_step, cancelled_));
    }
  } else {
    TEQ_RETURN_IF_ERROR(transform::TrainEndToEnd(task, schedule.steps(), schedule.objective(),
                                                 parameters_, training, on_step, cancelled_));
  }
  training.set_trainable_fraction(
      static_cast<double>(training.trainable_parameters().scales()) /
      static_cast<double>(model_info::CountParameters(*architecture_, config_)));
  if (training.best_step() < 0) {
    report_.add_notes(
        "no iterate of the training, nor its start, was better on the held-back text "
        "than plain rounding, which was kept");
  }
  return absl::OkStatus();
}

absl::Status JobRun::Round() {
  for (const std::string& name :
       {vocabulary_.embedding, vocabulary_.head, decoder_.final_norm.name + ".weight"}) {
    if (name == vocabulary_.head && vocabulary_.head == vocabulary_.embedding &&
        !packable_.floats.empty()) {
      continue;
    }
    TEQ_ASSIGN_OR_RETURN(const Tensor tensor, checkpoint_->Read(name));
    TEQ_RETURN_IF_ERROR(KeepFloat(name, tensor));
  }
  BlockRounder rounder(recipe().rounding(), decoder_, calibration_, BatchSize(calibration_));
  TEQ_RETURN_IF_ERROR(transform::VisitBlockStatistics(
      decoder_, calibration_, BatchSize(calibration_),
      [&](std::size_t number, const transform::BlockStatistics& statistics) {
        return RoundBlock(number, statistics, rounder);
      }));
  report_.mutable_notes()->Add(rounder.notes().begin(), rounder.notes().end());
  if (clamped_zeros_ > 0) {
    report_.add_notes(
        fmt::format("{} groups have no negative weight; their zero point was raised to "
                    "1, the least that the GPTQ layout holds",
                    clamped_zeros_));
  }
  return absl::OkStatus();
}

absl::Status JobRun::KeepFloat(const std::string& name, const Tensor& value) {
  TEQ_ASSIGN_OR_RETURN(const Tensor source, checkpoint_->Read(name));
  const Tensor stored = value.to(torch::kCPU, PublishedType(source.scalar_type()));
  if (!torch::isfinite(stored).all().item<bool>()) {
    return Error(absl::StatusCode::kInvalidArgument, "NOT_REPRESENTABLE",
                 fmt::format("tensor {} has values that are not finite or that {} cannot hold",
                             name, torch::toString(stored.scalar_type())));
  }
  packable_.floats.emplace_back(name, stored);
  return absl::OkStatus();
}

absl::Status JobRun::RoundBlock(std::size_t number, const transform::BlockStatistics& statistics,
                                BlockRounder& rounder) {
  TEQ_RETURN_IF_ERROR(CheckCancelled());
  const torch::NoGradGuard no_gradient;
  const transform::BlockScales scales = transform::ResolveScales(
      decoder_.blocks[number], number, groups_, parameters_.log_scales, norm_type_);
  const model::Block folded = transform::FoldBlock(decoder_.blocks[number], scales);
  for (const model::Norm* norm : {&folded.attention_norm, &folded.mlp_norm}) {
    TEQ_RETURN_IF_ERROR(KeepFloat(norm->name + ".weight", norm->weight));
  }
  BlockCodes codes = rounder.Round(folded, grids_[number], parameters_.adjustments[number]);
  for (std::size_t role = 0; role < folded.linears.size(); ++role) {
    const model::Linear& linear = folded.linears[role];
    if (linear.bias.defined()) {
      TEQ_RETURN_IF_ERROR(KeepFloat(linear.name + ".bias", linear.bias));
    }
    if (grids_[number][role].quantized) {
      TEQ_RETURN_IF_ERROR(
          KeepLayer(number, role, linear.weight, statistics[role], scales, std::move(codes[role])));
    } else {
      TEQ_RETURN_IF_ERROR(KeepFloat(linear.name + ".weight", linear.weight));
    }
  }
  SendProgress(static_cast<std::int64_t>(number) + 1, config_.layers, "blocks");
  return absl::OkStatus();
}

absl::Status JobRun::KeepLayer(std::size_t block, std::size_t role, const Tensor& folded,
                               const transform::InputStatistics& input,
                               const transform::BlockScales& scales, quant::Quantized quantized) {
  const LayerGrid& grid = grids_[block][role];
  const Tensor& original = decoder_.blocks[block].linears[role].weight;
  const std::string& name = decoder_.blocks[block].linears[role].name;
  if (!torch::isfinite(quantized.scales).all().item<bool>()) {
    return Error(absl::StatusCode::kInvalidArgument, "NOT_REPRESENTABLE",
                 fmt::format("layer {}: a scale exceeds float16's range; leave the layer float by "
                             "overrides: [{{match: \"{}\", skip: true}}]",
                             name, name));
  }
  // Errors are compared in the original model's coordinates.
  const Tensor rounded = quant::Dequantize(quantized);
  Tensor effective = rounded;
  if (scales.input[role].defined()) effective = effective / scales.input[role];
  if (scales.output[role].defined()) effective = effective * scales.output[role].unsqueeze(1);
  const Tensor plain = quant::Dequantize(quant::QuantizeToNearest(original, grid));
  teq::v1::LayerReport& layer = *report_.add_layers();
  layer.set_name(name);
  layer.set_bits(grid.bits);
  layer.set_group_size(grid.group_size);
  layer.set_weight_mse((rounded - folded).square().mean().item<double>());
  layer.set_output_mse(transform::OutputError(input, effective - original));
  layer.set_output_mse_round_to_nearest(transform::OutputError(input, plain - original));
  layer.set_changed_codes((quantized.codes != quant::NearestCodes(folded, quantized))
                              .to(torch::kFloat32)
                              .mean()
                              .item<double>());
  transform::SummarizeClipping(parameters_.adjustments[block][role].clip, layer);
  if (!sensitivities_.empty()) {
    for (const quant::Candidate& candidate : sensitivities_[block][role]) {
      teq::v1::BitsSensitivity& sensitivity = *layer.add_sensitivity();
      sensitivity.set_bits(candidate.bits);
      sensitivity.set_error(candidate.error);
    }
  }
  if (!grid.symmetric) {
    const Tensor groups = folded.view({folded.size(0), -1, quant::GroupSize(grid, folded.size(1))});
    clamped_zeros_ += ((groups.amin(-1) >= 0) & (groups.amax(-1) > 0)).sum().item<std::int64_t>();
  }
  packable_.layers.emplace(name, std::move(quantized));
  return absl::OkStatus();
}

absl::Status JobRun::Pack() {
  TEQ_ASSIGN_OR_RETURN(
      file_digests_,
      pack::WriteGptqDirectory(packable_, publication_->StagingDirectory(kGptqDirectory)));
  return absl::OkStatus();
}

absl::StatusOr<model::Decoder> JobRun::ReadPublished(const std::filesystem::path& directory) const {
  TEQ_ASSIGN_OR_RETURN(const verify::PackedModel packed, verify::ReadGptqDirectory(directory));
  for (const auto& [name, expected] : packable_.layers) {
    const auto found = packed.layers.find(name);
    if (found == packed.layers.end() ||
        !torch::equal(found->second.weight, quant::Dequantize(expected).to(torch::kCPU))) {
      return Error(absl::StatusCode::kDataLoss, "VERIFY_FAILED",
                   fmt::format("{}: layer {} does not read back as it was rounded",
                               directory.string(), name));
    }
  }
  constexpr std::string_view kSuffix = ".weight";
  const auto source = [&](const std::string& name) -> absl::StatusOr<Tensor> {
    const auto layer = packed.layers.find(name.substr(0, name.size() - kSuffix.size()));
    if (name.ends_with(kSuffix) && layer != packed.layers.end()) return layer->second.weight;
    const auto tensor = packed.tensors.find(name);
    if (tensor != packed.tensors.end()) return tensor->second;
    return Error(absl::StatusCode::kDataLoss, "VERIFY_FAILED",
                 fmt::format("{}: tensor {} is missing", directory.string(), name));
  };
  return model::LoadDecoder(*architecture_, config_, vocabulary_, source, device_.torch);
}

absl::Status JobRun::Verify() {
  const std::filesystem::path directory = publication_->StagingDirectory(kGptqDirectory);
  TEQ_RETURN_IF_ERROR(verify::CheckDigests(directory, file_digests_));
  TEQ_ASSIGN_OR_RETURN(const model::Decoder quantized, ReadPublished(directory));
  for (const Dataset& dataset : datasets_) {
    TEQ_ASSIGN_OR_RETURN(const eval::Evaluation measured,
                         Measure(quantized, &decoder_, dataset, PerplexitySample::PHASE_QUANTIZED));
    teq::v1::Perplexity& figures = *report_.add_perplexity();
    figures.set_dataset(dataset.uri);
    figures.set_full_precision(dataset.full_precision.Perplexity());
    figures.set_round_to_nearest(dataset.round_to_nearest.Perplexity());
    figures.set_quantized(measured.Perplexity());
    figures.set_delta(figures.quantized() - figures.full_precision());
    figures.set_standard_error(eval::StandardError(measured));
    figures.set_delta_standard_error(eval::PairedStandardError(measured, dataset.full_precision));
    figures.set_kl_divergence(measured.kl_divergence);
    figures.set_top1_agreement(measured.top1_agreement);
    figures.set_tokens(measured.tokens);
    figures.set_round_to_nearest_difference_standard_error(
        eval::PairedStandardError(measured, dataset.round_to_nearest));
  }
  for (const Task& task : tasks_) {
    TEQ_ASSIGN_OR_RETURN(const eval::TaskScores scores, Score(quantized, task));
    teq::v1::TaskResult& result = *report_.add_tasks();
    result.set_task(task.task.uri);
    result.set_examples(static_cast<std::int64_t>(task.task.examples.size()));
    result.set_full_precision_accuracy(task.full_precision.Accuracy());
    result.set_quantized_accuracy(scores.Accuracy());
    result.set_standard_error(eval::StandardError(scores));
    result.set_difference_standard_error(eval::PairedStandardError(scores, task.full_precision));
  }
  report_.mutable_peak_memory_bytes()->set_host(report::PeakHostMemory());
  report_.mutable_peak_memory_bytes()->set_device(model::PeakDeviceMemory(device_));
  return CheckGate();
}

absl::Status JobRun::CheckGate() const {
  if (!spec_.evaluation().has_max_perplexity_delta()) return absl::OkStatus();
  const double limit = spec_.evaluation().max_perplexity_delta();
  for (const teq::v1::Perplexity& figures : report_.perplexity()) {
    // Written so that NaN fails too.
    if (figures.delta() <= limit) continue;
    return Error(absl::StatusCode::kFailedPrecondition, "PERPLEXITY_GATE",
                 fmt::format("perplexity on {} rises by {:.4f} (from {:.4f} to {:.4f}); "
                             "evaluation.max_perplexity_delta is {}; nothing was published",
                             figures.dataset(), figures.delta(), figures.full_precision(),
                             figures.quantized(), limit));
  }
  return absl::OkStatus();
}

absl::Status JobRun::Seal() {
  TEQ_RETURN_IF_ERROR(CheckCancelled());
  // Its time is in no report: the report is sealed as part of the content.
  stage_ = teq::v1::STAGE_PUBLISH;
  SendProgress(0, 0, "");
  TEQ_ASSIGN_OR_RETURN(manifest_sha256_, publication_->Seal(report_, report::ReportPage));
  return absl::OkStatus();
}

}  // namespace teq::pipeline
