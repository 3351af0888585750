#include "client/cli/render.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>

#include "client/cli/text.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "proto/spec/json.h"

namespace teq::cli {
namespace {

using teq::v1::Job;
using teq::v1::JobEstimate;
using teq::v1::Report;
using Rows = std::vector<std::vector<std::string>>;

constexpr std::size_t kWorstLayers = 10;

std::string StageName(teq::v1::Stage stage) {
  return ShortEnumName(teq::v1::Stage_descriptor(), stage);
}

std::string PassName(teq::v1::EndToEndPass pass) {
  if (pass == teq::v1::END_TO_END_PASS_UNSPECIFIED) return "-";
  return ShortEnumName(teq::v1::EndToEndPass_descriptor(), pass);
}

std::string ProgressCell(const Job& job) {
  const auto& progress = job.progress();
  if (IsFinal(job.state()) || progress.stage() == teq::v1::STAGE_UNSPECIFIED) return "-";
  if (progress.total() <= 0) return StageName(progress.stage());
  return fmt::format("{} {}/{}", StageName(progress.stage()), progress.done(), progress.total());
}

std::string LabelsText(const Job& job) {
  const std::map<std::string, std::string> sorted(job.labels().begin(), job.labels().end());
  std::string text;
  for (const auto& [key, value] : sorted) {
    text += fmt::format("{}{}={}", text.empty() ? "" : ",", key, value);
  }
  return text.empty() ? "-" : Printable(text);
}

std::string WeightsText(const teq::v1::Recipe& recipe) {
  const auto& weights = recipe.weights();
  const std::string group =
      weights.group_size() == -1 ? "whole rows" : fmt::format("groups of {}", weights.group_size());
  const std::string bits = weights.has_target_bits()
                               ? fmt::format("{} bits on average", weights.target_bits())
                               : fmt::format("{} bits", weights.bits());
  return fmt::format("{}, {}, {}", bits, group, weights.symmetric() ? "symmetric" : "asymmetric");
}

std::string ErrorText(const google::rpc::Status& error) {
  return Printable(fmt::format("{}: {}", ErrorReason(FromProto(error)), error.message()));
}

double SecondsBetween(const google::protobuf::Timestamp& begin,
                      const google::protobuf::Timestamp& end) {
  return static_cast<double>(end.seconds() - begin.seconds()) +
         static_cast<double>(end.nanos() - begin.nanos()) * 1e-9;
}

std::string PerplexityTable(const Report& report) {
  if (report.perplexity().empty()) return "";
  Rows rows = {{"PERPLEXITY", "FLOAT", "RTN", "QUANTIZED", "DELTA"}};
  for (const auto& p : report.perplexity()) {
    rows.push_back({PlaceText(p.dataset()), PerplexityText(p.full_precision()),
                    PerplexityText(p.round_to_nearest()), PerplexityText(p.quantized()),
                    fmt::format("{:+.3f} ± {:.3f}", p.delta(), p.delta_standard_error())});
  }
  return Table(rows, {1, 2, 3, 4});
}

std::string TaskTable(const Report& report) {
  if (report.tasks().empty()) return "";
  Rows rows = {{"ACCURACY", "FLOAT", "QUANTIZED", "DIFFERENCE", "EXAMPLES"}};
  for (const auto& task : report.tasks()) {
    const double difference = task.quantized_accuracy() - task.full_precision_accuracy();
    rows.push_back(
        {PlaceText(task.task()), fmt::format("{:.2f} %", 100 * task.full_precision_accuracy()),
         fmt::format("{:.2f} %", 100 * task.quantized_accuracy()),
         fmt::format("{:+.2f} ± {:.2f}", 100 * difference, 100 * task.difference_standard_error()),
         fmt::format("{}", task.examples())});
  }
  return Table(rows, {1, 2, 3, 4});
}

std::string ArtifactTable(const Report& report) {
  if (report.artifacts().empty()) return "";
  Rows rows = {{"FORMAT", "SIZE", "PATH"}};
  for (const auto& artifact : report.artifacts()) {
    rows.push_back(
        {Printable(artifact.format()), BytesText(artifact.bytes()), Printable(artifact.path())});
  }
  return Table(rows, {1});
}

std::string DivergenceTable(const Report& report) {
  Rows rows = {{"DIVERGENCE FROM FLOAT", "KL", "SAME TOP TOKEN", "TOKENS"}};
  for (const auto& p : report.perplexity()) {
    rows.push_back({PlaceText(p.dataset()), fmt::format("{:.5f}", p.kl_divergence()),
                    fmt::format("{:.2f} %", 100 * p.top1_agreement()),
                    fmt::format("{}", p.tokens())});
  }
  return rows.size() == 1 ? "" : Table(rows, {1, 2, 3});
}

std::string LossText(double start, double kept, double plain) {
  return fmt::format("{:.6g} at the start, {:.6g} kept, {:.6g} by plain rounding", start, kept,
                     plain);
}

// Of blocks that were each trained by themselves: what was kept of how many, and their mean losses.
Rows BlockRows(const teq::v1::Training& training) {
  int plain = 0;
  int starts = 0;
  double initial = 0;
  double final = 0;
  double round_to_nearest = 0;
  for (const auto& block : training.blocks()) {
    plain += block.best_step() < 0 ? 1 : 0;
    starts += block.best_step() == 0 ? 1 : 0;
    initial += block.initial_loss();
    final += block.final_loss();
    round_to_nearest += block.round_to_nearest_loss();
  }
  const int count = training.blocks_size();
  return {{"blocks", fmt::format("{}, kept: {} steps, {} starts, {} plain rounding", count,
                                 count - plain - starts, starts, plain)},
          {"their mean loss", LossText(initial / count, final / count, round_to_nearest / count)}};
}

std::string TrainingText(const teq::v1::Training& training) {
  const bool bfloat16 = training.compute_type() == teq::v1::COMPUTE_TYPE_BFLOAT16;
  const std::string steps = fmt::format("{}{}", training.steps(), bfloat16 ? " in bfloat16" : "");
  Rows rows = {{"objective", ShortEnumName(teq::v1::Objective_descriptor(), training.objective())}};
  if (!training.blocks().empty()) {
    Rows blocks = BlockRows(training);
    std::ranges::move(blocks, std::back_inserter(rows));
  }
  if (training.objective() == teq::v1::OBJECTIVE_BLOCK_MSE) {
    rows.push_back({"steps of each", steps});
  } else {
    const int best = training.best_step();
    const std::string kept = best < 0    ? "plain rounding"
                             : best == 0 ? "the start"
                                         : fmt::format("step {}", best);
    rows.push_back({"steps", fmt::format("{}, kept: {}", steps, kept)});
    rows.push_back({"held-back loss", LossText(training.initial_loss(), training.final_loss(),
                                               training.round_to_nearest_loss())});
  }
  rows.push_back({"trained scales", fmt::format("{}, {:.4f} % of all parameters",
                                                training.trainable_parameters().scales(),
                                                100 * training.trainable_fraction())});
  return "TRAINING\n" + Table(rows, {});
}

std::string WorstLayers(const Report& report) {
  std::vector<teq::v1::LayerReport> layers(report.layers().begin(), report.layers().end());
  if (layers.empty()) return "";
  const std::size_t count = std::min(layers.size(), kWorstLayers);
  std::ranges::stable_sort(layers, std::ranges::greater(), &teq::v1::LayerReport::output_mse);
  Rows rows = {{fmt::format("LARGEST OUTPUT ERROR, {} OF {} LAYERS", count, layers.size()), "BITS",
                "GROUP", "MSE", "BY RTN"}};
  for (std::size_t i = 0; i < count; ++i) {
    const auto& layer = layers[i];
    rows.push_back({Printable(layer.name()), fmt::format("{}", layer.bits()),
                    layer.group_size() == -1 ? "row" : fmt::format("{}", layer.group_size()),
                    fmt::format("{:.3e}", layer.output_mse()),
                    fmt::format("{:.3e}", layer.output_mse_round_to_nearest())});
  }
  return Table(rows, {1, 2, 3, 4});
}

template <typename Noted>
std::string Notes(const Noted& report) {
  std::string text;
  for (const std::string& note : report.notes()) text += fmt::format("note: {}\n", Printable(note));
  return text;
}

// "-" for nothing.
std::string AmountText(std::int64_t bytes) { return bytes == 0 ? "-" : BytesText(bytes); }

std::string StageTable(const JobEstimate& estimate) {
  double seconds = 0;
  Rows rows = {{"STAGE", "MEMORY", "ON DEVICE", "SCRATCH FILES", "TIME"}};
  for (const auto& stage : estimate.stages()) {
    seconds += stage.seconds();
    rows.push_back({StageName(stage.stage()), AmountText(stage.host_bytes()),
                    AmountText(stage.device_bytes()), AmountText(stage.scratch_bytes()),
                    stage.has_seconds() ? DurationText(stage.seconds()) : "-"});
  }
  rows.push_back(
      {"peak, total time", AmountText(estimate.peak_host_bytes()),
       AmountText(estimate.peak_device_bytes()), AmountText(estimate.peak_scratch_bytes()),
       estimate.workers_size() > 0 && estimate.workers(0).has_seconds() ? DurationText(seconds)
                                                                        : "-"});
  return Table(rows, {1, 2, 3, 4});
}

std::string PlanTable(const JobEstimate& estimate) {
  return Table({{"parameters", RateText(static_cast<double>(estimate.parameters()))},
                {"memory limit", estimate.memory_limit_bytes() == 0
                                     ? "none known"
                                     : BytesText(estimate.memory_limit_bytes())},
                {"least memory limit", BytesText(estimate.least_memory_limit_bytes())},
                {"hidden states",
                 ShortEnumName(teq::v1::HiddenStates_descriptor(), estimate.hidden_states())},
                {"end-to-end pass", PassName(estimate.end_to_end_pass())}},
               {});
}

std::string OutputTable(const JobEstimate& estimate) {
  Rows rows = {{"OUTPUT", "WEIGHTS"}};
  for (const auto& output : estimate.outputs()) {
    rows.push_back(
        {ShortEnumName(teq::v1::Format_descriptor(), output.format()), BytesText(output.bytes())});
  }
  return Table(rows, {1});
}

std::string WorkerTable(const JobEstimate& estimate) {
  if (estimate.workers().empty()) return "";
  Rows rows = {{"WORKER", "DEVICE", "MEMORY LIMIT", "END-TO-END PASS", "TIME"}};
  for (const auto& worker : estimate.workers()) {
    const std::string time = !worker.refusal().empty() ? "does not fit"
                             : worker.has_seconds()    ? DurationText(worker.seconds())
                                                       : "not known";
    rows.push_back(
        {Printable(worker.worker()), ShortEnumName(teq::v1::Device_descriptor(), worker.device()),
         AmountText(worker.memory_limit_bytes()), PassName(worker.end_to_end_pass()), time});
  }
  return Table(rows, {2, 4});
}

// The parts that are not empty, with an empty line between them.
std::string Sections(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) {
    if (part.empty()) continue;
    text += (text.empty() ? "" : "\n") + part;
  }
  return text;
}

}  // namespace

