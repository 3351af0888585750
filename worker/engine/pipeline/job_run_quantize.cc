// What JobRun does to the weights: the choice of bits, CALIBRATE, TRANSFORM and ROUND.
#include <algorithm>
#include <cmath>
#include <ranges>
#include <set>

#include "client/model_info/run_sizes.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "proto/spec/error.h"
#include "proto/spec/recipe.h"
#include "worker/engine/cancellation.h"
#include "worker/engine/model/host_memory.h"
#include "worker/engine/pipeline/job_run.h"
#include "worker/engine/quant/bit_choice.h"
#include "worker/engine/quant/clip_search.h"
#include "worker/engine/quant/grid.h"
#include "worker/engine/report/scale_summary.h"
#include "worker/engine/teq/start.h"

namespace teq::pipeline {
namespace {

using teq::v1::EngineEvent;
using torch::Tensor;

// The end-to-end pass starts where the blocks ended, and moves at a share of their learning rates.
// Scales would change whole columns of codes, and stay where offsets are trained; the groups' step
// sizes, which change none, take their place.
constexpr double kEndToEndRate = 0.025;
constexpr double kEndToEndRoundingRate = 0.1;
constexpr double kRedrawnRoundingRate = 0.8;  // on text that no two steps share; where all do so
constexpr double kEndToEndStepSizeRate = 2;   // of the clip factors'

// Training leaves many offsets next to where a code changes, and steps that change all of those
// lose what had been won: a round first moves offsets away from there by a share of the longest way
// that it lets them go, so that only gradients that agree for long change a code. One long round
// ends worse than short ones, however new its text is (tests/bench/RESULTS-quality.md).
constexpr int kRoundSteps = 125;
constexpr double kMarginShare = 0.3;
constexpr double kLargestMargin = 0.25;

// Perplexity falls by the first power of this share, while the divergence from the float model
// rises by its square: a hundredth costs next to nothing (tests/bench/RESULTS-quality.md), a tenth
// fits the calibration text instead of the model.
constexpr double kNextTokenShare = 0.01;

/// Windows that run through a block at once while nothing is trained.
std::int64_t BatchSize(const text::Windows& windows) {
  return std::max<std::int64_t>(1, model_info::kBatchTokens / windows.length);
}

/// A training of offsets in rounds.
transform::TrainingTask InRounds(transform::TrainingTask task, int steps) {
  task.rounds = std::max(1, steps / kRoundSteps);
  // Rates fall linearly: the way is half of what all steps at the peak would make.
  const double longest_way = task.rates.rounding * steps / task.rounds / 2;
  task.rounding_margin = std::min(kMarginShare * longest_way, kLargestMargin);
  return task;
}

/// The end-to-end pass after a training by block.
transform::TrainingTask LastPass(transform::TrainingTask task, int steps) {
  task.next_token_share = kNextTokenShare;
  transform::LearningRates& rates = task.rates;
  if (rates.rounding > 0) {
    rates.scales = 0;
    rates.step_sizes = kEndToEndStepSizeRate * rates.clipping;
  }
  rates.scales *= kEndToEndRate;
  rates.clipping *= kEndToEndRate;
  rates.rounding *= std::lerp(kEndToEndRoundingRate, kRedrawnRoundingRate,
                              std::min(1.0, task.redrawn_share / model_info::kDrawnOfStep));
  // Scales and clip factors alone go on in one: rounds were only measured with offsets.
  return rates.rounding > 0 ? InRounds(std::move(task), steps) : task;
}

/// "target_bits 3.5: average 3.47 over 28 layers: 3 x 2 bits, 25 x 4 bits".
std::string DescribeChoice(double target,
                           const std::vector<const model_info::PlannedLayer*>& layers) {
  std::map<int, int> counts;
  double weights = 0;
  double total = 0;
  for (const model_info::PlannedLayer* planned : layers) {
    const auto size = static_cast<double>(planned->layer.in * planned->layer.out);
    ++counts[planned->grid.bits];
    weights += size;
    total += size * planned->grid.bits;
  }
  std::vector<std::string> widths;
  for (const auto& [width, count] : counts) {
    widths.push_back(fmt::format("{} x {} bits", count, width));
  }
  return fmt::format("target_bits {}: average {:.3f} over {} layers: {}", target, total / weights,
                     layers.size(), fmt::join(widths, ", "));
}

}  // namespace

absl::Status JobRun::ChooseBits() {
  std::vector<model_info::PlannedLayer>& plan = packable_.plan;
  const std::vector<std::vector<std::size_t>> sets = model_info::OpenSets(recipe(), plan);
  if (sets.empty()) {
    report_.add_notes("target_bits chose no bits: overrides name every layer");
    return absl::OkStatus();
  }
  const auto block_of = [&plan](const auto& set) {
    return static_cast<std::size_t>(plan[set.front()].layer.block);
  };
  std::vector<std::vector<transform::LayerSet>> open(grids_.size());
  for (const auto& set : sets) {
    transform::LayerSet& layers = open[block_of(set)].emplace_back();
    for (const std::size_t planned : set) layers.push_back(plan[planned].layer.index);
  }
  TEQ_ASSIGN_OR_RETURN(const std::vector<transform::BlockSensitivities> measured,
                       transform::MeasureSensitivities(
                           decoder_, grids_, open, calibration_,
                           [this](std::int64_t done, std::int64_t total) {
                             SendProgress(done, total, "sets of layers");
                           },
                           cancelled_));
  std::vector<quant::OpenLayer> choices;
  std::vector<std::size_t> done(grids_.size());  // of a block's sets
  for (const auto& set : sets) {
    const std::size_t block = block_of(set);
    quant::OpenLayer& choice = choices.emplace_back();
    choice.candidates = measured[block][done[block]++];
    for (const std::size_t planned : set) {
      const model_info::LinearLayer& layer = plan[planned].layer;
      choice.weights += layer.in * layer.out;
      sensitivities_[layer.name] = choice.candidates;
    }
  }
  const double target = recipe().weights().target_bits();
  const std::vector<int> bits = quant::ChooseBits(choices, target);
  std::vector<const model_info::PlannedLayer*> chosen;
  for (std::size_t i = 0; i < sets.size(); ++i) {
    for (const std::size_t planned : sets[i]) {
      plan[planned].grid.bits = bits[i];
      chosen.push_back(&plan[planned]);
    }
  }
  grids_ = transform::GridsByBlock(plan);
  report_.add_notes(DescribeChoice(target, chosen));
  return absl::OkStatus();
}

absl::Status JobRun::Calibrate() {
  return transform::VisitBlockStatistics(
      decoder_, calibration_, BatchSize(calibration_), scratch_,
      [&](const model::Block& block, const transform::BlockStatistics& statistics) -> absl::Status {
        TEQ_RETURN_IF_ERROR(CalibrateBlock(block, statistics));
        model::GiveBackFreedMemory();
        SendProgress(block.number + 1, config_.layers, "blocks");
        return CheckCancelled(cancelled_);
      });
}

absl::Status JobRun::CalibrateBlock(const model::Block& block,
                                    const transform::BlockStatistics& statistics) {
  const auto number = static_cast<std::size_t>(block.number);
  const teq::v1::Initialization init = recipe().transform().has_awq()
                                           ? teq::v1::INITIALIZATION_AWQ
                                           : recipe().transform().teq().init();
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    if (groups_[i].block != number) continue;
    parameters_.log_scales[i] =
        transform::StartingScales(init, groups_[i], block, grids_[number], statistics);
  }
  if (!SearchesClipping(recipe())) return absl::OkStatus();
  const transform::BlockScales scales =
      transform::ResolveScales(block, config_.norm, groups_, parameters_.log_scales, norm_type_);
  const model::Block folded = transform::FoldBlock(block, scales);
  for (std::size_t i = 0; i < folded.linears.size(); ++i) {
    const model::Linear& linear = folded.linears[i];
    const transform::InputStatistics& input =
        statistics[static_cast<std::size_t>(linear.layer.input)];
    if (!grids_[number][i].quantized || input.tokens == 0) continue;
    Tensor gram = input.gram;
    if (scales.input[i].defined()) gram = gram / torch::outer(scales.input[i], scales.input[i]);
    const quant::ClipFactors found = quant::SearchClipping(linear.weight, gram, grids_[number][i]);
    quant::ClipFactors& kept = parameters_.adjustments[number][i].clip;
    TEQ_ASSIGN_OR_RETURN(kept.low, scratch_.Keep(found.low.to(torch::kCPU)));
    TEQ_ASSIGN_OR_RETURN(kept.high, scratch_.Keep(found.high.to(torch::kCPU)));
  }
  return absl::OkStatus();
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
    TEQ_RETURN_IF_ERROR(Train({.decoder = decoder_,
                               .groups = groups_,
                               .grids = grids_,
                               .windows = calibration_,
                               .schedule = schedule,
                               .scratch = scratch_,
                               .working = working_,
                               .rates = rates,
                               .stored = norm_type_,
                               .seed = spec_.calibration().seed(),
                               .redrawn_share = schedule.redrawn_fraction(),
                               .device = device_}));
  }
  return absl::OkStatus();
}

