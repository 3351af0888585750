#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "client/side_port/http_server.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "teq/v1/job.pb.h"
#include "teq/v1/worker_service.pb.h"

namespace teq::agent {

/// What a worker counts about itself; what concerns one job is the server's to tell. Belongs to one
/// thread; the registry may be collected from others.
class WorkerMetrics {
 public:
  explicit WorkerMetrics(std::string_view version);

  [[nodiscard]] const std::shared_ptr<prometheus::Registry>& registry() const { return registry_; }

  void LeaseAcquired() { leases_->Increment(); }
  void EngineFailed(teq::v1::FailureClass failure_class);
  void Exported(double bytes) { export_bytes_->Increment(bytes); }

  /// Before a run's first sample.
  void BeginRun(const teq::v1::JobSpec& spec);
  void Sample(const teq::v1::MetricSample& sample);

 private:
  std::shared_ptr<prometheus::Registry> registry_;
  prometheus::Family<prometheus::Counter>* failures_;
  prometheus::Counter* leases_;
  prometheus::Counter* steps_;
  prometheus::Counter* tokens_;
  prometheus::Counter* export_bytes_;
  prometheus::Histogram* step_seconds_;

  double tokens_per_step_ = 0;
  std::optional<teq::v1::MetricSample> last_;
};

/// Serves `metrics` at http://ADDRESS/metrics while the result lives. Errors of HttpServer::Start.
[[nodiscard]] absl::StatusOr<std::unique_ptr<http::HttpServer>> ServeMetrics(
    const std::string& address, const WorkerMetrics& metrics);

}  // namespace teq::agent