std::string StateName(Job::State state) { return ShortEnumName(Job::State_descriptor(), state); }

bool IsFinal(Job::State state) {
  return state == Job::STATE_SUCCEEDED || state == Job::STATE_FAILED ||
         state == Job::STATE_CANCELLED || state == Job::STATE_EXPIRED;
}

std::string JobTable(const std::vector<Job>& jobs) {
  Rows rows = {{"NAME", "STATE", "PROGRESS", "PRIORITY", "ATTEMPTS", "CREATED", "LABELS"}};
  for (const Job& job : jobs) {
    rows.push_back({Printable(job.name()), StateName(job.state()), ProgressCell(job),
                    fmt::format("{}", job.priority()), fmt::format("{}", job.attempt_count()),
                    TimeText(job.create_time()), LabelsText(job)});
  }
  return Table(rows, {3, 4});
}

std::string JobDetails(const Job& job) {
  Rows rows = {{"name", Printable(job.name())}, {"state", StateName(job.state())}};
  const auto add = [&rows](const char* name, std::string value) {
    if (!value.empty() && value != "-") rows.push_back({name, std::move(value)});
  };
  add("message", Printable(job.status_message()));
  if (job.has_error()) add("error", ErrorText(job.error()));
  add("progress", ProgressCell(job));
  add("worker", Printable(job.worker()));
  rows.push_back({"priority", fmt::format("{}", job.priority())});
  add("labels", LabelsText(job));
  rows.push_back({"attempts", fmt::format("{}", job.attempt_count())});
  if (job.preemption_count() > 0) add("preemptions", fmt::format("{}", job.preemption_count()));
  add("model", PlaceText(job.spec().model().uri()));
  add("weights", WeightsText(job.spec().recipe()));
  add("output", PlaceText(job.spec().output().uri()));
  add("created", TimeText(job.create_time()));
  add("started", TimeText(job.start_time()));
  add("next attempt", TimeText(job.next_attempt_time()));
  add("ended", TimeText(job.end_time()));
  add("trace", Printable(job.traceparent()));
  return Sections({Table(rows, {}), PerplexityTable(job.report()), TaskTable(job.report()),
                   ArtifactTable(job.report())});
}

