// The services through a real gRPC channel.
#include "server/api/services.h"

#include <grpcpp/grpcpp.h>

#include <filesystem>
#include <fstream>
#include <future>
#include <thread>

#include "client/api/grpc_status.h"
#include "gmock/gmock.h"
#include "proto/spec/error.h"
#include "proto/spec/trace_parent.h"
#include "tests/unit/server/harness.h"

namespace teq::api {
namespace {

using teq::testing::NewJob;
using teq::testing::Sha;
using teq::v1::AcquireLeaseResponse;
using teq::v1::Job;
using teq::v1::WatchJobResponse;
using ::testing::ElementsAre;

template <typename Message>
Message Detail(const absl::Status& status) {
  Message message;
  const auto payload =
      status.GetPayload("type.googleapis.com/" + std::string(Message::descriptor()->full_name()));
  EXPECT_TRUE(payload.has_value()) << status;
  if (payload) message.ParseFromString(std::string(*payload));
  return message;
}

class ServicesTest : public teq::testing::QueueTest {
 protected:
  void SetUp() override {
    QueueTest::SetUp();
    Serve({}, {});
  }

  void TearDown() override { Stop(); }

  void Stop() {
    if (server_ == nullptr) return;
    watches_->Drain();
    polls_->Drain();
    estimates_->Drain();
    server_->Shutdown();
    server_->Wait();
    server_.reset();
  }

  /// Once more, with other options.
  void Serve(const WatchOptions& watch, const PollOptions& poll) {
    Stop();
    jobs_service_.reset();
    estimates_.reset();
    workers_service_.reset();
    watches_.reset();
    polls_.reset();
    Open({});
    watches_ = std::make_unique<WatchHub>(watch, queue_.get());
    polls_ = std::make_unique<LeasePolls>(poll, queue_.get());
    queue_->AddObserver(watches_.get());
    queue_->AddObserver(polls_.get());
    estimates_ = std::make_unique<Estimates>(EstimateOptions{}, store_.get(), &clock_);
    jobs_service_ = std::make_unique<JobService>(queue_.get(), watches_.get(), estimates_.get());
    workers_service_ = std::make_unique<WorkerService>(queue_.get(), polls_.get());
    grpc::ServerBuilder builder;
    builder.RegisterService(jobs_service_.get());
    builder.RegisterService(workers_service_.get());
    server_ = builder.BuildAndStart();
    const auto channel = server_->InProcessChannel({});
    jobs_ = teq::v1::JobService::NewStub(channel);
    workers_ = teq::v1::WorkerService::NewStub(channel);
  }

  absl::StatusOr<AcquireLeaseResponse> AcquireByCall(const std::string& session,
                                                     absl::Duration wait) {
    grpc::ClientContext context;
    teq::v1::AcquireLeaseRequest request;
    request.set_worker_session(session);
    request.mutable_max_wait()->set_seconds(absl::ToInt64Seconds(wait));
    AcquireLeaseResponse response;
    const grpc::Status status = workers_->AcquireLease(&context, request, &response);
    if (!status.ok()) return client::FromGrpc(status);
    return response;
  }

  std::unique_ptr<grpc::ClientReader<WatchJobResponse>> Watch(grpc::ClientContext& context,
                                                              const std::string& name,
                                                              const std::string& token = "") {
    teq::v1::WatchJobRequest request;
    request.set_name(name);
    request.set_resume_token(token);
    return jobs_->WatchJob(&context, request);
  }

