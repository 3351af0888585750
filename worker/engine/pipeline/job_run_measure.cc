// JobRun's measurements: BASELINE_EVAL and VERIFY.
#include <cmath>
#include <future>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "proto/spec/json.h"
#include "worker/engine/cancellation.h"
#include "worker/engine/pipeline/job_run.h"
#include "worker/engine/report/environment.h"
#include "worker/engine/verify/packed_model.h"

namespace teq::pipeline {

using teq::v1::EngineEvent;
using teq::v1::PerplexitySample;
using torch::Tensor;

absl::StatusOr<eval::Evaluation> JobRun::Measure(const model::Decoder& decoder,
                                                 const model::Decoder* reference,
                                                 const Dataset& dataset) {
  return eval::Evaluate(
      decoder, reference, dataset.windows,
      [this](std::int64_t done, std::int64_t total) { SendProgress(done, total, "windows"); },
      cancelled_);
}

void JobRun::Announce(const Dataset& dataset, PerplexitySample::Phase phase, double perplexity) {
  EngineEvent event;
  event.mutable_perplexity()->set_dataset(dataset.uri);
  event.mutable_perplexity()->set_phase(phase);
  event.mutable_perplexity()->set_value(perplexity);
  sink_(event);
}

absl::StatusOr<eval::TaskScores> JobRun::Score(const model::Decoder& decoder, const Task& task) {
  return eval::ScoreTask(
      decoder, task.task,
      [this](std::int64_t done, std::int64_t total) { SendProgress(done, total, "choices"); },
      cancelled_);
}

absl::Status JobRun::BaselineEval() {
  for (Dataset& dataset : datasets_) {
    TEQ_ASSIGN_OR_RETURN(dataset.full_precision, Measure(decoder_, nullptr, dataset));
    Announce(dataset, PerplexitySample::PHASE_FULL_PRECISION, dataset.full_precision.Perplexity());
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
  const std::vector<transform::ScaleGroup> no_groups;
  const transform::Parameters plain = transform::PlainParameters(no_groups, grids_, FloatOptions());
  const model::Decoder rounded = transform::FakeQuantizeDecoder(decoder_, no_groups, plain, grids_,
                                                                norm_type_, teq::v1::GRADIENT_FULL);
  for (Dataset& dataset : datasets_) {
    TEQ_ASSIGN_OR_RETURN(dataset.round_to_nearest, Measure(rounded, nullptr, dataset));
    Announce(dataset, PerplexitySample::PHASE_ROUND_TO_NEAREST,
             dataset.round_to_nearest.Perplexity());
  }
  return absl::OkStatus();
}

absl::Status JobRun::Verify() {
  for (Output& output : outputs_) {
    TEQ_RETURN_IF_ERROR(CheckCancelled(cancelled_));
    TEQ_RETURN_IF_ERROR(VerifyOutput(output));
  }
  report_.mutable_peak_memory_bytes()->set_host(report::PeakHostMemory());
  TEQ_ASSIGN_OR_RETURN(const model::DeviceMemory memory, model::MemoryOf(device_));
  report_.mutable_peak_memory_bytes()->set_device(memory.peak);
  return CheckGate();
}

absl::Status JobRun::VerifyOutput(Output& output) {
  const std::filesystem::path directory = publication_->StagingDirectory(output.format->directory);
  // One thread reads all bytes in order, beside those that read and measure layers.
  std::future<absl::Status> digests = std::async(
      std::launch::async, [&] { return verify::CheckDigests(directory, output.file_digests); });
  const absl::Status read = ReadOutputBack(output, directory);
  // The first to tell: whatever else is wrong with changed bytes comes from that.
  TEQ_RETURN_IF_ERROR(digests.get());
  return read;
}

/// Outputs that hold exactly what was rounded are one model, which is measured once.
absl::Status JobRun::ReadOutputBack(Output& output, const std::filesystem::path& directory) {
  TEQ_ASSIGN_OR_RETURN(const ReadBack back, ReadOutput(*output.format, packable_, directory));
  output.exact = back.exact;
  for (const Output& earlier : outputs_) {
    if (&earlier == &output) break;
    if (!earlier.exact || !output.exact) continue;
    output.perplexity = earlier.perplexity;
    return absl::OkStatus();
  }
  const auto source = [&](const std::string& name) { return TensorOf(back.packed, config_, name); };
  TEQ_ASSIGN_OR_RETURN(const model::Decoder quantized,
                       model::OpenDecoder(config_, vocabulary_, source, device_.torch));
  TEQ_ASSIGN_OR_RETURN(output.perplexity, MeasureOutput(quantized));
  return &output == &outputs_.front() ? ReportQuality(quantized, output) : absl::OkStatus();
}

absl::StatusOr<std::vector<teq::v1::Perplexity>> JobRun::MeasureOutput(
    const model::Decoder& decoder) {
  std::vector<teq::v1::Perplexity> all;
  for (const Dataset& dataset : datasets_) {
    TEQ_ASSIGN_OR_RETURN(const eval::Evaluation measured, Measure(decoder, &decoder_, dataset));
    teq::v1::Perplexity& figures = all.emplace_back();
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
  return all;
}

/// What the report says of the first format: its perplexities, and the tasks.
absl::Status JobRun::ReportQuality(const model::Decoder& quantized, const Output& output) {
  for (std::size_t i = 0; i < datasets_.size(); ++i) {
    const teq::v1::Perplexity& figures = output.perplexity[i];
    Announce(datasets_[i], PerplexitySample::PHASE_QUANTIZED, figures.quantized());
    *report_.add_perplexity() = figures;
    if (figures.quantized() > figures.round_to_nearest()) {
      report_.add_notes(fmt::format("perplexity on {} is {:.4f}, above plain rounding's {:.4f}",
                                    figures.dataset(), figures.quantized(),
                                    figures.round_to_nearest()));
    }
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
  return absl::OkStatus();
}

absl::Status JobRun::CheckGate() const {
  if (!spec_.evaluation().has_max_perplexity_delta()) return absl::OkStatus();
  const double limit = spec_.evaluation().max_perplexity_delta();
  for (const Output& output : outputs_) {
    for (const teq::v1::Perplexity& figures : output.perplexity) {
      // Written so that NaN fails too.
      if (figures.delta() <= limit) continue;
      return Error(absl::StatusCode::kFailedPrecondition, "PERPLEXITY_GATE",
                   fmt::format("format {}: perplexity on {} rises by {:.4f} (from {:.4f} to "
                               "{:.4f}); evaluation.max_perplexity_delta is {}; nothing was "
                               "published",
                               ShortEnumName(teq::v1::Format_descriptor(), output.format->format),
                               figures.dataset(), figures.delta(), figures.full_precision(),
                               figures.quantized(), limit));
    }
  }
  return absl::OkStatus();
}

}  // namespace teq::pipeline
