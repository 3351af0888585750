#pragma once

#include <chrono>
#include <memory>

#include "absl/status/status.h"
#include "grpcpp/client_context.h"
#include "grpcpp/completion_queue.h"
#include "teq/v1/job_service.grpc.pb.h"

namespace teq::cli {

/// One WatchJob call that can be waited on for a while, so that its reader also sees the terminal
/// and Ctrl-C. One thread. The destructor cancels what still runs.
class JobStream {
 public:
  enum class Event { kMessage, kNothingYet, kEnd };

  JobStream(teq::v1::JobService::StubInterface& stub, const teq::v1::WatchJobRequest& request);
  ~JobStream();
  JobStream(const JobStream&) = delete;
  JobStream& operator=(const JobStream&) = delete;

  /// Waits at most `timeout` and fills `message` on kMessage. After kEnd only Finish may be called.
  [[nodiscard]] Event Wait(std::chrono::milliseconds timeout, teq::v1::WatchJobResponse* message);

  /// Why the stream ended. After kEnd, once.
  [[nodiscard]] absl::Status Finish();

 private:
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::ClientAsyncReaderInterface<teq::v1::WatchJobResponse>> reader_;
  teq::v1::WatchJobResponse next_;
  bool started_ = false;
};

}  // namespace teq::cli
