#pragma once

#include <condition_variable>
#include <list>
#include <mutex>
#include <thread>

#include "absl/time/time.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "server/queue/queue.h"
#include "teq/v1/worker_service.pb.h"

namespace teq::api {

struct PollOptions {
  /// AcquireLease waits no longer than this, whatever it asks for.
  absl::Duration longest_wait = absl::Seconds(30);
  /// More waiting workers are RESOURCE_EXHAUSTED, reason TOO_MANY_WORKERS.
  int max_waiting = 10'000;
};

/// AcquireLease calls that wait for work, first come first served. One thread of its own serves
/// all; thread-safe.
class LeasePolls final : public queue::QueueObserver {
 public:
  /// `queue` outlives it.
  LeasePolls(PollOptions options, queue::Queue* queue);
  /// After the gRPC server is gone.
  ~LeasePolls() override;
  LeasePolls(const LeasePolls&) = delete;
  LeasePolls& operator=(const LeasePolls&) = delete;

  /// Answers one call; the reactor owns itself.
  [[nodiscard]] grpc::ServerUnaryReactor* Acquire(grpc::CallbackServerContext* context,
                                                  const teq::v1::AcquireLeaseRequest& request,
                                                  teq::v1::AcquireLeaseResponse* response);

  /// Ends every waiting call with SERVER_DRAINING, now and from now on.
  void Drain();

  void OnChange(const queue::JobChange& change) override;
  void OnDelete(const store::JobRecord& record) override;

 private:
  class Poll;

  void Run();
  bool TryAcquire(Poll& poll);
  void ServeWaiting();
  [[nodiscard]] absl::Duration UntilNextDeadline() const;

  const PollOptions options_;
  queue::Queue* const queue_;

  mutable std::mutex mutex_;  // waiting_ and all of every poll
  std::list<Poll*> waiting_;
  bool draining_ = false;

  std::mutex wake_mutex_;  // taken under the queue's lock: never held for long
  std::condition_variable wake_;
  bool woken_ = false;  // there may be a job to lease
  bool added_ = false;  // there may be an earlier deadline
  bool stop_ = false;

  std::thread thread_;  // last: uses all of the above
};

}  // namespace teq::api
