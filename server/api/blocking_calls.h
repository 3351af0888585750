#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "boost/asio/thread_pool.hpp"
#include "grpcpp/support/server_callback.h"

namespace teq::api {

/// Runs calls that wait for other machines on threads of its own, so that gRPC's stay free. No call
/// waits for another: more than `limit` at once are RESOURCE_EXHAUSTED, reason TOO_MANY_CALLS.
/// Thread-safe.
class BlockingCalls {
 public:
  /// What a call does; it looks at `go_on` now and then, which is false once the client has gone or
  /// the server stops.
  using Work = std::function<absl::Status(const std::function<bool()>& go_on)>;

  /// `what` names the calls for messages, such as "verifications".
  BlockingCalls(std::string what, int limit);
  /// After the gRPC server is gone.
  ~BlockingCalls();
  BlockingCalls(const BlockingCalls&) = delete;
  BlockingCalls& operator=(const BlockingCalls&) = delete;

  /// Answers one call; the reactor owns itself. What `work` uses of the call lives until it
  /// returns.
  [[nodiscard]] grpc::ServerUnaryReactor* Run(Work work);

  /// Ends running calls with SERVER_DRAINING, now and from now on.
  void Drain() { draining_ = true; }

 private:
  class Call;

  const std::string what_;
  const int limit_;
  std::atomic<int> running_ = 0;
  std::atomic<bool> draining_ = false;
  boost::asio::thread_pool threads_;  // last: uses all of the above
};

}  // namespace teq::api
