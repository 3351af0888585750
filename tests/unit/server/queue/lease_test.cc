#include "gmock/gmock.h"
#include "proto/spec/error.h"
#include "server/queue/lease_rules.h"
#include "server/store/timestamps.h"
#include "tests/unit/server/harness.h"

namespace teq::queue {
namespace {

using teq::testing::NewJob;
using teq::testing::Sha;
using teq::v1::Job;
using teq::v1::Lease;
using teq::v1::ReleaseLeaseRequest;
using ::testing::HasSubstr;

constexpr absl::Duration kLease = absl::Seconds(30);

teq::v1::CreateJobRequest NewJobOfMaxRuntime(const std::string& output, int64_t seconds) {
  teq::v1::CreateJobRequest request = NewJob(output);
  request.mutable_job()->mutable_spec()->mutable_limits()->mutable_max_runtime()->set_seconds(
      seconds);
  return request;
}

std::string Reason(const Job& job) { return ErrorReason(FromProto(job.error())); }

/// A store that cannot be written while it is `down`.
class StoreWithFailures final : public store::JobStore {
 public:
  explicit StoreWithFailures(store::JobStore& store) : store_(store) {}

  absl::StatusOr<std::unique_ptr<store::Transaction>> Begin() override {
    if (down) return Error(absl::StatusCode::kUnavailable, "STORE_UNAVAILABLE", "down");
    return store_.Begin();
  }
  absl::StatusOr<std::optional<store::JobRecord>> Get(const JobName& name) override {
    return store_.Get(name);
  }
  absl::StatusOr<std::vector<store::JobRecord>> List(const store::ListQuery& query) override {
    return store_.List(query);
  }
  absl::StatusOr<std::vector<teq::v1::JobEvent>> ReadEvents(int64_t key, int64_t after,
                                                            int limit) override {
    return store_.ReadEvents(key, after, limit);
  }
  absl::StatusOr<std::vector<teq::v1::PerplexitySample>> ReadPerplexities(int64_t key) override {
    return store_.ReadPerplexities(key);
  }
  absl::StatusOr<std::vector<store::JobRecord>> ReadLeasedOrEndedAfter(absl::Time time) override {
    return store_.ReadLeasedOrEndedAfter(time);
  }
  absl::StatusOr<store::Statistics> ReadStatistics() override { return store_.ReadStatistics(); }
  absl::StatusOr<std::vector<store::WorkerRecord>> ReadWorkers(absl::Time since) override {
    return store_.ReadWorkers(since);
  }

  bool down = false;

