#include "server/http/metrics.h"

#include "fmt/format.h"
#include "gmock/gmock.h"
#include "proto/spec/error.h"
#include "tests/unit/server/harness.h"

namespace teq::http {
namespace {

using teq::testing::NewJob;
using teq::testing::Sha;
using teq::v1::Job;
using teq::v1::Lease;
using teq::v1::PerplexitySample;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kDataset[] = "file:///data/test.txt";

class MetricsTest : public teq::testing::QueueTest {
 protected:
  void SetUp() override { Restart({}); }

  void Restart(MetricsOptions options, queue::QueueOptions queue = {}) {
    Open(std::move(queue));
    metrics_ = std::make_unique<Metrics>(options, MetricsDeps{.store = store_.get(),
                                                              .clock = &clock_,
                                                              .watch_streams = [] { return 3; },
                                                              .coalesced_events = [] { return 5; },
                                                              .data = directory_.path()});
    ASSERT_TRUE(metrics_->Restore().ok());
    queue_->AddObserver(metrics_.get());
  }

  std::string Render() {
    auto text = metrics_->Render();
    EXPECT_TRUE(text.ok()) << text.status();
    return text.value_or("");
  }

  void SendSample(const Lease& lease, int64_t sequence, double loss, int step) {
    teq::v1::HeartbeatRequest beat = NewBeat(lease, sequence);
    beat.add_samples()->set_loss(loss);
    beat.mutable_samples(0)->set_step(step);
    ASSERT_TRUE(queue_->Heartbeat(beat).ok());
  }

  void SendPerplexity(const Lease& lease, int64_t sequence, PerplexitySample::Phase phase,
                      double value) {
    teq::v1::HeartbeatRequest beat = NewBeat(lease, sequence);
    PerplexitySample* sample = beat.add_perplexities();
    sample->set_dataset(kDataset);
    sample->set_phase(phase);
    sample->set_value(value);
    ASSERT_TRUE(queue_->Heartbeat(beat).ok());
  }

  /// Jobs that succeeded an hour ago, straight into the store.
  void InsertFinished(int count) {
    auto transaction = store_->Begin();
    ASSERT_TRUE(transaction.ok());
    for (int i = 0; i < count; ++i) {
      const std::string id = fmt::format("old-{}", i);
      store::JobRecord record;
      record.name = {.project = "p", .job = id};
      record.job.set_name("projects/p/jobs/" + id);
      record.job.set_uid(id);
      record.job.set_state(Job::STATE_SUCCEEDED);
      record.job.mutable_end_time()->set_seconds(
          absl::ToUnixSeconds(clock_.Now() - absl::Hours(1)));
      record.output = "file:///out/" + id;
      ASSERT_TRUE((*transaction)->Insert(record).ok());
    }
    ASSERT_TRUE((*transaction)->Commit().ok());
  }

  static teq::v1::HeartbeatRequest NewBeat(const Lease& lease, int64_t sequence) {
    teq::v1::HeartbeatRequest beat;
    beat.set_lease_token(lease.lease_token());
    beat.set_fence(lease.fence());
    beat.set_sequence(sequence);
    return beat;
  }

  Job CreateNamed(const std::string& id, const std::string& project = "p") {
    auto request = NewJob(id, project);
    request.set_job_id(id);
    return Create(request);
  }

