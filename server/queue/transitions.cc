#include "server/queue/transitions.h"

#include <array>

namespace teq::queue {
namespace {

using teq::v1::Job;

constexpr std::array<Transition, 23> kTransitions = {{
    {Job::STATE_UNSPECIFIED, Cause::kCreated, Job::STATE_QUEUED},

    {Job::STATE_QUEUED, Cause::kLeased, Job::STATE_RUNNING},
    {Job::STATE_QUEUED, Cause::kCancelRequested, Job::STATE_CANCELLED},
    {Job::STATE_QUEUED, Cause::kQueueTimeOver, Job::STATE_EXPIRED},

    {Job::STATE_RUNNING, Cause::kCommitted, Job::STATE_PUBLISHING},
    {Job::STATE_RUNNING, Cause::kAttemptFailed, Job::STATE_RETRY_WAIT},
    {Job::STATE_RUNNING, Cause::kFailedForGood, Job::STATE_FAILED},
    {Job::STATE_RUNNING, Cause::kReleased, Job::STATE_QUEUED},
    {Job::STATE_RUNNING, Cause::kCancelRequested, Job::STATE_CANCELLING},

    {Job::STATE_RETRY_WAIT, Cause::kBackoffOver, Job::STATE_QUEUED},
    {Job::STATE_RETRY_WAIT, Cause::kCancelRequested, Job::STATE_CANCELLED},

    {Job::STATE_CANCELLING, Cause::kCancelRequested, Job::STATE_CANCELLING},
    {Job::STATE_CANCELLING, Cause::kStopped, Job::STATE_CANCELLED},

    // Committed content waits for publication as long as it takes, by whichever worker.
    {Job::STATE_PUBLISHING, Cause::kLeased, Job::STATE_PUBLISHING},
    {Job::STATE_PUBLISHING, Cause::kCommitted, Job::STATE_PUBLISHING},
    {Job::STATE_PUBLISHING, Cause::kAttemptFailed, Job::STATE_PUBLISHING},
    {Job::STATE_PUBLISHING, Cause::kReleased, Job::STATE_PUBLISHING},
    {Job::STATE_PUBLISHING, Cause::kBackoffOver, Job::STATE_PUBLISHING},
    {Job::STATE_PUBLISHING, Cause::kPublished, Job::STATE_SUCCEEDED},
    {Job::STATE_PUBLISHING, Cause::kFailedForGood, Job::STATE_FAILED},

    {Job::STATE_FAILED, Cause::kRetryRequested, Job::STATE_QUEUED},
    {Job::STATE_CANCELLED, Cause::kRetryRequested, Job::STATE_QUEUED},
    {Job::STATE_EXPIRED, Cause::kRetryRequested, Job::STATE_QUEUED},
}};

}  // namespace

std::span<const Transition> Transitions() { return kTransitions; }

std::optional<Job::State> NextState(Job::State from, Cause cause) {
  for (const Transition& transition : kTransitions) {
    if (transition.from == from && transition.cause == cause) return transition.to;
  }
  return std::nullopt;
}

std::string_view Describe(Cause cause) {
  switch (cause) {
    case Cause::kCreated:
      return "created";
    case Cause::kLeased:
      return "leased";
    case Cause::kCommitted:
      return "committed";
    case Cause::kPublished:
      return "published";
    case Cause::kAttemptFailed:
    case Cause::kFailedForGood:
      return "failed";
    case Cause::kReleased:
      return "released";
    case Cause::kBackoffOver:
      return "queued again";
    case Cause::kCancelRequested:
      return "cancelled";
    case Cause::kStopped:
      return "stopped";
    case Cause::kQueueTimeOver:
      return "expired";
    case Cause::kRetryRequested:
      return "retried";
  }
  return "changed";
}

}  // namespace teq::queue
