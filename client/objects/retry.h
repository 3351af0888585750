#pragma once

#include <functional>
#include <optional>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace teq::objects {

/// How often, and after which pauses, something is tried again: "full jitter", a pause drawn from
/// zero to a bound that doubles, so that many clients do not come back at once.
struct RetryPolicy {
  int attempts = 7;
  absl::Duration first_bound = absl::Milliseconds(200);
  absl::Duration last_bound = absl::Seconds(20);
  absl::Duration longest_asked = absl::Seconds(120);  // what a server's Retry-After may ask for
};

/// What retries need of the world. Thread-safe functions.
struct RetryWorld {
  std::function<absl::Time()> now;
  std::function<void(absl::Duration)> sleep;
  std::function<double()> random;  // in [0, 1)
};

/// The process' clock, and random numbers that differ from process to process.
[[nodiscard]] RetryWorld RealRetryWorld();

/// How one try ended.
struct Attempt {
  absl::Status status;
  bool again = false;                  // whether another try may succeed
  std::optional<absl::Duration> wait;  // what the server asked for, at least
};

/// The pause after the `attempt`th try, counted from 1; `random` in [0, 1).
[[nodiscard]] absl::Duration RetryPause(const RetryPolicy& policy, int attempt, double random,
                                        std::optional<absl::Duration> wait);

/// Tries until it is OK, may not be tried again, or has been tried often enough; the last status.
/// `attempt` counts from 1.
[[nodiscard]] absl::Status Retry(const RetryPolicy& policy, const RetryWorld& world,
                                 const std::function<Attempt(int attempt)>& attempt);

/// The header Retry-After: seconds, or an HTTP date. Nothing where it is neither.
[[nodiscard]] std::optional<absl::Duration> ParseRetryAfter(std::string_view value, absl::Time now);

}  // namespace teq::objects