absl::Status JobRun::Train(transform::TrainingTask task) {
  teq::v1::Training& training = *report_.mutable_training();
  const teq::v1::Schedule& schedule = task.schedule;
  training.set_compute_type(ComputeTypeFor(schedule.compute_type()));
  if (training.compute_type() == teq::v1::COMPUTE_TYPE_BFLOAT16) task.products = torch::kBFloat16;
  const bool by_block = schedule.objective() == teq::v1::OBJECTIVE_BLOCK_MSE;
  const int block_steps = by_block ? schedule.steps() * static_cast<int>(grids_.size()) : 0;
  const bool left_out = memory_.end_to_end_pass == teq::v1::END_TO_END_PASS_LEFT_OUT;
  const int end_to_end_steps = left_out ? 0 : schedule.end_to_end_steps();
  const int last_steps = by_block ? end_to_end_steps : schedule.steps();
  task.stores_graph = memory_.end_to_end_pass == teq::v1::END_TO_END_PASS_ONE_GRAPH;

  int steps_before = 0;
  const auto on_step = [&](teq::v1::MetricSample sample) {
    sample.set_step(steps_before + sample.step());
    sample.set_total_steps(block_steps + last_steps);
    EngineEvent event;
    *event.mutable_sample() = sample;
    sink_(event);
    SendProgress(sample.step(), sample.total_steps(), "steps");
  };
  if (by_block) {
    const bool has_offsets = task.rates.rounding > 0;
    TEQ_RETURN_IF_ERROR(
        transform::TrainBlocks(has_offsets ? InRounds(task, schedule.steps()) : task, parameters_,
                               training, on_step, cancelled_));
    steps_before = block_steps;
    if (last_steps > 0) {
      scratch_.SetBudget(memory_.end_to_end_states);
      TEQ_RETURN_IF_ERROR(transform::TrainEndToEnd(LastPass(task, last_steps), last_steps,
                                                   teq::v1::OBJECTIVE_KL, parameters_, training,
                                                   on_step, cancelled_));
    }
  } else {
    scratch_.SetBudget(memory_.end_to_end_states);
    TEQ_RETURN_IF_ERROR(transform::TrainEndToEnd(task, last_steps, schedule.objective(),
                                                 parameters_, training, on_step, cancelled_));
  }
  const teq::v1::TrainableParameters& trained = training.trainable_parameters();
  training.set_trainable_fraction(static_cast<double>(trained.scales()) /
                                  static_cast<double>(model_info::CountParameters(config_)));
  if (trained.scales() + trained.clipping() + trained.step_sizes() + trained.rounding() == 0) {
    report_.add_notes(
        "nothing was trained: no layer that is quantized has any of what the recipe trains");
  }
  if (training.best_step() < 0) {
    report_.add_notes(
        "no iterate of the training, nor its start, was better on the held-back text "
        "than plain rounding, which was kept");
  }
  return absl::OkStatus();
}

