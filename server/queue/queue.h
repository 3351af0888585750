#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/spec/trace_parent.h"
#include "proto/spec/uri.h"
#include "server/queue/clock.h"
#include "server/queue/job_edit.h"
#include "server/queue/observer.h"
#include "server/store/job_store.h"
#include "teq/v1/job_service.pb.h"
#include "teq/v1/worker_service.pb.h"

namespace teq::queue {

/// What a client may ask for at most.
struct QueueLimits {
  /// Jobs that wait (QUEUED or RETRY_WAIT), by project.
  int queued_jobs_per_project = 1000;
  /// Serialized size of a spec with its defaults.
  int64_t spec_bytes = int64_t{64} << 10;
  /// A job with more events records no more samples and progress; changes and perplexities always.
  int64_t events_per_job = 200'000;
};

struct QueueOptions {
  /// How long a worker may be silent. Heartbeats are due every third of it.
  absl::Duration lease_duration = absl::Seconds(30);
  /// How long a request_id is remembered, and for an hour after a start.
  absl::Duration request_memory = absl::Hours(48);
  UriPolicy uri_policy;
  QueueLimits limits;
  /// More checks of a valid spec, such as the model's headers where this machine can read them;
  /// null: none. Called without a lock.
  std::function<absl::Status(const teq::v1::JobSpec&)> check_inputs;
};

/// What a queue works on; all outlive it.
struct QueueDeps {
  store::JobStore* store;
  const Clock* clock;
  Random* random;
};

/// Where a watch stands.
struct WatchCursor {
  std::string job_uid;
  int64_t key = 0;
  int64_t sequence = 0;                                         // of the last event that was sent
  teq::v1::Job::State state = teq::v1::Job::STATE_UNSPECIFIED;  // after that event

  /// Resumes after `sequence`.
  [[nodiscard]] std::string ResumeToken() const;
};

struct WatchStart {
  std::optional<teq::v1::Job> snapshot;
  WatchCursor cursor;
};

/// The job queue: every verb of JobService and WorkerService. Each call that writes is one
/// transaction of the store, state and events together. Thread-safe; calls take as long as the
/// disk.
///
/// Errors carry the reasons of SERVICE section 1.6 and those named below.
class Queue {
 public:
  Queue(QueueOptions options, QueueDeps deps);

  /// Before any other call. Not owned.
  void AddObserver(QueueObserver* observer);

  /// Once at start-up: every lease is good for one whole lease duration from now, so that a time
  /// without a server costs no attempt. It counts for no max_runtime, as in Reap.
  [[nodiscard]] absl::Status Start();

  /// `trace` is the caller's; without one a trace begins with the job.
  [[nodiscard]] absl::StatusOr<teq::v1::Job> CreateJob(
      const teq::v1::CreateJobRequest& request,
      const std::optional<TraceParent>& trace = std::nullopt);
  [[nodiscard]] absl::StatusOr<teq::v1::Job> GetJob(const teq::v1::GetJobRequest& request);
  [[nodiscard]] absl::StatusOr<teq::v1::ListJobsResponse> ListJobs(
      const teq::v1::ListJobsRequest& request);
  [[nodiscard]] absl::StatusOr<teq::v1::Job> UpdateJob(const teq::v1::UpdateJobRequest& request);
  [[nodiscard]] absl::StatusOr<teq::v1::Job> CancelJob(const teq::v1::CancelJobRequest& request);
  [[nodiscard]] absl::StatusOr<teq::v1::Job> RetryJob(const teq::v1::RetryJobRequest& request);
  [[nodiscard]] absl::Status DeleteJob(const teq::v1::DeleteJobRequest& request);

  /// The first part of WatchJob: the snapshot, or the place where the resume token points.
  /// INVALID_ARGUMENT, reason INVALID_RESUME_TOKEN.
  [[nodiscard]] absl::StatusOr<WatchStart> StartWatch(const teq::v1::WatchJobRequest& request);
  /// The next events, at most `limit`, and the cursor after them. None and a finished cursor.state:
  /// the watch is over.
  [[nodiscard]] absl::StatusOr<std::vector<teq::v1::JobEvent>> ReadWatch(WatchCursor& cursor,
                                                                         int limit);

