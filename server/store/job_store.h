#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/spec/resource_name.h"
#include "teq/v1/job.pb.h"
#include "teq/v1/worker_service.pb.h"

namespace teq::store {

/// How a lease came to its end. Stored as a number: never renumber.
enum class LeaseEnd {
  kNone = 0,
  kFailed = 1,
  kCancelled = 2,
  kReleased = 3,
  kExpired = 4,
  kPublished = 5
};

/// A job's newest lease. It stays on record after its end, so that a repeated call can be answered.
struct LeaseRecord {
  std::string token;    // empty: none was ever granted
  std::string worker;   // worker id
  std::string session;  // the worker's session
  bool live = false;
  LeaseEnd end = LeaseEnd::kNone;
  absl::Time granted = absl::UnixEpoch();
  absl::Time expires = absl::UnixEpoch();
  int64_t heartbeat_sequence = 0;  // newest heartbeat whose content is stored
};

/// Where the job's counters stood when its budget began, and what the budget counts besides.
struct BudgetRecord {
  int32_t attempts_before = 0;
  int32_t preemptions_before = 0;
  int32_t out_of_memory = 0;
  int32_t publish_failures = 0;
};

/// A job as the queue sees it: the resource and what no client needs to know.
struct JobRecord {
  int64_t key = 0;  // set by Insert; grows with every job and is never used again
  JobName name;
  /// Its report is without loss curve, layers and scale groups, but for JobStore::Get.
  teq::v1::Job job;
  int64_t revision = 0;  // counts changes other than progress; job.etag says it
  std::string output;    // normal form of spec.output.uri
  int64_t last_sequence = 0;
  LeaseRecord lease;
  BudgetRecord budget;
  std::optional<teq::v1::CommittedContent> committed;
  std::vector<std::string> unfit_workers;  // worker ids that gave it back as UNFIT
  /// When the reaper must look at it; infinite: never.
  absl::Time due = absl::InfiniteFuture();
};

/// Whether nothing but RetryJob and DeleteJob can happen to a job in `state`.
[[nodiscard]] bool IsFinished(teq::v1::Job::State state);

/// What a request_id stands for.
struct RequestRecord {
  std::string digest;   // of the request's body
  std::string job_uid;  // the job that it made
};

/// A registered worker.
struct WorkerRecord {
  std::string worker_id;
  std::string boot_id;
  std::string session;
  teq::v1::Capabilities capabilities;
  absl::Time seen = absl::UnixEpoch();
};

/// Which job a worker could take.
struct Claim {
  std::string worker_id;
  std::vector<teq::v1::Device> devices;
};

/// One term of a list filter.
struct FilterTerm {
  enum class Field { kState, kLabel, kPriority, kCreateTime };
  enum class Operator { kEqual, kNotEqual, kLess, kLessOrEqual, kGreater, kGreaterOrEqual };
  Field field = Field::kState;
  std::string label;  // the key, for kLabel
  Operator op = Operator::kEqual;
  std::variant<int64_t, std::string> value;  // states, numbers and microseconds; or a label's value
};

/// A page of jobs, newest first.
struct ListQuery {
  std::string project;  // empty: all
  std::vector<FilterTerm> terms;
  std::optional<int64_t> before_key;
  int limit = 0;
};

/// Counts over all jobs.
struct Statistics {
  std::map<teq::v1::Job::State, int64_t> jobs;
  std::map<teq::v1::Device, absl::Time> oldest_queued;
  int64_t leases = 0;
  int64_t dead_letters = 0;
};

/// A write transaction. What it reads cannot change before its end. Without Commit nothing of it is
/// kept. Not thread-safe; belongs to one thread.
class Transaction {
 public:
  virtual ~Transaction() = default;

