// A whole server in this process, on free ports of the loopback.
#include "server/server.h"

#include <google/protobuf/descriptor.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <future>
#include <sstream>

#include "client/api/channel.h"
#include "client/api/grpc_status.h"
#include "client/logs/logger.h"
#include "gmock/gmock.h"
#include "grpc/health/v1/health.pb.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"
#include "spdlog/sinks/ostream_sink.h"
#include "teq/v1/job_service.grpc.pb.h"
#include "teq/v1/worker_service.grpc.pb.h"
#include "tests/unit/server/harness.h"

namespace teq::server {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;
using teq::testing::NewJob;
using teq::v1::Job;
using ::testing::HasSubstr;

class ServerTest : public ::testing::Test {
 protected:
  Config NewConfig() const {
    Config config;
    config.listen = "127.0.0.1:0";
    config.http = "127.0.0.1:0";
    config.data = temp_.path() / "data";
    return config;
  }

  void Start() {
    auto server = Server::Start(NewConfig(), log_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    channel_ = client::Connect(server_->grpc_address(), client::Retries::kByCaller);
    jobs_ = teq::v1::JobService::NewStub(channel_);
    workers_ = teq::v1::WorkerService::NewStub(channel_);
  }

  /// The lease of the next job, for a worker w-1 that registers for it.
  teq::v1::Lease Acquire() {
    teq::v1::RegisterWorkerRequest worker;
    worker.set_worker_id("w-1");
    worker.set_boot_id("boot");
    grpc::ClientContext registration;
    teq::v1::RegisterWorkerResponse session;
    EXPECT_TRUE(workers_->RegisterWorker(&registration, worker, &session).ok());
    teq::v1::AcquireLeaseRequest request;
    request.set_worker_session(session.worker_session());
    grpc::ClientContext poll;
    teq::v1::AcquireLeaseResponse answer;
    EXPECT_TRUE(workers_->AcquireLease(&poll, request, &answer).ok());
    return answer.lease();
  }

  /// What the standard health service says of a service.
  HealthCheckResponse::ServingStatus Health(const std::string& service) {
    grpc::TemplatedGenericStub<HealthCheckRequest, HealthCheckResponse> stub(channel_);
    grpc::ClientContext context;
    HealthCheckRequest request;
    request.set_service(service);
    HealthCheckResponse response;
    std::promise<grpc::Status> done;
    stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", grpc::StubOptions(), &request,
                   &response, [&done](grpc::Status status) { done.set_value(std::move(status)); });
    const grpc::Status status = done.get_future().get();
    EXPECT_TRUE(status.ok()) << service << ": " << status.error_message();
    return response.status();
  }

