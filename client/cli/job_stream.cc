#include "client/cli/job_stream.h"

#include <utility>

#include "client/api/grpc_status.h"

namespace teq::cli {

// One operation is under way at any time, so tags carry nothing.
JobStream::JobStream(teq::v1::JobService::StubInterface& stub,
                     const teq::v1::WatchJobRequest& request)
    : reader_(stub.PrepareAsyncWatchJob(&context_, request, &queue_)) {
  reader_->StartCall(nullptr);
}

JobStream::~JobStream() {
  context_.TryCancel();
  queue_.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
  }
}

JobStream::Event JobStream::Wait(std::chrono::milliseconds timeout,
                                 teq::v1::WatchJobResponse* message) {
  void* tag = nullptr;
  bool ok = false;
  const auto deadline = std::chrono::system_clock::now() + timeout;
  if (queue_.AsyncNext(&tag, &ok, deadline) != grpc::CompletionQueue::GOT_EVENT) {
    return Event::kNothingYet;
  }
  if (!ok) return Event::kEnd;
  const bool has_message = std::exchange(started_, true);
  if (has_message) *message = std::move(next_);
  reader_->Read(&next_, nullptr);
  return has_message ? Event::kMessage : Event::kNothingYet;
}

absl::Status JobStream::Finish() {
  grpc::Status status;
  reader_->Finish(&status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  (void)queue_.Next(&tag, &ok);
  return client::FromGrpc(status);
}

}  // namespace teq::cli
