#include "gmock/gmock.h"
#include "proto/spec/error.h"
#include "tests/unit/server/harness.h"

namespace teq::queue {
namespace {

using teq::testing::NewJob;
using teq::testing::Sha;
using teq::v1::Job;
using teq::v1::Lease;
using ::testing::HasSubstr;

class CancelTest : public teq::testing::QueueTest {};
class RetryTest : public teq::testing::QueueTest {};
class UpdateTest : public teq::testing::QueueTest {};
class DeleteTest : public teq::testing::QueueTest {};

TEST_F(CancelTest, WaitingJobIsCancelledAtOnceAndARepeatIsHarmless) {
  const Job job = Create(NewJob("a"));
  const auto cancelled = Cancel(job.name());
  EXPECT_EQ(cancelled->state(), Job::STATE_CANCELLED);
  EXPECT_EQ(ErrorReason(FromProto(cancelled->error())), "JOB_CANCELLED");
  EXPECT_EQ(Cancel(job.name())->SerializeAsString(), cancelled->SerializeAsString());
}

TEST_F(CancelTest, RunningJobIsCancelledWhenItsWorkerSaysSo) {
  const Job job = Create(NewJob("a"));
  const Lease lease = Acquire(Register("w1"));
  EXPECT_EQ(Cancel(job.name())->state(), Job::STATE_CANCELLING);
  EXPECT_EQ(Cancel(job.name())->state(), Job::STATE_CANCELLING);
  EXPECT_EQ(Beat(lease, 1)->directive(), teq::v1::DIRECTIVE_CANCEL);
  EXPECT_EQ(StopCancelled(lease)->state(), Job::STATE_CANCELLED);
  EXPECT_EQ(StopCancelled(lease)->state(), Job::STATE_CANCELLED) << "a repeat is harmless";
}

TEST_F(CancelTest, SilentWorkerIsGivenUpAfterTheLease) {
  const Job job = Create(NewJob("a"));
  const Lease lease = Acquire(Register("w1"));
  ASSERT_TRUE(Cancel(job.name()).ok());
  Pass(absl::Seconds(20));
  EXPECT_EQ(Beat(lease, 1)->lease_ttl().seconds(), 10) << "heartbeats win no more time";
  Pass(absl::Seconds(10));
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_CANCELLED);
  EXPECT_EQ(ErrorReason(StopCancelled(lease).status()), "LEASE_LOST");
}

TEST_F(CancelTest, CancelledJobTakesNoContent) {
  const Job job = Create(NewJob("a"));
  const Lease lease = Acquire(Register("w1"));
  ASSERT_TRUE(Cancel(job.name()).ok());
  EXPECT_EQ(ErrorReason(Succeed(lease, Sha('a')).status()), "JOB_CANCELLED");
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_CANCELLING);
}

TEST_F(CancelTest, FailureOrReleaseOfACancelledJobEndsIt) {
  const Job failing = Create(NewJob("a"));
  const Lease lease = Acquire(Register("w1"));
  ASSERT_TRUE(Cancel(failing.name()).ok());
  EXPECT_EQ(Fail(lease, teq::v1::FAILURE_CLASS_USER_ERROR)->state(), Job::STATE_CANCELLED);
  const Job released = Create(NewJob("b"));
  const Lease other = Acquire(Register("w2"));
  ASSERT_TRUE(Cancel(released.name()).ok());
  EXPECT_EQ(Release(other, teq::v1::ReleaseLeaseRequest::REASON_DRAIN)->state(),
            Job::STATE_CANCELLED);
}

TEST_F(CancelTest, PublishingAndFinishedJobsCannotBeCancelled) {
  const Job job = Create(NewJob("a"));
  const Lease lease = Acquire(Register("w1"));
  ASSERT_TRUE(Succeed(lease, Sha('a')).ok());
  const absl::Status publishing = Cancel(job.name()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(publishing));
  EXPECT_EQ(ErrorReason(publishing), "JOB_PUBLISHING");
  ASSERT_TRUE(Publish(lease, Sha('a')).ok());
  const absl::Status finished = Cancel(job.name()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(finished));
  EXPECT_EQ(ErrorReason(finished), "JOB_FINISHED");
  EXPECT_THAT(std::string(finished.message()), HasSubstr("is SUCCEEDED"));
}

TEST_F(CancelTest, UncancelledJobCannotBeCompletedAsCancelled) {
  Create(NewJob("a"));
  EXPECT_EQ(ErrorReason(StopCancelled(Acquire(Register("w1"))).status()), "NOT_CANCELLED");
}

TEST_F(CancelTest, UnknownJobIsNotFound) {
  const absl::Status status = Cancel("projects/p/jobs/none").status();
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_EQ(ErrorReason(status), "JOB_NOT_FOUND");
}

TEST_F(CancelTest, StaleEtagIsRefused) {
  const Job job = Create(NewJob("a"));
  Acquire(Register("w1"));
  teq::v1::CancelJobRequest request;
  request.set_name(job.name());
  request.set_etag(job.etag());
  const absl::Status status = queue_->CancelJob(request).status();
  EXPECT_TRUE(absl::IsAborted(status));
  EXPECT_EQ(ErrorReason(status), "ETAG_MISMATCH");
  request.set_etag(Get(job.name()).etag());
  EXPECT_TRUE(queue_->CancelJob(request).ok());
}