 private:
  store::JobStore& store_;
};

class LeaseTest : public teq::testing::QueueTest {
 protected:
  std::vector<teq::v1::JobEvent> Events(const std::string& name) {
    const auto record = store_->Get(*ParseJobName(name));
    return *store_->ReadEvents((*record)->key, 0, 10'000);
  }

  /// Lets 88 s pass with a heartbeat every 11 s, numbered from 1: all that an attempt with a
  /// max_runtime of 60 s has until the server ends it, but for 2 s.
  void RunToTheEndOfAMinute(const Lease& lease) {
    for (int beat = 1; beat <= 8; ++beat) {
      Pass(absl::Seconds(11));
      const auto response = Beat(lease, beat);
      ASSERT_TRUE(response.ok()) << response.status();
      EXPECT_EQ(response->directive(), teq::v1::DIRECTIVE_CONTINUE) << beat;
    }
  }
};

TEST_F(LeaseTest, LeaseCarriesTheJobAndStartsTheFirstAttempt) {
  const Job job = Create(NewJob("a"));
  clock_.Advance(absl::Seconds(5));
  const Lease lease = Acquire(Register("w1"));
  EXPECT_EQ(lease.job(), job.name());
  EXPECT_EQ(lease.job_uid(), job.uid());
  EXPECT_EQ(lease.fence(), 1);
  EXPECT_EQ(lease.attempt(), 1);
  EXPECT_EQ(lease.spec().SerializeAsString(), job.spec().SerializeAsString());
  EXPECT_EQ(lease.lease_duration().seconds(), 30);
  EXPECT_EQ(lease.heartbeat_interval().seconds(), 10);
  EXPECT_FALSE(lease.has_publish_only());
  const Job running = Get(job.name());
  EXPECT_EQ(running.state(), Job::STATE_RUNNING);
  EXPECT_EQ(running.worker(), "w1");
  EXPECT_EQ(running.attempt_count(), 1);
  EXPECT_EQ(running.start_time().seconds(), 1'800'000'005);
}

TEST_F(LeaseTest, HappyPathEndsSucceededWithTheCommittedManifest) {
  const Job job = Create(NewJob("a"));
  const Lease lease = Acquire(Register("w1"));
  const auto publishing = Succeed(lease, Sha('a'));
  ASSERT_TRUE(publishing.ok()) << publishing.status();
  EXPECT_EQ(publishing->state(), Job::STATE_PUBLISHING);
  const auto done = Publish(lease, Sha('a'));
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(done->state(), Job::STATE_SUCCEEDED);
  EXPECT_EQ(done->manifest_sha256(), Sha('a'));
  EXPECT_EQ(done->worker(), "");
  EXPECT_TRUE(done->has_end_time());
}

TEST_F(LeaseTest, RepeatedOutcomesGetTheSameAnswer) {
  Create(NewJob("a"));
  const Lease lease = Acquire(Register("w1"));
  const auto committed = Succeed(lease, Sha('a'));
  EXPECT_EQ(Succeed(lease, Sha('a'))->SerializeAsString(), committed->SerializeAsString());
  const auto published = Publish(lease, Sha('a'));
  EXPECT_EQ(Publish(lease, Sha('a'))->SerializeAsString(), published->SerializeAsString());
  EXPECT_EQ(Succeed(lease, Sha('a'))->SerializeAsString(), published->SerializeAsString());
}

TEST_F(LeaseTest, AnotherDigestThanTheCommittedOneIsRefused) {
  Create(NewJob("a"));
  const Lease lease = Acquire(Register("w1"));
  ASSERT_TRUE(Succeed(lease, Sha('a')).ok());
  EXPECT_EQ(ErrorReason(Succeed(lease, Sha('b')).status()), "MANIFEST_MISMATCH");
  EXPECT_EQ(ErrorReason(Publish(lease, Sha('b')).status()), "MANIFEST_MISMATCH");
  ASSERT_TRUE(Publish(lease, Sha('a')).ok());
  EXPECT_EQ(ErrorReason(Publish(lease, Sha('b')).status()), "MANIFEST_MISMATCH");
}

TEST_F(LeaseTest, PublicationBeforeTheCommitIsRefused) {
  Create(NewJob("a"));
  const Lease lease = Acquire(Register("w1"));
  EXPECT_EQ(ErrorReason(Publish(lease, Sha('a')).status()), "NOT_COMMITTED");
  EXPECT_EQ(ErrorReason(Succeed(lease, "short").status()), "INVALID_MANIFEST");
}

TEST_F(LeaseTest, ExpiredLeaseRejectsResultOfOldWorker) {
  const Job job = Create(NewJob("a"));
  const Lease old = Acquire(Register("w1"));
  Pass(kLease + absl::Seconds(2));
  const Lease current = Acquire(Register("w2"));
  EXPECT_EQ(current.fence(), 2);
  EXPECT_EQ(current.attempt(), 2);

  for (const absl::Status& status :
       {Succeed(old, Sha('a')).status(), Publish(old, Sha('a')).status(),
        Fail(old, teq::v1::FAILURE_CLASS_USER_ERROR).status(), Beat(old, 1).status(),
        StopCancelled(old).status(), Release(old, ReleaseLeaseRequest::REASON_DRAIN).status()}) {
    EXPECT_TRUE(absl::IsAborted(status)) << status;
    EXPECT_EQ(ErrorReason(status), "LEASE_LOST");
  }
  EXPECT_EQ(Get(job.name()).worker(), "w2");
  EXPECT_TRUE(Succeed(current, Sha('c')).ok());
}

TEST_F(LeaseTest, TokenWithAnotherFenceIsLost) {
  Create(NewJob("a"));
  Lease lease = Acquire(Register("w1"));
  lease.set_fence(2);
  EXPECT_EQ(ErrorReason(Beat(lease, 1).status()), "LEASE_LOST");
  lease.set_lease_token("");
  EXPECT_EQ(ErrorReason(Beat(lease, 1).status()), "LEASE_LOST");
}

TEST_F(LeaseTest, HeartbeatsKeepTheLease) {
  const Job job = Create(NewJob("a"));
  const Lease lease = Acquire(Register("w1"));
  for (int beat = 1; beat <= 20; ++beat) {
    Pass(absl::Seconds(20));
    const auto response = Beat(lease, beat);
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->directive(), teq::v1::DIRECTIVE_CONTINUE);
    EXPECT_EQ(response->lease_ttl().seconds(), 30);
    EXPECT_EQ(response->next_heartbeat_after().seconds(), 10);
  }
  EXPECT_EQ(Get(job.name()).attempt_count(), 1);
}

TEST_F(LeaseTest, LeaseThatExpiresBurnsAnAttemptAndWaitsASecondAtMost) {
  const Job job = Create(NewJob("a"));
  Acquire(Register("w1"));
  Pass(kLease);
  const Job waiting = Get(job.name());
  EXPECT_EQ(waiting.state(), Job::STATE_RETRY_WAIT);
  EXPECT_EQ(waiting.attempt_count(), 1);
  EXPECT_THAT(waiting.status_message(), HasSubstr("worker w1 sent no heartbeat for 30s"));
  EXPECT_TRUE(waiting.has_next_attempt_time());
  EXPECT_FALSE(HasWork(Register("w2")));
  Pass(absl::Seconds(1));
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_QUEUED);
  EXPECT_FALSE(Get(job.name()).has_next_attempt_time());
}

TEST_F(LeaseTest, AttemptsSpentMakeADeadLetter) {
  const Job job = Create(NewJob("a"));
  const std::string session = Register("w1");
  for (int attempt = 1; attempt <= 3; ++attempt) {
    const Lease lease = Acquire(session);
    EXPECT_EQ(lease.attempt(), attempt);
    ASSERT_TRUE(Fail(lease, teq::v1::FAILURE_CLASS_TRANSIENT).ok());
    Pass(absl::Seconds(5));
  }
  const Job failed = Get(job.name());
  EXPECT_EQ(failed.state(), Job::STATE_FAILED);
  EXPECT_TRUE(failed.dead_letter());
  EXPECT_EQ(failed.error().message(), "it broke");
  EXPECT_EQ(failed.error().code(), 9);
  EXPECT_EQ(Reason(failed), "WORKER_FAILURE");
}

// It can be neither cancelled nor deleted meanwhile, and holds its output.
TEST_F(LeaseTest, ResultThatCannotBePublishedForHoursIsADeadLetter) {
  const Job job = Create(NewJob("a"));
  const std::string session = Register("w1");
  Lease lease = Acquire(session);
  ASSERT_TRUE(Succeed(lease, Sha('a')).ok());
  for (int failures = 1; failures < 500; ++failures) {
    ASSERT_TRUE(Fail(lease, teq::v1::FAILURE_CLASS_TRANSIENT).ok());
    Pass(absl::Minutes(1));
    lease = Acquire(session);
    ASSERT_TRUE(lease.has_publish_only());
  }
  ASSERT_TRUE(Fail(lease, teq::v1::FAILURE_CLASS_TRANSIENT).ok());
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_FAILED);
  EXPECT_TRUE(Get(job.name()).dead_letter());
}

TEST_F(LeaseTest, UserErrorIsNeverRetried) {
  const Job job = Create(NewJob("a"));
  const Lease lease = Acquire(Register("w1"));
  auto completion = Completion(lease);
  completion.mutable_failure()->set_failure_class(teq::v1::FAILURE_CLASS_USER_ERROR);
  *completion.mutable_failure()->mutable_status() = ToProto(
      Error(absl::StatusCode::kFailedPrecondition, "PERPLEXITY_GATE", "delta 0.9 above 0.5"));
  completion.mutable_failure()->mutable_report()->add_perplexity()->set_delta(0.9);
  const auto failed = queue_->CompleteLease(completion);
  ASSERT_TRUE(failed.ok()) << failed.status();
  EXPECT_EQ(failed->state(), Job::STATE_FAILED);
  EXPECT_FALSE(failed->dead_letter());
  EXPECT_EQ(Reason(*failed), "PERPLEXITY_GATE");
  EXPECT_EQ(Get(job.name()).report().perplexity(0).delta(), 0.9);
  EXPECT_EQ(queue_->CompleteLease(completion)->SerializeAsString(), failed->SerializeAsString());
}

TEST_F(LeaseTest, OutOfMemoryIsRetriedOnce) {
  const Job job = Create(NewJob("a"));
  const std::string session = Register("w1");
  ASSERT_TRUE(Fail(Acquire(session), teq::v1::FAILURE_CLASS_OUT_OF_MEMORY).ok());
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_RETRY_WAIT);
  Pass(absl::Seconds(2));
  ASSERT_TRUE(Fail(Acquire(session), teq::v1::FAILURE_CLASS_OUT_OF_MEMORY).ok());
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_FAILED);
  EXPECT_TRUE(Get(job.name()).dead_letter());
}

