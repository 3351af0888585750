#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "teq/v1/engine.pb.h"
#include "teq/v1/worker_service.pb.h"

namespace teq::agent {

/// Monotonic, as leases are measured on it.
using TimePoint = std::chrono::steady_clock::time_point;
using Duration = std::chrono::steady_clock::duration;

/// How patient a worker is. The defaults suit leases of 30 s.
struct LeaseTimings {
  /// From asking the engine to stop to killing it, when the server cancels the job.
  Duration cancel_grace = std::chrono::seconds(10);
  /// The same when the job goes back to the queue, where others wait for it.
  Duration release_grace = std::chrono::seconds(1);
  /// From the engine's last event to killing it.
  Duration exit_grace = std::chrono::seconds(10);
  /// A heartbeat follows the engine's news this soon.
  Duration news_delay = std::chrono::seconds(1);
  /// First delay of a repeated call; it doubles up to the heartbeat interval, times 0.5 to 1.
  Duration first_backoff = std::chrono::milliseconds(500);
  /// While draining, from when only the server's answer is missing to giving up on it.
  Duration drain_limit = std::chrono::seconds(15);
  /// How often publishing is tried where storage fails.
  int publish_tries = 5;
};

/// What the agent shall do; each is answered by the event that its comment names.
struct StartEngine {  // OnEngineEvent, OnEngineExit
  teq::v1::StartRun start;
};
struct CancelEngine {};    // OnEngineExit
struct KillEngine {};      // OnEngineExit
struct RemoveAttempt {};   // OnAttemptRemoved
struct Publish {           // OnPublished
  int attempt = 0;         // of the commit
  std::int64_t fence = 0;  // of the commit
  std::string manifest_sha256;
};
struct SendHeartbeat {  // OnHeartbeat
  teq::v1::HeartbeatRequest request;
};
struct SendComplete {  // OnComplete
  teq::v1::CompleteLeaseRequest request;
};
struct SendRelease {  // OnRelease
  teq::v1::ReleaseLeaseRequest request;
};
using Action = std::variant<StartEngine, CancelEngine, KillEngine, RemoveAttempt, Publish,
                            SendHeartbeat, SendComplete, SendRelease>;
using Actions = std::vector<Action>;

/// How a lease ended for its worker.
enum class Outcome {
  kReported,    // the server knows how the job went
  kReleased,    // the job is back in the queue
  kLost,        // the lease is somebody else's, or nobody's
  kUnreported,  // told to drain, and the server did not answer in time
};

/// One lease from its grant to its end, as a pure state machine: events and the time in, actions
/// out. Not thread-safe.
///
/// The life of a lease:
///   running -> committing -> publishing -> confirming            (the engine finished)
///   running -> [stopping] -> cleaning -> reporting or releasing  (failed, cancelled, drained)
///   publishing -> confirming                                     (a publish-only lease)
///
/// What holds:
///  - A heartbeat goes out at least every third of the lease, and within `news_delay` of the
///    engine's news; one at a time. One whose answer was lost is repeated unchanged under its
///    number.
///  - The time to live runs from the moment when the confirmed request was sent.
///  - When the server says that the lease is lost (ABANDON, LEASE_LOST, a job that is gone), the
///    engine is killed and nothing more is written. What it has uploaded is removed: no other
///    attempt touches it. From the commit on nothing is removed either: the files are the next
///    lease holder's.
///  - When the server cannot be reached, the engine goes on beyond the time to live. It writes only
///    below its own attempt's prefix, which no other attempt touches, and a server that comes back
///    keeps the leases of before for one more duration, so that its outage costs no work. But
///    nothing is published then: Publish is only asked for within a confirmed time to live. When
///    the server answers again, it decides. A server that does answer, with errors, until the time
///    to live has passed has lost the lease.
///  - Outcomes are repeated until they are answered or the lease is lost.
class LeaseMachine {
 public:
  /// `sent`: when AcquireLease was sent. `jitter` gives numbers in [0, 1).
  /// `device_was_there`: whether this worker had another device than the CPU when it started.
  LeaseMachine(teq::v1::Lease lease, TimePoint sent, const LeaseTimings& timings,
               std::function<double()> jitter, bool device_was_there = false);

