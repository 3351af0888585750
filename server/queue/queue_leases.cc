// The verbs of WorkerService, and what time does.
#include <algorithm>

#include "fmt/format.h"
#include "server/queue/queue.h"
#include "server/queue/queue_unit.h"
#include "server/store/timestamps.h"

namespace teq::queue {
namespace {

using store::JobRecord;
using store::LeaseEnd;
using store::WorkerRecord;
using teq::v1::CompleteLeaseRequest;
using teq::v1::Device;
using teq::v1::HeartbeatRequest;
using teq::v1::HeartbeatResponse;
using teq::v1::Job;
using teq::v1::JobEvent;
using teq::v1::Lease;

constexpr absl::Duration kSeenResolution = absl::Minutes(1);
constexpr absl::Duration kWorkerMemory = absl::Hours(24);
constexpr absl::Duration kForgetInterval = absl::Hours(1);
constexpr int kReapBatch = 100;
constexpr size_t kSha256Digits = 64;
constexpr size_t kMaxIdSize = 63;
constexpr size_t kMaxBootIdSize = 128;

absl::Status LeaseLost(int64_t fence) {
  return Error(
      absl::StatusCode::kAborted, "LEASE_LOST",
      fmt::format("the lease with fence {} has ended; stop, and write nothing more", fence),
      {{"fence", fmt::format("{}", fence)}});
}

absl::Status JobCancelled(const Job& job) {
  return Error(
      absl::StatusCode::kFailedPrecondition, "JOB_CANCELLED",
      fmt::format("{} is being cancelled; stop, and complete the lease as cancelled", job.name()));
}

/// The job whose newest lease has this token and fence.
absl::StatusOr<JobRecord> FindLease(store::Transaction& transaction, const std::string& token,
                                    int64_t fence) {
  if (token.empty()) return LeaseLost(fence);
  TEQ_ASSIGN_OR_RETURN(std::optional<JobRecord> record, transaction.FindByLease(token));
  if (!record || record->job.fence() != fence) return LeaseLost(fence);
  return *std::move(record);
}

bool IsWorkerId(std::string_view id) {
  if (id.empty() || id.size() > kMaxIdSize) return false;
  return std::all_of(id.begin(), id.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '.' || c == '_' || c == '-';
  });
}

bool IsSha256(std::string_view text) {
  return text.size() == kSha256Digits && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

absl::Status CheckManifest(const std::string& sha256) {
  if (IsSha256(sha256)) return absl::OkStatus();
  return InvalidField("INVALID_MANIFEST", "manifest_sha256",
                      fmt::format("\"{}\" is not 64 lower-case hexadecimal digits", sha256));
}

absl::Status ManifestMismatch(const Job& job, const std::string& sha256) {
  return Error(absl::StatusCode::kFailedPrecondition, "MANIFEST_MISMATCH",
               fmt::format("{} has committed manifest {}, not {}; publish the committed one",
                           job.name(), job.manifest_sha256(), sha256));
}

/// A session names its worker, so that a superseded one can be told from an unknown one.
constexpr char kSessionSeparator = ':';

absl::StatusOr<WorkerRecord> FindSession(store::Transaction& transaction,
                                         std::string_view session) {
  const std::string_view worker_id = session.substr(0, session.find(kSessionSeparator));
  TEQ_ASSIGN_OR_RETURN(std::optional<WorkerRecord> worker, transaction.FindWorker(worker_id));
  if (!worker) {
    return Error(absl::StatusCode::kNotFound, "SESSION_NOT_FOUND",
                 fmt::format("worker_session: {} is not known; register again", session));
  }
  if (worker->session != session) {
    return Error(absl::StatusCode::kAborted, "SESSION_SUPERSEDED",
                 fmt::format("worker_session: worker {} was registered again by another process; "
                             "give every worker an id of its own",
                             worker_id));
  }
  return *std::move(worker);
}

std::vector<Device> DevicesOf(const WorkerRecord& worker) {
  std::vector<Device> devices = {teq::v1::DEVICE_ANY, teq::v1::DEVICE_CPU};
  for (const int device : worker.capabilities.devices()) {
    devices.push_back(static_cast<Device>(device));
  }
  return devices;
}

/// What a list shows of a report.
teq::v1::Report Summary(teq::v1::Report report) {
  report.clear_layers();
  report.clear_scale_groups();
  if (!report.has_training()) return report;
  report.mutable_training()->clear_loss_curve();
  for (auto& block : *report.mutable_training()->mutable_blocks()) block.clear_loss_curve();
  return report;
}

absl::Status StoreReport(store::Transaction& transaction, JobEdit& edit,
                         const teq::v1::Report& report) {
  *edit.job().mutable_report() = Summary(report);
  return transaction.PutReport(edit.record().key, &report);
}

AttemptFailure ReadFailure(const CompleteLeaseRequest::Failure& failure) {
  google::rpc::Status proto = failure.status();
  if (proto.code() == 0) proto.set_code(static_cast<int>(absl::StatusCode::kUnknown));
  if (proto.message().empty()) proto.set_message("the worker gave no reason");
  absl::Status status = FromProto(proto);
  if (!status.GetPayload("type.googleapis.com/google.rpc.ErrorInfo")) {
    google::rpc::ErrorInfo info;
    info.set_reason("WORKER_FAILURE");
    info.set_domain(std::string(kErrorDomain));
    AddDetail(status, info);
  }
  const auto failure_class = failure.failure_class() == teq::v1::FAILURE_CLASS_UNSPECIFIED ||
                                     !teq::v1::FailureClass_IsValid(failure.failure_class())
                                 ? teq::v1::FAILURE_CLASS_INFRASTRUCTURE
                                 : failure.failure_class();
  return {.status = status, .failure_class = failure_class};
}

JobEvent EventOf(const teq::v1::Progress& progress) {
  JobEvent event;
  *event.mutable_progress() = progress;
  return event;
}

}  // namespace

absl::Status Queue::Start() {
  return Write<bool>([&](Unit& unit) -> absl::StatusOr<bool> {
           TEQ_ASSIGN_OR_RETURN(const std::vector<JobRecord> leased,
                                unit.transaction().FindLeases());
           // When the server stopped is not stored, but heartbeats were until then.
           for (const JobRecord& record : leased) {
             last_reap_ = std::max(last_reap_, store::FromTimestamp(record.job.update_time()));
           }
           TEQ_RETURN_IF_ERROR(ExtendLeases(unit, GapSinceReap(unit.now())));
           last_reap_ = unit.now();
           // Clients that could not call meanwhile may repeat what they asked before.
           last_forget_ = unit.now();
           return true;
         })
      .status();
}

absl::Status Queue::ExtendLeases(Unit& unit, absl::Duration gap) {
  TEQ_ASSIGN_OR_RETURN(std::vector<JobRecord> leased, unit.transaction().FindLeases());
  for (JobRecord& record : leased) {
    JobEdit edit = unit.Edit(std::move(record));
    ExtendLease(edit, gap, options_.lease_duration);
    TEQ_RETURN_IF_ERROR(unit.Save(std::move(edit)).status());
  }
  return absl::OkStatus();
}

absl::StatusOr<teq::v1::RegisterWorkerResponse> Queue::RegisterWorker(
    const teq::v1::RegisterWorkerRequest& request) {
  if (!IsWorkerId(request.worker_id())) {
    return InvalidField(
        "INVALID_WORKER", "worker_id",
        fmt::format("\"{}\" does not match [a-zA-Z0-9._-]{{1,63}}", request.worker_id()));
  }
  if (request.boot_id().empty() || request.boot_id().size() > kMaxBootIdSize) {
    return InvalidField("INVALID_WORKER", "boot_id",
                        fmt::format("must have 1 to {} bytes, new with every start of the process",
                                    kMaxBootIdSize));
  }
  return Write<teq::v1::RegisterWorkerResponse>(
      [&](Unit& unit) -> absl::StatusOr<teq::v1::RegisterWorkerResponse> {
        TEQ_ASSIGN_OR_RETURN(const auto known, unit.transaction().FindWorker(request.worker_id()));
        WorkerRecord worker{.worker_id = request.worker_id(),
                            .boot_id = request.boot_id(),
                            .session = {},
                            .capabilities = request.capabilities(),
                            .seen = unit.now()};
        if (known && known->boot_id == request.boot_id()) {
          worker.session = known->session;
        } else {
          worker.session =
              fmt::format("{}{}{}", request.worker_id(), kSessionSeparator, RandomId());
        }
        if (known && worker.session != known->session) {
          TEQ_ASSIGN_OR_RETURN(std::vector<JobRecord> leased,
                               unit.transaction().FindLeasesOf(known->session));
          for (JobRecord& record : leased) {
            JobEdit edit = unit.Edit(std::move(record));
            TEQ_RETURN_IF_ERROR(ExpireLease(
                edit, fmt::format("worker {} started anew", request.worker_id()), *deps_.random));
            TEQ_RETURN_IF_ERROR(unit.Save(std::move(edit)).status());
          }
        }
        TEQ_RETURN_IF_ERROR(unit.transaction().PutWorker(worker));
        teq::v1::RegisterWorkerResponse response;
        response.set_worker_session(worker.session);
        *response.mutable_heartbeat_interval() = store::ToDuration(HeartbeatInterval());
        *response.mutable_server_time() = store::ToTimestamp(unit.now());
        return response;
      });
}

Lease Queue::MakeLease(const JobRecord& record) const {
  Lease lease;
  lease.set_lease_token(record.lease.token);
  lease.set_fence(record.job.fence());
  lease.set_attempt(record.job.attempt_count());
  lease.set_job(record.job.name());
  lease.set_job_uid(record.job.uid());
  lease.set_traceparent(record.job.traceparent());
  *lease.mutable_spec() = record.job.spec();
  *lease.mutable_lease_duration() = store::ToDuration(options_.lease_duration);
  *lease.mutable_heartbeat_interval() = store::ToDuration(HeartbeatInterval());
  if (record.committed) *lease.mutable_publish_only() = *record.committed;
  return lease;
}

absl::StatusOr<std::optional<Lease>> Queue::AcquireLease(std::string_view worker_session) {
  return Write<std::optional<Lease>>([&](Unit& unit) { return AcquireIn(unit, worker_session); });
}

absl::StatusOr<std::optional<Lease>> Queue::AcquireIn(Unit& unit, std::string_view worker_session) {
  store::Transaction& transaction = unit.transaction();
  TEQ_ASSIGN_OR_RETURN(WorkerRecord worker, FindSession(transaction, worker_session));
  if (unit.now() - worker.seen > kSeenResolution) {
    worker.seen = unit.now();
    TEQ_RETURN_IF_ERROR(transaction.PutWorker(worker));
  }
  TEQ_ASSIGN_OR_RETURN(std::vector<JobRecord> held, transaction.FindLeasesOf(worker.session));
  for (JobRecord& record : held) {
    const bool is_committed = record.committed && record.committed->fence() == record.job.fence();
    const bool unused = record.lease.heartbeat_sequence == 0 && !is_committed;
    JobEdit edit = unit.Edit(std::move(record));
    if (unused) {
      edit.record().lease.granted = unit.now();  // its worker begins now
      edit.record().lease.expires = unit.now() + options_.lease_duration;
      Lease lease = MakeLease(edit.record());
      TEQ_RETURN_IF_ERROR(unit.Save(std::move(edit)).status());
      return lease;
    }
    TEQ_RETURN_IF_ERROR(ExpireLease(
        edit, fmt::format("worker {} asked for other work", worker.worker_id), *deps_.random));
    TEQ_RETURN_IF_ERROR(unit.Save(std::move(edit)).status());
  }
  TEQ_ASSIGN_OR_RETURN(
      std::optional<JobRecord> next,
      transaction.FindNext({.worker_id = worker.worker_id, .devices = DevicesOf(worker)}));
  if (!next) return std::nullopt;
  JobEdit edit = unit.Edit(*std::move(next));
  TEQ_RETURN_IF_ERROR(GrantLease(
      edit, {.worker_id = worker.worker_id, .session = worker.session, .token = RandomId()},
      options_.lease_duration));
  Lease lease = MakeLease(edit.record());
  TEQ_RETURN_IF_ERROR(unit.Save(std::move(edit)).status());
  return lease;
}

void Queue::RecordProgress(JobEdit& edit, const HeartbeatRequest& request) const {
  const bool room = HasRoomForEvents(edit.record());
  if (request.has_progress() &&
      request.progress().SerializeAsString() != edit.job().progress().SerializeAsString()) {
    const bool is_stage = request.progress().stage() != edit.job().progress().stage();
    *edit.job().mutable_progress() = request.progress();
    if (room || is_stage) edit.Record(EventOf(request.progress()));
  }
  for (const teq::v1::MetricSample& sample : request.samples()) {
    *edit.job().mutable_latest_metrics() = sample;
    if (!room) continue;
    JobEvent event;
    *event.mutable_sample() = sample;
    edit.Record(std::move(event));
  }
  for (const teq::v1::PerplexitySample& perplexity : request.perplexities()) {
    JobEvent event;
    *event.mutable_perplexity() = perplexity;
    edit.Record(std::move(event));
  }
}

absl::StatusOr<HeartbeatResponse> Queue::Heartbeat(const HeartbeatRequest& request) {
  if (request.sequence() < 1) {
    return InvalidField(
        "INVALID_HEARTBEAT", "sequence",
        fmt::format("{} is not positive; number heartbeats from 1", request.sequence()));
  }
  return Write<HeartbeatResponse>([&](Unit& unit) { return HeartbeatIn(unit, request); });
}

absl::StatusOr<HeartbeatResponse> Queue::HeartbeatIn(Unit& unit, const HeartbeatRequest& request) {
  TEQ_ASSIGN_OR_RETURN(JobRecord record,
                       FindLease(unit.transaction(), request.lease_token(), request.fence()));
  if (!record.lease.live) return LeaseLost(request.fence());
  JobEdit edit = unit.Edit(std::move(record));
  store::LeaseRecord& lease = edit.record().lease;
  if (request.sequence() > lease.heartbeat_sequence) {
    RecordProgress(edit, request);
    lease.heartbeat_sequence = request.sequence();
  }
  HeartbeatResponse response;
  response.set_acknowledged_sequence(lease.heartbeat_sequence);
  response.set_directive(teq::v1::DIRECTIVE_CONTINUE);
  if (edit.state() == Job::STATE_CANCELLING) {
    response.set_directive(teq::v1::DIRECTIVE_CANCEL);
  } else if (edit.state() == Job::STATE_RUNNING &&
             RuntimeEnd(edit.record(), options_.lease_duration) <= unit.now() &&
             !LeasesMayHaveBeenHeld(unit.now())) {
    TEQ_RETURN_IF_ERROR(FailForRuntime(edit));
    response.set_directive(teq::v1::DIRECTIVE_ABANDON);
  } else {
    lease.expires = unit.now() + options_.lease_duration;
  }
  *response.mutable_lease_ttl() =
      store::ToDuration(std::max(lease.expires - unit.now(), absl::ZeroDuration()));
  *response.mutable_next_heartbeat_after() = store::ToDuration(HeartbeatInterval());
  TEQ_RETURN_IF_ERROR(unit.Save(std::move(edit)).status());
  return response;
}

absl::StatusOr<Job> Queue::CompleteLease(const CompleteLeaseRequest& request) {
  return Write<Job>([&](Unit& unit) { return CompleteIn(unit, request); });
}

absl::StatusOr<Job> Queue::CompleteIn(Unit& unit, const CompleteLeaseRequest& request) {
  TEQ_ASSIGN_OR_RETURN(JobRecord record,
                       FindLease(unit.transaction(), request.lease_token(), request.fence()));
  const Job::State state = record.job.state();
  const bool live = record.lease.live;
  const LeaseEnd end = record.lease.end;
  JobEdit edit = unit.Edit(std::move(record));
  switch (request.outcome_case()) {
    case CompleteLeaseRequest::kSuccess: {
      const std::string& sha256 = request.success().manifest_sha256();
      TEQ_RETURN_IF_ERROR(CheckManifest(sha256));
      if (state == Job::STATE_CANCELLING && live) return JobCancelled(edit.job());
      if (state == Job::STATE_SUCCEEDED || (state == Job::STATE_PUBLISHING && live)) {
        if (sha256 != edit.job().manifest_sha256()) return ManifestMismatch(edit.job(), sha256);
        return edit.job();
      }
      if (!live) return LeaseLost(request.fence());
      TEQ_RETURN_IF_ERROR(CommitContent(edit, sha256, options_.lease_duration));
      TEQ_RETURN_IF_ERROR(StoreReport(unit.transaction(), edit, request.success().report()));
      return unit.Save(std::move(edit));
    }
    case CompleteLeaseRequest::kPublished: {
      const std::string& sha256 = request.published().manifest_sha256();
      TEQ_RETURN_IF_ERROR(CheckManifest(sha256));
      if (state == Job::STATE_CANCELLING && live) return JobCancelled(edit.job());
      if (state != Job::STATE_SUCCEEDED && !live) return LeaseLost(request.fence());
      if (state == Job::STATE_RUNNING) {
        return Error(absl::StatusCode::kFailedPrecondition, "NOT_COMMITTED",
                     fmt::format("{} has no committed content; complete the lease with success "
                                 "first",
                                 edit.job().name()));
      }
      if (sha256 != edit.job().manifest_sha256()) return ManifestMismatch(edit.job(), sha256);
      if (state == Job::STATE_SUCCEEDED) return edit.job();
      TEQ_RETURN_IF_ERROR(FinishPublication(edit));
      return unit.Save(std::move(edit));
    }
    case CompleteLeaseRequest::kFailure: {
      if (!live) {
        if (end == LeaseEnd::kFailed) return edit.job();
        return LeaseLost(request.fence());
      }
      TEQ_RETURN_IF_ERROR(
          FailAttempt(edit, ReadFailure(request.failure()), LeaseEnd::kFailed, *deps_.random));
      if (request.failure().has_report() && edit.state() == Job::STATE_FAILED) {
        TEQ_RETURN_IF_ERROR(StoreReport(unit.transaction(), edit, request.failure().report()));
      }
      return unit.Save(std::move(edit));
    }
    case CompleteLeaseRequest::kCancelled: {
      if (!live) {
        if (end == LeaseEnd::kCancelled) return edit.job();
        return LeaseLost(request.fence());
      }
      if (state != Job::STATE_CANCELLING) {
        return Error(absl::StatusCode::kFailedPrecondition, "NOT_CANCELLED",
                     fmt::format("{} is not being cancelled; release the lease to give it back",
                                 edit.job().name()));
      }
      TEQ_RETURN_IF_ERROR(FinishCancel(edit, LeaseEnd::kCancelled));
      return unit.Save(std::move(edit));
    }
    case CompleteLeaseRequest::OUTCOME_NOT_SET:
      break;
  }
  return InvalidField("INVALID_OUTCOME", "outcome",
                      "must be one of success, published, failure, cancelled");
}

absl::StatusOr<Job> Queue::ReleaseLease(const teq::v1::ReleaseLeaseRequest& request) {
  return Write<Job>([&](Unit& unit) -> absl::StatusOr<Job> {
    TEQ_ASSIGN_OR_RETURN(JobRecord record,
                         FindLease(unit.transaction(), request.lease_token(), request.fence()));
    if (!record.lease.live) {
      if (record.lease.end == LeaseEnd::kReleased) return record.job;
      return LeaseLost(request.fence());
    }
    JobEdit edit = unit.Edit(std::move(record));
    TEQ_RETURN_IF_ERROR(queue::ReleaseLease(edit, request.reason()));
    return unit.Save(std::move(edit));
  });
}

absl::Status Queue::Reap() {
  TEQ_ASSIGN_OR_RETURN(const absl::Time time,
                       Write<absl::Time>([&](Unit& unit) -> absl::StatusOr<absl::Time> {
                         TEQ_RETURN_IF_ERROR(ReapIn(unit));
                         return unit.now();
                       }));
  // Only now: of one that was not committed, no lease has the gap.
  const std::lock_guard lock(mutex_);
  last_reap_ = time;
  return absl::OkStatus();
}

absl::Duration Queue::GapSinceReap(absl::Time now) const {
  const absl::Duration since = now - last_reap_;
  const bool stalled = since > options_.lease_duration / 2 || since < absl::ZeroDuration();
  return stalled && last_reap_ != absl::InfinitePast() ? since : absl::ZeroDuration();
}

bool Queue::LeasesMayHaveBeenHeld(absl::Time now) const {
  return GapSinceReap(now) != absl::ZeroDuration() || store_failed_;
}

absl::Status Queue::ReapIn(Unit& unit) {
  store::Transaction& transaction = unit.transaction();
  if (LeasesMayHaveBeenHeld(unit.now())) {
    TEQ_RETURN_IF_ERROR(ExtendLeases(unit, GapSinceReap(unit.now())));
  }
  store_failed_ = false;

  TEQ_ASSIGN_OR_RETURN(std::vector<JobRecord> due, transaction.FindDue(unit.now(), kReapBatch));
  for (JobRecord& record : due) {
    JobEdit edit = unit.Edit(std::move(record));
    TEQ_RETURN_IF_ERROR(ApplyTime(edit, options_.lease_duration, *deps_.random));
    TEQ_RETURN_IF_ERROR(unit.Save(std::move(edit)).status());
  }
  if (unit.now() - last_forget_ > kForgetInterval) {
    TEQ_RETURN_IF_ERROR(transaction.RemoveRequestsBefore(unit.now() - options_.request_memory));
    TEQ_RETURN_IF_ERROR(transaction.RemoveWorkersUnseenSince(unit.now() - kWorkerMemory));
    last_forget_ = unit.now();
  }
  return absl::OkStatus();
}

}  // namespace teq::queue
