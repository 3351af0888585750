#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "grpcpp/server.h"
#include "teq/v1/worker_service.grpc.pb.h"

namespace teq::agent {

/// WorkerService as a test wants it, on a loopback port. It hands out the leases that it is given
/// and remembers what it is told. Thread-safe.
class FakeServer final : public teq::v1::WorkerService::Service {
 public:
  FakeServer() { Start(); }
  ~FakeServer() override { Stop(); }

  /// Stops and starts again on the same port, as a server that is restarted.
  void Start();
  void Stop();
  [[nodiscard]] std::string address() const;

  void Offer(const teq::v1::Lease& lease);
  /// Of every later lease and heartbeat: a minute, unless told, so that no slow machine loses one.
  void SetLeaseDuration(std::chrono::milliseconds duration);
  /// Of every later heartbeat.
  void SetDirective(teq::v1::Directive directive);
  /// The next `count` heartbeats fail so.
  void FailHeartbeats(const absl::Status& status, int count);
  /// Every later CompleteLease fails so; OK: none does.
  void FailCompletions(const absl::Status& status);
  /// The next AcquireLease does not know the session.
  void ForgetSession();
  /// Every later AcquireLease fails so.
  void FailAcquisitions(const absl::Status& status);

  struct Seen {
    std::vector<teq::v1::RegisterWorkerRequest> registrations;
    int polls = 0;
    std::vector<teq::v1::HeartbeatRequest> heartbeats;  // that were answered
    int refused_heartbeats = 0;
    std::vector<teq::v1::CompleteLeaseRequest> completions;  // that were answered
    int refused_completions = 0;
    std::vector<teq::v1::ReleaseLeaseRequest> releases;
  };
  /// Waits until `condition` holds for what was seen; false after a minute.
  [[nodiscard]] bool WaitFor(const std::function<bool(const Seen&)>& condition);
  [[nodiscard]] Seen seen();

 private:
  grpc::Status RegisterWorker(grpc::ServerContext* context,
                              const teq::v1::RegisterWorkerRequest* request,
                              teq::v1::RegisterWorkerResponse* response) override;
  grpc::Status AcquireLease(grpc::ServerContext* context,
                            const teq::v1::AcquireLeaseRequest* request,
                            teq::v1::AcquireLeaseResponse* response) override;
  grpc::Status Heartbeat(grpc::ServerContext* context, const teq::v1::HeartbeatRequest* request,
                         teq::v1::HeartbeatResponse* response) override;
  grpc::Status CompleteLease(grpc::ServerContext* context,
                             const teq::v1::CompleteLeaseRequest* request,
                             teq::v1::CompleteLeaseResponse* response) override;
  grpc::Status ReleaseLease(grpc::ServerContext* context,
                            const teq::v1::ReleaseLeaseRequest* request,
                            teq::v1::ReleaseLeaseResponse* response) override;

  std::mutex mutex_;
  std::condition_variable changed_;
  Seen seen_;
  std::deque<teq::v1::Lease> leases_;
  std::chrono::milliseconds lease_duration_ = std::chrono::minutes(1);
  teq::v1::Directive directive_ = teq::v1::DIRECTIVE_CONTINUE;
  absl::Status heartbeat_error_;
  int failing_heartbeats_ = 0;
  absl::Status completion_error_;
  absl::Status acquisition_error_;
  bool forget_session_ = false;
  bool stopping_ = false;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace teq::agent