teq::v1::ComputeType JobRun::ComputeTypeFor(teq::v1::ComputeType requested) {
  if (requested != teq::v1::COMPUTE_TYPE_BFLOAT16 || model::HasFastBfloat16(device_.torch)) {
    return requested;
  }
  report_.add_notes(
      fmt::format("compute_type: {} multiplies BFLOAT16 no faster than FLOAT32, which was taken",
                  device_.description));
  return teq::v1::COMPUTE_TYPE_FLOAT32;
}

absl::Status JobRun::Round() {
  TEQ_RETURN_IF_ERROR(CheckSource());
  TEQ_ASSIGN_OR_RETURN(BlockRounder rounder,
                       BlockRounder::Make(recipe().rounding(), decoder_, calibration_,
                                          BatchSize(calibration_), scratch_));
  TEQ_RETURN_IF_ERROR(transform::VisitBlockStatistics(
      decoder_, calibration_, BatchSize(calibration_), scratch_,
      [&](const model::Block& block, const transform::BlockStatistics& statistics) {
        return RoundBlock(block, statistics, rounder);
      }));
  TEQ_RETURN_IF_ERROR(KeepSource());
  report_.mutable_notes()->Add(rounder.notes().begin(), rounder.notes().end());
  if (clamped_zeros_ > 0) {
    report_.add_notes(
        fmt::format("{} groups have no negative weight; their zero point was raised to "
                    "1, the least that the GPTQ layout holds",
                    clamped_zeros_));
  }
  return absl::OkStatus();
}