TEST_F(LeaseTest, ReleasedJobIsQueuedAtOnceAndBurnsNoAttempt) {
  const Job job = Create(NewJob("a"));
  const std::string session = Register("w1");
  const Lease lease = Acquire(session);
  const auto released = Release(lease, ReleaseLeaseRequest::REASON_PREEMPTED);
  ASSERT_TRUE(released.ok()) << released.status();
  EXPECT_EQ(released->state(), Job::STATE_QUEUED);
  EXPECT_EQ(released->attempt_count(), 0);
  EXPECT_EQ(released->preemption_count(), 1);
  EXPECT_TRUE(Release(lease, ReleaseLeaseRequest::REASON_PREEMPTED).ok()) << "a repeat is harmless";
  const Lease next = Acquire(session);
  EXPECT_EQ(next.attempt(), 1);
  EXPECT_EQ(next.fence(), 2);
}

TEST_F(LeaseTest, PreemptionsHaveABudgetOfTheirOwn) {
  auto request = NewJob("a");
  request.mutable_job()->mutable_spec()->mutable_limits()->set_max_preemptions(2);
  const Job job = Create(request);
  const std::string session = Register("w1");
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(Release(Acquire(session), ReleaseLeaseRequest::REASON_DRAIN).ok());
  }
  const Job failed = Get(job.name());
  EXPECT_EQ(failed.state(), Job::STATE_FAILED);
  EXPECT_EQ(Reason(failed), "PREEMPTIONS_EXHAUSTED");
  EXPECT_TRUE(failed.dead_letter());
}

