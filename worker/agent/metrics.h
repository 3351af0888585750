#pragma once

#include <sys/types.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "client/side_port/http_server.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "teq/v1/job.pb.h"
#include "teq/v1/worker_service.pb.h"

namespace teq::agent {

/// What a worker counts about itself; what concerns one job is the server's to tell. Belongs to one
/// thread, but for Render.
class WorkerMetrics {
 public:
  /// `data` is where the worker keeps what it fetches and stages; it need not be there yet.
  WorkerMetrics(std::string_view version, std::filesystem::path data);

  /// The Prometheus text format, with the engine's memory and the disk as they are now. From any
  /// thread.
  [[nodiscard]] std::string Render() const;

  void LeaseAcquired() { leases_->Increment(); }
  void EngineFailed(teq::v1::FailureClass failure_class);
  void Exported(double bytes) { export_bytes_->Increment(bytes); }

  /// The engine's process, as long as there is one.
  void EngineStarted(pid_t process) { engine_ = process; }
  void EngineEnded() { engine_ = 0; }

  /// Before a run's first sample.
  void BeginRun(const teq::v1::JobSpec& spec);
  void Sample(const teq::v1::MetricSample& sample);

 private:
  std::filesystem::path data_;
  std::atomic<pid_t> engine_ = 0;
  std::unique_ptr<prometheus::Registry> registry_;
  prometheus::Gauge* engine_memory_;
  prometheus::Gauge* disk_free_;
  prometheus::Gauge* disk_size_;
  prometheus::Family<prometheus::Counter>* failures_;
  prometheus::Counter* leases_;
  prometheus::Counter* steps_;
  prometheus::Counter* tokens_;
  prometheus::Counter* export_bytes_;
  prometheus::Histogram* step_seconds_;

  double tokens_per_step_ = 0;
  std::optional<teq::v1::MetricSample> last_;
};

/// Serves `metrics`, which outlives the result, at http://ADDRESS/metrics. Errors of
/// HttpServer::Start.
[[nodiscard]] absl::StatusOr<std::unique_ptr<http::HttpServer>> ServeMetrics(
    const std::string& address, const WorkerMetrics& metrics);

}  // namespace teq::agent