  std::unique_ptr<Metrics> metrics_;
};

TEST_F(MetricsTest, CountsJobsByStateProjectAndOutcome) {
  CreateNamed("a");
  CreateNamed("b");
  CreateNamed("c", "q");
  clock_.Advance(absl::Seconds(4));
  const Lease lease = Acquire(Register("w1"));
  ASSERT_TRUE(Succeed(lease, Sha('a')).ok());
  ASSERT_TRUE(Publish(lease, Sha('a')).ok());
  const std::string text = Render();
  EXPECT_THAT(text, HasSubstr("teq_jobs{state=\"queued\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("teq_jobs{state=\"succeeded\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("teq_jobs{state=\"failed\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("teq_jobs_submitted_total{project=\"p\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("teq_jobs_submitted_total{project=\"q\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("teq_queue_wait_seconds_bucket{le=\"5\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("teq_queue_wait_seconds_bucket{le=\"2\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("teq_queue_oldest_age_seconds{device=\"any\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("teq_watch_streams 3\n"));
  EXPECT_THAT(text, HasSubstr("teq_build_info{version=\"" TEQ_VERSION "\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("outcome=\"succeeded\""));
}

// A rate over the first scrape that shows 1 is 0, unless an earlier one showed 0.
TEST_F(MetricsTest, WhatAJobsEndCountsInIsThereFromItsSubmission) {
  CreateNamed("a");
  const std::string text = Render();
  for (const char* outcome : {"succeeded", "failed", "cancelled", "expired"}) {
    EXPECT_THAT(text, HasSubstr(fmt::format(
                          "teq_jobs_finished_total{{outcome=\"{}\",project=\"p\"}} 0\n", outcome)));
  }
  EXPECT_THAT(text, HasSubstr("teq_job_duration_seconds_count{device=\"any\",method="));
}

TEST_F(MetricsTest, DurationsAreByWhatTheRecipeCombines) {
  const std::string session = Register("w1");
  const auto run = [&](const std::string& id, const auto& change) {
    auto request = NewJob(id);
    change(*request.mutable_job()->mutable_spec()->mutable_recipe());
    Create(request);
    const Lease lease = Acquire(session);
    ASSERT_TRUE(Succeed(lease, Sha('a')).ok());
    ASSERT_TRUE(Publish(lease, Sha('a')).ok());
  };
  run("a", [](auto& recipe) { recipe.mutable_rounding()->mutable_nearest(); });
  run("b", [](auto& recipe) { recipe.mutable_transform()->mutable_teq(); });
  run("c", [](auto& recipe) {
    recipe.mutable_transform()->mutable_awq();
    recipe.mutable_clipping()->mutable_search();
    recipe.mutable_rounding()->mutable_gptq();
  });
  run("d", [](auto& recipe) {
    recipe.mutable_clipping()->mutable_learned();
    recipe.mutable_rounding()->mutable_learned();
  });
  const std::string text = Render();
  for (const char* method :
       {"rtn", "teq", "awq+searched_clipping+gptq", "learned_clipping+learned_rounding"}) {
    EXPECT_THAT(text,
                HasSubstr(fmt::format(
                    "teq_job_duration_seconds_count{{device=\"any\",method=\"{}\"}} 1\n", method)));
  }
}

TEST_F(MetricsTest, CountsLeasesRetriesAndConflicts) {
  const Job job = CreateNamed("a");
  const std::string session = Register("w1");
  const Lease lease = Acquire(session);
  EXPECT_THAT(Render(), HasSubstr("teq_leases_active 1\n"));
  Pass(absl::Seconds(32));
  EXPECT_FALSE(Beat(lease, 1).ok());
  ASSERT_TRUE(Fail(Acquire(session), teq::v1::FAILURE_CLASS_OUT_OF_MEMORY).ok());
  Pass(absl::Seconds(3));
  ASSERT_TRUE(Fail(Acquire(session), teq::v1::FAILURE_CLASS_OUT_OF_MEMORY).ok());
  const std::string text = Render();
  EXPECT_THAT(text, HasSubstr("teq_leases_active 0\n"));
  EXPECT_THAT(text, HasSubstr("teq_leases_expired_total 1\n"));
  EXPECT_THAT(text, HasSubstr("teq_lease_conflicts_total 1\n"));
  EXPECT_THAT(text, HasSubstr("teq_job_retries_total{class=\"infrastructure\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("teq_job_retries_total{class=\"out_of_memory\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("teq_dead_letter_jobs 1\n"));
}

TEST_F(MetricsTest, ShowsWhatHeartbeatsTellOfAJob) {
  CreateNamed("a");
  const Lease lease = Acquire(Register("w1"));
  SendSample(lease, 1, 2.5, 10);
  SendSample(lease, 2, 2.25, 20);
  SendPerplexity(lease, 3, PerplexitySample::PHASE_FULL_PRECISION, 8);
  SendPerplexity(lease, 4, PerplexitySample::PHASE_ROUND_TO_NEAREST, 10);
  EXPECT_THAT(Render(), Not(HasSubstr("teq_perplexity_delta{")));
  SendPerplexity(lease, 5, PerplexitySample::PHASE_QUANTIZED, 8.5);
  const std::string text = Render();
  EXPECT_THAT(text, HasSubstr("teq_training_loss{job=\"projects/p/jobs/a\"} 2.25\n"));
  EXPECT_THAT(text, HasSubstr("teq_training_step{job=\"projects/p/jobs/a\"} 20\n"));
  EXPECT_THAT(text, HasSubstr("phase=\"full_precision\""));
  EXPECT_THAT(text, HasSubstr("phase=\"round_to_nearest\""));
  EXPECT_THAT(text, HasSubstr("phase=\"quantized\""));
  EXPECT_THAT(text, ::testing::ContainsRegex("teq_perplexity_delta[{][^}]*[}] 0.5\n"));
}

TEST_F(MetricsTest, SeriesOutliveTheirJobByFiveMinutes) {
  CreateNamed("a");
  const Lease lease = Acquire(Register("w1"));
  SendSample(lease, 1, 2.5, 10);
  ASSERT_TRUE(Succeed(lease, Sha('a')).ok());
  ASSERT_TRUE(Publish(lease, Sha('a')).ok());
  clock_.Advance(absl::Seconds(299));
  EXPECT_THAT(Render(), HasSubstr("teq_training_loss{"));
  clock_.Advance(absl::Seconds(1));
  EXPECT_THAT(Render(), Not(HasSubstr("teq_training_loss{")));
}

TEST_F(MetricsTest, AFamilyIsOneGroupWithOneHead) {
  for (const char* id : {"a", "b"}) {
    CreateNamed(id);
    SendSample(Acquire(Register(std::string("worker-") + id)), 1, 2.5, 10);
  }
  EXPECT_THAT(Render(), HasSubstr("# HELP teq_training_loss Training loss of the newest sample.\n"
                                  "# TYPE teq_training_loss gauge\n"
                                  "teq_training_loss{job=\"projects/p/jobs/a\"} 2.5\n"
                                  "teq_training_loss{job=\"projects/p/jobs/b\"} 2.5\n# HELP "));
}

TEST_F(MetricsTest, DeletedJobTakesItsSeriesAlong) {
  const Job job = CreateNamed("a");
  const Lease lease = Acquire(Register("w1"));
  SendSample(lease, 1, 2.5, 10);
  ASSERT_TRUE(Fail(lease, teq::v1::FAILURE_CLASS_USER_ERROR).ok());
  teq::v1::DeleteJobRequest request;
  request.set_name(job.name());
  ASSERT_TRUE(queue_->DeleteJob(request).ok());
  EXPECT_THAT(Render(), Not(HasSubstr("teq_training_loss{")));
}

TEST_F(MetricsTest, SeriesOfRunningJobsComeBackAfterARestart) {
  CreateNamed("a");
  const Lease lease = Acquire(Register("w1"));
  SendSample(lease, 1, 2.5, 10);
  SendPerplexity(lease, 2, PerplexitySample::PHASE_FULL_PRECISION, 8);
  SendPerplexity(lease, 3, PerplexitySample::PHASE_QUANTIZED, 9);
  Restart({});
  const std::string text = Render();
  EXPECT_THAT(text, HasSubstr("teq_training_loss{job=\"projects/p/jobs/a\"} 2.5\n"));
  EXPECT_THAT(text, ::testing::ContainsRegex("teq_perplexity_delta[{][^}]*[}] 1\n"));
}

TEST_F(MetricsTest, NewAttemptTakesNothingOverFromTheOneBefore) {
  CreateNamed("a");
  const std::string session = Register("w1");
  const Lease first = Acquire(session);
  SendSample(first, 1, 2.5, 10);
  SendPerplexity(first, 2, PerplexitySample::PHASE_FULL_PRECISION, 8);
  SendPerplexity(first, 3, PerplexitySample::PHASE_QUANTIZED, 9);
  ASSERT_TRUE(Fail(first, teq::v1::FAILURE_CLASS_TRANSIENT).ok());
  Pass(absl::Seconds(3));
  const Lease second = Acquire(session);
  EXPECT_THAT(Render(), Not(HasSubstr("{job=\"projects/p/jobs/a\"}")));
  SendPerplexity(second, 1, PerplexitySample::PHASE_FULL_PRECISION, 7);
  const auto expect_own = [](const std::string& text) {
    EXPECT_THAT(text, ::testing::ContainsRegex("teq_perplexity[{][^}]*full_precision[^}]*[}] 7\n"));
    EXPECT_THAT(text, Not(HasSubstr("phase=\"quantized\"")));
    EXPECT_THAT(text, Not(HasSubstr("teq_perplexity_delta{")));
  };
  expect_own(Render());
  Restart({});
  expect_own(Render());
}

TEST_F(MetricsTest, RetriedJobHasNoSeriesWhileItWaits) {
  const Job job = CreateNamed("a");
  const Lease lease = Acquire(Register("w1"));
  SendSample(lease, 1, 2.5, 10);
  ASSERT_TRUE(Fail(lease, teq::v1::FAILURE_CLASS_USER_ERROR).ok());
  EXPECT_THAT(Render(), HasSubstr("teq_training_loss{"));
  ASSERT_TRUE(Retry(job.name()).ok());
  EXPECT_THAT(Render(), Not(HasSubstr("teq_training_loss{")));
}

TEST_F(MetricsTest, FinishedJobsGoFirstWhenThereAreTooMany) {
  Restart({.max_jobs = 2});
  std::vector<Lease> leases;
  for (const char* id : {"a", "b", "c"}) {
    CreateNamed(id);
    leases.push_back(Acquire(Register(std::string("worker-") + id)));
  }
  SendSample(leases[0], 1, 1, 1);
  SendSample(leases[1], 1, 2, 1);
  ASSERT_TRUE(Fail(leases[1], teq::v1::FAILURE_CLASS_USER_ERROR).ok());
  SendSample(leases[2], 1, 3, 1);
  const std::string text = Render();
  EXPECT_THAT(text, HasSubstr("teq_training_loss{job=\"projects/p/jobs/a\"}"));
  EXPECT_THAT(text, Not(HasSubstr("teq_training_loss{job=\"projects/p/jobs/b\"}")));
  EXPECT_THAT(text, HasSubstr("teq_training_loss{job=\"projects/p/jobs/c\"}"));
}

TEST_F(MetricsTest, ShowsWhereARunIsAndHowFastItTrains) {
  CreateNamed("a");
  const Lease lease = Acquire(Register("w1"));
  teq::v1::HeartbeatRequest beat = NewBeat(lease, 1);
  teq::v1::MetricSample* sample = beat.add_samples();
  sample->set_step(10);
  sample->set_learning_rate(0.25);
  sample->set_tokens_per_second(512);
  beat.mutable_progress()->set_stage(teq::v1::STAGE_TRANSFORM);
  beat.mutable_progress()->set_done(10);
  beat.mutable_progress()->set_total(40);
  ASSERT_TRUE(queue_->Heartbeat(beat).ok());
  const std::string text = Render();
  EXPECT_THAT(text, HasSubstr("teq_training_learning_rate{job=\"projects/p/jobs/a\"} 0.25\n"));
  EXPECT_THAT(text, HasSubstr("teq_training_tokens_per_second{job=\"projects/p/jobs/a\"} 512\n"));
  EXPECT_THAT(text, HasSubstr("teq_job_stage{job=\"projects/p/jobs/a\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("teq_stage_progress_ratio{job=\"projects/p/jobs/a\"} 0.25\n"));
  Restart({});
  EXPECT_THAT(Render(), HasSubstr("teq_job_stage{job=\"projects/p/jobs/a\"} 4\n"));
}

TEST_F(MetricsTest, GateAndPeakMemoryAreShownOnceTheyAreKnown) {
  auto request = NewJob("a");
  request.set_job_id("a");
  request.mutable_job()->mutable_spec()->mutable_evaluation()->add_uris(kDataset);
  request.mutable_job()->mutable_spec()->mutable_evaluation()->set_max_perplexity_delta(0.5);
  Create(request);
  const Lease lease = Acquire(Register("w1"));
  SendPerplexity(lease, 1, PerplexitySample::PHASE_FULL_PRECISION, 8);
  EXPECT_THAT(Render(), HasSubstr("teq_perplexity_delta_limit{job=\"projects/p/jobs/a\"} 0.5\n"));
  teq::v1::CompleteLeaseRequest done = Completion(lease);
  done.mutable_success()->set_manifest_sha256(Sha('a'));
  done.mutable_success()->mutable_report()->mutable_peak_memory_bytes()->set_host(4096);
  ASSERT_TRUE(queue_->CompleteLease(done).ok());
  EXPECT_THAT(Render(), HasSubstr("teq_job_peak_memory_bytes{job=\"projects/p/jobs/a\","
                                  "kind=\"host\"} 4096\n"));
}

TEST_F(MetricsTest, FailuresWhilePublishingAreCountedOfTheirOwn) {
  CreateNamed("a");
  const std::string session = Register("w1");
  const Lease lease = Acquire(session);
  ASSERT_TRUE(Succeed(lease, Sha('a')).ok());
  EXPECT_THAT(Render(), HasSubstr("teq_export_failures_total 0\n"));
  ASSERT_TRUE(Fail(lease, teq::v1::FAILURE_CLASS_TRANSIENT).ok());
  CreateNamed("b");
  ASSERT_TRUE(Fail(Acquire(session), teq::v1::FAILURE_CLASS_USER_ERROR).ok());
  const std::string text = Render();
  EXPECT_THAT(text, HasSubstr("teq_export_failures_total 1\n"));
  EXPECT_THAT(text, HasSubstr("teq_attempt_failures_total{class=\"infrastructure\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("teq_attempt_failures_total{class=\"transient\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("teq_attempt_failures_total{class=\"user_error\"} 1\n"));
}

TEST_F(MetricsTest, ShowsTheDiskOfTheDatabase) {
  EXPECT_THAT(Render(), Not(HasSubstr("teq_data_directory_size_bytes 0\n")));
  EXPECT_THAT(Render(), ::testing::ContainsRegex("teq_data_directory_free_bytes [1-9]"));
}

TEST_F(MetricsTest, CallsAndStoreOperationsAreCounted) {
  metrics_->OnCall({.service = "teq.v1.JobService",
                    .method = "CreateJob",
                    .code = "OK",
                    .unary = true,
                    .duration = absl::Milliseconds(2)});
  metrics_->OnCall({.service = "teq.v1.JobService",
                    .method = "WatchJob",
                    .code = "NotFound",
                    .unary = false,
                    .duration = absl::Hours(2)});
  metrics_->OnStoreOperation("commit", absl::Milliseconds(5));
  const std::string text = Render();
  EXPECT_THAT(text, HasSubstr("grpc_server_handled_total{grpc_code=\"NotFound\",grpc_method="
                              "\"WatchJob\",grpc_service=\"teq.v1.JobService\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("grpc_server_handling_seconds_bucket{grpc_method=\"CreateJob\","
                              "grpc_service=\"teq.v1.JobService\",le=\"0.003\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("grpc_server_handling_seconds_bucket{grpc_method=\"CreateJob\","
                              "grpc_service=\"teq.v1.JobService\",le=\"0.001\"} 0\n"));
  EXPECT_THAT(text, Not(HasSubstr("grpc_server_handling_seconds_count{grpc_method=\"WatchJob\"")));
  EXPECT_THAT(
      text,
      HasSubstr("teq_store_operation_duration_seconds_bucket{op=\"commit\",le=\"0.01\"} 1\n"));
}

TEST_F(MetricsTest, ManyJobsHaveABoundedNumberOfSeries) {
  constexpr int kActive = 200;
  InsertFinished(10'000);
  for (int i = 0; i < kActive; ++i) CreateNamed(fmt::format("a{}", i));
  for (int i = 0; i < kActive; ++i) {
    const Lease lease = Acquire(Register(fmt::format("w{}", i)));
    teq::v1::HeartbeatRequest beat = NewBeat(lease, 1);
    beat.add_samples()->set_step(1);
    beat.mutable_progress()->set_stage(teq::v1::STAGE_TRANSFORM);
    beat.mutable_progress()->set_total(2);
    for (const PerplexitySample::Phase phase :
         {PerplexitySample::PHASE_FULL_PRECISION, PerplexitySample::PHASE_ROUND_TO_NEAREST}) {
      beat.add_perplexities()->set_dataset(kDataset);
      beat.mutable_perplexities()->rbegin()->set_phase(phase);
    }
    ASSERT_TRUE(queue_->Heartbeat(beat).ok());
  }
  const std::string text = Render();
  const auto lines = [&text](std::string_view begin) {
    int count = 0;
    for (size_t at = text.find(begin); at != std::string::npos; at = text.find(begin, at + 1)) {
      ++count;
    }
    return count;
  };
  EXPECT_THAT(text, HasSubstr("teq_jobs{state=\"succeeded\"} 10000\n"));
  EXPECT_EQ(lines("\nteq_training_loss{"), kActive);
  EXPECT_LT(lines("\n") - lines("\n# "), 2000);
}

TEST_F(MetricsTest, JobsWithManyTextsTakeNoMoreSeriesThanThereAre) {
  Restart({.max_job_series = 20});
  for (const char* id : {"a", "b"}) {
    CreateNamed(id);
    teq::v1::HeartbeatRequest beat = NewBeat(Acquire(Register(std::string("worker-") + id)), 1);
    beat.add_samples()->set_step(1);
    for (int i = 0; i < 12; ++i) {
      beat.add_perplexities()->set_dataset(fmt::format("file:///data/{}.txt", i));
      beat.mutable_perplexities()->rbegin()->set_phase(PerplexitySample::PHASE_FULL_PRECISION);
    }
    ASSERT_TRUE(queue_->Heartbeat(beat).ok());
  }
  const std::string text = Render();
  EXPECT_THAT(text, Not(HasSubstr("job=\"projects/p/jobs/a\"")));
  EXPECT_THAT(text, HasSubstr("job=\"projects/p/jobs/b\""));
}

TEST_F(MetricsTest, ProjectsBeyondTheLimitAreCountedAsOther) {
  Restart({.max_projects = 1});
  CreateNamed("a", "p");
  CreateNamed("b", "q");
  CreateNamed("c", "r");
  CreateNamed("d", "p");
  const std::string text = Render();
  EXPECT_THAT(text, HasSubstr("teq_jobs_submitted_total{project=\"p\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("teq_jobs_submitted_total{project=\"other\"} 2\n"));
  EXPECT_THAT(text, Not(HasSubstr("project=\"q\"")));
}

TEST_F(MetricsTest, EventsThatWatchesLeftOutAreCountedOnceHoweverOftenTheyAreScraped) {
  EXPECT_THAT(Render(), HasSubstr("teq_events_coalesced_total 5\n"));
  EXPECT_THAT(Render(), HasSubstr("teq_events_coalesced_total 5\n"));
}

TEST_F(MetricsTest, RefusalsForAQuotaAreCountedByProject) {
  Restart({}, {.limits = {.queued_jobs_per_project = 1}});
  Create(NewJob("a"));
  EXPECT_THAT(Render(), Not(HasSubstr("teq_quota_rejections_total{")));
  for (const char* output : {"b", "c"}) {
    EXPECT_EQ(ErrorReason(queue_->CreateJob(NewJob(output)).status()), "QUEUED_JOBS_EXHAUSTED");
  }
  EXPECT_THAT(Render(),
              HasSubstr("teq_quota_rejections_total{project=\"p\",quota=\"queued_jobs\"} 2\n"));
}

}  // namespace
}  // namespace teq::http