TEST_F(LeaseTest, UnfitWorkerDoesNotGetTheJobAgain) {
  Create(NewJob("a"));
  const std::string unfit = Register("w1");
  ASSERT_TRUE(Release(Acquire(unfit), ReleaseLeaseRequest::REASON_UNFIT).ok());
  EXPECT_FALSE(HasWork(unfit));
  EXPECT_TRUE(HasWork(Register("w2")));
}

TEST_F(LeaseTest, DeadPublisherIsFollowedByAPublishOnlyLease) {
  const Job job = Create(NewJob("a"));
  const Lease first = Acquire(Register("w1"));
  ASSERT_TRUE(Succeed(first, Sha('a')).ok());
  Pass(kLease);
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_PUBLISHING);
  EXPECT_EQ(Get(job.name()).worker(), "");

  const Lease second = Acquire(Register("w2"));
  EXPECT_EQ(second.fence(), 2);
  EXPECT_EQ(second.attempt(), 1);
  EXPECT_EQ(second.publish_only().manifest_sha256(), Sha('a'));
  EXPECT_EQ(second.publish_only().attempt(), 1);
  EXPECT_EQ(second.publish_only().fence(), 1);
  EXPECT_EQ(ErrorReason(Publish(first, Sha('a')).status()), "LEASE_LOST");
  ASSERT_TRUE(Publish(second, Sha('a')).ok());
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_SUCCEEDED);
  EXPECT_EQ(Get(job.name()).attempt_count(), 1);
}

TEST_F(LeaseTest, TransientFailureOfThePublicationIsTriedAgain) {
  const Job job = Create(NewJob("a"));
  const std::string session = Register("w1");
  const Lease lease = Acquire(session);
  ASSERT_TRUE(Succeed(lease, Sha('a')).ok());
  ASSERT_TRUE(Fail(lease, teq::v1::FAILURE_CLASS_TRANSIENT).ok());
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_PUBLISHING);
  EXPECT_FALSE(HasWork(session)) << "not in a hot loop";
  Pass(absl::Seconds(1));
  const Lease again = Acquire(session);
  EXPECT_EQ(again.publish_only().fence(), 1);
  ASSERT_TRUE(Publish(again, Sha('a')).ok());
}

TEST_F(LeaseTest, OutputTakenByAnotherFailsThePublication) {
  const Job job = Create(NewJob("a"));
  const Lease lease = Acquire(Register("w1"));
  ASSERT_TRUE(Succeed(lease, Sha('a')).ok());
  ASSERT_TRUE(Fail(lease, teq::v1::FAILURE_CLASS_USER_ERROR).ok());
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_FAILED);
  EXPECT_FALSE(Get(job.name()).dead_letter());
}

TEST_F(LeaseTest, ReleasedPublicationIsHandedToAnother) {
  const Job job = Create(NewJob("a"));
  const Lease lease = Acquire(Register("w1"));
  ASSERT_TRUE(Succeed(lease, Sha('a')).ok());
  ASSERT_TRUE(Release(lease, ReleaseLeaseRequest::REASON_DRAIN).ok());
  EXPECT_EQ(Get(job.name()).attempt_count(), 1) << "the attempt did its work";
  EXPECT_EQ(Acquire(Register("w2")).publish_only().manifest_sha256(), Sha('a'));
}

TEST_F(LeaseTest, RestartGivesEveryLeaseAWholeDuration) {
  const Job job = Create(NewJob("a"));
  const Lease lease = Acquire(Register("w1"));
  clock_.Advance(absl::Minutes(10));
  Open({});
  Pass(absl::Seconds(29));
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_RUNNING);
  EXPECT_TRUE(Beat(lease, 1).ok());
  Pass(kLease);
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_RETRY_WAIT);
}

TEST_F(LeaseTest, WorkCanBeCommittedAfterARestartBeyondMaxRuntime) {
  const Job job = Create(NewJobOfMaxRuntime("a", 1800));
  const Lease lease = Acquire(Register("w1"));
  Pass(absl::Seconds(11));
  ASSERT_TRUE(Beat(lease, 1).ok());
  clock_.Advance(absl::Hours(1));
  Open({});
  Pass(absl::Seconds(29));
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_RUNNING);
  ASSERT_TRUE(Succeed(lease, Sha('a')).ok());
  EXPECT_TRUE(Publish(lease, Sha('a')).ok());
}

TEST_F(LeaseTest, WorkCanBeCommittedAfterASecondRestartToo) {
  const Job job = Create(NewJobOfMaxRuntime("a", 1800));
  const Lease lease = Acquire(Register("w1"));
  for (int restart = 0; restart < 2; ++restart) {
    clock_.Advance(absl::Hours(1));
    Open({});
    Pass(absl::Seconds(29));
  }
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_RUNNING);
  EXPECT_TRUE(Succeed(lease, Sha('a')).ok());
}