  std::unique_ptr<WatchHub> watches_;
  std::unique_ptr<LeasePolls> polls_;
  std::unique_ptr<Estimates> estimates_;
  std::unique_ptr<JobService> jobs_service_;
  std::unique_ptr<WorkerService> workers_service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<teq::v1::JobService::Stub> jobs_;
  std::unique_ptr<teq::v1::WorkerService::Stub> workers_;
};

TEST_F(ServicesTest, EveryVerbOfJobServiceIsServed) {
  Job job;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(jobs_->CreateJob(&context, NewJob("a"), &job).ok());
    EXPECT_EQ(job.state(), Job::STATE_QUEUED);
  }
  {
    grpc::ClientContext context;
    teq::v1::GetJobRequest request;
    request.set_name(job.name());
    Job read;
    ASSERT_TRUE(jobs_->GetJob(&context, request, &read).ok());
    EXPECT_EQ(read.uid(), job.uid());
  }
  {
    grpc::ClientContext context;
    teq::v1::ListJobsRequest request;
    request.set_parent("projects/p");
    teq::v1::ListJobsResponse response;
    ASSERT_TRUE(jobs_->ListJobs(&context, request, &response).ok());
    EXPECT_EQ(response.jobs_size(), 1);
  }
  {
    grpc::ClientContext context;
    teq::v1::UpdateJobRequest request;
    request.mutable_job()->set_name(job.name());
    request.mutable_job()->set_priority(4);
    ASSERT_TRUE(jobs_->UpdateJob(&context, request, &job).ok());
    EXPECT_EQ(job.priority(), 4);
  }
  {
    grpc::ClientContext context;
    teq::v1::CancelJobRequest request;
    request.set_name(job.name());
    ASSERT_TRUE(jobs_->CancelJob(&context, request, &job).ok());
    EXPECT_EQ(job.state(), Job::STATE_CANCELLED);
  }
  {
    grpc::ClientContext context;
    teq::v1::RetryJobRequest request;
    request.set_name(job.name());
    ASSERT_TRUE(jobs_->RetryJob(&context, request, &job).ok());
    EXPECT_EQ(job.state(), Job::STATE_QUEUED);
  }
  ASSERT_TRUE(Cancel(job.name()).ok());
  {
    grpc::ClientContext context;
    teq::v1::DeleteJobRequest request;
    request.set_name(job.name());
    google::protobuf::Empty empty;
    EXPECT_TRUE(jobs_->DeleteJob(&context, request, &empty).ok());
  }
}

TEST_F(ServicesTest, WorkerRunsAJobToItsEnd) {
  const Job job = Create(NewJob("a"));
  const std::string session = Register("w1");
  const auto acquired = AcquireByCall(session, absl::ZeroDuration());
  ASSERT_TRUE(acquired.ok()) << acquired.status();
  const teq::v1::Lease& lease = acquired->lease();
  {
    grpc::ClientContext context;
    teq::v1::HeartbeatRequest request;
    request.set_lease_token(lease.lease_token());
    request.set_fence(lease.fence());
    request.set_sequence(1);
    teq::v1::HeartbeatResponse response;
    ASSERT_TRUE(workers_->Heartbeat(&context, request, &response).ok());
    EXPECT_EQ(response.directive(), teq::v1::DIRECTIVE_CONTINUE);
  }
  teq::v1::CompleteLeaseResponse response;
  {
    grpc::ClientContext context;
    auto request = Completion(lease);
    request.mutable_success()->set_manifest_sha256(Sha('a'));
    ASSERT_TRUE(workers_->CompleteLease(&context, request, &response).ok());
  }
  {
    grpc::ClientContext context;
    auto request = Completion(lease);
    request.mutable_published()->set_manifest_sha256(Sha('a'));
    ASSERT_TRUE(workers_->CompleteLease(&context, request, &response).ok());
  }
  EXPECT_EQ(response.job().state(), Job::STATE_SUCCEEDED);
}

TEST_F(ServicesTest, ErrorsCarryErrorInfoAndBadRequest) {
  grpc::ClientContext context;
  auto request = NewJob("a");
  request.mutable_job()->mutable_spec()->mutable_recipe()->mutable_weights()->set_bits(5);
  Job job;
  const grpc::Status answer = jobs_->CreateJob(&context, request, &job);
  EXPECT_EQ(answer.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  const absl::Status status = client::FromGrpc(answer);
  EXPECT_EQ(Detail<google::rpc::ErrorInfo>(status).reason(), "INVALID_SPEC");
  EXPECT_EQ(Detail<google::rpc::ErrorInfo>(status).domain(), "teqd");
  EXPECT_EQ(Detail<google::rpc::BadRequest>(status).field_violations(0).field(),
            "recipe.weights.bits");
}

TEST_F(ServicesTest, WatchTellsEverythingInOrderAndEndsWithTheJob) {
  const Job job = Create(NewJob("a"));
  grpc::ClientContext context;
  const auto reader = Watch(context, job.name());
  WatchJobResponse message;
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_EQ(message.snapshot().SerializeAsString(), job.SerializeAsString());

  const auto lease = Acquire(Register("w1"));
  ASSERT_TRUE(Succeed(lease, Sha('a')).ok());
  ASSERT_TRUE(Publish(lease, Sha('a')).ok());
  std::vector<int64_t> sequences;
  Job::State last = Job::STATE_UNSPECIFIED;
  while (reader->Read(&message)) {
    sequences.push_back(message.event().sequence());
    last = message.event().state_change().to();
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_THAT(sequences, ElementsAre(2, 3, 4));
  EXPECT_EQ(last, Job::STATE_SUCCEEDED);
}

TEST_F(ServicesTest, BrokenWatchResumesWithoutAGapOrARepeat) {
  const Job job = Create(NewJob("a"));
  std::string token;
  {
    grpc::ClientContext context;
    const auto reader = Watch(context, job.name());
    WatchJobResponse message;
    ASSERT_TRUE(reader->Read(&message));
    Acquire(Register("w1"));
    ASSERT_TRUE(reader->Read(&message));
    EXPECT_EQ(message.event().sequence(), 2);
    token = message.resume_token();
    context.TryCancel();
    reader->Finish();
  }
  ASSERT_TRUE(Cancel(job.name()).ok());
  Pass(absl::Seconds(30));  // the worker does not answer
  grpc::ClientContext context;
  const auto reader = Watch(context, job.name(), token);
  std::vector<int64_t> sequences;
  WatchJobResponse message;
  while (reader->Read(&message)) sequences.push_back(message.event().sequence());
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_THAT(sequences, ElementsAre(3, 4));
}

TEST_F(ServicesTest, LongHistoryIsSentWhole) {
  const Job job = Create(NewJob("a"));
  const auto lease = Acquire(Register("w1"));
  teq::v1::HeartbeatRequest beat;
  beat.set_lease_token(lease.lease_token());
  beat.set_fence(lease.fence());
  beat.set_sequence(1);
  for (int step = 1; step <= 1000; ++step) beat.add_samples()->set_step(step);

  grpc::ClientContext context;
  const auto reader = Watch(context, job.name());
  WatchJobResponse message;
  ASSERT_TRUE(reader->Read(&message));  // the snapshot is of before what follows
  ASSERT_TRUE(queue_->Heartbeat(beat).ok());
  ASSERT_TRUE(Fail(lease, teq::v1::FAILURE_CLASS_USER_ERROR).ok());
  int64_t expected = 3;
  while (reader->Read(&message)) EXPECT_EQ(message.event().sequence(), expected++);
  EXPECT_EQ(expected, 1004);
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(ServicesTest, SamplesAreThinnedAndChangesAreNot) {
  const Job job = Create(NewJob("a"));
  const auto lease = Acquire(Register("w1"));
  teq::v1::HeartbeatRequest beat;
  beat.set_lease_token(lease.lease_token());
  beat.set_fence(lease.fence());
  for (int step = 0; step < 10; ++step) {
    beat.set_sequence(step + 1);
    beat.clear_samples();
    beat.add_samples()->set_step(step);
    ASSERT_TRUE(queue_->Heartbeat(beat).ok());
    clock_.Advance(absl::Seconds(1));
  }
  ASSERT_TRUE(Fail(lease, teq::v1::FAILURE_CLASS_USER_ERROR).ok());

  grpc::ClientContext context;
  teq::v1::WatchJobRequest request;
  request.set_name(job.name());
  queue::WatchCursor beginning{.job_uid = job.uid()};
  request.set_resume_token(beginning.ResumeToken());
  request.mutable_min_sample_interval()->set_seconds(4);
  const auto reader = jobs_->WatchJob(&context, request);
  std::vector<int> steps;
  int changes = 0;
  WatchJobResponse message;
  while (reader->Read(&message)) {
    if (message.event().has_sample()) steps.push_back(message.event().sample().step());
    if (message.event().has_state_change()) ++changes;
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_THAT(steps, ElementsAre(0, 4, 8));
  EXPECT_EQ(watches_->CoalescedEvents(), 10 - 3);
  EXPECT_EQ(changes, 3) << "created, leased, failed";
}

TEST_F(ServicesTest, SilentStreamSendsKeepalives) {
  Serve({.keepalive = absl::Milliseconds(20)}, {});
  const Job job = Create(NewJob("a"));
  grpc::ClientContext context;
  const auto reader = Watch(context, job.name());
  WatchJobResponse message;
  ASSERT_TRUE(reader->Read(&message));
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_TRUE(message.has_keepalive());
  EXPECT_NE(message.resume_token(), "");
  context.TryCancel();
}

TEST_F(ServicesTest, StreamsAreLimited) {
  Serve({.max_streams = 1}, {});
  const Job job = Create(NewJob("a"));
  grpc::ClientContext first_context;
  const auto first = Watch(first_context, job.name());
  WatchJobResponse message;
  ASSERT_TRUE(first->Read(&message));
  grpc::ClientContext context;
  const auto second = Watch(context, job.name());
  EXPECT_FALSE(second->Read(&message));
  const absl::Status status = client::FromGrpc(second->Finish());
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_EQ(ErrorReason(status), "TOO_MANY_STREAMS");
  EXPECT_EQ(Detail<google::rpc::QuotaFailure>(status).violations_size(), 1);
  first_context.TryCancel();
}

TEST_F(ServicesTest, DrainEndsWatchesAndWaitingWorkersWithUnavailable) {
  const Job job = Create(NewJob("a"));
  const auto lease = Acquire(Register("w1"));
  grpc::ClientContext context;
  const auto reader = Watch(context, job.name());
  WatchJobResponse message;
  ASSERT_TRUE(reader->Read(&message));
  auto waiting = std::async(std::launch::async, [&, session = Register("w2")] {
    return AcquireByCall(session, absl::Seconds(30)).status();
  });
  watches_->Drain();
  polls_->Drain();
  EXPECT_FALSE(reader->Read(&message));
  const absl::Status watch = client::FromGrpc(reader->Finish());
  EXPECT_TRUE(absl::IsUnavailable(watch));
  EXPECT_EQ(ErrorReason(watch), "SERVER_DRAINING");
  EXPECT_EQ(Detail<google::rpc::RetryInfo>(watch).retry_delay().seconds(), 1);
  EXPECT_EQ(ErrorReason(waiting.get()), "SERVER_DRAINING");
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_RUNNING);
  EXPECT_TRUE(Beat(lease, 1).ok()) << "the lease stays valid";
}

TEST_F(ServicesTest, WaitingWorkerGetsAJobAsSoonAsThereIsOne) {
  auto waiting = std::async(std::launch::async, [&, session = Register("w1")] {
    return AcquireByCall(session, absl::Seconds(30));
  });
  const Job job = Create(NewJob("a"));
  const auto response = waiting.get();
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->lease().job(), job.name());
}

TEST_F(ServicesTest, WaitEndsEmptyWhenThereIsNothingToDo) {
  Serve({}, {.longest_wait = absl::Milliseconds(30)});
  const auto response = AcquireByCall(Register("w1"), absl::Seconds(3600));
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_FALSE(response->has_lease());
}

TEST_F(ServicesTest, WaitingWorkersAreLimited) {
  Serve({}, {.max_waiting = 0});
  const absl::Status status = AcquireByCall(Register("w1"), absl::Seconds(30)).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_EQ(ErrorReason(status), "TOO_MANY_WORKERS");
}

/// A job of a call with these values of `traceparent`.
class EstimateJobTest : public ServicesTest {
 protected:
  void SetUp() override {
    ServicesTest::SetUp();
    std::ofstream(model_ / "config.json") << R"({"model_type": "llama", "hidden_size": 64,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": 512, "max_position_embeddings": 512})";
  }

  void RegisterWithSpeed(const std::string& id) {
    teq::v1::RegisterWorkerRequest request;
    request.set_worker_id(id);
    request.set_boot_id("b");
    request.mutable_capabilities()->add_devices(teq::v1::DEVICE_CPU);
    auto& calibration = *request.mutable_capabilities()->add_calibrations();
    calibration.set_device(teq::v1::DEVICE_CPU);
    calibration.set_operations_per_second(1e11);
    calibration.set_copied_bytes_per_second(1e10);
    calibration.set_memory_bytes(int64_t{16} << 30);
    ASSERT_TRUE(queue_->RegisterWorker(request).ok());
  }

  absl::StatusOr<teq::v1::JobEstimate> Estimate() {
    teq::v1::EstimateJobRequest request;
    request.set_parent("projects/p");
    *request.mutable_spec() = spec_;
    grpc::ClientContext context;
    teq::v1::JobEstimate estimate;
    const grpc::Status status = jobs_->EstimateJob(&context, request, &estimate);
    if (!status.ok()) return client::FromGrpc(status);
    return estimate;
  }

  static teq::v1::JobSpec SpecOf(const std::filesystem::path& model) {
    teq::v1::JobSpec spec = NewJob("a").job().spec();
    spec.mutable_model()->set_uri("file://" + model.string());
    spec.mutable_recipe()->mutable_weights()->set_group_size(32);
    return spec;
  }

  teq::testing::TempDirectory temp_;
  std::filesystem::path model_ = temp_.path();
  teq::v1::JobSpec spec_ = SpecOf(model_);
};

TEST_F(EstimateJobTest, TheTimeIsThatOfTheWorkersThatAreThere) {
  RegisterWithSpeed("w");
  const auto estimate = Estimate();
  ASSERT_TRUE(estimate.ok()) << estimate.status();
  EXPECT_EQ(estimate->stages_size(), 8);
  ASSERT_EQ(estimate->workers_size(), 1);
  EXPECT_EQ(estimate->workers(0).worker(), "w");
  EXPECT_GT(estimate->workers(0).seconds(), 0);
  EXPECT_EQ(estimate->memory_limit_bytes(), (int64_t{16} << 30) * 3 / 5);
  clock_.Advance(absl::Minutes(10));
  EXPECT_EQ(Estimate()->workers_size(), 0);
}

TEST_F(EstimateJobTest, NothingIsStored) {
  ASSERT_TRUE(Estimate().ok());
  teq::v1::ListJobsRequest request;
  request.set_parent("projects/p");
  EXPECT_EQ(queue_->ListJobs(request)->jobs_size(), 0);
}

TEST_F(EstimateJobTest, WhatIsWrongIsToldAsByCreateJob) {
  spec_.mutable_recipe()->mutable_weights()->set_bits(5);
  EXPECT_EQ(ErrorReason(Estimate().status()), "INVALID_SPEC");
  spec_.mutable_recipe()->mutable_weights()->set_bits(4);
  spec_.mutable_recipe()->mutable_weights()->set_group_size(48);
  EXPECT_EQ(ErrorReason(Estimate().status()), "GROUP_SIZE_MISMATCH");
}

TEST_F(EstimateJobTest, AModelThatThisServerDoesNotSeeSaysWhatElseCanBeDone) {
  spec_.mutable_model()->set_uri("file:///nowhere");
  const absl::Status status = Estimate().status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_EQ(ErrorReason(status), "CONFIG_NOT_READABLE");
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("teqctl estimate --local"));
}

