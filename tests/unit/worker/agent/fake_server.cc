#include "fake_server.h"

#include "client/api/grpc_status.h"
#include "fmt/format.h"
#include "google/protobuf/util/time_util.h"
#include "grpcpp/server_builder.h"
#include "proto/spec/error.h"

namespace teq::agent {

using client::ToGrpc;
using google::protobuf::util::TimeUtil;

namespace {

constexpr int kHeartbeatMilliseconds = 100;
constexpr std::chrono::milliseconds kTick(5);

}  // namespace

void FakeServer::Start() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = false;
  }
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address(), grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
}

void FakeServer::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  server_->Shutdown(std::chrono::system_clock::now());
  server_.reset();
}

std::string FakeServer::address() const { return fmt::format("127.0.0.1:{}", port_); }

void FakeServer::Offer(const v1::Lease& lease) {
  const std::lock_guard lock(mutex_);
  leases_.push_back(lease);
  *leases_.back().mutable_lease_duration() =
      TimeUtil::MillisecondsToDuration(lease_duration_.count());
  *leases_.back().mutable_heartbeat_interval() =
      TimeUtil::MillisecondsToDuration(kHeartbeatMilliseconds);
  changed_.notify_all();
}

void FakeServer::SetLeaseDuration(std::chrono::milliseconds duration) {
  const std::lock_guard lock(mutex_);
  lease_duration_ = duration;
}

void FakeServer::SetDirective(v1::Directive directive) {
  const std::lock_guard lock(mutex_);
  directive_ = directive;
}

void FakeServer::FailHeartbeats(const absl::Status& status, int count) {
  const std::lock_guard lock(mutex_);
  heartbeat_error_ = status;
  failing_heartbeats_ = count;
}

void FakeServer::FailCompletions(const absl::Status& status) {
  const std::lock_guard lock(mutex_);
  completion_error_ = status;
}

void FakeServer::FailAcquisitions(const absl::Status& status) {
  const std::lock_guard lock(mutex_);
  acquisition_error_ = status;
}

void FakeServer::ForgetSession() {
  const std::lock_guard lock(mutex_);
  forget_session_ = true;
  changed_.notify_all();
}

bool FakeServer::WaitFor(const std::function<bool(const Seen&)>& condition) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, std::chrono::minutes(1), [&] { return condition(seen_); });
}

FakeServer::Seen FakeServer::seen() {
  const std::lock_guard lock(mutex_);
  return seen_;
}

grpc::Status FakeServer::RegisterWorker(grpc::ServerContext* /*context*/,
                                        const v1::RegisterWorkerRequest* request,
                                        v1::RegisterWorkerResponse* response) {
  const std::lock_guard lock(mutex_);
  seen_.registrations.push_back(*request);
  response->set_worker_session(fmt::format("session-{}", seen_.registrations.size()));
  changed_.notify_all();
  return grpc::Status::OK;
}

grpc::Status FakeServer::AcquireLease(grpc::ServerContext* context,
                                      const v1::AcquireLeaseRequest* request,
                                      v1::AcquireLeaseResponse* response) {
  std::unique_lock lock(mutex_);
  ++seen_.polls;
  changed_.notify_all();
  if (!acquisition_error_.ok()) return ToGrpc(acquisition_error_);
  const auto end = std::chrono::steady_clock::now() +
                   std::chrono::milliseconds(TimeUtil::DurationToMilliseconds(request->max_wait()));
  while (leases_.empty() && !forget_session_ && !stopping_ && !context->IsCancelled() &&
         std::chrono::steady_clock::now() < end) {
    changed_.wait_for(lock, kTick);
  }
  if (forget_session_) {
    forget_session_ = false;
    return ToGrpc(Error(absl::StatusCode::kNotFound, "SESSION_NOT_FOUND", "register again"));
  }
  if (leases_.empty()) return grpc::Status::OK;
  *response->mutable_lease() = leases_.front();
  leases_.pop_front();
  return grpc::Status::OK;
}

grpc::Status FakeServer::Heartbeat(grpc::ServerContext* /*context*/,
                                   const v1::HeartbeatRequest* request,
                                   v1::HeartbeatResponse* response) {
  const std::lock_guard lock(mutex_);
  if (failing_heartbeats_ > 0) {
    --failing_heartbeats_;
    ++seen_.refused_heartbeats;
    changed_.notify_all();
    return ToGrpc(heartbeat_error_);
  }
  seen_.heartbeats.push_back(*request);
  *response->mutable_lease_ttl() = TimeUtil::MillisecondsToDuration(lease_duration_.count());
  *response->mutable_next_heartbeat_after() =
      TimeUtil::MillisecondsToDuration(kHeartbeatMilliseconds);
  response->set_acknowledged_sequence(request->sequence());
  response->set_directive(directive_);
  changed_.notify_all();
  return grpc::Status::OK;
}

grpc::Status FakeServer::CompleteLease(grpc::ServerContext* /*context*/,
                                       const v1::CompleteLeaseRequest* request,
                                       v1::CompleteLeaseResponse* /*response*/) {
  const std::lock_guard lock(mutex_);
  if (!completion_error_.ok()) {
    ++seen_.refused_completions;
    changed_.notify_all();
    return ToGrpc(completion_error_);
  }
  seen_.completions.push_back(*request);
  changed_.notify_all();
  return grpc::Status::OK;
}

grpc::Status FakeServer::ReleaseLease(grpc::ServerContext* /*context*/,
                                      const v1::ReleaseLeaseRequest* request,
                                      v1::ReleaseLeaseResponse* /*response*/) {
  const std::lock_guard lock(mutex_);
  seen_.releases.push_back(*request);
  changed_.notify_all();
  return grpc::Status::OK;
}

}  // namespace teq::agent