TEST_F(LeaseTest, TimesWithoutAServerCountForNoMaxRuntimeAndAllOthersDo) {
  const Job job = Create(NewJobOfMaxRuntime("a", 60));
  const Lease lease = Acquire(Register("w1"));
  int beat = 0;
  const auto run = [&] {
    Pass(absl::Seconds(11));
    const auto response = Beat(lease, ++beat);
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->directive(), teq::v1::DIRECTIVE_CONTINUE) << beat;
  };
  run();
  for (int restart = 0; restart < 2; ++restart) {
    clock_.Advance(absl::Hours(1));
    Open({});
    run();
  }
  while (beat < 8) run();
  clock_.Advance(absl::Seconds(2));
  const auto last = Beat(lease, ++beat);
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_EQ(last->directive(), teq::v1::DIRECTIVE_ABANDON) << "90 s with a server";
  EXPECT_EQ(Reason(Get(job.name())), "MAX_RUNTIME_EXCEEDED");
}

// The restart is too short to be told from the time between two heartbeats.
TEST_F(LeaseTest, ShortRestartAtTheEndOfMaxRuntimeLeavesALeaseToCommit) {
  const Job job = Create(NewJobOfMaxRuntime("a", 60));
  const Lease lease = Acquire(Register("w1"));
  RunToTheEndOfAMinute(lease);
  for (int restart = 0; restart < 2; ++restart) {
    clock_.Advance(absl::Seconds(14));
    Open({});
    Pass(absl::Seconds(29));
  }
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_RUNNING);
  EXPECT_TRUE(Succeed(lease, Sha('a')).ok());
}

TEST_F(LeaseTest, WorkerThatRunsOnAfterTheRestartIsEndedALeaseLater) {
  const Job job = Create(NewJobOfMaxRuntime("a", 60));
  const Lease lease = Acquire(Register("w1"));
  RunToTheEndOfAMinute(lease);
  clock_.Advance(absl::Seconds(14));
  Open({});
  for (int beat = 9; beat <= 10; ++beat) {
    Pass(absl::Seconds(11));
    EXPECT_EQ(Beat(lease, beat)->directive(), teq::v1::DIRECTIVE_CONTINUE);
  }
  Pass(absl::Seconds(8));
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_FAILED);
  EXPECT_EQ(Reason(Get(job.name())), "MAX_RUNTIME_EXCEEDED");
}

TEST_F(LeaseTest, WorkerThatNeverComesBackAfterTheRestartLeavesTheJobToAnother) {
  const Job job = Create(NewJobOfMaxRuntime("a", 60));
  const Lease lease = Acquire(Register("w1"));
  RunToTheEndOfAMinute(lease);
  clock_.Advance(absl::Seconds(14));
  Open({});
  Pass(kLease);
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_RETRY_WAIT);
  EXPECT_THAT(Get(job.name()).status_message(), HasSubstr("worker w1 sent no heartbeat for 30s"));
}

TEST_F(LeaseTest, StalledServerOrJumpingClockCostsNoLeaseAndNoRuntime) {
  const Job job = Create(NewJobOfMaxRuntime("a", 1800));
  const Lease lease = Acquire(Register("w1"));
  Pass(absl::Seconds(1));
  clock_.Advance(absl::Hours(1));
  EXPECT_EQ(Beat(lease, 1)->directive(), teq::v1::DIRECTIVE_CONTINUE);
  ASSERT_TRUE(queue_->Reap().ok());
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_RUNNING);
  EXPECT_EQ(Beat(lease, 2)->directive(), teq::v1::DIRECTIVE_CONTINUE);
  clock_.Advance(-absl::Hours(2));
  ASSERT_TRUE(queue_->Reap().ok());
  Pass(kLease);
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_RETRY_WAIT) << "the lease ends by the new clock";
}

TEST_F(LeaseTest, LeaseOfTheNewClockLosesNothingWhereThatWasSetBack) {
  Pass(absl::Seconds(1));
  clock_.Advance(-absl::Hours(2));
  const Job job = Create(NewJobOfMaxRuntime("a", 1800));
  const Lease lease = Acquire(Register("w1"));
  ASSERT_TRUE(queue_->Reap().ok());
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_RUNNING);
  EXPECT_EQ(Beat(lease, 1)->directive(), teq::v1::DIRECTIVE_CONTINUE);
}

// A reap that has nothing to write succeeds where heartbeats fail.
TEST_F(LeaseTest, AStoreThatCannotBeWrittenCostsNoLease) {
  const Job job = Create(NewJob("a"));
  const Lease lease = Acquire(Register("w1"));
  StoreWithFailures store(*store_);
  queue_ = std::make_unique<Queue>(
      QueueOptions{}, QueueDeps{.store = &store, .clock = &clock_, .random = &random_});
  for (int second = 0; second < 60; ++second) {
    store.down = true;
    EXPECT_EQ(ErrorReason(Beat(lease, 1).status()), "STORE_UNAVAILABLE");
    store.down = false;
    Pass(absl::Seconds(1));
  }
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_RUNNING);
  Pass(kLease);
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_RETRY_WAIT) << "then silence counts again";
}