TEST_F(EstimateJobTest, ALimitThatIsTooSmallIsRefusedWithTheNumber) {
  spec_.mutable_resources()->set_memory_limit_bytes(100 << 20);
  const absl::Status status = Estimate().status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_EQ(ErrorReason(status), "MEMORY_LIMIT");
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("104857600 bytes are allowed"));
}

class TraceTest : public ServicesTest {
 protected:
  Job CreateWith(const std::vector<std::string>& traceparents) {
    grpc::ClientContext context;
    for (const std::string& value : traceparents) context.AddMetadata("traceparent", value);
    Job job;
    const grpc::Status status =
        jobs_->CreateJob(&context, NewJob(std::to_string(++outputs_)), &job);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return job;
  }

  int outputs_ = 0;
};

constexpr const char* kTrace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

TEST_F(TraceTest, TraceOfTheCallIsStoredAndLeased) {
  const Job job = CreateWith({kTrace});
  EXPECT_EQ(job.traceparent(), kTrace);
  EXPECT_EQ(Get(job.name()).traceparent(), kTrace);
  EXPECT_EQ(Acquire(Register("w")).traceparent(), kTrace);
}

TEST_F(TraceTest, InvalidTraceIsReplacedByANewOne) {
  const std::string zeros = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
  for (const std::vector<std::string>& values :
       {std::vector<std::string>{}, {"nonsense"}, {zeros}, {kTrace, kTrace}}) {
    const Job job = CreateWith(values);
    const auto trace = ParseTraceParent(job.traceparent());
    ASSERT_TRUE(trace) << job.traceparent();
    EXPECT_NE(trace->trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
  }
}

TEST_F(TraceTest, RetriedJobKeepsItsTrace) {
  const Job job = CreateWith({kTrace});
  ASSERT_TRUE(Fail(Acquire(Register("w")), teq::v1::FAILURE_CLASS_USER_ERROR).ok());
  ASSERT_TRUE(Retry(job.name()).ok());
  EXPECT_EQ(Acquire(Register("w")).traceparent(), kTrace);
}

TEST_F(TraceTest, RepeatedCallAnswersWithTheTraceOfTheFirst) {
  teq::v1::CreateJobRequest request = NewJob("a");
  request.set_request_id("7f4df65d-0a0c-4e06-a86e-1d3ab2a8d0c7");
  const Job first = Create(request);
  EXPECT_EQ(Create(request).traceparent(), first.traceparent());
}

}  // namespace
}  // namespace teq::api
