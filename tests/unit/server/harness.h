#pragma once

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <utility>

#include "fmt/format.h"
#include "gtest/gtest.h"
#include "server/queue/queue.h"
#include "server/store/sqlite_store.h"

namespace teq::testing {

/// A new directory, removed at the end. In memory where the machine has /dev/shm: a sync costs
/// nothing there.
class TempDirectory {
 public:
  TempDirectory() {
    const std::filesystem::path shared = "/dev/shm";
    const std::filesystem::path base =
        ::access(shared.c_str(), W_OK) == 0 ? shared : std::filesystem::temp_directory_path();
    std::string name = (base / "teq-server-test-XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;
  ~TempDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

class FakeClock final : public queue::Clock {
 public:
  [[nodiscard]] absl::Time Now() const override { return now_; }
  void Advance(absl::Duration duration) { now_ += duration; }

 private:
  absl::Time now_ = absl::FromUnixSeconds(1'800'000'000);
};

class SeededRandom final : public queue::Random {
 public:
  explicit SeededRandom(uint64_t seed = 1) : engine_(seed) {}
  [[nodiscard]] uint64_t Next() override { return engine_(); }

 private:
  std::mt19937_64 engine_;
};

/// 64 digits, as a sha256 has.
inline std::string Sha(char digit) { return std::string(64, digit); }

/// A small valid job that writes to file:///out/{output}.
inline teq::v1::CreateJobRequest NewJob(const std::string& output,
                                        const std::string& project = "p") {
  teq::v1::CreateJobRequest request;
  request.set_parent("projects/" + project);
  teq::v1::JobSpec& spec = *request.mutable_job()->mutable_spec();
  spec.mutable_model()->set_uri("file:///models/llama");
  spec.mutable_calibration()->set_uri("file:///data/calibration.txt");
  spec.mutable_output()->set_uri("file:///out/" + output);
  return request;
}

/// A queue over a real store, with a clock that the test moves.
class QueueTest : public ::testing::Test {
 protected:
  void SetUp() override { Open({}); }

  /// As after a restart of the server, on the same database.
  void Open(queue::QueueOptions options) {
    queue_.reset();
    store_.reset();
    auto store = store::SqliteStore::Open(directory_.path() / "teqd.sqlite3");
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    queue_ = std::make_unique<queue::Queue>(
        std::move(options),
        queue::QueueDeps{.store = store_.get(), .clock = &clock_, .random = &random_});
    ASSERT_TRUE(queue_->Start().ok());
  }

  teq::v1::Job Create(const teq::v1::CreateJobRequest& request) {
    auto job = queue_->CreateJob(request);
    EXPECT_TRUE(job.ok()) << job.status();
    return job.ok() ? *job : teq::v1::Job();
  }

  std::string Register(const std::string& worker_id, const std::string& boot_id = "boot-1") {
    teq::v1::RegisterWorkerRequest request;
    request.set_worker_id(worker_id);
    request.set_boot_id(boot_id);
    auto response = queue_->RegisterWorker(request);
    EXPECT_TRUE(response.ok()) << response.status();
    return response.ok() ? response->worker_session() : "";
  }

  /// The lease of the next job; fails the test where there is none.
  teq::v1::Lease Acquire(const std::string& session) {
    auto lease = queue_->AcquireLease(session);
    EXPECT_TRUE(lease.ok()) << lease.status();
    EXPECT_TRUE(lease.ok() && lease->has_value()) << "no job to lease";
    return lease.ok() && lease->has_value() ? **lease : teq::v1::Lease();
  }

  bool HasWork(const std::string& session) {
    auto lease = queue_->AcquireLease(session);
    EXPECT_TRUE(lease.ok()) << lease.status();
    return lease.ok() && lease->has_value();
  }

  teq::v1::Job Get(const std::string& name) {
    teq::v1::GetJobRequest request;
    request.set_name(name);
    auto job = queue_->GetJob(request);
    EXPECT_TRUE(job.ok()) << job.status();
    return job.ok() ? *job : teq::v1::Job();
  }

  absl::StatusOr<teq::v1::HeartbeatResponse> Beat(const teq::v1::Lease& lease, int64_t sequence) {
    teq::v1::HeartbeatRequest request;
    request.set_lease_token(lease.lease_token());
    request.set_fence(lease.fence());
    request.set_sequence(sequence);
    return queue_->Heartbeat(request);
  }

  absl::StatusOr<teq::v1::Job> Succeed(const teq::v1::Lease& lease, const std::string& sha256) {
    teq::v1::CompleteLeaseRequest request = Completion(lease);
    request.mutable_success()->set_manifest_sha256(sha256);
    return queue_->CompleteLease(request);
  }

  absl::StatusOr<teq::v1::Job> Publish(const teq::v1::Lease& lease, const std::string& sha256) {
    teq::v1::CompleteLeaseRequest request = Completion(lease);
    request.mutable_published()->set_manifest_sha256(sha256);
    return queue_->CompleteLease(request);
  }

  absl::StatusOr<teq::v1::Job> Fail(const teq::v1::Lease& lease,
                                    teq::v1::FailureClass failure_class) {
    teq::v1::CompleteLeaseRequest request = Completion(lease);
    request.mutable_failure()->set_failure_class(failure_class);
    request.mutable_failure()->mutable_status()->set_code(9);
    request.mutable_failure()->mutable_status()->set_message("it broke");
    return queue_->CompleteLease(request);
  }

  absl::StatusOr<teq::v1::Job> StopCancelled(const teq::v1::Lease& lease) {
    teq::v1::CompleteLeaseRequest request = Completion(lease);
    request.mutable_cancelled();
    return queue_->CompleteLease(request);
  }

  absl::StatusOr<teq::v1::Job> Release(const teq::v1::Lease& lease,
                                       teq::v1::ReleaseLeaseRequest::Reason reason) {
    teq::v1::ReleaseLeaseRequest request;
    request.set_lease_token(lease.lease_token());
    request.set_fence(lease.fence());
    request.set_reason(reason);
    return queue_->ReleaseLease(request);
  }

  absl::StatusOr<teq::v1::Job> Cancel(const std::string& name) {
    teq::v1::CancelJobRequest request;
    request.set_name(name);
    return queue_->CancelJob(request);
  }

  absl::StatusOr<teq::v1::Job> Retry(const std::string& name) {
    teq::v1::RetryJobRequest request;
    request.set_name(name);
    return queue_->RetryJob(request);
  }

  /// Lets time pass as a running server does: with the reaper at work.
  void Pass(absl::Duration duration) {
    for (absl::Duration step; duration > absl::ZeroDuration(); duration -= step) {
      step = std::min(duration, absl::Seconds(1));
      clock_.Advance(step);
      ASSERT_TRUE(queue_->Reap().ok());
    }
  }

  static teq::v1::CompleteLeaseRequest Completion(const teq::v1::Lease& lease) {
    teq::v1::CompleteLeaseRequest request;
    request.set_lease_token(lease.lease_token());
    request.set_fence(lease.fence());
    return request;
  }

  TempDirectory directory_;
  FakeClock clock_;
  SeededRandom random_;
  std::unique_ptr<store::SqliteStore> store_;
  std::unique_ptr<queue::Queue> queue_;
};

}  // namespace teq::testing
