#include "worker/agent/metrics.h"

#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <utility>

#include "client/side_port/exposition.h"
#include "fmt/format.h"
#include "google/protobuf/util/time_util.h"
#include "proto/spec/json.h"
#include "proto/spec/recipe.h"

namespace teq::agent {
namespace {

using google::protobuf::util::TimeUtil;

// Seconds; a step takes 10 ms on a toy and a minute on a large model.
const prometheus::Histogram::BucketBoundaries kStepBuckets = {0.01, 0.02, 0.05, 0.1, 0.2, 0.5,
                                                              1,    2,    5,    10,  20,  60};

prometheus::Counter& Counter(prometheus::Registry& registry, const std::string& name,
                             const std::string& help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add({});
}

prometheus::Gauge& Gauge(prometheus::Registry& registry, const std::string& name,
                         const std::string& help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({});
}

// What of a process lies in memory, in bytes; 0 where it has ended.
double ResidentBytes(pid_t process) {
  std::ifstream statm(fmt::format("/proc/{}/statm", process));
  std::int64_t total_pages = 0;
  std::int64_t resident_pages = 0;
  if (!(statm >> total_pages >> resident_pages)) return 0;
  return static_cast<double>(resident_pages * ::sysconf(_SC_PAGESIZE));
}

// The disk of a directory, or where that is not made yet, of what it will be made in.
std::optional<std::filesystem::space_info> SpaceOf(std::filesystem::path directory) {
  std::error_code error;
  directory = std::filesystem::absolute(directory, error);
  while (!std::filesystem::exists(directory, error) && directory.has_relative_path()) {
    directory = directory.parent_path();
  }
  const std::filesystem::space_info space = std::filesystem::space(directory, error);
  if (error) return std::nullopt;
  return space;
}

}  // namespace

WorkerMetrics::WorkerMetrics(std::string_view version, std::filesystem::path data)
    : data_(std::move(data)),
      registry_(std::make_unique<prometheus::Registry>()),
      engine_memory_(&Gauge(*registry_, "teq_engine_memory_bytes",
                            "Memory of the host that the engine's process takes now; 0 without "
                            "one.")),
      disk_free_(&Gauge(*registry_, "teq_data_directory_free_bytes",
                        "What the worker may still write on the disk of its data directory.")),
      disk_size_(&Gauge(*registry_, "teq_data_directory_size_bytes",
                        "Size of the disk of the worker's data directory.")),
      failures_(&prometheus::BuildCounter()
                     .Name("teq_engine_failures_total")
                     .Help("Runs that failed, by what that means for a retry.")
                     .Register(*registry_)),
      leases_(&Counter(*registry_, "teq_leases_acquired_total", "Leases that this worker got.")),
      steps_(&Counter(*registry_, "teq_training_steps_total", "Training steps taken.")),
      tokens_(&Counter(*registry_, "teq_tokens_processed_total", "Tokens trained on.")),
      export_bytes_(&Counter(*registry_, "teq_export_bytes_total", "Bytes published.")),
      step_seconds_(&prometheus::BuildHistogram()
                         .Name("teq_step_duration_seconds")
                         .Help("Duration of a training step.")
                         .Register(*registry_)
                         .Add({}, kStepBuckets)) {
  prometheus::BuildGauge()
      .Name("teq_build_info")
      .Help("Always 1; the labels tell the build.")
      .Register(*registry_)
      .Add({{"program", "teq-worker"}, {"version", std::string(version)}})
      .Set(1);
}

void WorkerMetrics::EngineFailed(teq::v1::FailureClass failure_class) {
  failures_->Add({{"class", ShortEnumName(teq::v1::FailureClass_descriptor(), failure_class)}})
      .Increment();
}

void WorkerMetrics::BeginRun(const teq::v1::JobSpec& spec) {
  last_.reset();
  tokens_per_step_ = static_cast<double>(ScheduleOf(spec.recipe()).batch_size()) *
                     static_cast<double>(spec.calibration().sequence_length());
}

void WorkerMetrics::Sample(const teq::v1::MetricSample& sample) {
  const int steps = sample.step() - (last_ ? last_->step() : 0);
  if (steps > 0) {
    steps_->Increment(steps);
    tokens_->Increment(steps * tokens_per_step_);
  }
  if (last_ && steps > 0) {
    const auto passed = TimeUtil::TimestampToMicroseconds(sample.observe_time()) -
                        TimeUtil::TimestampToMicroseconds(last_->observe_time());
    const double seconds = static_cast<double>(passed) * 1e-6 / steps;
    for (int i = 0; i < steps && seconds >= 0; ++i) step_seconds_->Observe(seconds);
  }
  last_ = sample;
}

std::string WorkerMetrics::Render() const {
  const pid_t engine = engine_;
  engine_memory_->Set(engine == 0 ? 0 : ResidentBytes(engine));
  if (const auto space = SpaceOf(data_)) {
    disk_free_->Set(static_cast<double>(space->available));
    disk_size_->Set(static_cast<double>(space->capacity));
  }
  return http::ExpositionText(registry_->Collect());
}

absl::StatusOr<std::unique_ptr<http::HttpServer>> ServeMetrics(const std::string& address,
                                                               const WorkerMetrics& metrics) {
  const auto render = [&metrics]() -> absl::StatusOr<std::string> { return metrics.Render(); };
  return http::HttpServer::Start({.address = address},
                                 {.metrics = render, .ready = [] { return absl::OkStatus(); }});
}

}  // namespace teq::agent
