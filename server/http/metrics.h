#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/side_port/exposition.h"
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
  /// Of all jobs together; a job has one for each of its evaluation texts and more.
  int max_job_series = 1600;
  int max_projects = 100;  // more are counted as "other"
};

/// What the metrics are made from; all outlive them.
struct MetricsDeps {
  store::JobStore* store;
  const queue::Clock* clock;
  /// Open watches; null: none.
  std::function<int()> watch_streams;
  /// Events that watches left out, since the start; null: none.
  std::function<int64_t()> coalesced_events;
  /// Where the database lies; empty: its disk is not looked at.
  std::filesystem::path data;
};

/// A call of the gRPC API that has ended.
struct CallRecord {
  std::string_view service;  // teq.v1.JobService
  std::string_view method;   // CreateJob
  std::string_view code;     // NotFound
  bool unary = true;
  absl::Duration duration;
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
  void OnQuotaRejection(const std::string& project, std::string_view quota) override;
  void OnCall(const CallRecord& call);
  void OnStoreOperation(std::string_view operation, absl::Duration duration);

 private:
  using Gauges = prometheus::Family<prometheus::Gauge>;
  using Counters = prometheus::Family<prometheus::Counter>;
  using Histograms = prometheus::Family<prometheus::Histogram>;

  /// The gauges of one job, and what they were made from.
  struct JobSeries {
    std::string name;
    absl::Time end = absl::InfiniteFuture();  // of the job
    std::vector<std::pair<TextGauges*, prometheus::Labels>> gauges;
    std::map<std::string, double> full_precision;  // by dataset
    std::map<std::string, double> quantized;
  };

  JobSeries& SeriesOf(const store::JobRecord& record);
  static void SetGauge(JobSeries& series, TextGauges& family, prometheus::Labels labels,
                       double value);
  void SetSample(JobSeries& series, const teq::v1::MetricSample& sample);
  void SetProgress(JobSeries& series, const teq::v1::Progress& progress);
  void SetPeakMemory(JobSeries& series, const teq::v1::PeakMemory& peak);
  void SetGate(JobSeries& series, const teq::v1::Job& job);
  void SetPerplexity(JobSeries& series, const teq::v1::PerplexitySample& sample);
  void RemoveSeries(std::map<int64_t, JobSeries>::iterator series);
  void RemoveOldSeries();
  [[nodiscard]] int JobSeriesCount() const;
  prometheus::Counter& FinishedOf(const store::JobRecord& record, int state);
  prometheus::Histogram& DurationOf(const teq::v1::Job& job);
  /// Makes the series that the job's end will count in. A rate misses the step from no series to 1:
  /// a scrape must have seen 0.
  void AnnounceEnd(const store::JobRecord& record);
  void CountEnd(const store::JobRecord& record);
  std::string ProjectLabel(const std::string& project);
  void CountFailure(const queue::JobChange& change);
  void SetStatistics(const store::Statistics& statistics);
  void SetDisk();

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
  Counters& attempt_failures_;
  prometheus::Counter& export_failures_;
  prometheus::Gauge& dead_letters_;
  prometheus::Gauge& watch_streams_;
  prometheus::Counter& coalesced_;
  Counters& quota_rejections_;
  prometheus::Gauge& disk_free_;
  prometheus::Gauge& disk_size_;
  Counters& calls_;
  Histograms& call_seconds_;
  Histograms& store_seconds_;

  std::mutex mutex_;                   // what follows
  std::deque<TextGauges> job_gauges_;  // the next ones
  TextGauges& loss_;
  TextGauges& step_;
  TextGauges& learning_rate_;
  TextGauges& tokens_per_second_;
  TextGauges& stage_;
  TextGauges& progress_;
  TextGauges& peak_memory_;
  TextGauges& perplexity_;
  TextGauges& perplexity_delta_;
  TextGauges& perplexity_limit_;
  std::set<std::string> projects_;
  std::map<int64_t, JobSeries> series_;  // by the job's key
};

}  // namespace teq::http
