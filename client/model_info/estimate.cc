#include "client/model_info/estimate.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>

#include "client/model_info/cost.h"
#include "client/model_info/layout.h"
#include "client/model_info/memory_plan.h"
#include "client/model_info/output_size.h"
#include "client/model_info/plan.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::model_info {
namespace {

using teq::v1::Device;
using teq::v1::DeviceCalibration;
using teq::v1::JobEstimate;
using teq::v1::JobSpec;

/// What is the same wherever the job runs.
struct Job {
  const JobSpec& spec;
  const ModelConfig& config;
  std::vector<PlannedLayer> plan;
  std::int64_t evaluation_tokens = 0;
};

/// The job on one device.
struct Placed {
  teq::v1::WorkerEstimate summary;
  MemoryPlan memory;  // with the costs, empty where it does not fit
  std::vector<StageCost> costs;
  std::optional<DeviceCalibration> calibration;

  [[nodiscard]] bool Fits() const { return summary.refusal().empty(); }
};

bool IsHost(Device device) {
  return device != teq::v1::DEVICE_CUDA && device != teq::v1::DEVICE_HPU;
}

/// The device that a worker would run the job on, as the engine chooses it.
std::optional<Device> DeviceOf(Device asked, const teq::v1::Capabilities& worker) {
  const auto has = [&worker](Device device) {
    return std::ranges::find(worker.devices(), static_cast<int>(device)) != worker.devices().end();
  };
  if (asked == teq::v1::DEVICE_ANY) {
    for (const Device device : {teq::v1::DEVICE_CUDA, teq::v1::DEVICE_HPU}) {
      if (has(device)) return device;
    }
    return teq::v1::DEVICE_CPU;
  }
  if (!has(asked)) return std::nullopt;
  return asked;
}

std::optional<DeviceCalibration> CalibrationOf(Device device, const teq::v1::Capabilities& worker) {
  for (const DeviceCalibration& calibration : worker.calibrations()) {
    if (calibration.device() == device) return calibration;
  }
  return std::nullopt;
}

void SetPlan(const MemoryPlan& memory, Placed& placed) {
  placed.summary.set_memory_limit_bytes(memory.limit_bytes);
  placed.summary.set_hidden_states(memory.hidden_states);
  placed.summary.set_end_to_end_pass(memory.end_to_end_pass);
}

absl::StatusOr<Placed> Place(const Job& job, Device device,
                             const std::optional<DeviceCalibration>& calibration) {
  const std::int64_t limit = LimitOf(job.spec, calibration ? calibration->memory_bytes() : 0);
  Placed placed;
  placed.summary.set_device(device);
  placed.summary.set_memory_limit_bytes(limit);
  placed.calibration = calibration;
  TEQ_ASSIGN_OR_RETURN(placed.memory,
                       PlanMemory(job.spec, job.config, job.plan,
                                  {.limit_bytes = limit, .on_device = !IsHost(device)}));
  placed.costs = CostOf(job.spec, job.config, job.plan, placed.memory, job.evaluation_tokens);
  SetPlan(placed.memory, placed);
  if (!calibration) return placed;
  double seconds = 0;
  for (const StageCost& cost : placed.costs) seconds += SecondsOf(cost, *calibration);
  placed.summary.set_seconds(seconds);
  return placed;
}

Placed PlaceOnWorker(const Job& job, Device device, const KnownWorker& worker) {
  const auto calibration = CalibrationOf(device, worker.capabilities);
  absl::StatusOr<Placed> placed = Place(job, device, calibration);
  if (!placed.ok()) {
    Placed refused;
    refused.summary.set_device(device);
    refused.summary.set_memory_limit_bytes(
        LimitOf(job.spec, calibration ? calibration->memory_bytes() : 0));
    refused.summary.set_refusal(std::string(placed.status().message()));
    placed = std::move(refused);
  }
  placed->summary.set_worker(worker.id);
  return *std::move(placed);
}

/// Those that it fits first, and of them the fastest.
std::vector<Placed> PlaceOnWorkers(const Job& job, const std::vector<KnownWorker>& workers) {
  std::vector<Placed> all;
  for (const KnownWorker& worker : workers) {
    const auto device = DeviceOf(job.spec.resources().device(), worker.capabilities);
    if (device) all.push_back(PlaceOnWorker(job, *device, worker));
  }
  std::ranges::sort(all, {}, [](const Placed& placed) {
    const double seconds = placed.summary.has_seconds() ? placed.summary.seconds()
                                                        : std::numeric_limits<double>::infinity();
    return std::tuple(!placed.Fits(), seconds, placed.summary.worker());
  });
  return all;
}

void AddStages(const Placed& placed, JobEstimate& estimate) {
  std::int64_t host = 0;
  std::int64_t device = 0;
  std::int64_t scratch = 0;
  for (std::size_t i = 0; i < placed.memory.stages.size(); ++i) {
    const StageMemory& memory = placed.memory.stages[i];
    const StageCost& cost = placed.costs[i];
    teq::v1::StageEstimate& stage = *estimate.add_stages();
    stage.set_stage(memory.stage);
    stage.set_host_bytes(memory.host);
    stage.set_device_bytes(memory.device);
    stage.set_scratch_bytes(memory.scratch);
    stage.set_operations(cost.operations);
    stage.set_moved_bytes(cost.moved_bytes);
    if (placed.calibration) stage.set_seconds(SecondsOf(cost, *placed.calibration));
    host = std::max(host, memory.host);
    device = std::max(device, memory.device);
    scratch = std::max(scratch, memory.scratch);
  }
  estimate.set_peak_host_bytes(host);
  estimate.set_peak_device_bytes(device);
  estimate.set_peak_scratch_bytes(scratch);
}

}  // namespace