absl::Status JobRun::CheckRepresentable(const std::string& name, const Tensor& source) const {
  constexpr std::int64_t kSliceValues = 1 << 20;
  const torch::ScalarType type = PublishedType(source.scalar_type());
  const std::int64_t row = std::max<std::int64_t>(1, source.numel() / source.size(0));
  for (const Tensor& rows : source.split(std::max<std::int64_t>(1, kSliceValues / row))) {
    if (torch::isfinite(rows.to(type)).all().item<bool>()) continue;
    return Error(absl::StatusCode::kInvalidArgument, "NOT_REPRESENTABLE",
                 fmt::format("tensor {} has values that are not finite or that {} cannot hold",
                             name, torch::toString(type)));
  }
  return absl::OkStatus();
}

absl::Status JobRun::KeepFloat(const std::string& name, const Tensor& value) {
  TEQ_ASSIGN_OR_RETURN(const Tensor source, checkpoint_->Read(name));
  const Tensor stored = value.to(torch::kCPU, PublishedType(source.scalar_type()));
  TEQ_RETURN_IF_ERROR(CheckRepresentable(name, stored));
  // The source's own bytes stay where they are.
  if (stored.data_ptr() == source.data_ptr()) {
    packable_.floats.emplace_back(name, stored);
  } else {
    TEQ_ASSIGN_OR_RETURN(packable_.floats.emplace_back(name, Tensor()).second, files_.Keep(stored));
  }
  return absl::OkStatus();
}

