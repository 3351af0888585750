#include "client/api/channel.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>

#include "fmt/format.h"
#include "grpcpp/client_context.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"
#include "teq/v1/job_service.grpc.pb.h"

namespace teq::client {
namespace {

// Answers every call with one code and counts them.
class FailingService final : public teq::v1::JobService::Service {
 public:
  explicit FailingService(grpc::StatusCode code) : code_(code) {}

  grpc::Status GetJob(grpc::ServerContext* /*context*/, const teq::v1::GetJobRequest* /*request*/,
                      teq::v1::Job* /*response*/) override {
    // The second attempt of an unavailable server succeeds.
    if (++calls_ == 2 && code_ == grpc::StatusCode::UNAVAILABLE) return grpc::Status::OK;
    return {code_, "no"};
  }

  [[nodiscard]] int calls() const { return calls_; }

 private:
  const grpc::StatusCode code_;
  std::atomic<int> calls_ = 0;
};

class ChannelTest : public ::testing::Test {
 protected:
  // Serves on a Unix socket of its own, and calls GetJob there once.
  grpc::Status CallGetJob(FailingService& service) {
    const std::string socket = fmt::format(
        "{}/teq-channel-{}.sock", std::filesystem::temp_directory_path().string(), getpid());
    const std::string address = "unix:" + socket;
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials());
    builder.RegisterService(&service);
    const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
    const auto stub = teq::v1::JobService::NewStub(Connect(address));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    teq::v1::Job job;
    grpc::Status status = stub->GetJob(&context, teq::v1::GetJobRequest(), &job);
    server->Shutdown();
    std::filesystem::remove(socket);
    return status;
  }
};

TEST_F(ChannelTest, UnavailableIsTriedAgain) {
  FailingService service(grpc::StatusCode::UNAVAILABLE);
  const grpc::Status status = CallGetJob(service);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(service.calls(), 2);
}

TEST_F(ChannelTest, RefusalIsNotTriedAgain) {
  FailingService service(grpc::StatusCode::ABORTED);
  EXPECT_EQ(CallGetJob(service).error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(service.calls(), 1);
}

}  // namespace
}  // namespace teq::client
