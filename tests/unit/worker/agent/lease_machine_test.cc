#include "worker/agent/lease_machine.h"

#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "google/protobuf/util/time_util.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"

namespace teq::agent {
namespace {

using google::protobuf::util::TimeUtil;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;

absl::Status Unavailable() { return absl::UnavailableError("connection refused"); }
absl::Status LeaseLost() {
  return Error(absl::StatusCode::kAborted, "LEASE_LOST", "the job has a newer lease");
}

v1::Lease MakeLease() {
  v1::Lease lease;
  lease.set_lease_token("token");
  lease.set_fence(7);
  lease.set_attempt(2);
  lease.set_job("projects/p/jobs/j");
  lease.set_job_uid("uid");
  *lease.mutable_lease_duration() = TimeUtil::SecondsToDuration(30);
  *lease.mutable_heartbeat_interval() = TimeUtil::SecondsToDuration(10);
  *lease.mutable_spec()->mutable_limits()->mutable_max_runtime() =
      TimeUtil::SecondsToDuration(3600);
  return lease;
}

v1::Lease PublishOnlyLease() {
  v1::Lease lease = MakeLease();
  lease.mutable_publish_only()->set_manifest_sha256("abc");
  lease.mutable_publish_only()->set_attempt(1);
  lease.mutable_publish_only()->set_fence(3);
  return lease;
}

v1::EngineEvent SampleEvent(int step) {
  v1::EngineEvent event;
  event.mutable_sample()->set_step(step);
  return event;
}

v1::EngineEvent FinishedEvent() {
  v1::EngineEvent event;
  event.mutable_finished()->set_manifest_sha256("abc");
  event.mutable_finished()->mutable_report()->set_job("projects/p/jobs/j");
  return event;
}

v1::EngineEvent FailedEvent() {
  v1::EngineEvent event;
  *event.mutable_failed()->mutable_status() =
      ToProto(Error(absl::StatusCode::kInvalidArgument, "TEXT_TOO_SHORT", "short"));
  event.mutable_failed()->set_failure_class(v1::FAILURE_CLASS_USER_ERROR);
  return event;
}

// Drives a machine on a clock of its own. Actions pile up until they are taken.
class LeaseMachineTest : public ::testing::Test {
 protected:
  // The lease was asked for at second 0 and arrived at second 1.
  void Begin(const v1::Lease& lease = MakeLease()) {
    now_ = start_ + seconds(1);
    machine_.emplace(
        lease, start_, LeaseTimings(), [] { return 1.0; }, device_was_there_);
    Add(machine_->Start(now_));
  }

  void Add(Actions actions) {
    for (Action& action : actions) actions_.push_back(std::move(action));
  }

  // Lets time pass up to `at` seconds after the start, timer by timer.
  void Pass(double at) {
    const TimePoint end =
        start_ + std::chrono::duration_cast<Duration>(std::chrono::duration<double>(at));
    while (machine_->NextTimer() <= end) {
      now_ = std::max(now_, machine_->NextTimer());
      Add(machine_->OnTimer(now_));
      if (answer_) AnswerHeartbeats();
    }
    now_ = end;
  }

  // Answers each heartbeat at once, as `answer_` says.
  void AnswerHeartbeats() {
    while (const std::optional<SendHeartbeat> heartbeat = Take<SendHeartbeat>()) {
      heartbeats_.push_back({now_, heartbeat->request});
      if (!answer_->ok()) {
        Add(machine_->OnHeartbeat(answer_->status(), now_, now_));
        continue;
      }
      v1::HeartbeatResponse response = **answer_;
      response.set_acknowledged_sequence(heartbeat->request.sequence());
      Add(machine_->OnHeartbeat(response, now_, now_));
    }
  }

  static v1::HeartbeatResponse Order(v1::Directive directive) {
    v1::HeartbeatResponse response;
    *response.mutable_lease_ttl() = TimeUtil::SecondsToDuration(30);
    *response.mutable_next_heartbeat_after() = TimeUtil::SecondsToDuration(10);
    response.set_directive(directive);
    return response;
  }

  // Sends the next heartbeat and has the server answer it with `directive`.
  void Obey(v1::Directive directive) {
    answer_ = Order(directive);
    now_ = std::max(now_, machine_->NextTimer());
    Add(machine_->OnTimer(now_));
    AnswerHeartbeats();
    answer_.reset();
  }

  void Event(const v1::EngineEvent& event) { Add(machine_->OnEngineEvent(event, now_)); }
  void Exit(const std::string& how = "exited with code 0") {
    Add(machine_->OnEngineExit(how, now_));
  }
  void Complete(const absl::Status& status) { Add(machine_->OnComplete(status, now_)); }

