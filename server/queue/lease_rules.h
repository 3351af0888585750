#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/queue/clock.h"
#include "server/queue/job_edit.h"
#include "teq/v1/worker_service.pb.h"

namespace teq::queue {

/// What leases, failures and time do to a job: pure functions of an edit. An edit that one of them
/// refused is to be thrown away.

/// The holder of a new lease.
struct LeaseHolder {
  std::string worker_id;
  std::string session;
  std::string token;
};

/// Why an attempt ended without success.
struct AttemptFailure {
  absl::Status status;
  teq::v1::FailureClass failure_class = teq::v1::FAILURE_CLASS_INFRASTRUCTURE;
};

/// The wait before the attempt after the `failures`-th failure in a row: 1 s doubling to 60 s, of
/// which a random half may be left out.
[[nodiscard]] absl::Duration Backoff(int failures, Random& random);

/// When the reaper must look at the job next; infinite: never.
[[nodiscard]] absl::Time DueTime(const store::JobRecord& record, absl::Duration lease_duration);

/// When the server ends the current attempt: a lease after limits.max_runtime, when its worker,
/// which counts from a little later, should have ended it.
[[nodiscard]] absl::Time RuntimeEnd(const store::JobRecord& record, absl::Duration lease_duration);

/// A new lease with the next fence. From QUEUED it begins an attempt; in PUBLISHING it is
/// publish-only.
[[nodiscard]] absl::Status GrantLease(JobEdit& edit, const LeaseHolder& holder,
                                      absl::Duration lease_duration);

/// The server was away: the lease is good for one whole duration from now, and `gap`, the time away
/// where it was long, is left out of what the attempt has run. No attempt ends for its max_runtime
/// before that lease would: its worker may have finished meanwhile.
void ExtendLease(JobEdit& edit, absl::Duration gap, absl::Duration lease_duration);

/// RUNNING to PUBLISHING; the lease goes on.
[[nodiscard]] absl::Status CommitContent(JobEdit& edit, std::string_view manifest_sha256,
                                         absl::Duration lease_duration);

/// PUBLISHING to SUCCEEDED.
[[nodiscard]] absl::Status FinishPublication(JobEdit& edit);

/// The lease ends with a failure: another attempt, another publish-only lease, or the job's end. A
/// job that is being cancelled is CANCELLED.
[[nodiscard]] absl::Status FailAttempt(JobEdit& edit, const AttemptFailure& failure,
                                       store::LeaseEnd end, Random& random);

/// The attempt ran for longer than limits.max_runtime: FAILED.
[[nodiscard]] absl::Status FailForRuntime(JobEdit& edit);

/// The lease ended without a word of its worker; `why` is a sentence. Burns the attempt.
[[nodiscard]] absl::Status ExpireLease(JobEdit& edit, std::string_view why, Random& random);

/// The worker gave the lease back. Burns no attempt.
[[nodiscard]] absl::Status ReleaseLease(JobEdit& edit, teq::v1::ReleaseLeaseRequest::Reason reason);

/// The worker of a cancelled job stopped.
[[nodiscard]] absl::Status FinishCancel(JobEdit& edit, store::LeaseEnd end);

/// What a user asks for.
[[nodiscard]] absl::Status RequestCancel(JobEdit& edit, absl::Duration lease_duration);
[[nodiscard]] absl::Status RequestRetry(JobEdit& edit);

/// What time brings: a lease or an attempt that is over, a wait that is over. OK without a change
/// where nothing is due.
[[nodiscard]] absl::Status ApplyTime(JobEdit& edit, absl::Duration lease_duration, Random& random);

}  // namespace teq::queue