absl::Status JobRun::RoundBlock(const model::Block& block,
                                const transform::BlockStatistics& statistics,
                                BlockRounder& rounder) {
  TEQ_RETURN_IF_ERROR(CheckCancelled(cancelled_));
  const torch::NoGradGuard no_gradient;
  const auto number = static_cast<std::size_t>(block.number);
  const transform::BlockScales scales =
      transform::ResolveScales(block, config_.norm, groups_, parameters_.log_scales, norm_type_);
  const model::Block folded = transform::FoldBlock(block, scales);
  TEQ_RETURN_IF_ERROR(KeepChanged(folded, grids_[number], scales));
  BlockCodes codes = rounder.Round(
      folded, grids_[number], transform::OnDevice(parameters_.adjustments[number], device_.torch));
  for (std::size_t i = 0; i < codes.size(); ++i) {
    if (!grids_[number][i].quantized) continue;
    TEQ_RETURN_IF_ERROR(
        KeepLayer(block, i, folded.linears[i].weight, statistics, scales, std::move(codes[i])));
  }
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    if (groups_[i].block != number) continue;
    *report_.add_scale_groups() =
        report::SummarizeScales(groups_[i], block, parameters_.log_scales[i]);
  }
  // Nothing of the block's training is needed any more.
  parameters_.adjustments[number].clear();
  model::GiveBackFreedMemory();
  SendProgress(block.number + 1, config_.layers, "blocks");
  return absl::OkStatus();
}

absl::Status JobRun::KeepChanged(const model::Block& folded, const transform::BlockGrids& grids,
                                 const transform::BlockScales& scales) {
  for (const model_info::NormPlace place :
       {model_info::NormPlace::kAttention, model_info::NormPlace::kMlp}) {
    const model::Norm& norm = folded.at(place);
    if (!norm.weight.defined()) continue;
    TEQ_RETURN_IF_ERROR(KeepFloat(norm.name + ".weight", norm.weight));
    if (norm.bias.defined()) TEQ_RETURN_IF_ERROR(KeepFloat(norm.name + ".bias", norm.bias));
  }
  for (std::size_t i = 0; i < folded.linears.size(); ++i) {
    const model::Linear& linear = folded.linears[i];
    if (linear.bias.defined()) {
      TEQ_RETURN_IF_ERROR(KeepFloat(linear.layer.name + ".bias", linear.bias));
    }
    const bool scaled = scales.input[i].defined() || scales.output[i].defined();
    if (grids[i].quantized || !scaled) continue;
    TEQ_RETURN_IF_ERROR(KeepFloat(linear.layer.name + ".weight",
                                  config_.transposed_linears ? linear.weight.t() : linear.weight));
  }
  return absl::OkStatus();
}

/// Everything of the model that is neither rounded nor changed.
absl::Status JobRun::KeepSource() {
  std::set<std::string_view> kept;
  for (const auto& [name, tensor] : packable_.floats) kept.insert(name);
  std::vector<std::string> rest;
  for (model_info::ExpectedTensor& tensor : model_info::ExpectedTensors(config_, vocabulary_)) {
    constexpr std::string_view kSuffix = ".weight";
    const std::string module = tensor.name.substr(0, tensor.name.size() - kSuffix.size());
    if (kept.contains(tensor.name) || packable_.layers.contains(module)) continue;
    rest.push_back(std::move(tensor.name));
  }
  for (const std::string& name : rest) {
    TEQ_ASSIGN_OR_RETURN(const Tensor tensor, checkpoint_->Read(name));
    TEQ_RETURN_IF_ERROR(KeepFloat(name, tensor));
  }
  return KeepOtherParts();
}