  [[nodiscard]] Actions Start(TimePoint now);
  [[nodiscard]] Actions OnEngineEvent(const teq::v1::EngineEvent& event, TimePoint now);
  /// `how`: see EngineProcess::Handlers; also for an engine that could not be started, after a
  /// `failed` event that says so.
  [[nodiscard]] Actions OnEngineExit(const std::string& how, TimePoint now);
  [[nodiscard]] Actions OnAttemptRemoved(TimePoint now);
  [[nodiscard]] Actions OnPublished(const absl::Status& status, TimePoint now);
  [[nodiscard]] Actions OnHeartbeat(const absl::StatusOr<teq::v1::HeartbeatResponse>& response,
                                    TimePoint sent, TimePoint now);
  [[nodiscard]] Actions OnComplete(const absl::Status& status, TimePoint now);
  [[nodiscard]] Actions OnRelease(const absl::Status& status, TimePoint now);
  /// The process is told to stop: the job goes back to the queue, unless it is about to end anyway.
  [[nodiscard]] Actions OnDrain(TimePoint now);
  /// Due at NextTimer(); harmless at any other time.
  [[nodiscard]] Actions OnTimer(TimePoint now);

  [[nodiscard]] TimePoint NextTimer() const;
  /// What the engine says of a device that was there and is not any more, for which its job goes
  /// back; else OK.
  [[nodiscard]] const absl::Status& device_gone() const { return device_gone_; }
  /// Set at the end; no event matters any more.
  [[nodiscard]] std::optional<Outcome> outcome() const { return outcome_; }
  [[nodiscard]] const teq::v1::Lease& lease() const { return lease_; }

 private:
  enum class Phase {
    kRunning,     // the engine works
    kStopping,    // the engine was told to stop
    kCleaning,    // the attempt's directory is being removed
    kCommitting,  // CompleteLease success
    kPublishing,  // the files go to their final places
    kReporting,   // CompleteLease published, failure or cancelled
    kReleasing,   // ReleaseLease
    kDone,
  };
  // What follows when the engine has ended.
  enum class Goal { kOutcome, kCancelled, kRelease, kOverdue };

  void Stop(Goal goal, Duration grace, TimePoint now);
  void Lose();
  void Finish(Outcome outcome);
  void AfterEngine(TimePoint now);
  void AfterCleaning(TimePoint now);
  void AskToPublish(TimePoint now);
  void Fail(const absl::Status& status, teq::v1::FailureClass failure_class);
  void Clean();
  void Report(Phase phase, teq::v1::CompleteLeaseRequest request, TimePoint now);
  [[nodiscard]] bool HasNews() const;
  void AfterNews(TimePoint now);
  void Repeat(TimePoint now);
  void News(TimePoint now);
  void Heartbeat(TimePoint now);
  void Obey(teq::v1::Directive directive, TimePoint now);
  void ArmGiveUp(TimePoint now);
  [[nodiscard]] bool WaitsForServer() const;
  [[nodiscard]] Duration Backoff(int failures);
  [[nodiscard]] Actions Take();
  [[nodiscard]] bool IsHeld() const { return phase_ != Phase::kDone && !lost_; }

  teq::v1::Lease lease_;
  LeaseTimings timings_;
  std::function<double()> jitter_;
  Actions actions_;

  Phase phase_ = Phase::kRunning;
  Goal goal_ = Goal::kOutcome;
  bool engine_lives_ = false;
  bool lost_ = false;
  bool device_was_there_;
  absl::Status device_gone_;
  bool draining_ = false;
  std::optional<Outcome> outcome_;

  TimePoint expires_;
  Duration interval_;
  TimePoint heartbeat_due_;
  TimePoint heartbeat_sent_;
  bool heartbeat_pending_ = false;  // sent, not answered
  bool answers_with_errors_ = false;
  int heartbeat_failures_ = 0;
  std::optional<teq::v1::HeartbeatRequest> unacknowledged_;
  std::int64_t sequence_ = 0;
  teq::v1::Progress progress_;
  teq::v1::Stage told_stage_ = teq::v1::STAGE_UNSPECIFIED;  // what the server knows
  std::deque<teq::v1::MetricSample> samples_;
  std::deque<teq::v1::PerplexitySample> perplexities_;

  std::optional<teq::v1::RunFinished> finished_;
  std::optional<teq::v1::RunFailed> failed_;
  teq::v1::CompleteLeaseRequest report_;
  std::string manifest_sha256_;
  int report_failures_ = 0;
  bool report_waits_ = false;  // for the answer to the last heartbeat that has something to tell
  int publish_failures_ = 0;
  bool publish_asked_ = false;
  std::optional<TimePoint> repeat_at_;
  std::optional<TimePoint> kill_at_;
  std::optional<TimePoint> overdue_at_;
  std::optional<TimePoint> give_up_at_;
};

/// Whether a call that ended so may be repeated unchanged.
[[nodiscard]] bool IsUnreachable(const absl::Status& status);

}  // namespace teq::agent