absl::StatusOr<JobEstimate> EstimateJob(const JobSpec& spec, const ModelConfig& config,
                                        std::int64_t evaluation_tokens,
                                        const std::vector<KnownWorker>& workers) {
  Job job{spec, config, {}, evaluation_tokens};
  TEQ_ASSIGN_OR_RETURN(job.plan, PlanLayers(spec, config));
  TEQ_RETURN_IF_ERROR(CheckMemoryLimit(spec, config, job.plan));
  const std::vector<Placed> placed = PlaceOnWorkers(job, workers);
  Placed chosen;
  if (!placed.empty() && placed.front().Fits()) {
    chosen = placed.front();
  } else {
    const Device asked = spec.resources().device();
    TEQ_ASSIGN_OR_RETURN(
        chosen, Place(job, asked == teq::v1::DEVICE_ANY ? teq::v1::DEVICE_CPU : asked, {}));
  }

  JobEstimate estimate;
  AddStages(chosen, estimate);
  estimate.set_memory_limit_bytes(chosen.memory.limit_bytes);
  estimate.set_least_memory_limit_bytes(chosen.memory.least_limit_bytes);
  estimate.set_hidden_states(chosen.memory.hidden_states);
  estimate.set_end_to_end_pass(chosen.memory.end_to_end_pass);
  for (const std::string& note : chosen.memory.notes) estimate.add_notes(note);
  if (!placed.empty() && !placed.front().Fits()) {
    estimate.add_notes("it fits no worker that is there; the plan is for one with enough memory");
  }
  if (evaluation_tokens > 0 && chosen.calibration) {
    estimate.add_notes(
        fmt::format("the texts to measure on are taken to have {} tokens", evaluation_tokens));
  }
  for (const int format : spec.output().formats()) {
    teq::v1::OutputEstimate& output = *estimate.add_outputs();
    output.set_format(static_cast<teq::v1::Format>(format));
    output.set_bytes(OutputBytes(output.format(), spec.recipe(), config, job.plan));
  }
  for (const Placed& each : placed) *estimate.add_workers() = each.summary;
  estimate.set_parameters(CountParameters(config));
  return estimate;
}

}  // namespace teq::model_info