/// What the model has beside its decoder stays as it is.
absl::Status JobRun::KeepOtherParts() {
  const std::vector<std::string> names =
      model_info::TensorsOfOtherParts(config_, checkpoint_->index());
  if (names.empty()) return absl::OkStatus();
  packable_.other_parts = model_info::OtherParts(names);
  for (const std::string& name : names) {
    TEQ_ASSIGN_OR_RETURN(packable_.other_tensors.emplace_back(name, Tensor()).second,
                         checkpoint_->Read(name));
  }
  const std::string parts = fmt::to_string(fmt::join(packable_.other_parts, ", "));
  const auto decoder_only = [](const Output& output) { return output.format->decoder_only; };
  if (!std::ranges::all_of(outputs_, decoder_only)) {
    report_.add_notes(
        fmt::format("{}: {} tensors are published as they are stored", parts, names.size()));
  }
  for (const Output& output : outputs_ | std::views::filter(decoder_only)) {
    report_.add_notes(
        fmt::format("{}: has the decoder alone, without {}", output.format->directory, parts));
  }
  return absl::OkStatus();
}

absl::Status JobRun::KeepLayer(const model::Block& block, std::size_t index, const Tensor& folded,
                               const transform::BlockStatistics& statistics,
                               const transform::BlockScales& scales, quant::Quantized quantized) {
  const auto number = static_cast<std::size_t>(block.number);
  const LayerGrid& grid = grids_[number][index];
  const model::Linear& linear = block.linears[index];
  const Tensor& original = linear.weight;
  const std::string& name = linear.layer.name;
  const transform::InputStatistics& input =
      statistics[static_cast<std::size_t>(linear.layer.input)];
  if (!torch::isfinite(quantized.scales).all().item<bool>()) {
    return Error(absl::StatusCode::kInvalidArgument, "NOT_REPRESENTABLE",
                 fmt::format("layer {}: a scale exceeds float16's range; leave the layer float by "
                             "overrides: [{{match: \"{}\", skip: true}}]",
                             name, name));
  }
  // Errors are compared in the original model's coordinates.
  const Tensor rounded = quant::Dequantize(quantized);
  Tensor effective = rounded;
  if (scales.input[index].defined()) effective = effective / scales.input[index];
  if (scales.output[index].defined()) effective = effective * scales.output[index].unsqueeze(1);
  const Tensor plain = quant::Dequantize(quant::QuantizeToNearest(original, grid));
  teq::v1::LayerReport& layer = *report_.add_layers();
  layer.set_name(name);
  layer.set_bits(grid.bits);
  layer.set_group_size(grid.group_size);
  layer.set_weight_mse((rounded - folded).square().mean().item<double>());
  layer.set_output_mse(transform::OutputError(input, effective - original));
  // A product of the layer's inputs squared: it takes longer than plain rounding does.
  layer.set_output_mse_round_to_nearest(torch::equal(effective, plain)
                                            ? layer.output_mse()
                                            : transform::OutputError(input, plain - original));
  layer.set_changed_codes((quantized.codes != quant::NearestCodes(folded, quantized))
                              .to(torch::kFloat32)
                              .mean()
                              .item<double>());
  transform::SummarizeClipping(parameters_.adjustments[number][index].clip, layer);
  if (input.tokens == 0) {
    // The rounded model may have sent it some, and then it was trained or compensated.
    report_.add_notes(fmt::format("{}: no calibration token reached this expert{}", name,
                                  layer.changed_codes() == 0 ? "; it was rounded to nearest" : ""));
  }
  for (const quant::Candidate& candidate : sensitivities_[name]) {
    teq::v1::BitsSensitivity& sensitivity = *layer.add_sensitivity();
    sensitivity.set_bits(candidate.bits);
    sensitivity.set_error(candidate.error);
  }
  if (!grid.symmetric) {
    const Tensor groups = folded.view({folded.size(0), -1, quant::GroupSize(grid, folded.size(1))});
    clamped_zeros_ += ((groups.amin(-1) >= 0) & (groups.amax(-1) > 0)).sum().item<std::int64_t>();
  }
  for (Tensor* const part : {&quantized.codes, &quantized.scales, &quantized.zeros}) {
    TEQ_ASSIGN_OR_RETURN(*part, files_.Keep(*part));
  }
  packable_.layers.emplace(name, std::move(quantized));
  return absl::OkStatus();
}

}  // namespace teq::pipeline
