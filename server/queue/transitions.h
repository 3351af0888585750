#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "teq/v1/job.pb.h"

namespace teq::queue {

/// Why a job's state changes.
enum class Cause {
  kCreated,
  kLeased,         // a worker got its lease
  kCommitted,      // the worker's content is complete
  kPublished,      // the root manifest is written
  kAttemptFailed,  // and another may follow
  kFailedForGood,  // the user's fault, or nothing left of the budget
  kReleased,       // the worker gave the lease back
  kBackoffOver,    // the wait before the next attempt
  kCancelRequested,
  kStopped,        // the worker of a cancelled job stopped, or was given up
  kQueueTimeOver,  // waited longer than max_queue_time
  kRetryRequested,
};

/// One row of the table.
struct Transition {
  teq::v1::Job::State from;
  Cause cause;
  teq::v1::Job::State to;
};

/// The table of all legal moves; there is no other way to change a job's state.
[[nodiscard]] std::span<const Transition> Transitions();

/// Where `cause` leads from `from`; nothing where it is not legal.
[[nodiscard]] std::optional<teq::v1::Job::State> NextState(teq::v1::Job::State from, Cause cause);

/// For messages: "leased", "cancelled".
[[nodiscard]] std::string_view Describe(Cause cause);

}  // namespace teq::queue