  [[nodiscard]] virtual absl::StatusOr<std::optional<JobRecord>> FindByName(
      const JobName& name) = 0;
  [[nodiscard]] virtual absl::StatusOr<std::optional<JobRecord>> FindByUid(
      std::string_view uid) = 0;
  /// By the token of the job's newest lease, live or not.
  [[nodiscard]] virtual absl::StatusOr<std::optional<JobRecord>> FindByLease(
      std::string_view token) = 0;
  [[nodiscard]] virtual absl::StatusOr<std::optional<JobRecord>> FindUnfinishedByOutput(
      std::string_view output) = 0;
  /// Jobs whose live lease belongs to `session`.
  [[nodiscard]] virtual absl::StatusOr<std::vector<JobRecord>> FindLeasesOf(
      std::string_view session) = 0;
  /// All jobs with a live lease.
  [[nodiscard]] virtual absl::StatusOr<std::vector<JobRecord>> FindLeases() = 0;
  /// The job to lease next: content that only waits for publication, then priority, then the
  /// project with fewer leases, then age.
  [[nodiscard]] virtual absl::StatusOr<std::optional<JobRecord>> FindNext(const Claim& claim) = 0;
  /// Jobs with due <= now, the longest due first.
  [[nodiscard]] virtual absl::StatusOr<std::vector<JobRecord>> FindDue(absl::Time now,
                                                                       int limit) = 0;
  [[nodiscard]] virtual absl::StatusOr<int64_t> CountQueued(std::string_view project) = 0;

  /// Stores a new job and its labels, and sets its key.
  [[nodiscard]] virtual absl::Status Insert(JobRecord& record) = 0;
  /// Replaces `before`, as it was read here, by `after`. ABORTED, reason LEASE_LOST, when the
  /// stored job has another fence or state than `before`.
  [[nodiscard]] virtual absl::Status Update(const JobRecord& before, const JobRecord& after) = 0;
  /// Removes the job, its events, labels and report.
  [[nodiscard]] virtual absl::Status Remove(const JobRecord& record) = 0;
  [[nodiscard]] virtual absl::Status Append(int64_t key,
                                            const std::vector<teq::v1::JobEvent>& events) = 0;
  /// Stores the full report, or removes it where it is null.
  [[nodiscard]] virtual absl::Status PutReport(int64_t key, const teq::v1::Report* report) = 0;

  [[nodiscard]] virtual absl::StatusOr<std::optional<RequestRecord>> FindRequest(
      std::string_view project, std::string_view request_id) = 0;
  [[nodiscard]] virtual absl::Status PutRequest(std::string_view project,
                                                std::string_view request_id,
                                                const RequestRecord& request, absl::Time now) = 0;
  [[nodiscard]] virtual absl::Status RemoveRequestsBefore(absl::Time time) = 0;

  [[nodiscard]] virtual absl::StatusOr<std::optional<WorkerRecord>> FindWorker(
      std::string_view worker_id) = 0;
  [[nodiscard]] virtual absl::Status PutWorker(const WorkerRecord& worker) = 0;
  [[nodiscard]] virtual absl::Status RemoveWorkersUnseenSince(absl::Time time) = 0;

  [[nodiscard]] virtual absl::Status Commit() = 0;
};

/// Holds jobs and their events. Thread-safe. Errors of the medium are RESOURCE_EXHAUSTED (reason
/// STORE_FULL) or UNAVAILABLE (STORE_UNAVAILABLE) and name the file.
class JobStore {
 public:
  virtual ~JobStore() = default;

  /// Waits for the write transaction before it.
  [[nodiscard]] virtual absl::StatusOr<std::unique_ptr<Transaction>> Begin() = 0;

  /// One job with its full report.
  [[nodiscard]] virtual absl::StatusOr<std::optional<JobRecord>> Get(const JobName& name) = 0;
  [[nodiscard]] virtual absl::StatusOr<std::vector<JobRecord>> List(const ListQuery& query) = 0;
  /// Events after `after`, in order, at most `limit`.
  [[nodiscard]] virtual absl::StatusOr<std::vector<teq::v1::JobEvent>> ReadEvents(int64_t key,
                                                                                  int64_t after,
                                                                                  int limit) = 0;
  /// The perplexities of a job's newest attempt, in order.
  [[nodiscard]] virtual absl::StatusOr<std::vector<teq::v1::PerplexitySample>> ReadPerplexities(
      int64_t key) = 0;
  /// Jobs with a live lease, and those that ended after `time`.
  [[nodiscard]] virtual absl::StatusOr<std::vector<JobRecord>> ReadLeasedOrEndedAfter(
      absl::Time time) = 0;
  [[nodiscard]] virtual absl::StatusOr<Statistics> ReadStatistics() = 0;
  /// Workers that were seen at `since` or later, and those that hold a live lease; by their ids.
  [[nodiscard]] virtual absl::StatusOr<std::vector<WorkerRecord>> ReadWorkers(absl::Time since) = 0;
};

}  // namespace teq::store