  [[nodiscard]] absl::StatusOr<teq::v1::RegisterWorkerResponse> RegisterWorker(
      const teq::v1::RegisterWorkerRequest& request);
  /// Does not wait. A worker that has a lease and never used it gets the same one again: its answer
  /// was lost on the way. NOT_FOUND, reason SESSION_NOT_FOUND: register again. ABORTED, reason
  /// SESSION_SUPERSEDED: another process took the worker's id.
  [[nodiscard]] absl::StatusOr<std::optional<teq::v1::Lease>> AcquireLease(
      std::string_view worker_session);
  [[nodiscard]] absl::StatusOr<teq::v1::HeartbeatResponse> Heartbeat(
      const teq::v1::HeartbeatRequest& request);
  [[nodiscard]] absl::StatusOr<teq::v1::Job> CompleteLease(
      const teq::v1::CompleteLeaseRequest& request);
  [[nodiscard]] absl::StatusOr<teq::v1::Job> ReleaseLease(
      const teq::v1::ReleaseLeaseRequest& request);

  /// Ends what time has ended: leases, waits, old request ids. To be called every second or so.
  /// When it was not called for long (the process was stopped, or the clock jumped), or the store
  /// could not write since, it extends every lease instead; the time without it counts for no
  /// max_runtime.
  [[nodiscard]] absl::Status Reap();

 private:
  class Unit;

  template <typename T>
  absl::StatusOr<T> Write(const std::function<absl::StatusOr<T>(Unit&)>& change);
  template <typename T>
  absl::StatusOr<T> WriteLocked(const std::function<absl::StatusOr<T>(Unit&)>& change);

  absl::StatusOr<teq::v1::Job> CheckNewJob(const teq::v1::CreateJobRequest& request,
                                           const std::string& project) const;
  absl::Status CheckQueuedQuota(Unit& unit, const std::string& project) const;
  absl::StatusOr<teq::v1::Job> InsertJob(Unit& unit, const teq::v1::CreateJobRequest& request,
                                         const std::string& project,
                                         const std::optional<TraceParent>& trace, teq::v1::Job job);
  absl::StatusOr<std::optional<teq::v1::Job>> FindRepeated(Unit& unit,
                                                           const teq::v1::CreateJobRequest& request,
                                                           const std::string& project,
                                                           const teq::v1::Job& job,
                                                           const std::string& digest);
  absl::StatusOr<std::optional<teq::v1::Lease>> AcquireIn(Unit& unit,
                                                          std::string_view worker_session);
  absl::StatusOr<teq::v1::HeartbeatResponse> HeartbeatIn(Unit& unit,
                                                         const teq::v1::HeartbeatRequest& request);
  absl::StatusOr<teq::v1::Job> CompleteIn(Unit& unit, const teq::v1::CompleteLeaseRequest& request);
  absl::Status ReapIn(Unit& unit);
  /// `gap` is left out of what the attempts have run.
  absl::Status ExtendLeases(Unit& unit, absl::Duration gap);
  /// The time since the last reap where it is too long for reaps that follow each other, or
  /// negative, as the clock was set back; else zero.
  absl::Duration GapSinceReap(absl::Time now) const;
  /// Whether workers may have had no chance to extend their leases.
  bool LeasesMayHaveBeenHeld(absl::Time now) const;
  /// For events that a job can do without.
  bool HasRoomForEvents(const store::JobRecord& record) const {
    return record.last_sequence < options_.limits.events_per_job;
  }
  void RecordProgress(JobEdit& edit, const teq::v1::HeartbeatRequest& request) const;
  teq::v1::Lease MakeLease(const store::JobRecord& record) const;
  absl::Duration HeartbeatInterval() const { return options_.lease_duration / 3; }
  std::string RandomId();
  std::string NewJobId(absl::Time now);

  const QueueOptions options_;
  const QueueDeps deps_;
  std::vector<QueueObserver*> observers_;

  std::mutex mutex_;  // held from a transaction's begin until the observers know of it
  absl::Time last_reap_ = absl::InfinitePast();  // that was committed
  bool store_failed_ = false;                    // since the last reap that was committed
  absl::Time last_forget_ = absl::InfinitePast();
};

}  // namespace teq::queue