TEST_F(LeaseTest, TimeWithoutAStoreCountsForNoMaxRuntime) {
  const Job job = Create(NewJobOfMaxRuntime("a", 60));
  const Lease lease = Acquire(Register("w1"));
  StoreWithFailures store(*store_);
  queue_ = std::make_unique<Queue>(
      QueueOptions{}, QueueDeps{.store = &store, .clock = &clock_, .random = &random_});
  Pass(absl::Seconds(1));
  store.down = true;
  for (int i = 0; i < 60; ++i) {
    clock_.Advance(absl::Seconds(10));
    EXPECT_FALSE(queue_->Reap().ok());
  }
  store.down = false;
  Pass(absl::Seconds(1));
  EXPECT_EQ(Beat(lease, 1)->directive(), teq::v1::DIRECTIVE_CONTINUE);
  for (int beat = 2; beat <= 8; ++beat) {
    Pass(absl::Seconds(11));
    EXPECT_EQ(Beat(lease, beat)->directive(), teq::v1::DIRECTIVE_CONTINUE) << beat;
  }
  clock_.Advance(absl::Seconds(14));
  EXPECT_EQ(Beat(lease, 9)->directive(), teq::v1::DIRECTIVE_ABANDON) << "then it counts again";
  EXPECT_EQ(Reason(Get(job.name())), "MAX_RUNTIME_EXCEEDED");
}

TEST_F(LeaseTest, AStoreThatFailsAtTheEndOfMaxRuntimeLeavesALeaseToCommit) {
  const Job job = Create(NewJobOfMaxRuntime("a", 60));
  const Lease lease = Acquire(Register("w1"));
  StoreWithFailures store(*store_);
  queue_ = std::make_unique<Queue>(
      QueueOptions{}, QueueDeps{.store = &store, .clock = &clock_, .random = &random_});
  RunToTheEndOfAMinute(lease);
  store.down = true;
  EXPECT_EQ(ErrorReason(Beat(lease, 9).status()), "STORE_UNAVAILABLE");
  clock_.Advance(absl::Seconds(3));
  store.down = false;
  EXPECT_EQ(Beat(lease, 9)->directive(), teq::v1::DIRECTIVE_CONTINUE);
  Pass(absl::Seconds(29));
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_RUNNING);
  EXPECT_TRUE(Succeed(lease, Sha('a')).ok());
}

TEST_F(LeaseTest, NewBootEndsTheOlderSessionAndItsLease) {
  const Job job = Create(NewJob("a"));
  const std::string old_session = Register("w1", "boot-1");
  const Lease lease = Acquire(old_session);
  const std::string session = Register("w1", "boot-2");
  EXPECT_NE(session, old_session);
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_RETRY_WAIT);
  EXPECT_EQ(ErrorReason(Beat(lease, 1).status()), "LEASE_LOST");
  EXPECT_EQ(ErrorReason(queue_->AcquireLease(old_session).status()), "SESSION_SUPERSEDED");
  EXPECT_TRUE(queue_->AcquireLease(session).ok());
}

TEST_F(LeaseTest, SameBootKeepsItsSession) {
  Create(NewJob("a"));
  const std::string session = Register("w1");
  const Lease lease = Acquire(session);
  EXPECT_EQ(Register("w1"), session);
  EXPECT_TRUE(Beat(lease, 1).ok());
}

TEST_F(LeaseTest, UnknownSessionMustRegister) {
  const absl::Status status = queue_->AcquireLease("w9:none").status();
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_EQ(ErrorReason(status), "SESSION_NOT_FOUND");
}

TEST_F(LeaseTest, LeaseWhoseAnswerWasLostIsGivenAgain) {
  Create(NewJob("a"));
  Create(NewJob("b"));
  const std::string session = Register("w1");
  const Lease lease = Acquire(session);
  EXPECT_EQ(Acquire(session).SerializeAsString(), lease.SerializeAsString());
}

TEST_F(LeaseTest, LeaseThatIsGivenAgainHasItsWholeMaxRuntime) {
  Create(NewJobOfMaxRuntime("a", 60));
  const std::string session = Register("w1");
  const Lease lost = Acquire(session);
  Pass(absl::Seconds(20));
  const Lease lease = Acquire(session);
  ASSERT_EQ(lease.fence(), lost.fence());
  RunToTheEndOfAMinute(lease);
  clock_.Advance(absl::Seconds(2));
  EXPECT_EQ(Beat(lease, 9)->directive(), teq::v1::DIRECTIVE_ABANDON);
}

TEST_F(LeaseTest, WorkerThatAsksForOtherWorkGivesUpItsLease) {
  const Job first = Create(NewJob("a"));
  const Job second = Create(NewJob("b"));
  const std::string session = Register("w1");
  ASSERT_TRUE(Beat(Acquire(session), 1).ok());
  EXPECT_EQ(Acquire(session).job(), second.name());
  EXPECT_EQ(Get(first.name()).state(), Job::STATE_RETRY_WAIT);
}

TEST_F(LeaseTest, HigherPriorityRunsSooner) {
  const Job low = Create(NewJob("a"));
  auto urgent = NewJob("b");
  urgent.mutable_job()->set_priority(10);
  const Job high = Create(urgent);
  EXPECT_EQ(Acquire(Register("w1")).job(), high.name());
  EXPECT_EQ(Acquire(Register("w2")).job(), low.name());
}

