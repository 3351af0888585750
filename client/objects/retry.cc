#include "client/objects/retry.h"

#include <algorithm>
#include <charconv>
#include <memory>
#include <mutex>
#include <random>
#include <string>

#include "absl/time/clock.h"

namespace teq::objects {

RetryWorld RealRetryWorld() {
  struct Random {
    std::mutex mutex;
    std::mt19937_64 engine{std::random_device{}()};
  };
  return {.now = [] { return absl::Now(); },
          .sleep = [](absl::Duration pause) { absl::SleepFor(pause); },
          .random =
              [state = std::make_shared<Random>()] {
                const std::lock_guard lock(state->mutex);
                return std::uniform_real_distribution<double>(0, 1)(state->engine);
              }};
}

absl::Duration RetryPause(const RetryPolicy& policy, int attempt, double random,
                          std::optional<absl::Duration> wait) {
  constexpr int kMostDoublings = 30;
  const absl::Duration bound = std::min(
      policy.last_bound,
      policy.first_bound * (std::int64_t{1} << std::clamp(attempt - 1, 0, kMostDoublings)));
  const absl::Duration pause = bound * random;
  // Jitter on top of what is asked, or all clients come back in the same second.
  return wait ? std::min(*wait, policy.longest_asked) + pause : pause;
}

absl::Status Retry(const RetryPolicy& policy, const RetryWorld& world,
                   const std::function<Attempt(int attempt)>& attempt) {
  for (int number = 1;; ++number) {
    const Attempt outcome = attempt(number);
    if (outcome.status.ok() || !outcome.again || number >= policy.attempts) return outcome.status;
    world.sleep(RetryPause(policy, number, world.random(), outcome.wait));
  }
}

std::optional<absl::Duration> ParseRetryAfter(std::string_view value, absl::Time now) {
  std::int64_t seconds = 0;
  const char* const begin = value.data();
  const char* const end = begin + value.size();
  const auto [rest, error] = std::from_chars(begin, end, seconds);
  if (error == std::errc() && rest == end) {
    return seconds < 0 ? std::nullopt : std::optional(absl::Seconds(seconds));
  }
  absl::Time time;
  if (!absl::ParseTime("%a, %d %b %Y %H:%M:%S GMT", std::string(value), &time, nullptr)) {
    return std::nullopt;
  }
  return std::max(absl::ZeroDuration(), time - now);
}

}  // namespace teq::objects
