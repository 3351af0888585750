#include "server/http/metrics.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "client/side_port/exposition.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
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
Buckets CallBuckets() { return {0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10}; }
Buckets StoreBuckets() { return {0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 5}; }

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

std::string FailureLabel(int type) {
  return Lower(ShortEnumName(teq::v1::FailureClass_descriptor(), type));
}

std::string PhaseLabel(PerplexitySample::Phase phase) {
  return Lower(ShortEnumName(PerplexitySample::Phase_descriptor(), phase));
}

// Whether the attempt of `before` was putting its result where it was asked for.
bool WasPublishing(const JobRecord& before) {
  return before.job.state() == Job::STATE_PUBLISHING ||
         before.job.progress().stage() == teq::v1::STAGE_PUBLISH;
}

template <typename Message>
bool Differs(const Message& a, const Message& b) {
  return a.SerializeAsString() != b.SerializeAsString();
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
      attempt_failures_(Counter(registry_, "teq_attempt_failures_total",
                                "Attempts that failed, by class of the failure.")),
      export_failures_(Counter(registry_, "teq_export_failures_total",
                               "Attempts that failed while they published their result.")
                           .Add({})),
      dead_letters_(
          Gauge(registry_, "teq_dead_letter_jobs", "Jobs that failed with no attempts left.")
              .Add({})),
      watch_streams_(Gauge(registry_, "teq_watch_streams", "Open WatchJob streams.").Add({})),
      coalesced_(Counter(registry_, "teq_events_coalesced_total",
                         "Samples that watches left out, as their clients asked for fewer.")
                     .Add({})),
      quota_rejections_(Counter(registry_, "teq_quota_rejections_total",
                                "Calls refused because a project had all it may have.")),
      disk_free_(Gauge(registry_, "teq_data_directory_free_bytes",
                       "What the server may still write on the disk of its database.")
                     .Add({})),
      disk_size_(Gauge(registry_, "teq_data_directory_size_bytes",
                       "Size of the disk of the server's database.")
                     .Add({})),
      calls_(Counter(registry_, "grpc_server_handled_total", "Calls that ended, by their status.")),
      call_seconds_(Histogram(registry_, "grpc_server_handling_seconds",
                              "Time from a unary call's beginning to its answer.")),
      store_seconds_(Histogram(registry_, "teq_store_operation_duration_seconds",
                               "Time that the database took.")),
      loss_(job_gauges_.emplace_back("teq_training_loss", "Training loss of the newest sample.")),
      step_(job_gauges_.emplace_back("teq_training_step", "Training step of the newest sample.")),
      learning_rate_(job_gauges_.emplace_back("teq_training_learning_rate",
                                              "Learning rate of the newest sample.")),
      tokens_per_second_(job_gauges_.emplace_back(
          "teq_training_tokens_per_second", "Tokens trained on per second, of the newest sample.")),
      stage_(job_gauges_.emplace_back(
          "teq_job_stage",
          "What the run does: 1 fetch, 2 baseline_eval, 3 calibrate, 4 transform, "
          "5 round, 6 pack, 7 verify, 8 publish.")),
      progress_(job_gauges_.emplace_back("teq_stage_progress_ratio",
                                         "Done of the stage that the run is in, from 0 to 1.")),
      peak_memory_(job_gauges_.emplace_back(
          "teq_job_peak_memory_bytes", "The most memory that the run took, once it is known.")),
      perplexity_(
          job_gauges_.emplace_back("teq_perplexity", "Perplexity by evaluation text and model.")),
      perplexity_delta_(job_gauges_.emplace_back(
          "teq_perplexity_delta",
          "Perplexity of the quantized model minus that of the float model.")),
      perplexity_limit_(job_gauges_.emplace_back(
          "teq_perplexity_delta_limit", "The job's max_perplexity_delta, where it has one.")) {
  Gauge(registry_, "teq_build_info", "1; the label says which version runs.")
      .Add({{"version", TEQ_VERSION}})
      .Set(1);
  // A rate misses the step from no series to 1.
  for (int type = teq::v1::FailureClass_MIN; type <= teq::v1::FailureClass_MAX; ++type) {
    if (type == teq::v1::FAILURE_CLASS_UNSPECIFIED) continue;
    attempt_failures_.Add({{"class", FailureLabel(type)}});
    retries_.Add({{"class", FailureLabel(type)}});
  }
}

absl::Status Metrics::Restore() {
  TEQ_ASSIGN_OR_RETURN(
      const std::vector<JobRecord> records,
      deps_.store->ReadLeasedOrEndedAfter(deps_.clock->Now() - options_.job_series_after_end));
  for (const JobRecord& record : records) {
    TEQ_ASSIGN_OR_RETURN(const std::vector<PerplexitySample> perplexities,
                         deps_.store->ReadPerplexities(record.key));
    const std::lock_guard lock(mutex_);
    AnnounceEnd(record);
    JobSeries& series = SeriesOf(record);
    if (record.job.has_latest_metrics()) SetSample(series, record.job.latest_metrics());
    if (record.job.has_progress()) SetProgress(series, record.job.progress());
    if (record.job.has_report()) SetPeakMemory(series, record.job.report().peak_memory_bytes());
    for (const PerplexitySample& sample : perplexities) SetPerplexity(series, sample);
    if (!perplexities.empty()) SetGate(series, record.job);
  }
  const std::lock_guard lock(mutex_);
  RemoveOldSeries();
  return absl::OkStatus();
}

absl::StatusOr<std::string> Metrics::Render() {
  TEQ_ASSIGN_OR_RETURN(const store::Statistics statistics, deps_.store->ReadStatistics());
  const std::lock_guard lock(mutex_);
  SetStatistics(statistics);
  SetDisk();
  if (deps_.watch_streams) watch_streams_.Set(deps_.watch_streams());
  if (deps_.coalesced_events) {
    coalesced_.Increment(static_cast<double>(deps_.coalesced_events()) - coalesced_.Value());
  }
  RemoveOldSeries();
  std::string text = ExpositionText(registry_.Collect());
  for (const TextGauges& gauges : job_gauges_) gauges.AppendTo(text);
  return text;
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

void Metrics::SetDisk() {
  if (deps_.data.empty()) return;
  std::error_code error;
  const std::filesystem::space_info space = std::filesystem::space(deps_.data, error);
  if (error) return;
  disk_free_.Set(static_cast<double>(space.available));
  disk_size_.Set(static_cast<double>(space.capacity));
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
    AnnounceEnd(after);
  }
  const bool begins = before == Job::STATE_QUEUED && state == Job::STATE_RUNNING;
  if (begins) {
    AnnounceEnd(after);  // of one that was submitted to an earlier process
    queue_wait_.Observe(
        absl::ToDoubleSeconds(after.lease.granted - store::FromTimestamp(after.job.queue_time())));
  }
  CountFailure(change);
  if (LeaseExpired(change)) leases_expired_.Increment();
  if (before != state && store::IsFinished(state)) CountEnd(after);

  // What an attempt has told is not the next one's.
  const bool retried = store::IsFinished(before) && !store::IsFinished(state);
  const auto known = series_.find(after.key);
  if (known != series_.end() && (begins || retried)) {
    RemoveSeries(known);
  } else if (known != series_.end()) {
    known->second.end = store::IsFinished(state) ? store::FromTimestamp(after.job.end_time())
                                                 : absl::InfiniteFuture();
  }
  // Not from the events, of which a job has no more than so many.
  if (change.before != nullptr) {
    const Job& was = change.before->job;
    if (Differs(after.job.latest_metrics(), was.latest_metrics()) &&
        after.job.has_latest_metrics()) {
      SetSample(SeriesOf(after), after.job.latest_metrics());
    }
    if (Differs(after.job.progress(), was.progress()) && after.job.has_progress()) {
      SetProgress(SeriesOf(after), after.job.progress());
    }
  }
  for (const teq::v1::JobEvent& event : change.events) {
    if (event.has_perplexity()) {
      SetPerplexity(SeriesOf(after), event.perplexity());
      SetGate(SeriesOf(after), after.job);
    }
  }
  const bool reported = change.before == nullptr || !change.before->job.has_report();
  if (reported && after.job.has_report()) {
    SetPeakMemory(SeriesOf(after), after.job.report().peak_memory_bytes());
  }
  RemoveOldSeries();
}

void Metrics::CountFailure(const queue::JobChange& change) {
  if (change.before == nullptr || change.failure_class == teq::v1::FAILURE_CLASS_UNSPECIFIED) {
    return;
  }
  const std::string type = FailureLabel(change.failure_class);
  attempt_failures_.Add({{"class", type}}).Increment();
  if (WasPublishing(*change.before)) export_failures_.Increment();
  if (change.before->job.state() == Job::STATE_RUNNING &&
      change.after.job.state() == Job::STATE_RETRY_WAIT) {
    retries_.Add({{"class", type}}).Increment();
  }
}

prometheus::Counter& Metrics::FinishedOf(const JobRecord& record, int state) {
  return finished_.Add(
      {{"project", ProjectLabel(record.name.project)}, {"outcome", StateLabel(state)}});
}

prometheus::Histogram& Metrics::DurationOf(const Job& job) {
  return duration_.Add(
      {{"method", MethodLabel(job)}, {"device", DeviceLabel(job.spec().resources().device())}},
      DurationBuckets());
}

void Metrics::AnnounceEnd(const JobRecord& record) {
  for (int state = Job::STATE_QUEUED; state <= Job::State_MAX; ++state) {
    if (store::IsFinished(static_cast<Job::State>(state))) FinishedOf(record, state);
  }
  DurationOf(record.job);
}

void Metrics::CountEnd(const JobRecord& record) {
  const Job& job = record.job;
  FinishedOf(record, job.state()).Increment();
  if (!job.has_start_time()) return;
  DurationOf(job).Observe(absl::ToDoubleSeconds(store::FromTimestamp(job.end_time()) -
                                                store::FromTimestamp(job.start_time())));
}

void Metrics::OnDelete(const JobRecord& record) {
  const std::lock_guard lock(mutex_);
  const auto series = series_.find(record.key);
  if (series != series_.end()) RemoveSeries(series);
}

void Metrics::OnLeaseConflict() { lease_conflicts_.Increment(); }

void Metrics::OnQuotaRejection(const std::string& project, std::string_view quota) {
  const std::lock_guard lock(mutex_);
  quota_rejections_.Add({{"project", ProjectLabel(project)}, {"quota", std::string(quota)}})
      .Increment();
}

void Metrics::OnCall(const CallRecord& call) {
  const prometheus::Labels method = {{"grpc_service", std::string(call.service)},
                                     {"grpc_method", std::string(call.method)}};
  prometheus::Labels handled = method;
  handled["grpc_code"] = std::string(call.code);
  calls_.Add(handled).Increment();
  // A stream lasts as long as its reader likes.
  if (!call.unary) return;
  call_seconds_.Add(method, CallBuckets()).Observe(absl::ToDoubleSeconds(call.duration));
}

void Metrics::OnStoreOperation(std::string_view operation, absl::Duration duration) {
  store_seconds_.Add({{"op", std::string(operation)}}, StoreBuckets())
      .Observe(absl::ToDoubleSeconds(duration));
}

Metrics::JobSeries& Metrics::SeriesOf(const JobRecord& record) {
  JobSeries& series = series_[record.key];
  series.name = record.job.name();
  if (record.job.has_end_time()) series.end = store::FromTimestamp(record.job.end_time());
  return series;
}

void Metrics::SetGauge(JobSeries& series, TextGauges& family, prometheus::Labels labels,
                       double value) {
  labels["job"] = series.name;
  if (family.Set(labels, value)) series.gauges.emplace_back(&family, std::move(labels));
}

void Metrics::SetSample(JobSeries& series, const teq::v1::MetricSample& sample) {
  SetGauge(series, loss_, {}, sample.loss());
  SetGauge(series, step_, {}, sample.step());
  SetGauge(series, learning_rate_, {}, sample.learning_rate());
  SetGauge(series, tokens_per_second_, {}, sample.tokens_per_second());
}

void Metrics::SetProgress(JobSeries& series, const teq::v1::Progress& progress) {
  SetGauge(series, stage_, {}, progress.stage());
  if (progress.total() <= 0) return;
  SetGauge(series, progress_, {},
           static_cast<double>(progress.done()) / static_cast<double>(progress.total()));
}

void Metrics::SetPeakMemory(JobSeries& series, const teq::v1::PeakMemory& peak) {
  SetGauge(series, peak_memory_, {{"kind", "host"}}, static_cast<double>(peak.host()));
  if (peak.device() <= 0) return;
  SetGauge(series, peak_memory_, {{"kind", "device"}}, static_cast<double>(peak.device()));
}

void Metrics::SetGate(JobSeries& series, const Job& job) {
  const auto& evaluation = job.spec().evaluation();
  if (!evaluation.has_max_perplexity_delta()) return;
  SetGauge(series, perplexity_limit_, {}, evaluation.max_perplexity_delta());
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
  for (const auto& [family, labels] : series->second.gauges) family->Remove(labels);
  series_.erase(series);
}

int Metrics::JobSeriesCount() const {
  std::size_t count = 0;
  for (const TextGauges& gauges : job_gauges_) count += gauges.size();
  return static_cast<int>(count);
}

void Metrics::RemoveOldSeries() {
  const absl::Time oldest_end = deps_.clock->Now() - options_.job_series_after_end;
  for (auto series = series_.begin(); series != series_.end();) {
    const auto next = std::next(series);
    if (series->second.end <= oldest_end) RemoveSeries(series);
    series = next;
  }
  // The first to end goes first; of those that run, the oldest job.
  while (static_cast<int>(series_.size()) > options_.max_jobs ||
         JobSeriesCount() > options_.max_job_series) {
    RemoveSeries(std::min_element(series_.begin(), series_.end(), [](const auto& a, const auto& b) {
      return a.second.end < b.second.end;
    }));
  }
}

}  // namespace teq::http
