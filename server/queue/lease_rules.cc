#include "server/queue/lease_rules.h"

#include <algorithm>
#include <cmath>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "server/store/timestamps.h"

namespace teq::queue {
namespace {

using store::LeaseEnd;
using teq::v1::Job;
using teq::v1::ReleaseLeaseRequest;

constexpr absl::Duration kFirstBackoff = absl::Seconds(1);
constexpr absl::Duration kLongestBackoff = absl::Seconds(60);
// Reported ones, at most a minute apart and a lease long: hours in which somebody can mend what the
// alert names. Then the job can be retried, which begins anew, or deleted.
constexpr int kMaxPublishFailures = 500;
constexpr int kMaxOutOfMemory = 1;  // retries

std::string_view View(absl::string_view text) { return {text.data(), text.size()}; }

/// After Move, which names the worker in its event.
void EndLease(JobEdit& edit, LeaseEnd end) {
  edit.record().lease.live = false;
  edit.record().lease.end = end;
  edit.job().clear_worker();
}

void SetError(JobEdit& edit, const absl::Status& status) {
  *edit.job().mutable_error() = ToProto(status);
}

int AttemptsUsed(const store::JobRecord& record) {
  return record.job.attempt_count() - record.budget.attempts_before;
}

bool MayRetry(const store::JobRecord& record, teq::v1::FailureClass failure_class) {
  if (failure_class == teq::v1::FAILURE_CLASS_USER_ERROR) return false;
  if (failure_class == teq::v1::FAILURE_CLASS_OUT_OF_MEMORY &&
      record.budget.out_of_memory > kMaxOutOfMemory) {
    return false;
  }
  return AttemptsUsed(record) < record.job.spec().limits().max_attempts();
}

absl::Status FailForGood(JobEdit& edit, const absl::Status& status, bool dead_letter,
                         LeaseEnd end) {
  TEQ_RETURN_IF_ERROR(edit.Move(Cause::kFailedForGood, View(status.message())));
  edit.job().set_dead_letter(dead_letter);
  SetError(edit, status);
  EndLease(edit, end);
  return absl::OkStatus();
}

absl::Status FailRunning(JobEdit& edit, const AttemptFailure& failure, LeaseEnd end,
                         Random& random) {
  if (failure.failure_class == teq::v1::FAILURE_CLASS_OUT_OF_MEMORY) {
    ++edit.record().budget.out_of_memory;
  }
  if (!MayRetry(edit.record(), failure.failure_class)) {
    const bool retryable = failure.failure_class != teq::v1::FAILURE_CLASS_USER_ERROR;
    return FailForGood(edit, failure.status, retryable, end);
  }
  const absl::Duration wait = Backoff(AttemptsUsed(edit.record()), random);
  TEQ_RETURN_IF_ERROR(edit.Move(
      Cause::kAttemptFailed,
      fmt::format("attempt {} failed: {}; the next follows in {:.1f} s", edit.job().attempt_count(),
                  View(failure.status.message()), absl::ToDoubleSeconds(wait))));
  *edit.job().mutable_next_attempt_time() = store::ToTimestamp(edit.now() + wait);
  EndLease(edit, end);
  return absl::OkStatus();
}

absl::Status FailPublishing(JobEdit& edit, const AttemptFailure& failure, LeaseEnd end,
                            Random& random) {
  if (failure.failure_class == teq::v1::FAILURE_CLASS_USER_ERROR) {
    return FailForGood(edit, failure.status, /*dead_letter=*/false, end);
  }
  if (end == LeaseEnd::kFailed &&
      edit.record().budget.publish_failures + 1 >= kMaxPublishFailures) {
    return FailForGood(edit, failure.status, /*dead_letter=*/true, end);
  }
  TEQ_RETURN_IF_ERROR(edit.Move(Cause::kAttemptFailed,
                                fmt::format("publication failed: {}; another worker will publish",
                                            View(failure.status.message()))));
  // A dead worker is no sign of a bad output: only a reported failure waits.
  if (end == LeaseEnd::kFailed) {
    const int failures = ++edit.record().budget.publish_failures;
    *edit.job().mutable_next_attempt_time() =
        store::ToTimestamp(edit.now() + Backoff(failures, random));
  }
  EndLease(edit, end);
  return absl::OkStatus();
}

void SetCancelled(JobEdit& edit) {
  SetError(edit, Error(absl::StatusCode::kCancelled, "JOB_CANCELLED", "cancelled by request"));
}

absl::Status ExpireWait(JobEdit& edit) {
  const std::string message = fmt::format(
      "no worker took the job within max_queue_time, {}; raise limits.max_queue_time, or start a "
      "worker that fits",
      absl::FormatDuration(store::FromDuration(edit.job().spec().limits().max_queue_time())));
  TEQ_RETURN_IF_ERROR(edit.Move(Cause::kQueueTimeOver, message));
  SetError(edit, Error(absl::StatusCode::kDeadlineExceeded, "MAX_QUEUE_TIME_EXCEEDED", message));
  return absl::OkStatus();
}

}  // namespace

absl::Duration Backoff(int failures, Random& random) {
  const int doublings = std::clamp(failures - 1, 0, 16);
  const absl::Duration longest = std::min(kFirstBackoff * (1 << doublings), kLongestBackoff);
  const double share = 0.5 + 0.5 * std::ldexp(static_cast<double>(random.Next() >> 11U), -53);
  return longest * share;
}

absl::Time RuntimeEnd(const store::JobRecord& record, absl::Duration lease_duration) {
  const auto& limits = record.job.spec().limits();
  if (!limits.has_max_runtime()) return absl::InfiniteFuture();
  return record.lease.granted + store::FromDuration(limits.max_runtime()) + lease_duration;
}

absl::Time DueTime(const store::JobRecord& record, absl::Duration lease_duration) {
  const Job& job = record.job;
  if (record.lease.live) {
    if (job.state() != Job::STATE_RUNNING) return record.lease.expires;
    return std::min(record.lease.expires, RuntimeEnd(record, lease_duration));
  }
  if (job.has_next_attempt_time()) return store::FromTimestamp(job.next_attempt_time());
  if (job.state() == Job::STATE_QUEUED && job.spec().limits().has_max_queue_time()) {
    return store::FromTimestamp(job.queue_time()) +
           store::FromDuration(job.spec().limits().max_queue_time());
  }
  return absl::InfiniteFuture();
}

absl::Status GrantLease(JobEdit& edit, const LeaseHolder& holder, absl::Duration lease_duration) {
  const bool attempt = edit.state() == Job::STATE_QUEUED;
  Job& job = edit.job();
  job.set_fence(job.fence() + 1);
  job.set_worker(holder.worker_id);
  if (attempt) {
    job.set_attempt_count(job.attempt_count() + 1);
    job.clear_progress();
    job.clear_latest_metrics();
    if (!job.has_start_time()) *job.mutable_start_time() = store::ToTimestamp(edit.now());
  }
  TEQ_RETURN_IF_ERROR(edit.Move(
      Cause::kLeased,
      attempt ? fmt::format("attempt {} runs on worker {}", job.attempt_count(), holder.worker_id)
              : fmt::format("worker {} publishes what was committed", holder.worker_id)));
  edit.record().lease = {.token = holder.token,
                         .worker = holder.worker_id,
                         .session = holder.session,
                         .live = true,
                         .end = LeaseEnd::kNone,
                         .granted = edit.now(),
                         .expires = edit.now() + lease_duration,
                         .heartbeat_sequence = 0};
  return absl::OkStatus();
}

void ExtendLease(JobEdit& edit, absl::Duration gap, absl::Duration lease_duration) {
  store::LeaseRecord& lease = edit.record().lease;
  lease.expires = edit.now() + lease_duration;
  // What an attempt may cost, its worker sees to: it counts max_runtime by a clock of its own while
  // the server is away. Counting the gap here would only end attempts whose outcome waits to be
  // told. A lease that was granted after the clock was set back has lost nothing.
  if (gap > absl::ZeroDuration() || lease.granted > edit.now()) lease.granted += gap;
  const absl::Duration missing = lease.expires - RuntimeEnd(edit.record(), lease_duration);
  lease.granted += std::max(missing, absl::ZeroDuration());
}

absl::Status CommitContent(JobEdit& edit, std::string_view manifest_sha256,
                           absl::Duration lease_duration) {
  TEQ_RETURN_IF_ERROR(edit.Move(Cause::kCommitted, "the content is committed; publishing"));
  edit.job().set_manifest_sha256(std::string(manifest_sha256));
  teq::v1::CommittedContent content;
  content.set_manifest_sha256(std::string(manifest_sha256));
  content.set_attempt(edit.job().attempt_count());
  content.set_fence(edit.job().fence());
  edit.record().committed = content;
  edit.record().lease.expires = edit.now() + lease_duration;
  return absl::OkStatus();
}

absl::Status FinishPublication(JobEdit& edit) {
  TEQ_RETURN_IF_ERROR(edit.Move(Cause::kPublished, "published"));
  EndLease(edit, LeaseEnd::kPublished);
  return absl::OkStatus();
}

absl::Status FailAttempt(JobEdit& edit, const AttemptFailure& failure, LeaseEnd end,
                         Random& random) {
  edit.failure_class = failure.failure_class;
  switch (edit.state()) {
    case Job::STATE_CANCELLING:
      return FinishCancel(edit, end);
    case Job::STATE_PUBLISHING:
      return FailPublishing(edit, failure, end, random);
    default:
      return FailRunning(edit, failure, end, random);
  }
}

absl::Status FailForRuntime(JobEdit& edit) {
  edit.failure_class = teq::v1::FAILURE_CLASS_USER_ERROR;
  const absl::Status status = Error(
      absl::StatusCode::kDeadlineExceeded, "MAX_RUNTIME_EXCEEDED",
      fmt::format(
          "attempt {} ran for longer than max_runtime, {}; raise limits.max_runtime, "
          "or ask for less work",
          edit.job().attempt_count(),
          absl::FormatDuration(store::FromDuration(edit.job().spec().limits().max_runtime()))));
  return FailForGood(edit, status, /*dead_letter=*/false, LeaseEnd::kFailed);
}

absl::Status ExpireLease(JobEdit& edit, std::string_view why, Random& random) {
  return FailAttempt(edit,
                     {.status = Error(absl::StatusCode::kUnavailable, "LEASE_EXPIRED", why),
                      .failure_class = teq::v1::FAILURE_CLASS_INFRASTRUCTURE},
                     LeaseEnd::kExpired, random);
}

absl::Status ReleaseLease(JobEdit& edit, ReleaseLeaseRequest::Reason reason) {
  if (edit.state() == Job::STATE_CANCELLING) return FinishCancel(edit, LeaseEnd::kReleased);
  Job& job = edit.job();
  const std::string worker = job.worker();
  const int preemptions = job.preemption_count() + 1 - edit.record().budget.preemptions_before;
  if (reason == ReleaseLeaseRequest::REASON_UNFIT) edit.record().unfit_workers.push_back(worker);
  if (edit.state() == Job::STATE_RUNNING && preemptions > job.spec().limits().max_preemptions()) {
    job.set_preemption_count(job.preemption_count() + 1);
    return FailForGood(edit,
                       Error(absl::StatusCode::kAborted, "PREEMPTIONS_EXHAUSTED",
                             fmt::format("{} leases were given back, max_preemptions is {}; raise "
                                         "limits.max_preemptions, or run on steadier workers",
                                         preemptions, job.spec().limits().max_preemptions())),
                       /*dead_letter=*/true, LeaseEnd::kReleased);
  }
  const bool attempt = edit.state() == Job::STATE_RUNNING;
  TEQ_RETURN_IF_ERROR(edit.Move(
      Cause::kReleased, reason == ReleaseLeaseRequest::REASON_UNFIT
                            ? fmt::format("worker {} cannot run it; queued for another", worker)
                            : fmt::format("worker {} stopped and gave it back", worker)));
  job.set_preemption_count(job.preemption_count() + 1);
  if (attempt) job.set_attempt_count(job.attempt_count() - 1);
  EndLease(edit, LeaseEnd::kReleased);
  return absl::OkStatus();
}

absl::Status FinishCancel(JobEdit& edit, LeaseEnd end) {
  const std::string_view message =
      end == LeaseEnd::kExpired ? "cancelled; the worker did not answer" : "cancelled";
  TEQ_RETURN_IF_ERROR(edit.Move(Cause::kStopped, message));
  EndLease(edit, end);
  SetCancelled(edit);
  return absl::OkStatus();
}

absl::Status RequestCancel(JobEdit& edit, absl::Duration lease_duration) {
  if (edit.state() == Job::STATE_CANCELLING) return absl::OkStatus();
  const bool running = edit.state() == Job::STATE_RUNNING;
  TEQ_RETURN_IF_ERROR(
      edit.Move(Cause::kCancelRequested,
                running ? "cancellation asked for; the worker is told" : "cancelled"));
  if (!running) {
    SetCancelled(edit);
    return absl::OkStatus();
  }
  // From now on heartbeats do not extend the lease: the worker has this long to answer.
  edit.record().lease.expires = edit.now() + lease_duration;
  return absl::OkStatus();
}

absl::Status RequestRetry(JobEdit& edit) {
  TEQ_RETURN_IF_ERROR(edit.Move(Cause::kRetryRequested, "queued again by request"));
  Job& job = edit.job();
  job.clear_error();
  job.clear_end_time();
  job.clear_report();
  job.clear_progress();
  job.clear_dead_letter();
  job.clear_latest_metrics();
  job.clear_manifest_sha256();
  edit.record().committed.reset();
  edit.record().unfit_workers.clear();
  edit.record().budget = {.attempts_before = job.attempt_count(),
                          .preemptions_before = job.preemption_count(),
                          .out_of_memory = 0,
                          .publish_failures = 0};
  return absl::OkStatus();
}

absl::Status ApplyTime(JobEdit& edit, absl::Duration lease_duration, Random& random) {
  const store::JobRecord& record = edit.record();
  if (DueTime(record, lease_duration) > edit.now()) return absl::OkStatus();
  if (record.lease.live) {
    if (record.lease.expires <= edit.now()) {
      return ExpireLease(edit,
                         fmt::format("worker {} sent no heartbeat for {}", record.lease.worker,
                                     absl::FormatDuration(lease_duration)),
                         random);
    }
    return FailForRuntime(edit);
  }
  if (record.job.has_next_attempt_time()) {
    return edit.Move(Cause::kBackoffOver, "waits for a worker");
  }
  return ExpireWait(edit);
}

}  // namespace teq::queue