TEST_F(LeaseTest, ProjectWithFewerRunningJobsGoesFirst) {
  const Job p1 = Create(NewJob("a", "p"));
  const Job p2 = Create(NewJob("b", "p"));
  const Job q1 = Create(NewJob("c", "q"));
  EXPECT_EQ(Acquire(Register("w1")).job(), p1.name());
  EXPECT_EQ(Acquire(Register("w2")).job(), q1.name());
  EXPECT_EQ(Acquire(Register("w3")).job(), p2.name());
}

TEST_F(LeaseTest, WorkersGetOnlyJobsOfTheirDevices) {
  auto request = NewJob("a");
  request.mutable_job()->mutable_spec()->mutable_resources()->set_device(teq::v1::DEVICE_CUDA);
  const Job job = Create(request);
  EXPECT_FALSE(HasWork(Register("cpu-worker")));
  teq::v1::RegisterWorkerRequest registration;
  registration.set_worker_id("gpu-worker");
  registration.set_boot_id("1");
  registration.mutable_capabilities()->add_devices(teq::v1::DEVICE_CUDA);
  EXPECT_EQ(Acquire(queue_->RegisterWorker(registration)->worker_session()).job(), job.name());
}

TEST_F(LeaseTest, RepeatedHeartbeatChangesNothingTwice) {
  const Job job = Create(NewJob("a"));
  const Lease lease = Acquire(Register("w1"));
  teq::v1::HeartbeatRequest beat;
  beat.set_lease_token(lease.lease_token());
  beat.set_fence(lease.fence());
  beat.set_sequence(1);
  beat.mutable_progress()->set_stage(teq::v1::STAGE_TRANSFORM);
  beat.mutable_progress()->set_done(1);
  auto* sample = beat.add_samples();
  sample->set_step(1);
  sample->set_loss(2.5);
  auto* perplexity = beat.add_perplexities();
  perplexity->set_dataset("file:///data/test.txt");
  perplexity->set_value(7);
  EXPECT_EQ(queue_->Heartbeat(beat)->acknowledged_sequence(), 1);
  const size_t events = Events(job.name()).size();
  EXPECT_EQ(events, 5U) << "created, leased, progress, sample, perplexity";
  EXPECT_EQ(queue_->Heartbeat(beat)->acknowledged_sequence(), 1);
  EXPECT_EQ(Events(job.name()).size(), events);
  EXPECT_EQ(Get(job.name()).latest_metrics().loss(), 2.5);
  EXPECT_EQ(Get(job.name()).progress().done(), 1);
  beat.set_sequence(2);
  beat.clear_samples();
  beat.clear_perplexities();
  EXPECT_EQ(queue_->Heartbeat(beat)->acknowledged_sequence(), 2);
  EXPECT_EQ(Events(job.name()).size(), events) << "the same progress is no news";
}

TEST_F(LeaseTest, NewAttemptStartsWithoutTheProgressOfTheLast) {
  const Job job = Create(NewJob("a"));
  const std::string session = Register("w1");
  const Lease lease = Acquire(session);
  teq::v1::HeartbeatRequest beat;
  beat.set_lease_token(lease.lease_token());
  beat.set_fence(lease.fence());
  beat.set_sequence(1);
  beat.mutable_progress()->set_done(9);
  beat.add_samples()->set_step(9);
  ASSERT_TRUE(queue_->Heartbeat(beat).ok());
  ASSERT_TRUE(Release(lease, ReleaseLeaseRequest::REASON_DRAIN).ok());
  Acquire(session);
  EXPECT_FALSE(Get(job.name()).has_progress());
  EXPECT_FALSE(Get(job.name()).has_latest_metrics());
}

TEST_F(LeaseTest, HeartbeatsAreNumberedFromOne) {
  Create(NewJob("a"));
  EXPECT_EQ(ErrorReason(Beat(Acquire(Register("w1")), 0).status()), "INVALID_HEARTBEAT");
}

TEST_F(LeaseTest, JobWithTooManyEventsKeepsOnlyWhatMatters) {
  Open({.limits = {.events_per_job = 3}});
  const Job job = Create(NewJob("a"));
  const Lease lease = Acquire(Register("w1"));
  for (int i = 1; i <= 5; ++i) {
    teq::v1::HeartbeatRequest beat;
    beat.set_lease_token(lease.lease_token());
    beat.set_fence(lease.fence());
    beat.set_sequence(i);
    beat.add_samples()->set_step(i);
    // The stage is another in the last.
    beat.mutable_progress()->set_stage(i < 5 ? teq::v1::STAGE_TRANSFORM : teq::v1::STAGE_ROUND);
    beat.mutable_progress()->set_done(i);
    ASSERT_TRUE(queue_->Heartbeat(beat).ok());
  }
  EXPECT_EQ(Get(job.name()).latest_metrics().step(), 5);
  teq::v1::UpdateJobRequest update;
  update.mutable_job()->set_name(job.name());
  update.mutable_job()->set_priority(3);
  EXPECT_EQ(queue_->UpdateJob(update)->priority(), 3);
  ASSERT_TRUE(Succeed(lease, Sha('a')).ok());
  const auto events = Events(job.name());
  ASSERT_EQ(events.size(), 6U);
  EXPECT_EQ(events[2].progress().stage(), teq::v1::STAGE_TRANSFORM);
  EXPECT_EQ(events[3].sample().step(), 1);
  EXPECT_EQ(events[4].progress().stage(), teq::v1::STAGE_ROUND);
  EXPECT_EQ(events[5].state_change().to(), Job::STATE_PUBLISHING);
}

