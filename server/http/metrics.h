#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "server/queue/clock.h"
#include "server/queue/observer.h"
#include "server/store/job_store.h"

namespace teq::http {

/// Bounds on the number of series.
struct MetricsOptions {
  /// How long a job's own series outlive it, so that a scrape sees its last values.
  absl::Duration job_series_after_end = absl::Minutes(5);
  int max_jobs = 200;
  int max_projects = 100;  // more are counted as "other"
};

/// What the metrics are made from; all outlive them.
struct MetricsDeps {
  store::JobStore* store;
  const queue::Clock* clock;
  /// Open watches; null: none.
  std::function<int()> watch_streams;
};

/// The server's metrics, and every running job's gauges as its heartbeats tell them. Thread-safe.
class Metrics final : public queue::QueueObserver {
 public:
  Metrics(MetricsOptions options, MetricsDeps deps);

  /// Once at start-up: the series of jobs that already run, or ended a moment ago.
  [[nodiscard]] absl::Status Restore();

  /// The Prometheus text format, version 0.0.4.
  [[nodiscard]] absl::StatusOr<std::string> Render();

  void OnChange(const queue::JobChange& change) override;
  void OnDelete(const store::JobRecord& record) override;
  void OnLeaseConflict() override;

 private:
  using Gauges = prometheus::Family<prometheus::Gauge>;
  using Counters = prometheus::Family<prometheus::Counter>;
  using Histograms = prometheus::Family<prometheus::Histogram>;

  /// The gauges of one job, and what they were made from.
  struct JobSeries {
    std::string name;
    absl::Time end = absl::InfiniteFuture();  // of the job
    std::vector<std::pair<Gauges*, prometheus::Gauge*>> gauges;
    std::map<std::string, double> full_precision;  // by dataset
    std::map<std::string, double> quantized;
  };

  JobSeries& SeriesOf(const store::JobRecord& record);
  void SetGauge(JobSeries& series, Gauges& family, prometheus::Labels labels, double value);
  void SetSample(JobSeries& series, const teq::v1::MetricSample& sample);
  void SetPerplexity(JobSeries& series, const teq::v1::PerplexitySample& sample);
  void RemoveSeries(std::map<int64_t, JobSeries>::iterator series);
  void RemoveOldSeries();
  void CountEnd(const store::JobRecord& record);
  std::string ProjectLabel(const std::string& project);
  void SetStatistics(const store::Statistics& statistics);

  const MetricsOptions options_;
  const MetricsDeps deps_;
  prometheus::Registry registry_;

  Gauges& jobs_;
  Counters& submitted_;
  Counters& finished_;
  Gauges& oldest_age_;
  prometheus::Histogram& queue_wait_;
  Histograms& duration_;
  prometheus::Gauge& leases_active_;
  prometheus::Counter& leases_expired_;
  prometheus::Counter& lease_conflicts_;
  Counters& retries_;
  prometheus::Gauge& dead_letters_;
  prometheus::Gauge& watch_streams_;
  Gauges& loss_;
  Gauges& step_;
  Gauges& perplexity_;
  Gauges& perplexity_delta_;

  std::mutex mutex_;  // what follows
  std::set<std::string> projects_;
  std::map<int64_t, JobSeries> series_;  // by the job's key
};

}  // namespace teq::http
