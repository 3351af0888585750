#include "worker/agent/worker_client.h"

#include <chrono>
#include <utility>

#include "boost/asio/post.hpp"
#include "client/api/grpc_status.h"

namespace teq::agent {

WorkerClient::WorkerClient(boost::asio::io_context& io,
                           const std::shared_ptr<grpc::Channel>& channel)
    : io_(io), stub_(teq::v1::WorkerService::NewStub(channel)) {}

WorkerClient::~WorkerClient() {
  CancelAll();
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [this] { return calls_.empty(); });
}

void WorkerClient::CancelAll() {
  const std::lock_guard lock(mutex_);
  for (const auto& [context, state] : calls_) context->TryCancel();
}

template <typename Request, typename Response>
void WorkerClient::Call(Method<Request, Response> method, const Request& request, Duration timeout,
                        Handler<Response> handler) {
  struct State {
    grpc::ClientContext context;
    Request request;
    Response response;
    Handler<Response> handler;
  };
  auto owner = std::make_shared<State>();
  State* const state = owner.get();
  state->request = request;
  state->handler = std::move(handler);
  state->context.set_deadline(std::chrono::system_clock::now() +
                              std::chrono::duration_cast<std::chrono::milliseconds>(timeout));
  {
    const std::lock_guard lock(mutex_);
    calls_.emplace(&state->context, std::move(owner));
  }
  // The state must end on the io_context, never here: its context holds the channel, and a channel
  // that ends on one of gRPC's own threads makes that thread wait for itself.
  const auto done = [this, state](const grpc::Status& status) {
    const std::lock_guard lock(mutex_);
    boost::asio::post(io_,
                      [state, status, owner = std::move(calls_.extract(&state->context).mapped())] {
                        if (status.ok()) {
                          state->handler(std::move(state->response));
                        } else {
                          state->handler(client::FromGrpc(status));
                        }
                      });
    idle_.notify_all();
  };
  (stub_->async()->*method)(&state->context, &state->request, &state->response, done);
}

void WorkerClient::RegisterWorker(const teq::v1::RegisterWorkerRequest& request, Duration timeout,
                                  Handler<teq::v1::RegisterWorkerResponse> handler) {
  Call<teq::v1::RegisterWorkerRequest, teq::v1::RegisterWorkerResponse>(
      &Async::RegisterWorker, request, timeout, std::move(handler));
}

void WorkerClient::AcquireLease(const teq::v1::AcquireLeaseRequest& request, Duration timeout,
                                Handler<teq::v1::AcquireLeaseResponse> handler) {
  Call<teq::v1::AcquireLeaseRequest, teq::v1::AcquireLeaseResponse>(&Async::AcquireLease, request,
                                                                    timeout, std::move(handler));
}

void WorkerClient::Heartbeat(const teq::v1::HeartbeatRequest& request, Duration timeout,
                             Handler<teq::v1::HeartbeatResponse> handler) {
  Call<teq::v1::HeartbeatRequest, teq::v1::HeartbeatResponse>(&Async::Heartbeat, request, timeout,
                                                              std::move(handler));
}

void WorkerClient::CompleteLease(const teq::v1::CompleteLeaseRequest& request, Duration timeout,
                                 Handler<teq::v1::CompleteLeaseResponse> handler) {
  Call<teq::v1::CompleteLeaseRequest, teq::v1::CompleteLeaseResponse>(
      &Async::CompleteLease, request, timeout, std::move(handler));
}

void WorkerClient::ReleaseLease(const teq::v1::ReleaseLeaseRequest& request, Duration timeout,
                                Handler<teq::v1::ReleaseLeaseResponse> handler) {
  Call<teq::v1::ReleaseLeaseRequest, teq::v1::ReleaseLeaseResponse>(&Async::ReleaseLease, request,
                                                                    timeout, std::move(handler));
}

}  // namespace teq::agent