  // Removes and returns the oldest action of a kind.
  template <typename Kind>
  std::optional<Kind> Take() {
    for (auto action = actions_.begin(); action != actions_.end(); ++action) {
      if (!std::holds_alternative<Kind>(*action)) continue;
      Kind found = std::get<Kind>(*action);
      actions_.erase(action);
      return found;
    }
    return std::nullopt;
  }

  // The engine has finished and its exit was seen; the commit is under way.
  void Commit() {
    Event(FinishedEvent());
    Exit();
    ASSERT_TRUE(Take<SendComplete>()->request.has_success());
  }

  double SecondOf(TimePoint time) const {
    return std::chrono::duration<double>(time - start_).count();
  }

  struct Sent {
    TimePoint time;
    v1::HeartbeatRequest request;
  };

  const TimePoint start_ = TimePoint() + std::chrono::hours(1);
  TimePoint now_ = start_;
  bool device_was_there_ = false;
  std::optional<LeaseMachine> machine_;
  Actions actions_;
  std::optional<absl::StatusOr<v1::HeartbeatResponse>> answer_;
  std::vector<Sent> heartbeats_;
};

TEST_F(LeaseMachineTest, EngineGetsTheLeasesJob) {
  Begin();
  const v1::StartRun start = Take<StartEngine>()->start;
  EXPECT_EQ(start.job(), "projects/p/jobs/j");
  EXPECT_EQ(start.job_uid(), "uid");
  EXPECT_EQ(start.attempt(), 2);
  EXPECT_EQ(start.fence(), 7);
  EXPECT_EQ(start.spec().limits().max_runtime().seconds(), 3600);
}

TEST_F(LeaseMachineTest, FinishedRunIsCommittedThenPublishedThenConfirmed) {
  Begin();
  Event(FinishedEvent());
  EXPECT_FALSE(Take<SendComplete>());
  Exit();
  const v1::CompleteLeaseRequest commit = Take<SendComplete>()->request;
  EXPECT_EQ(commit.lease_token(), "token");
  EXPECT_EQ(commit.fence(), 7);
  EXPECT_EQ(commit.success().manifest_sha256(), "abc");
  EXPECT_EQ(commit.success().report().job(), "projects/p/jobs/j");
  EXPECT_FALSE(Take<Publish>());
  Complete(absl::OkStatus());
  const Publish publish = *Take<Publish>();
  EXPECT_EQ(publish.attempt, 2);
  EXPECT_EQ(publish.fence, 7);
  EXPECT_EQ(publish.manifest_sha256, "abc");
  EXPECT_FALSE(Take<SendComplete>());
  Add(machine_->OnPublished(absl::OkStatus(), now_));
  EXPECT_EQ(Take<SendComplete>()->request.published().manifest_sha256(), "abc");
  EXPECT_FALSE(machine_->outcome());
  Complete(absl::OkStatus());
  EXPECT_EQ(machine_->outcome(), Outcome::kReported);
}

TEST_F(LeaseMachineTest, PublishOnlyLeasePublishesTheCommittingAttemptWithoutAnEngine) {
  Begin(PublishOnlyLease());
  EXPECT_FALSE(Take<StartEngine>());
  const Publish publish = *Take<Publish>();
  EXPECT_EQ(publish.attempt, 1);
  EXPECT_EQ(publish.fence, 3);
  Add(machine_->OnPublished(absl::OkStatus(), now_));
  const v1::CompleteLeaseRequest request = Take<SendComplete>()->request;
  EXPECT_EQ(request.fence(), 7);
  EXPECT_EQ(request.published().manifest_sha256(), "abc");
}

TEST_F(LeaseMachineTest, HeartbeatsGoOutEveryThirdOfTheLeaseFromTheMomentOfAsking) {
  Begin();
  answer_ = Order(v1::DIRECTIVE_CONTINUE);
  Pass(31);
  ASSERT_EQ(heartbeats_.size(), 3);
  EXPECT_DOUBLE_EQ(SecondOf(heartbeats_[0].time), 10);
  EXPECT_DOUBLE_EQ(SecondOf(heartbeats_[1].time), 20);
  EXPECT_DOUBLE_EQ(SecondOf(heartbeats_[2].time), 30);
}

TEST_F(LeaseMachineTest, ServerMayAskForMoreHeartbeatsButNotForFewerThanEveryThird) {
  Begin();
  answer_ = Order(v1::DIRECTIVE_CONTINUE);
  *(*answer_)->mutable_next_heartbeat_after() = TimeUtil::SecondsToDuration(5);
  Pass(15);
  EXPECT_EQ(heartbeats_.size(), 2);  // 10, 15
  *(*answer_)->mutable_next_heartbeat_after() = TimeUtil::SecondsToDuration(25);
  Pass(31);
  EXPECT_EQ(heartbeats_.size(), 4);  // 20, 30
}

TEST_F(LeaseMachineTest, NewSampleIsSentWithinASecondAndOnce) {
  Begin();
  answer_ = Order(v1::DIRECTIVE_CONTINUE);
  Pass(4);
  Event(SampleEvent(1));
  Pass(4.2);
  Event(SampleEvent(2));
  Pass(5.5);
  ASSERT_EQ(heartbeats_.size(), 2);
  EXPECT_DOUBLE_EQ(SecondOf(heartbeats_[0].time), 4);
  ASSERT_EQ(heartbeats_[0].request.samples_size(), 1);
  EXPECT_DOUBLE_EQ(SecondOf(heartbeats_[1].time), 5);
  ASSERT_EQ(heartbeats_[1].request.samples_size(), 1);
  EXPECT_EQ(heartbeats_[1].request.samples(0).step(), 2);
  Pass(20);
  EXPECT_EQ(heartbeats_.back().request.samples_size(), 0);
}

TEST_F(LeaseMachineTest, HeartbeatWithoutAnAnswerIsRepeatedUnchangedUnderItsNumber) {
  Begin();
  Pass(4);
  Event(SampleEvent(1));
  answer_ = absl::StatusOr<v1::HeartbeatResponse>(Unavailable());
  Pass(4.1);
  Event(SampleEvent(2));
  Pass(5);
  answer_ = Order(v1::DIRECTIVE_CONTINUE);
  Pass(9);
  ASSERT_GE(heartbeats_.size(), 3);
  EXPECT_EQ(heartbeats_[0].request.sequence(), 1);
  EXPECT_EQ(heartbeats_[1].request.SerializeAsString(), heartbeats_[0].request.SerializeAsString());
  EXPECT_EQ(heartbeats_.back().request.sequence(), 2);
  EXPECT_EQ(heartbeats_.back().request.samples(0).step(), 2);
}

TEST_F(LeaseMachineTest, FailingHeartbeatsBackOffUpToTheInterval) {
  Begin();
  answer_ = absl::StatusOr<v1::HeartbeatResponse>(Unavailable());
  Pass(60);
  // After the one at 10 s: 0.5, 1, 2, 4, 8, then every 10 s.
  std::vector<double> times;
  for (const Sent& sent : heartbeats_) times.push_back(SecondOf(sent.time));
  EXPECT_THAT(times, ::testing::ElementsAre(10, 10.5, 11.5, 13.5, 17.5, 25.5, 35.5, 45.5, 55.5));
}

TEST_F(LeaseMachineTest, OnlyOneHeartbeatIsUnderWay) {
  Begin();
  Pass(10);
  EXPECT_TRUE(Take<SendHeartbeat>());
  Event(SampleEvent(1));
  Pass(25);
  EXPECT_FALSE(Take<SendHeartbeat>());
}

TEST_F(LeaseMachineTest, EngineGoesOnWhileTheServerIsAway) {
  Begin();
  answer_ = absl::StatusOr<v1::HeartbeatResponse>(Unavailable());
  Pass(600);
  EXPECT_FALSE(Take<KillEngine>());
  EXPECT_FALSE(Take<CancelEngine>());
  answer_ = Order(v1::DIRECTIVE_CONTINUE);
  Pass(620);
  Commit();
  Complete(absl::OkStatus());
  EXPECT_TRUE(Take<Publish>());
}

TEST_F(LeaseMachineTest, NothingIsPublishedAfterTheTimeToLiveUntilAHeartbeatIsConfirmed) {
  Begin();
  answer_ = absl::StatusOr<v1::HeartbeatResponse>(Unavailable());
  Pass(40);
  Commit();
  Complete(absl::OkStatus());
  EXPECT_FALSE(Take<Publish>());
  answer_ = Order(v1::DIRECTIVE_CONTINUE);
  Pass(41);
  EXPECT_TRUE(Take<Publish>());
}

TEST_F(LeaseMachineTest, ServerThatComesBackAndRefusesTheLeaseEndsTheEngine) {
  Begin();
  Take<StartEngine>();
  answer_ = absl::StatusOr<v1::HeartbeatResponse>(Unavailable());
  Pass(100);
  answer_ = absl::StatusOr<v1::HeartbeatResponse>(LeaseLost());
  Pass(120);
  EXPECT_TRUE(Take<KillEngine>());
  Exit("was killed by signal 9 (Killed)");
  EXPECT_TRUE(Take<RemoveAttempt>());
  EXPECT_FALSE(machine_->outcome());
  Add(machine_->OnAttemptRemoved(now_));
  EXPECT_EQ(machine_->outcome(), Outcome::kLost);
  EXPECT_TRUE(actions_.empty());
}

TEST_F(LeaseMachineTest, ServerThatAnswersWithErrorsBeyondTheTimeToLiveHasTakenTheLease) {
  Begin();
  answer_ = absl::StatusOr<v1::HeartbeatResponse>(absl::InternalError("disk"));
  Pass(29.9);
  EXPECT_FALSE(Take<KillEngine>());
  Pass(30);
  EXPECT_TRUE(Take<KillEngine>());
}

// Such a server can give the lease to nobody else.
TEST_F(LeaseMachineTest, AServerWithAFullDiskIsAsGoodAsAway) {
  Begin();
  answer_ = absl::StatusOr<v1::HeartbeatResponse>(
      Error(absl::StatusCode::kResourceExhausted, "STORE_FULL", "no space"));
  Pass(300);
  EXPECT_FALSE(Take<KillEngine>());
  EXPECT_FALSE(machine_->outcome());
}

TEST_F(LeaseMachineTest, ACommitThatTheServersDiskHasNoRoomForIsRepeated) {
  Begin();
  Commit();
  Complete(Error(absl::StatusCode::kResourceExhausted, "STORE_FULL", "no space"));
  EXPECT_FALSE(Take<RemoveAttempt>());
  Take<SendComplete>();
  Pass(25);
  EXPECT_TRUE(Take<SendComplete>()->request.has_success());
}

TEST_F(LeaseMachineTest, TimeToLiveRunsFromWhenTheRequestWasSent) {
  Begin();
  Pass(10);
  ASSERT_TRUE(Take<SendHeartbeat>());
  // Sent at 10, answered at 15: good until 40.
  now_ = start_ + seconds(15);
  Add(machine_->OnHeartbeat(Order(v1::DIRECTIVE_CONTINUE), start_ + seconds(10), now_));
  answer_ = absl::StatusOr<v1::HeartbeatResponse>(absl::InternalError("disk"));
  Pass(39.9);
  EXPECT_FALSE(Take<KillEngine>());
  Pass(40);
  EXPECT_TRUE(Take<KillEngine>());
}

TEST_F(LeaseMachineTest, AbandonKillsTheEngineRemovesItsFilesAndWritesNothingMore) {
  Begin();
  Take<StartEngine>();
  Obey(v1::DIRECTIVE_ABANDON);
  EXPECT_TRUE(Take<KillEngine>());
  Exit("was killed by signal 9 (Killed)");
  EXPECT_TRUE(Take<RemoveAttempt>());
  EXPECT_FALSE(machine_->outcome());
  Add(machine_->OnAttemptRemoved(now_));
  EXPECT_EQ(machine_->outcome(), Outcome::kLost);
  EXPECT_TRUE(actions_.empty());
}

TEST_F(LeaseMachineTest, CancelStopsTheEngineRemovesItsFilesAndIsReported) {
  Begin();
  Obey(v1::DIRECTIVE_CANCEL);
  EXPECT_TRUE(Take<CancelEngine>());
  Event(FailedEvent());
  Exit();
  EXPECT_TRUE(Take<RemoveAttempt>());
  EXPECT_FALSE(Take<SendComplete>());
  Add(machine_->OnAttemptRemoved(now_));
  EXPECT_TRUE(Take<SendComplete>()->request.has_cancelled());
  Complete(absl::OkStatus());
  EXPECT_EQ(machine_->outcome(), Outcome::kReported);
}

TEST_F(LeaseMachineTest, DeafEngineIsKilledTenSecondsAfterACancel) {
  Begin();
  Obey(v1::DIRECTIVE_CANCEL);  // at 10 s
  answer_ = Order(v1::DIRECTIVE_CANCEL);
  Pass(19.9);
  EXPECT_FALSE(Take<KillEngine>());
  Pass(20);
  EXPECT_TRUE(Take<KillEngine>());
  EXPECT_TRUE(Take<CancelEngine>());
  EXPECT_FALSE(Take<CancelEngine>()) << "asked once";
}

TEST_F(LeaseMachineTest, CommitThatLosesTheRaceAgainstACancelIsCancelled) {
  Begin();
  Commit();
  Complete(absl::FailedPreconditionError("the job is CANCELLING"));
  EXPECT_TRUE(Take<RemoveAttempt>());
  Add(machine_->OnAttemptRemoved(now_));
  EXPECT_TRUE(Take<SendComplete>()->request.has_cancelled());
}

TEST_F(LeaseMachineTest, CancelAfterTheCommitChangesNothing) {
  Begin();
  Commit();
  Obey(v1::DIRECTIVE_CANCEL);
  Complete(absl::OkStatus());
  EXPECT_TRUE(Take<Publish>());
  EXPECT_FALSE(Take<RemoveAttempt>());
}

TEST_F(LeaseMachineTest, ReleaseOrderGivesTheJobBack) {
  Begin();
  Obey(v1::DIRECTIVE_RELEASE);
  EXPECT_TRUE(Take<CancelEngine>());
  Exit();
  EXPECT_TRUE(Take<RemoveAttempt>());
  Add(machine_->OnAttemptRemoved(now_));
  EXPECT_EQ(Take<SendRelease>()->request.reason(), v1::ReleaseLeaseRequest::REASON_DRAIN);
  Add(machine_->OnRelease(absl::OkStatus(), now_));
  EXPECT_EQ(machine_->outcome(), Outcome::kReleased);
}

TEST_F(LeaseMachineTest, FailureOfTheRunIsReportedAsTheEngineGaveIt) {
  Begin();
  Event(FailedEvent());
  Exit();
  Add(machine_->OnAttemptRemoved(now_));
  const v1::CompleteLeaseRequest request = Take<SendComplete>()->request;
  EXPECT_EQ(request.failure().failure_class(), v1::FAILURE_CLASS_USER_ERROR);
  EXPECT_EQ(ErrorReason(FromProto(request.failure().status())), "TEXT_TOO_SHORT");
}

TEST_F(LeaseMachineTest, StageInWhichTheRunFailedIsToldBeforeTheFailure) {
  Begin();
  v1::EngineEvent fetching;
  fetching.mutable_progress()->set_stage(v1::STAGE_FETCH);
  Event(fetching);
  Event(FailedEvent());
  Exit();
  Add(machine_->OnAttemptRemoved(now_));
  EXPECT_FALSE(Take<SendComplete>());
  Obey(v1::DIRECTIVE_CONTINUE);
  EXPECT_EQ(heartbeats_.back().request.progress().stage(), v1::STAGE_FETCH);
  EXPECT_TRUE(Take<SendComplete>()->request.has_failure());
}

TEST_F(LeaseMachineTest, EngineThatDiesIsAnInfrastructureFailureThatNamesTheSignal) {
  Begin();
  Event(SampleEvent(1));
  Exit("was killed by signal 9 (Killed)");
  EXPECT_TRUE(Take<RemoveAttempt>());
  Add(machine_->OnAttemptRemoved(now_));
  // The sample is told first: after the outcome nobody would take it.
  EXPECT_FALSE(Take<SendComplete>());
  answer_ = Order(v1::DIRECTIVE_CONTINUE);
  Pass(5);
  const auto complete = Take<SendComplete>();
  ASSERT_TRUE(complete);
  const v1::CompleteLeaseRequest& request = complete->request;
  EXPECT_EQ(request.failure().failure_class(), v1::FAILURE_CLASS_INFRASTRUCTURE);
  EXPECT_EQ(ErrorReason(FromProto(request.failure().status())), "ENGINE_DIED");
  EXPECT_THAT(request.failure().status().message(), HasSubstr("signal 9 (Killed)"));
}

TEST_F(LeaseMachineTest, EngineThatDoesNotEndAfterItsLastEventIsKilled) {
  Begin();
  answer_ = Order(v1::DIRECTIVE_CONTINUE);
  Event(FinishedEvent());  // at 1 s
  Pass(10.9);
  EXPECT_FALSE(Take<KillEngine>());
  Pass(11);
  EXPECT_TRUE(Take<KillEngine>());
  Exit("was killed by signal 9 (Killed)");
  EXPECT_TRUE(Take<SendComplete>()->request.has_success());
}

TEST_F(LeaseMachineTest, AttemptBeyondMaxRuntimeFailsForGood) {
  Begin();
  answer_ = Order(v1::DIRECTIVE_CONTINUE);
  Pass(3600.9);
  EXPECT_FALSE(Take<CancelEngine>());
  Pass(3601);
  EXPECT_TRUE(Take<CancelEngine>());
  Exit();
  Add(machine_->OnAttemptRemoved(now_));
  const v1::CompleteLeaseRequest request = Take<SendComplete>()->request;
  EXPECT_EQ(request.failure().failure_class(), v1::FAILURE_CLASS_USER_ERROR);
  EXPECT_EQ(ErrorReason(FromProto(request.failure().status())), "MAX_RUNTIME_EXCEEDED");
  EXPECT_THAT(request.failure().status().message(), HasSubstr("3600 s"));
}

TEST_F(LeaseMachineTest, OutcomeIsRepeatedUntilItIsAnswered) {
  Begin();
  answer_ = absl::StatusOr<v1::HeartbeatResponse>(Unavailable());
  Commit();
  for (int i = 0; i < 20; ++i) {
    Complete(Unavailable());
    EXPECT_FALSE(Take<SendComplete>()) << "at once";
    Pass(SecondOf(now_) + 10);
    ASSERT_TRUE(Take<SendComplete>()) << i;
  }
  Complete(absl::OkStatus());
  EXPECT_FALSE(machine_->outcome());
}

TEST_F(LeaseMachineTest, CommitOfALostLeaseLeavesTheFilesAlone) {
  Begin();
  Commit();
  Complete(LeaseLost());
  EXPECT_EQ(machine_->outcome(), Outcome::kLost);
  EXPECT_FALSE(Take<RemoveAttempt>());
}

// The commit that was not answered may have been taken, and the files are then the next holder's.
TEST_F(LeaseMachineTest, RefusalAfterACommitWithoutAnAnswerLeavesTheFilesAlone) {
  Begin();
  answer_ = Order(v1::DIRECTIVE_CONTINUE);
  Commit();
  Complete(Unavailable());
  Pass(25);
  ASSERT_TRUE(Take<SendComplete>());
  Complete(absl::PermissionDeniedError("the ingress refuses"));
  EXPECT_FALSE(Take<RemoveAttempt>());
  EXPECT_EQ(machine_->outcome(), Outcome::kLost);
}

TEST_F(LeaseMachineTest, LeaseLostWhilePublishingWaitsForThePublisher) {
  Begin(PublishOnlyLease());
  Obey(v1::DIRECTIVE_ABANDON);
  EXPECT_FALSE(machine_->outcome());
  Add(machine_->OnPublished(absl::OkStatus(), now_));
  EXPECT_EQ(machine_->outcome(), Outcome::kLost);
  EXPECT_FALSE(Take<SendComplete>());
}

TEST_F(LeaseMachineTest, FullDiskWhilePublishingIsTriedFiveTimesThenTransient) {
  Begin(PublishOnlyLease());
  answer_ = Order(v1::DIRECTIVE_CONTINUE);
  int tries = 0;
  while (Take<Publish>()) {
    ++tries;
    Add(machine_->OnPublished(
        Error(absl::StatusCode::kResourceExhausted, "DISK_FULL", "/out: no space"), now_));
    Pass(SecondOf(now_) + 10);
  }
  EXPECT_EQ(tries, 5);
  const v1::CompleteLeaseRequest request = Take<SendComplete>()->request;
  EXPECT_EQ(request.failure().failure_class(), v1::FAILURE_CLASS_TRANSIENT);
  EXPECT_EQ(ErrorReason(FromProto(request.failure().status())), "DISK_FULL");
}

TEST_F(LeaseMachineTest, OutputInUseWhilePublishingFailsForGoodAtOnce) {
  Begin(PublishOnlyLease());
  Take<Publish>();
  Add(machine_->OnPublished(
      Error(absl::StatusCode::kFailedPrecondition, "OUTPUT_IN_USE", "/out/gptq: came there"),
      now_));
  Obey(v1::DIRECTIVE_CONTINUE);
  EXPECT_EQ(Take<SendComplete>()->request.failure().failure_class(), v1::FAILURE_CLASS_USER_ERROR);
}

TEST_F(LeaseMachineTest, ContentThatIsNotTheCommittedOneFailsForGoodAtOnce) {
  Begin(PublishOnlyLease());
  Take<Publish>();
  Add(machine_->OnPublished(
      Error(absl::StatusCode::kDataLoss, "MANIFEST_MISMATCH", "/out/1-3: is gone"), now_));
  Obey(v1::DIRECTIVE_CONTINUE);
  EXPECT_EQ(Take<SendComplete>()->request.failure().failure_class(), v1::FAILURE_CLASS_USER_ERROR);
}

TEST_F(LeaseMachineTest, WhatMayBeThisMachinesOwnTroubleLeavesThePublicationToOthers) {
  for (const absl::Status& status :
       {Error(absl::StatusCode::kPermissionDenied, "OBJECT_ACCESS_DENIED", "the clock is off"),
        Error(absl::StatusCode::kFailedPrecondition, "NO_CREDENTIALS", "there are no keys"),
        Error(absl::StatusCode::kFailedPrecondition, "TLS_FAILED", "not trusted"),
        Error(absl::StatusCode::kNotFound, "BUCKET_NOT_FOUND", "another endpoint"),
        Error(absl::StatusCode::kDataLoss, "OBJECT_CORRUPT", "arrived as others")}) {
    actions_.clear();
    Begin(PublishOnlyLease());
    answer_ = Order(v1::DIRECTIVE_CONTINUE);
    int tries = 0;
    while (Take<Publish>()) {
      ++tries;
      Add(machine_->OnPublished(status, now_));
      Pass(SecondOf(now_) + 10);
    }
    EXPECT_EQ(tries, 5) << status;
    const auto complete = Take<SendComplete>();
    ASSERT_TRUE(complete) << status;
    EXPECT_EQ(complete->request.failure().failure_class(), v1::FAILURE_CLASS_TRANSIENT) << status;
  }
}

TEST_F(LeaseMachineTest, DrainGivesTheJobBackAtOnce) {
  Begin();
  Add(machine_->OnDrain(now_));
  EXPECT_TRUE(Take<CancelEngine>());
  Event(FailedEvent());
  Exit();
  EXPECT_TRUE(Take<RemoveAttempt>());
  Add(machine_->OnAttemptRemoved(now_));
  EXPECT_FALSE(Take<SendComplete>());
  const v1::ReleaseLeaseRequest request = Take<SendRelease>()->request;
  EXPECT_EQ(request.lease_token(), "token");
  EXPECT_EQ(request.fence(), 7);
  EXPECT_EQ(request.reason(), v1::ReleaseLeaseRequest::REASON_DRAIN);
  Add(machine_->OnRelease(absl::OkStatus(), now_));
  EXPECT_EQ(machine_->outcome(), Outcome::kReleased);
}

TEST_F(LeaseMachineTest, DeafEngineIsKilledOneSecondAfterADrain) {
  Begin();
  Add(machine_->OnDrain(now_));  // at 1 s
  Pass(1.9);
  EXPECT_FALSE(Take<KillEngine>());
  Pass(2);
  EXPECT_TRUE(Take<KillEngine>());
}

TEST_F(LeaseMachineTest, DrainLetsAFinishedRunPublish) {
  Begin();
  Event(FinishedEvent());
  Add(machine_->OnDrain(now_));
  EXPECT_FALSE(Take<CancelEngine>());
  Exit();
  EXPECT_TRUE(Take<SendComplete>()->request.has_success());
  Complete(absl::OkStatus());
  EXPECT_TRUE(Take<Publish>());
}

TEST_F(LeaseMachineTest, RunThatFinishesWhileItIsStoppedForADrainIsPublished) {
  Begin();
  Add(machine_->OnDrain(now_));
  Event(FinishedEvent());
  Exit();
  EXPECT_TRUE(Take<SendComplete>()->request.has_success());
  EXPECT_FALSE(Take<RemoveAttempt>());
}

TEST_F(LeaseMachineTest, DrainGivesUpOnAServerThatDoesNotAnswer) {
  Begin();
  Add(machine_->OnDrain(now_));  // at 1 s
  Exit();
  Add(machine_->OnAttemptRemoved(now_));
  answer_ = absl::StatusOr<v1::HeartbeatResponse>(Unavailable());
  Add(machine_->OnRelease(Unavailable(), now_));
  Pass(15.9);
  EXPECT_FALSE(machine_->outcome());
  Pass(16);
  EXPECT_EQ(machine_->outcome(), Outcome::kUnreported);
}

TEST_F(LeaseMachineTest, JobWhoseDeviceIsGoneGoesBackAsOneWhoseMachineIs) {
  device_was_there_ = true;
  Begin();
  v1::EngineEvent event = FailedEvent();
  *event.mutable_failed()->mutable_status() =
      ToProto(Error(absl::StatusCode::kFailedPrecondition, "DEVICE_NOT_AVAILABLE", "none"));
  Event(event);
  Exit();
  EXPECT_TRUE(Take<RemoveAttempt>());
  Add(machine_->OnAttemptRemoved(now_));
  EXPECT_EQ(Take<SendRelease>()->request.reason(), v1::ReleaseLeaseRequest::REASON_PREEMPTED);
  Add(machine_->OnRelease(absl::OkStatus(), now_));
  EXPECT_EQ(machine_->outcome(), Outcome::kReleased);
  EXPECT_EQ(ErrorReason(machine_->device_gone()), "DEVICE_NOT_AVAILABLE");
}

// As where a plugin is named that does not load: no worker like this one has it.
TEST_F(LeaseMachineTest, JobWhoseDeviceWasNeverThereFails) {
  Begin();
  v1::EngineEvent event = FailedEvent();
  *event.mutable_failed()->mutable_status() =
      ToProto(Error(absl::StatusCode::kFailedPrecondition, "DEVICE_NOT_AVAILABLE", "none"));
  Event(event);
  Exit();
  Add(machine_->OnAttemptRemoved(now_));
  EXPECT_TRUE(Take<SendComplete>()->request.has_failure());
  EXPECT_TRUE(machine_->device_gone().ok());
}

// The server answers all the while, and has the whole limit for what comes next.
TEST_F(LeaseMachineTest, DrainWaitsUntilTheFilesAreRemovedAndGivesTheJobBack) {
  Begin();
  Add(machine_->OnDrain(now_));
  Exit();
  answer_ = Order(v1::DIRECTIVE_CONTINUE);
  Pass(25);
  ASSERT_FALSE(machine_->outcome());
  Add(machine_->OnAttemptRemoved(now_));
  EXPECT_TRUE(Take<SendRelease>());
  Pass(39.9);
  EXPECT_FALSE(machine_->outcome());
  Pass(40);
  EXPECT_EQ(machine_->outcome(), Outcome::kUnreported);
}

TEST_F(LeaseMachineTest, DrainWaitsForAFinishedEngineToEndAndCommits) {
  Begin();
  Event(FinishedEvent());
  Add(machine_->OnDrain(now_));
  answer_ = Order(v1::DIRECTIVE_CONTINUE);
  Pass(25);
  ASSERT_FALSE(machine_->outcome());
  Exit("was killed by signal 9 (Killed)");
  Add(machine_->OnTimer(now_));
  EXPECT_FALSE(machine_->outcome());
  EXPECT_TRUE(Take<SendComplete>()->request.has_success());
}

TEST_F(LeaseMachineTest, DrainDoesNotCutAPublicationShort) {
  Begin(PublishOnlyLease());
  Add(machine_->OnDrain(now_));
  answer_ = Order(v1::DIRECTIVE_CONTINUE);
  Pass(25);
  EXPECT_FALSE(machine_->outcome());
  Add(machine_->OnPublished(absl::OkStatus(), now_));
  Add(machine_->OnTimer(now_));
  EXPECT_FALSE(machine_->outcome());
  EXPECT_TRUE(Take<SendComplete>()->request.has_published());
  Complete(absl::OkStatus());
  EXPECT_EQ(machine_->outcome(), Outcome::kReported);
}

TEST_F(LeaseMachineTest, DrainGivesUpOnAServerThatDoesNotConfirmTheLeaseBeforeThePublication) {
  Begin();
  answer_ = absl::StatusOr<v1::HeartbeatResponse>(Unavailable());
  Pass(40);
  Commit();
  Complete(absl::OkStatus());
  Add(machine_->OnDrain(now_));
  Pass(54.9);
  EXPECT_FALSE(machine_->outcome());
  Pass(55);
  EXPECT_EQ(machine_->outcome(), Outcome::kUnreported);
  EXPECT_FALSE(Take<Publish>());
}

TEST_F(LeaseMachineTest, CancelDuringADrainCancels) {
  Begin();
  Add(machine_->OnDrain(now_));
  Pass(1.5);
  Event(SampleEvent(1));
  Obey(v1::DIRECTIVE_CANCEL);
  Exit();
  Add(machine_->OnAttemptRemoved(now_));
  EXPECT_TRUE(Take<SendComplete>()->request.has_cancelled());
}

TEST_F(LeaseMachineTest, LargeBacklogOfSamplesIsSentInParts) {
  Begin();
  for (int step = 1; step <= 2500; ++step) Event(SampleEvent(step));
  answer_ = Order(v1::DIRECTIVE_CONTINUE);
  Pass(4);
  int expected = 1;
  for (const Sent& sent : heartbeats_) {
    EXPECT_LE(sent.request.samples_size(), 1000);
    for (const auto& sample : sent.request.samples()) EXPECT_EQ(sample.step(), expected++);
  }
  EXPECT_EQ(expected, 2501);
}

}  // namespace
}  // namespace teq::agent
