#include "server/http/metrics.h"

#include <algorithm>
#include <sstream>
#include <string_view>
#include <utility>
#include <vector>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "prometheus/text_serializer.h"
#include "proto/spec/error.h"
#include "proto/spec/json.h"
#include "server/store/timestamps.h"

namespace teq::http {
namespace {

using store::JobRecord;
using teq::v1::Job;
using teq::v1::PerplexitySample;

using Buckets = prometheus::Histogram::BucketBoundaries;

Buckets QueueWaitBuckets() { return {1, 2, 5, 15, 60, 180, 600, 1800, 3600, 7200, 21600}; }
Buckets DurationBuckets() {
  return {30, 60, 180, 600, 1800, 3600, 7200, 14400, 28800, 43200, 86400};
}

prometheus::Family<prometheus::Gauge>& Gauge(prometheus::Registry& registry, const char* name,
                                             const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
}

prometheus::Family<prometheus::Counter>& Counter(prometheus::Registry& registry, const char* name,
                                                 const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}

prometheus::Family<prometheus::Histogram>& Histogram(prometheus::Registry& registry,
                                                     const char* name, const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
}

std::string Lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

std::string StateLabel(int state) { return Lower(ShortEnumName(Job::State_descriptor(), state)); }

std::string DeviceLabel(int device) {
  return Lower(ShortEnumName(teq::v1::Device_descriptor(), device));
}

// What the recipe combines, such as "teq+learned_clipping+gptq"; "rtn" for plain rounding. At most
// 27 values.
std::string MethodLabel(const Job& job) {
  const auto& recipe = job.spec().recipe();
  std::vector<std::string_view> parts;
  if (recipe.transform().has_teq()) parts.emplace_back("teq");
  if (recipe.transform().has_awq()) parts.emplace_back("awq");
  if (recipe.clipping().has_learned()) parts.emplace_back("learned_clipping");
  if (recipe.clipping().has_search()) parts.emplace_back("searched_clipping");
  if (recipe.rounding().has_gptq()) parts.emplace_back("gptq");
  if (recipe.rounding().has_learned()) parts.emplace_back("learned_rounding");
  return parts.empty() ? "rtn" : fmt::format("{}", fmt::join(parts, "+"));
}

std::string PhaseLabel(PerplexitySample::Phase phase) {
  return Lower(ShortEnumName(PerplexitySample::Phase_descriptor(), phase));
}

bool LeaseExpired(const queue::JobChange& change) {
  return change.before != nullptr && change.before->lease.live && !change.after.lease.live &&
         change.after.lease.end == store::LeaseEnd::kExpired;
}

}  // namespace

Metrics::Metrics(MetricsOptions options, MetricsDeps deps)
    : options_(options),
      deps_(std::move(deps)),
      jobs_(Gauge(registry_, "teq_jobs", "Jobs by state.")),
      submitted_(Counter(registry_, "teq_jobs_submitted_total", "Jobs accepted by CreateJob.")),
      finished_(Counter(registry_, "teq_jobs_finished_total", "Jobs that reached a final state.")),
      oldest_age_(Gauge(registry_, "teq_queue_oldest_age_seconds",
                        "How long the oldest waiting job waits, by the device it asks for.")),
      queue_wait_(Histogram(registry_, "teq_queue_wait_seconds",
                            "Time from queueing to the lease of an attempt.")
                      .Add({}, QueueWaitBuckets())),
      duration_(Histogram(registry_, "teq_job_duration_seconds",
                          "Time from a job's first lease to its end.")),
      leases_active_(
          Gauge(registry_, "teq_leases_active", "Jobs that a worker holds a lease of.").Add({})),
      leases_expired_(Counter(registry_, "teq_leases_expired_total",
                              "Leases that ended without a word of their worker.")
                          .Add({})),
      lease_conflicts_(Counter(registry_, "teq_lease_conflicts_total",
                               "Calls refused because their lease had ended.")
                           .Add({})),
      retries_(Counter(registry_, "teq_job_retries_total",
                       "Failed attempts that another follows, by class of the failure.")),
      dead_letters_(
          Gauge(registry_, "teq_dead_letter_jobs", "Jobs that failed with no attempts left.")
              .Add({})),
      watch_streams_(Gauge(registry_, "teq_watch_streams", "Open WatchJob streams.").Add({})),
      loss_(Gauge(registry_, "teq_training_loss", "Training loss of the newest sample.")),
      step_(Gauge(registry_, "teq_training_step", "Training step of the newest sample.")),
      perplexity_(Gauge(registry_, "teq_perplexity", "Perplexity by evaluation text and model.")),
      perplexity_delta_(Gauge(registry_, "teq_perplexity_delta",
                              "Perplexity of the quantized model minus that of the float model.")) {
  Gauge(registry_, "teq_build_info", "1; the label says which version runs.")
      .Add({{"version", TEQ_VERSION}})
      .Set(1);
}

absl::Status Metrics::Restore() {
  TEQ_ASSIGN_OR_RETURN(
      const std::vector<JobRecord> records,
      deps_.store->ReadLeasedOrEndedAfter(deps_.clock->Now() - options_.job_series_after_end));
  for (const JobRecord& record : records) {
    TEQ_ASSIGN_OR_RETURN(const std::vector<PerplexitySample> perplexities,
                         deps_.store->ReadPerplexities(record.key));
    const std::lock_guard lock(mutex_);
    JobSeries& series = SeriesOf(record);
    if (record.job.has_latest_metrics()) SetSample(series, record.job.latest_metrics());
    for (const PerplexitySample& sample : perplexities) SetPerplexity(series, sample);
  }
  const std::lock_guard lock(mutex_);
  RemoveOldSeries();
  return absl::OkStatus();
}

absl::StatusOr<std::string> Metrics::Render() {
  TEQ_ASSIGN_OR_RETURN(const store::Statistics statistics, deps_.store->ReadStatistics());
  const std::lock_guard lock(mutex_);
  SetStatistics(statistics);
  if (deps_.watch_streams) watch_streams_.Set(deps_.watch_streams());
  RemoveOldSeries();
  std::ostringstream text;
  prometheus::TextSerializer().Serialize(text, registry_.Collect());
  return text.str();
}

void Metrics::SetStatistics(const store::Statistics& statistics) {
  const absl::Time now = deps_.clock->Now();
  for (int state = Job::STATE_QUEUED; state <= Job::State_MAX; ++state) {
    const auto count = statistics.jobs.find(static_cast<Job::State>(state));
    jobs_.Add({{"state", StateLabel(state)}})
        .Set(count == statistics.jobs.end() ? 0 : static_cast<double>(count->second));
  }
  for (int device = teq::v1::DEVICE_ANY; device <= teq::v1::Device_MAX; ++device) {
    const auto oldest = statistics.oldest_queued.find(static_cast<teq::v1::Device>(device));
    const absl::Duration age =
        oldest == statistics.oldest_queued.end() ? absl::ZeroDuration() : now - oldest->second;
    oldest_age_.Add({{"device", DeviceLabel(device)}})
        .Set(std::max(0.0, absl::ToDoubleSeconds(age)));
  }
  leases_active_.Set(static_cast<double>(statistics.leases));
  dead_letters_.Set(static_cast<double>(statistics.dead_letters));
}

std::string Metrics::ProjectLabel(const std::string& project) {
  if (projects_.contains(project)) return project;
  if (static_cast<int>(projects_.size()) >= options_.max_projects) return "other";
  projects_.insert(project);
  return project;
}

void Metrics::OnChange(const queue::JobChange& change) {
  const JobRecord& after = change.after;
  const Job::State before =
      change.before == nullptr ? Job::STATE_UNSPECIFIED : change.before->job.state();
  const Job::State state = after.job.state();
  const std::lock_guard lock(mutex_);
  if (change.before == nullptr) {
    submitted_.Add({{"project", ProjectLabel(after.name.project)}}).Increment();
  }
  if (before == Job::STATE_QUEUED && state == Job::STATE_RUNNING) {
    queue_wait_.Observe(
        absl::ToDoubleSeconds(after.lease.granted - store::FromTimestamp(after.job.queue_time())));
  }
  if (before == Job::STATE_RUNNING && state == Job::STATE_RETRY_WAIT) {
    const auto* type = teq::v1::FailureClass_descriptor();
    retries_.Add({{"class", Lower(ShortEnumName(type, change.failure_class))}}).Increment();
  }
  if (LeaseExpired(change)) leases_expired_.Increment();
  if (before != state && store::IsFinished(state)) CountEnd(after);

  const auto known = series_.find(after.key);
  if (known != series_.end()) {
    known->second.end = store::IsFinished(state) ? store::FromTimestamp(after.job.end_time())
                                                 : absl::InfiniteFuture();
  }
  for (const teq::v1::JobEvent& event : change.events) {
    if (event.has_sample()) SetSample(SeriesOf(after), event.sample());
    if (event.has_perplexity()) SetPerplexity(SeriesOf(after), event.perplexity());
  }
  RemoveOldSeries();
}

void Metrics::CountEnd(const JobRecord& record) {
  const Job& job = record.job;
  finished_
      .Add({{"project", ProjectLabel(record.name.project)}, {"outcome", StateLabel(job.state())}})
      .Increment();
  if (!job.has_start_time()) return;
  duration_
      .Add({{"method", MethodLabel(job)}, {"device", DeviceLabel(job.spec().resources().device())}},
           DurationBuckets())
      .Observe(absl::ToDoubleSeconds(store::FromTimestamp(job.end_time()) -
                                     store::FromTimestamp(job.start_time())));
}

void Metrics::OnDelete(const JobRecord& record) {
  const std::lock_guard lock(mutex_);
  const auto series = series_.find(record.key);
  if (series != series_.end()) RemoveSeries(series);
}

void Metrics::OnLeaseConflict() { lease_conflicts_.Increment(); }

Metrics::JobSeries& Metrics::SeriesOf(const JobRecord& record) {
  JobSeries& series = series_[record.key];
  series.name = record.job.name();
  if (record.job.has_end_time()) series.end = store::FromTimestamp(record.job.end_time());
  return series;
}

void Metrics::SetGauge(JobSeries& series, Gauges& family, prometheus::Labels labels, double value) {
  labels["job"] = series.name;
  prometheus::Gauge& gauge = family.Add(labels);
  gauge.Set(value);
  const std::pair<Gauges*, prometheus::Gauge*> entry(&family, &gauge);
  if (std::find(series.gauges.begin(), series.gauges.end(), entry) == series.gauges.end()) {
    series.gauges.push_back(entry);
  }
}

void Metrics::SetSample(JobSeries& series, const teq::v1::MetricSample& sample) {
  SetGauge(series, loss_, {}, sample.loss());
  SetGauge(series, step_, {}, sample.step());
}

void Metrics::SetPerplexity(JobSeries& series, const PerplexitySample& sample) {
  SetGauge(series, perplexity_,
           {{"dataset", sample.dataset()}, {"phase", PhaseLabel(sample.phase())}}, sample.value());
  if (sample.phase() == PerplexitySample::PHASE_FULL_PRECISION) {
    series.full_precision[sample.dataset()] = sample.value();
  } else if (sample.phase() == PerplexitySample::PHASE_QUANTIZED) {
    series.quantized[sample.dataset()] = sample.value();
  }
  const auto full_precision = series.full_precision.find(sample.dataset());
  const auto quantized = series.quantized.find(sample.dataset());
  if (full_precision == series.full_precision.end() || quantized == series.quantized.end()) return;
  SetGauge(series, perplexity_delta_, {{"dataset", sample.dataset()}},
           quantized->second - full_precision->second);
}

void Metrics::RemoveSeries(std::map<int64_t, JobSeries>::iterator series) {
  for (const auto& [family, gauge] : series->second.gauges) family->Remove(gauge);
  series_.erase(series);
}

void Metrics::RemoveOldSeries() {
  const absl::Time oldest_end = deps_.clock->Now() - options_.job_series_after_end;
  for (auto series = series_.begin(); series != series_.end();) {
    const auto next = std::next(series);
    if (series->second.end <= oldest_end) RemoveSeries(series);
    series = next;
  }
  // The first to end goes first; of those that run, the oldest job.
  while (static_cast<int>(series_.size()) > options_.max_jobs) {
    RemoveSeries(std::min_element(series_.begin(), series_.end(), [](const auto& a, const auto& b) {
      return a.second.end < b.second.end;
    }));
  }
}

}  // namespace teq::http