TEST_F(RetryTest, FailedJobIsQueuedWithANewBudgetAndAGrowingFence) {
  auto request = NewJob("a");
  request.mutable_job()->mutable_spec()->mutable_limits()->set_max_attempts(1);
  const Job job = Create(request);
  const std::string session = Register("w1");
  ASSERT_TRUE(Fail(Acquire(session), teq::v1::FAILURE_CLASS_TRANSIENT).ok());
  ASSERT_EQ(Get(job.name()).state(), Job::STATE_FAILED);
  const auto retried = Retry(job.name());
  ASSERT_TRUE(retried.ok()) << retried.status();
  EXPECT_EQ(retried->state(), Job::STATE_QUEUED);
  EXPECT_FALSE(retried->has_error());
  EXPECT_FALSE(retried->dead_letter());
  EXPECT_FALSE(retried->has_end_time());
  const Lease lease = Acquire(session);
  EXPECT_EQ(lease.fence(), 2);
  EXPECT_EQ(lease.attempt(), 2);
  EXPECT_EQ(lease.job_uid(), job.uid());
  ASSERT_TRUE(Fail(lease, teq::v1::FAILURE_CLASS_TRANSIENT).ok());
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_FAILED) << "the new budget is one attempt too";
}

TEST_F(RetryTest, CancelledAndExpiredJobsCanBeRetried) {
  const Job job = Create(NewJob("a"));
  ASSERT_TRUE(Cancel(job.name()).ok());
  EXPECT_EQ(Retry(job.name())->state(), Job::STATE_QUEUED);
}

TEST_F(RetryTest, CommittedContentOfTheOldRunIsForgotten) {
  const Job job = Create(NewJob("a"));
  const std::string session = Register("w1");
  const Lease lease = Acquire(session);
  ASSERT_TRUE(Succeed(lease, Sha('a')).ok());
  ASSERT_TRUE(Fail(lease, teq::v1::FAILURE_CLASS_USER_ERROR).ok());
  ASSERT_TRUE(Retry(job.name()).ok());
  EXPECT_EQ(Get(job.name()).manifest_sha256(), "");
  EXPECT_FALSE(Get(job.name()).has_report());
  EXPECT_FALSE(Acquire(session).has_publish_only());
}

TEST_F(RetryTest, OtherStatesAreRefused) {
  const Job job = Create(NewJob("a"));
  const absl::Status status = Retry(job.name()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_EQ(ErrorReason(status), "JOB_NOT_RETRYABLE");
  const Lease lease = Acquire(Register("w1"));
  ASSERT_TRUE(Succeed(lease, Sha('a')).ok());
  ASSERT_TRUE(Publish(lease, Sha('a')).ok());
  EXPECT_EQ(ErrorReason(Retry(job.name()).status()), "JOB_NOT_RETRYABLE");
}

TEST_F(RetryTest, OutputTakenMeanwhileIsRefused) {
  const Job job = Create(NewJob("a"));
  ASSERT_TRUE(Cancel(job.name()).ok());
  Create(NewJob("a"));
  EXPECT_EQ(ErrorReason(Retry(job.name()).status()), "OUTPUT_IN_USE");
}

TEST_F(UpdateTest, ChangesPriorityOrLabelsByMaskAndTellsOfIt) {
  const Job job = Create(NewJob("a"));
  teq::v1::UpdateJobRequest request;
  request.mutable_job()->set_name(job.name());
  request.mutable_job()->set_priority(3);
  (*request.mutable_job()->mutable_labels())["team"] = "ads";
  request.mutable_update_mask()->add_paths("priority");
  const auto updated = queue_->UpdateJob(request);
  ASSERT_TRUE(updated.ok()) << updated.status();
  EXPECT_EQ(updated->priority(), 3);
  EXPECT_TRUE(updated->labels().empty());
  EXPECT_NE(updated->etag(), job.etag());
  request.clear_update_mask();
  const Job changed = *queue_->UpdateJob(request);
  EXPECT_EQ(changed.labels().at("team"), "ads");
  EXPECT_EQ(queue_->UpdateJob(request)->etag(), changed.etag()) << "nothing was left to change";
  const auto record = store_->Get(*ParseJobName(job.name()));
  const auto events = store_->ReadEvents((*record)->key, 1, 10);
  ASSERT_EQ(events->size(), 2U);
  EXPECT_EQ(events->at(0).attribute_change().priority(), 3);
}

TEST_F(UpdateTest, OtherFieldsCannotBeChanged) {
  const Job job = Create(NewJob("a"));
  teq::v1::UpdateJobRequest request;
  request.mutable_job()->set_name(job.name());
  request.mutable_update_mask()->add_paths("spec");
  const absl::Status status = queue_->UpdateJob(request).status();
  EXPECT_EQ(ErrorReason(status), "INVALID_UPDATE_MASK");
  EXPECT_THAT(std::string(status.message()), HasSubstr("spec cannot be changed"));
}

TEST_F(UpdateTest, HeartbeatsLeaveTheEtag) {
  const Job job = Create(NewJob("a"));
  const Lease lease = Acquire(Register("w1"));
  const std::string etag = Get(job.name()).etag();
  ASSERT_TRUE(Beat(lease, 1).ok());
  EXPECT_EQ(Get(job.name()).etag(), etag);
}

TEST_F(DeleteTest, FinishedJobIsForgottenAndItsNameFree) {
  auto create = NewJob("a");
  create.set_job_id("mine");
  const Job job = Create(create);
  teq::v1::DeleteJobRequest request;
  request.set_name(job.name());
  EXPECT_EQ(ErrorReason(queue_->DeleteJob(request)), "JOB_NOT_FINISHED");
  ASSERT_TRUE(Cancel(job.name()).ok());
  EXPECT_TRUE(queue_->DeleteJob(request).ok());
  EXPECT_EQ(ErrorReason(queue_->DeleteJob(request)), "JOB_NOT_FOUND");
  EXPECT_NE(Create(create).uid(), job.uid());
}

}  // namespace
}  // namespace teq::queue
