#include "gmock/gmock.h"
#include "proto/spec/error.h"
#include "proto/spec/validate.h"
#include "tests/unit/server/harness.h"

namespace teq::queue {
namespace {

using teq::v1::CreateJobRequest;
using teq::v1::Job;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

template <typename Message>
Message Detail(const absl::Status& status) {
  Message message;
  const auto payload =
      status.GetPayload("type.googleapis.com/" + std::string(Message::descriptor()->full_name()));
  EXPECT_TRUE(payload.has_value()) << status;
  if (payload) message.ParseFromString(std::string(*payload));
  return message;
}

class CreateJobTest : public teq::testing::QueueTest {};
using teq::testing::NewJob;

TEST_F(CreateJobTest, StoresAQueuedJobWithDefaultsAndItsFirstEvent) {
  CreateJobRequest request = NewJob("a");
  request.mutable_job()->set_priority(7);
  (*request.mutable_job()->mutable_labels())["team"] = "search";
  const Job job = Create(request);

  EXPECT_THAT(job.name(), MatchesRegex("projects/p/jobs/[a-z0-9-]+"));
  EXPECT_EQ(job.state(), Job::STATE_QUEUED);
  EXPECT_EQ(job.priority(), 7);
  EXPECT_EQ(job.labels().at("team"), "search");
  EXPECT_EQ(job.spec().recipe().weights().bits(), 4);
  EXPECT_EQ(job.spec().limits().max_attempts(), 3);
  EXPECT_EQ(job.spec_digest(), Digest(WithDefaults(request.job().spec())));
  EXPECT_EQ(job.create_time().seconds(), 1'800'000'000);
  EXPECT_EQ(Get(job.name()).SerializeAsString(), job.SerializeAsString());
  const auto record = store_->Get(*ParseJobName(job.name()));
  const auto events = store_->ReadEvents((*record)->key, 0, 10);
  ASSERT_EQ(events->size(), 1U);
  EXPECT_EQ(events->at(0).sequence(), 1);
  EXPECT_EQ(events->at(0).state_change().from(), Job::STATE_UNSPECIFIED);
  EXPECT_EQ(events->at(0).state_change().to(), Job::STATE_QUEUED);
}

TEST_F(CreateJobTest, SameRequestIdAndBodyAnswersWithTheFirstJob) {
  CreateJobRequest request = NewJob("a");
  request.set_request_id("7f4df65d-0a0c-4e06-a86e-1d3ab2a8d0c7");
  const Job first = Create(request);
  clock_.Advance(absl::Hours(24));
  ASSERT_TRUE(queue_->Reap().ok());
  EXPECT_EQ(Create(request).name(), first.name());
}

TEST_F(CreateJobTest, RequestIdSurvivesARestart) {
  CreateJobRequest request = NewJob("a");
  request.set_request_id("once");
  const Job first = Create(request);
  Open({});
  EXPECT_EQ(Create(request).uid(), first.uid());
}

TEST_F(CreateJobTest, RequestIdWithAnotherBodyIsRefused) {
  CreateJobRequest request = NewJob("a");
  request.set_request_id("once");
  Create(request);
  CreateJobRequest other = NewJob("b");
  other.set_request_id("once");
  const absl::Status status = queue_->CreateJob(other).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(ErrorReason(status), "REQUEST_ID_REUSED");
  EXPECT_THAT(std::string(status.message()), HasSubstr("once"));
}

TEST_F(CreateJobTest, RequestIdsOfOtherProjectsAreTheirOwn) {
  CreateJobRequest request = NewJob("a", "p");
  request.set_request_id("once");
  CreateJobRequest other = NewJob("b", "q");
  other.set_request_id("once");
  EXPECT_NE(Create(request).uid(), Create(other).uid());
}

TEST_F(CreateJobTest, ForgottenRequestIdCanBeUsedAgain) {
  CreateJobRequest request = NewJob("a");
  request.set_request_id("once");
  Create(request);
  clock_.Advance(absl::Hours(50));
  ASSERT_TRUE(queue_->Reap().ok());
  CreateJobRequest other = NewJob("b");
  other.set_request_id("once");
  EXPECT_TRUE(queue_->CreateJob(other).ok());
}

// Whoever got no answer before it may ask again only now.
TEST_F(CreateJobTest, RequestIdIsRememberedForAnHourAfterALongOutage) {
  CreateJobRequest request = NewJob("a");
  request.set_request_id("once");
  const Job first = Create(request);
  clock_.Advance(absl::Hours(50));
  Open({});
  ASSERT_TRUE(queue_->Reap().ok());
  EXPECT_EQ(Create(request).uid(), first.uid());
  clock_.Advance(absl::Minutes(61));
  ASSERT_TRUE(queue_->Reap().ok());
  CreateJobRequest other = NewJob("b");
  other.set_request_id("once");
  EXPECT_TRUE(queue_->CreateJob(other).ok());
}

TEST_F(CreateJobTest, SameJobIdAndSpecAnswersWithThatJob) {
  CreateJobRequest request = NewJob("a");
  request.set_job_id("mine");
  const Job first = Create(request);
  EXPECT_EQ(first.name(), "projects/p/jobs/mine");
  EXPECT_EQ(Create(request).uid(), first.uid());
}

TEST_F(CreateJobTest, SameJobIdWithAnotherSpecAlreadyExists) {
  CreateJobRequest request = NewJob("a");
  request.set_job_id("mine");
  Create(request);
  request.mutable_job()->mutable_spec()->mutable_recipe()->mutable_weights()->set_bits(3);
  const absl::Status status = queue_->CreateJob(request).status();
  EXPECT_TRUE(absl::IsAlreadyExists(status));
  EXPECT_EQ(ErrorReason(status), "JOB_EXISTS");
  EXPECT_EQ(Detail<google::rpc::ResourceInfo>(status).resource_name(), "projects/p/jobs/mine");
}

TEST_F(CreateJobTest, OutputOfAnUnfinishedJobIsInUse) {
  CreateJobRequest request = NewJob("a");
  request.set_job_id("first");
  Create(request);
  const absl::Status status = queue_->CreateJob(NewJob("a", "q")).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_EQ(ErrorReason(status), "OUTPUT_IN_USE");
  EXPECT_THAT(std::string(status.message()), HasSubstr("projects/p/jobs/first"));
  EXPECT_EQ(Detail<google::rpc::PreconditionFailure>(status).violations(0).subject(),
            "projects/p/jobs/first");
  ASSERT_TRUE(Cancel("projects/p/jobs/first").ok());
  EXPECT_TRUE(queue_->CreateJob(NewJob("a", "q")).ok());
}

TEST_F(CreateJobTest, SpellingsOfOneOutputAreOne) {
  Create(NewJob("a"));
  CreateJobRequest request = NewJob("a");
  request.mutable_job()->mutable_spec()->mutable_output()->set_uri("file:///out/%61");
  EXPECT_EQ(ErrorReason(queue_->CreateJob(request).status()), "OUTPUT_IN_USE");
}

TEST_F(CreateJobTest, ValidateOnlyStoresNothing) {
  CreateJobRequest request = NewJob("a");
  request.set_validate_only(true);
  const Job job = Create(request);
  EXPECT_EQ(job.name(), "");
  EXPECT_EQ(job.spec().recipe().weights().group_size(), 128);
  teq::v1::ListJobsRequest list;
  list.set_parent("projects/p");
  EXPECT_EQ(queue_->ListJobs(list)->jobs_size(), 0);
}

TEST_F(CreateJobTest, InvalidSpecNamesEveryField) {
  CreateJobRequest request = NewJob("a");
  request.mutable_job()->mutable_spec()->mutable_recipe()->mutable_weights()->set_bits(5);
  request.mutable_job()->mutable_spec()->mutable_model()->clear_uri();
  const absl::Status status = queue_->CreateJob(request).status();
  EXPECT_EQ(ErrorReason(status), "INVALID_SPEC");
  const auto details = Detail<google::rpc::BadRequest>(status);
  std::vector<std::string> fields;
  for (const auto& violation : details.field_violations()) fields.push_back(violation.field());
  EXPECT_THAT(fields, ::testing::IsSupersetOf({"recipe.weights.bits", "model.uri"}));
}

TEST_F(CreateJobTest, UriOutsideTheAllowListIsRefused) {
  Open({.uri_policy = {.allowed_prefixes = {"file:///models", "file:///data"}}});
  const absl::Status status = queue_->CreateJob(NewJob("a")).status();
  EXPECT_EQ(ErrorReason(status), "URI_NOT_ALLOWED");
  EXPECT_THAT(std::string(status.message()), HasSubstr("file:///out/a"));
}

TEST_F(CreateJobTest, InputCheckOfTheServerCanRefuse) {
  Open({.check_inputs = [](const teq::v1::JobSpec& spec) {
    return Error(absl::StatusCode::kInvalidArgument, "UNKNOWN_ARCHITECTURE", spec.model().uri());
  }});
  EXPECT_EQ(ErrorReason(queue_->CreateJob(NewJob("a")).status()), "UNKNOWN_ARCHITECTURE");
}

TEST_F(CreateJobTest, QueuedJobsOfAProjectAreLimited) {
  Open({.limits = {.queued_jobs_per_project = 2}});
  Create(NewJob("a"));
  Create(NewJob("b"));
  const absl::Status status = queue_->CreateJob(NewJob("c")).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_EQ(ErrorReason(status), "QUEUED_JOBS_EXHAUSTED");
  EXPECT_EQ(Detail<google::rpc::QuotaFailure>(status).violations(0).subject(), "projects/p");
  EXPECT_TRUE(queue_->CreateJob(NewJob("d", "q")).ok());
}

TEST_F(CreateJobTest, SpecSizeIsLimited) {
  Open({.limits = {.spec_bytes = 1000}});
  CreateJobRequest request = NewJob("a");
  for (int i = 0; i < 100; ++i) {
    auto* override_ = request.mutable_job()->mutable_spec()->mutable_recipe()->add_overrides();
    override_->set_match(fmt::format("model.layers.{}.mlp.up_proj", i));
    override_->set_skip(true);
  }
  const absl::Status status = queue_->CreateJob(request).status();
  EXPECT_EQ(ErrorReason(status), "INVALID_SPEC");
  EXPECT_THAT(std::string(status.message()), HasSubstr("the limit is 1000"));
}

TEST_F(CreateJobTest, NamesOfOtherFormsAreRefused) {
  CreateJobRequest request = NewJob("a");
  request.set_job_id("Not_An_Id");
  EXPECT_EQ(ErrorReason(queue_->CreateJob(request).status()), "INVALID_NAME");
  request = NewJob("a");
  request.set_parent("projects/-");
  EXPECT_EQ(ErrorReason(queue_->CreateJob(request).status()), "INVALID_NAME");
  request.set_parent("project/p");
  EXPECT_EQ(ErrorReason(queue_->CreateJob(request).status()), "INVALID_NAME");
}

}  // namespace
}  // namespace teq::queue
