#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include "absl/status/statusor.h"
#include "boost/asio/io_context.hpp"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "teq/v1/worker_service.grpc.pb.h"
#include "worker/agent/lease_machine.h"

namespace teq::agent {

/// WorkerService for a program that lives on an io_context: calls return at once, and their
/// handlers run on the io_context. Calls belong to the io_context's one thread.
class WorkerClient {
 public:
  template <typename Response>
  using Handler = std::function<void(const absl::StatusOr<Response>&)>;

  WorkerClient(boost::asio::io_context& io, const std::shared_ptr<grpc::Channel>& channel);
  /// Cancels every call and waits for gRPC to let go of it.
  ~WorkerClient();
  WorkerClient(const WorkerClient&) = delete;
  WorkerClient& operator=(const WorkerClient&) = delete;

  void RegisterWorker(const teq::v1::RegisterWorkerRequest& request, Duration timeout,
                      Handler<teq::v1::RegisterWorkerResponse> handler);
  void AcquireLease(const teq::v1::AcquireLeaseRequest& request, Duration timeout,
                    Handler<teq::v1::AcquireLeaseResponse> handler);
  void Heartbeat(const teq::v1::HeartbeatRequest& request, Duration timeout,
                 Handler<teq::v1::HeartbeatResponse> handler);
  void CompleteLease(const teq::v1::CompleteLeaseRequest& request, Duration timeout,
                     Handler<teq::v1::CompleteLeaseResponse> handler);
  void ReleaseLease(const teq::v1::ReleaseLeaseRequest& request, Duration timeout,
                    Handler<teq::v1::ReleaseLeaseResponse> handler);

  /// Ends every call; their handlers get CANCELLED, or the answer that was already there.
  void CancelAll();

 private:
  using Async = teq::v1::WorkerService::StubInterface::async_interface;
  template <typename Request, typename Response>
  using Method = void (Async::*)(grpc::ClientContext*, const Request*, Response*,
                                 std::function<void(grpc::Status)>);

  template <typename Request, typename Response>
  void Call(Method<Request, Response> method, const Request& request, Duration timeout,
            Handler<Response> handler);

  boost::asio::io_context& io_;
  std::unique_ptr<teq::v1::WorkerService::Stub> stub_;
  std::mutex mutex_;
  std::condition_variable idle_;
  std::map<grpc::ClientContext*, std::shared_ptr<void>> calls_;  // with what each needs to end
};

}  // namespace teq::agent