  /// The lines that were logged. Not while the server runs.
  std::vector<nlohmann::json> Lines() const {
    std::istringstream text(lines_.str());
    std::vector<nlohmann::json> lines;
    for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

  teq::testing::TempDirectory temp_;
  std::ostringstream lines_;
  std::shared_ptr<logs::Logger> log_ = std::make_shared<logs::Logger>(
      "teq-server", logs::Format::kJson, std::make_shared<spdlog::sinks::ostream_sink_mt>(lines_));
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<teq::v1::JobService::Stub> jobs_;
  std::unique_ptr<teq::v1::WorkerService::Stub> workers_;
};

TEST_F(ServerTest, HealthKnowsTheServerAndEveryService) {
  Start();
  for (const char* service :
       {"", "teq.v1.JobService", "teq.v1.WorkerService", "teq.v1.ArtifactService"}) {
    EXPECT_EQ(Health(service), HealthCheckResponse::SERVING) << service;
  }
}

TEST_F(ServerTest, DescriptorOfTheHealthServiceIsThereForReflection) {
  EXPECT_NE(google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(
                "grpc.health.v1.Health"),
            nullptr);
}

TEST_F(ServerTest, RestartKeepsJobsLeasesAndSessions) {
  Start();
  Job job;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(jobs_->CreateJob(&context, NewJob("a"), &job).ok());
  }
  teq::v1::RegisterWorkerResponse session;
  {
    grpc::ClientContext context;
    teq::v1::RegisterWorkerRequest request;
    request.set_worker_id("w1");
    request.set_boot_id("1");
    ASSERT_TRUE(workers_->RegisterWorker(&context, request, &session).ok());
  }
  teq::v1::AcquireLeaseResponse acquired;
  {
    grpc::ClientContext context;
    teq::v1::AcquireLeaseRequest request;
    request.set_worker_session(session.worker_session());
    ASSERT_TRUE(workers_->AcquireLease(&context, request, &acquired).ok());
    ASSERT_EQ(acquired.lease().job(), job.name());
  }
  server_->Drain();
  server_.reset();
  Start();
  grpc::ClientContext context;
  teq::v1::HeartbeatRequest beat;
  beat.set_lease_token(acquired.lease().lease_token());
  beat.set_fence(acquired.lease().fence());
  beat.set_sequence(1);
  teq::v1::HeartbeatResponse response;
  const grpc::Status status = workers_->Heartbeat(&context, beat, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.directive(), teq::v1::DIRECTIVE_CONTINUE);
}

TEST_F(ServerTest, ReaperRunsByItself) {
  Start();
  auto request = NewJob("a");
  auto* limits = request.mutable_job()->mutable_spec()->mutable_limits();
  limits->mutable_max_queue_time()->set_seconds(1);
  Job job;
  grpc::ClientContext create_context;
  ASSERT_TRUE(jobs_->CreateJob(&create_context, request, &job).ok());
  grpc::ClientContext context;
  teq::v1::WatchJobRequest watch;
  watch.set_name(job.name());
  const auto reader = jobs_->WatchJob(&context, watch);
  teq::v1::WatchJobResponse message;
  while (reader->Read(&message)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(message.event().state_change().to(), Job::STATE_EXPIRED);
}

TEST_F(ServerTest, PortInUseIsAnErrorThatNamesTheAddress) {
  Start();
  Config config = NewConfig();
  config.data = temp_.path() / "other";
  config.listen = server_->grpc_address();
  const absl::Status status = Server::Start(config, log_).status();
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_EQ(ErrorReason(status), "ADDRESS_UNAVAILABLE");
  EXPECT_THAT(std::string(status.message()), HasSubstr(server_->grpc_address()));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--listen"));
}

TEST_F(ServerTest, SecondServerOnTheSameDataIsRefused) {
  Start();
  EXPECT_EQ(ErrorReason(Server::Start(NewConfig(), log_).status()), "DATA_DIRECTORY_IN_USE");
}

TEST_F(ServerTest, MessagesBeyond64MebibytesAreRefused) {
  Start();
  auto request = NewJob("a");
  (*request.mutable_job()->mutable_labels())["a"] = std::string(size_t{65} << 20, 'x');
  grpc::ClientContext context;
  Job job;
  EXPECT_EQ(jobs_->CreateJob(&context, request, &job).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
}

// As of a mixture with a hundred thousand layers of experts.
TEST_F(ServerTest, ALargeReportIsDeliveredAndReadAgain) {
  Start();
  Job job;
  grpc::ClientContext create;
  ASSERT_TRUE(jobs_->CreateJob(&create, NewJob("a"), &job).ok());
  const teq::v1::Lease lease = Acquire();
  teq::v1::CompleteLeaseRequest complete;
  complete.set_lease_token(lease.lease_token());
  complete.set_fence(lease.fence());
  complete.mutable_success()->set_manifest_sha256(std::string(64, 'a'));
  teq::v1::Report& report = *complete.mutable_success()->mutable_report();
  for (int i = 0; i < 100'000; ++i) report.add_layers()->set_name(std::string(100, 'x'));
  for (int i = 0; i < 1000; ++i) report.mutable_training()->add_blocks()->add_loss_curve();
  ASSERT_GT(complete.ByteSizeLong(), size_t{8} << 20);
  grpc::ClientContext completion;
  teq::v1::CompleteLeaseResponse completed;
  const grpc::Status status = workers_->CompleteLease(&completion, complete, &completed);
  ASSERT_TRUE(status.ok()) << status.error_message();

  grpc::ClientContext get;
  teq::v1::GetJobRequest name;
  name.set_name(job.name());
  const grpc::Status got = jobs_->GetJob(&get, name, &job);
  ASSERT_TRUE(got.ok()) << got.error_message();
  EXPECT_EQ(job.report().SerializeAsString(), report.SerializeAsString());
  grpc::ClientContext list;
  teq::v1::ListJobsRequest all;
  all.set_parent("projects/-");
  teq::v1::ListJobsResponse listed;
  ASSERT_TRUE(jobs_->ListJobs(&list, all, &listed).ok());
  EXPECT_LT(listed.ByteSizeLong(), size_t{100} << 10);
}

TEST_F(ServerTest, EveryStateOfAJobIsLoggedWithItsTrace) {
  Start();
  grpc::ClientContext create;
  create.AddMetadata("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
  Job job;
  ASSERT_TRUE(jobs_->CreateJob(&create, NewJob("a"), &job).ok());
  Acquire();
  server_.reset();

  const std::vector<nlohmann::json> lines = Lines();
  ASSERT_EQ(lines.size(), 2U);
  for (const nlohmann::json& line : lines) {
    EXPECT_EQ(line["job"], job.name());
    EXPECT_EQ(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
  }
  EXPECT_EQ(lines[0]["msg"], "QUEUED: waits for a worker");
  EXPECT_FALSE(lines[0].contains("worker"));
  EXPECT_THAT(lines[1]["msg"].get<std::string>(), ::testing::StartsWith("RUNNING: "));
  EXPECT_EQ(lines[1]["worker"], "w-1");
  EXPECT_EQ(lines[1]["attempt"], 1);
  EXPECT_EQ(lines[1]["fence"], 1);
}

}  // namespace
}  // namespace teq::server