std::string JobSummary(const Job& job) {
  std::string head = fmt::format("{}  {}", Printable(job.name()), StateName(job.state()));
  if (job.has_start_time() && job.has_end_time()) {
    head +=
        fmt::format(" after {}", DurationText(SecondsBetween(job.start_time(), job.end_time())));
  }
  head += "\n";
  if (job.has_error()) head += ErrorText(job.error()) + "\n";
  return Sections(
      {head, PerplexityTable(job.report()), TaskTable(job.report()), ArtifactTable(job.report())});
}

std::string PublishedTable(const std::vector<teq::v1::PublishedArtifact>& artifacts) {
  Rows rows = {{"NAME", "SIZE", "PUBLISHED", "PATH"}};
  for (const auto& published : artifacts) {
    rows.push_back({Printable(published.name()), BytesText(published.artifact().bytes()),
                    TimeText(published.publish_time()), Printable(published.artifact().path())});
  }
  return Table(rows, {1});
}

std::string EstimateText(const JobEstimate& estimate) {
  return Sections({PlanTable(estimate), StageTable(estimate), OutputTable(estimate),
                   WorkerTable(estimate), Notes(estimate)});
}

std::string ReportText(const Report& report) {
  return Sections({PerplexityTable(report), DivergenceTable(report), TaskTable(report),
                   report.has_training() ? TrainingText(report.training()) : "",
                   WorstLayers(report), ArtifactTable(report), Notes(report)});
}

}  // namespace teq::cli
