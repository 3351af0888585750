#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <set>
#include <thread>
#include <unordered_set>

#include "absl/time/time.h"
#include "grpcpp/support/server_callback.h"
#include "server/queue/queue.h"
#include "teq/v1/job_service.pb.h"

namespace teq::api {

struct WatchOptions {
  /// A silent stream sends a keepalive this often.
  absl::Duration keepalive = absl::Seconds(20);
  /// More streams are RESOURCE_EXHAUSTED, reason TOO_MANY_STREAMS.
  int max_streams = 1000;
};

/// All open WatchJob streams. The queue's changes only wake it: what it sends is read from the
/// store, so nothing can be lost. One thread of its own; thread-safe.
class WatchHub final : public queue::QueueObserver {
 public:
  /// `queue` outlives the hub.
  WatchHub(WatchOptions options, queue::Queue* queue);
  /// After the gRPC server is gone.
  ~WatchHub() override;
  WatchHub(const WatchHub&) = delete;
  WatchHub& operator=(const WatchHub&) = delete;

  /// Answers one call; the reactor owns itself.
  [[nodiscard]] grpc::ServerWriteReactor<teq::v1::WatchJobResponse>* Open(
      const teq::v1::WatchJobRequest& request);

  /// Ends every stream with SERVER_DRAINING, now and from now on.
  void Drain();

  [[nodiscard]] int StreamCount() const;
  /// Samples that all streams left out because their clients asked for fewer.
  [[nodiscard]] int64_t CoalescedEvents() const { return coalesced_; }

  void OnChange(const queue::JobChange& change) override;
  void OnDelete(const store::JobRecord& record) override;

 private:
  class Stream;

  void Run();
  void Wake(int64_t key, bool deleted);

  const WatchOptions options_;
  std::atomic<int64_t> coalesced_ = 0;
  queue::Queue* const queue_;

  mutable std::mutex mutex_;  // streams_ and all of every stream
  std::set<Stream*> streams_;
  bool draining_ = false;

  std::mutex wake_mutex_;  // taken under the queue's lock: never held for long
  std::condition_variable wake_;
  std::unordered_set<int64_t> changed_;
  std::unordered_set<int64_t> deleted_;
  bool stop_ = false;

  std::thread thread_;  // last: uses all of the above
};

}  // namespace teq::api