// Its worker ends it at the limit, which it counts from a little later, and may take a while.
TEST_F(LeaseTest, AttemptBeyondMaxRuntimeIsAbandonedAndFailsALeaseLater) {
  const Job job = Create(NewJobOfMaxRuntime("a", 60));
  const Lease lease = Acquire(Register("w1"));
  RunToTheEndOfAMinute(lease);
  clock_.Advance(absl::Seconds(2));  // 90 s after the lease was granted, and no reap since
  EXPECT_EQ(Beat(lease, 9)->directive(), teq::v1::DIRECTIVE_ABANDON);
  const Job failed = Get(job.name());
  EXPECT_EQ(failed.state(), Job::STATE_FAILED);
  EXPECT_EQ(Reason(failed), "MAX_RUNTIME_EXCEEDED");
  EXPECT_EQ(failed.attempt_count(), 1);
  EXPECT_EQ(ErrorReason(Beat(lease, 10).status()), "LEASE_LOST");
}

TEST_F(LeaseTest, CommittedContentIsPublishedEvenBeyondMaxRuntime) {
  const Job job = Create(NewJobOfMaxRuntime("a", 20));
  const Lease lease = Acquire(Register("w1"));
  Pass(absl::Seconds(19));
  ASSERT_TRUE(Succeed(lease, Sha('a')).ok());
  Pass(absl::Seconds(25));
  EXPECT_EQ(Beat(lease, 1)->directive(), teq::v1::DIRECTIVE_CONTINUE);
  EXPECT_TRUE(Publish(lease, Sha('a')).ok());
}

TEST_F(LeaseTest, JobThatWaitsTooLongExpires) {
  auto request = NewJob("a");
  request.mutable_job()->mutable_spec()->mutable_limits()->mutable_max_queue_time()->set_seconds(
      60);
  const Job job = Create(request);
  Pass(absl::Seconds(59));
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_QUEUED);
  Pass(absl::Seconds(1));
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_EXPIRED);
  EXPECT_EQ(Reason(Get(job.name())), "MAX_QUEUE_TIME_EXCEEDED");
}

TEST_F(LeaseTest, BackoffDoublesFromOneSecondToAMinute) {
  teq::testing::SeededRandom random;
  const double longest[] = {1, 2, 4, 8, 16, 32, 60, 60};
  for (int failures = 1; failures <= 8; ++failures) {
    for (int i = 0; i < 100; ++i) {
      const double wait = absl::ToDoubleSeconds(Backoff(failures, random));
      EXPECT_GE(wait, longest[failures - 1] / 2);
      EXPECT_LE(wait, longest[failures - 1]);
    }
  }
}

TEST_F(LeaseTest, WorkerIdsOfOtherFormsAreRefused) {
  teq::v1::RegisterWorkerRequest request;
  request.set_boot_id("1");
  for (const std::string& id :
       {std::string(), std::string("a:b"), std::string("a,b"), std::string(64, 'a')}) {
    request.set_worker_id(id);
    EXPECT_EQ(ErrorReason(queue_->RegisterWorker(request).status()), "INVALID_WORKER") << id;
  }
  request.set_worker_id("pod-1.teq_workers");
  EXPECT_TRUE(queue_->RegisterWorker(request).ok());
  request.clear_boot_id();
  EXPECT_EQ(ErrorReason(queue_->RegisterWorker(request).status()), "INVALID_WORKER");
}

TEST_F(LeaseTest, OutcomeMustBeOneOfTheKnown) {
  Create(NewJob("a"));
  const Lease lease = Acquire(Register("w1"));
  EXPECT_EQ(ErrorReason(queue_->CompleteLease(Completion(lease)).status()), "INVALID_OUTCOME");
}

TEST_F(LeaseTest, JobOfAnOlderServerHasNoTraceAndIsLeasedAllTheSame) {
  const Job job = Create(NewJob("a"));
  {
    // As servers stored jobs before they knew traces.
    auto transaction = store_->Begin();
    ASSERT_TRUE(transaction.ok());
    const auto before = (*transaction)->FindByName(*ParseJobName(job.name()));
    store::JobRecord after = **before;
    after.job.clear_traceparent();
    ASSERT_TRUE((*transaction)->Update(**before, after).ok());
    ASSERT_TRUE((*transaction)->Commit().ok());
  }
  Open({});
  const teq::v1::Lease lease = Acquire(Register("w"));
  EXPECT_EQ(lease.job(), job.name());
  EXPECT_EQ(lease.traceparent(), "");
}

}  // namespace
}  // namespace teq::queue
