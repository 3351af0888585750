#include "worker/agent/lease_machine.h"

#include <algorithm>
#include <utility>

#include "fmt/format.h"
#include "google/protobuf/util/time_util.h"
#include "proto/spec/error.h"

namespace teq::agent {
namespace {

using google::protobuf::util::TimeUtil;
using teq::v1::CompleteLeaseRequest;

// Of one heartbeat, so that its message stays far below the server's limit.
constexpr std::size_t kMaxSamples = 1000;
// A server that asks for more would be flooded.
constexpr Duration kShortestInterval = std::chrono::milliseconds(10);
// Kept while the server is away; the oldest go first.
constexpr std::size_t kMaxKeptSamples = 20000;

Duration ToDuration(const google::protobuf::Duration& duration) {
  return std::chrono::nanoseconds(TimeUtil::DurationToNanoseconds(duration));
}

// The engine's reason; see model::OpenDevice.
constexpr std::string_view kNoDevice = "DEVICE_NOT_AVAILABLE";

bool IsLost(const absl::Status& status) {
  return ErrorReason(status) == "LEASE_LOST" || absl::IsAborted(status) || absl::IsNotFound(status);
}

// A server whose disk is full can end no lease and grant none: it is as good as away.
bool CannotWrite(const absl::Status& status) { return ErrorReason(status) == "STORE_FULL"; }

// A call that ended so may succeed later, unlike one that the server refuses.
bool IsTransient(const absl::Status& status) {
  return IsUnreachable(status) || CannotWrite(status) || absl::IsInternal(status);
}

// What is committed fails for good only because of what lies in the output. All else (credentials,
// a clock, a mount) may be this machine's own, or pass.
teq::v1::FailureClass ClassOf(const absl::Status& publish_error) {
  const std::string reason = ErrorReason(publish_error);
  return reason == "OUTPUT_IN_USE" || reason == "MANIFEST_MISMATCH"
             ? teq::v1::FAILURE_CLASS_USER_ERROR
             : teq::v1::FAILURE_CLASS_TRANSIENT;
}

template <typename Element, typename Repeated>
void MoveSome(std::deque<Element>& from, Repeated& to) {
  const std::size_t count = std::min(from.size(), kMaxSamples);
  for (std::size_t i = 0; i < count; ++i) *to.Add() = std::move(from[i]);
  from.erase(from.begin(), from.begin() + static_cast<std::ptrdiff_t>(count));
}

}  // namespace

bool IsUnreachable(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsCancelled(status) || absl::IsUnknown(status);
}

LeaseMachine::LeaseMachine(teq::v1::Lease lease, TimePoint sent, const LeaseTimings& timings,
                           std::function<double()> jitter, bool device_was_there)
    : lease_(std::move(lease)),
      timings_(timings),
      jitter_(std::move(jitter)),
      device_was_there_(device_was_there),
      expires_(sent + ToDuration(lease_.lease_duration())),
      interval_(ToDuration(lease_.lease_duration()) / 3),
      heartbeat_sent_(sent) {
  if (lease_.has_heartbeat_interval()) {
    interval_ = std::min(interval_, ToDuration(lease_.heartbeat_interval()));
  }
  interval_ = std::max(interval_, kShortestInterval);
  heartbeat_due_ = sent + interval_;
}

Actions LeaseMachine::Start(TimePoint now) {
  if (lease_.has_publish_only()) {
    manifest_sha256_ = lease_.publish_only().manifest_sha256();
    progress_.set_stage(teq::v1::STAGE_PUBLISH);
    AskToPublish(now);
    return Take();
  }
  StartEngine action;
  action.start.set_job(lease_.job());
  action.start.set_job_uid(lease_.job_uid());
  *action.start.mutable_spec() = lease_.spec();
  action.start.set_attempt(lease_.attempt());
  action.start.set_fence(lease_.fence());
  engine_lives_ = true;
  if (lease_.spec().limits().has_max_runtime()) {
    overdue_at_ = now + ToDuration(lease_.spec().limits().max_runtime());
  }
  actions_.emplace_back(std::move(action));
  return Take();
}

Actions LeaseMachine::OnEngineEvent(const teq::v1::EngineEvent& event, TimePoint now) {
  if (!IsHeld() || finished_ || failed_) return Take();
  switch (event.payload_case()) {
    case teq::v1::EngineEvent::kProgress:
      progress_ = event.progress();
      break;
    case teq::v1::EngineEvent::kSample:
      if (samples_.size() == kMaxKeptSamples) samples_.pop_front();
      samples_.push_back(event.sample());
      break;
    case teq::v1::EngineEvent::kPerplexity:
      perplexities_.push_back(event.perplexity());
      break;
    case teq::v1::EngineEvent::kFinished:
      finished_ = event.finished();
      break;
    case teq::v1::EngineEvent::kFailed:
      failed_ = event.failed();
      break;
    case teq::v1::EngineEvent::kCalibrated:  // the answer to another command
    case teq::v1::EngineEvent::PAYLOAD_NOT_SET:
      return Take();
  }
  if ((finished_ || failed_) && !kill_at_) kill_at_ = now + timings_.exit_grace;
  News(now);
  return Take();
}

Actions LeaseMachine::OnEngineExit(const std::string& how, TimePoint now) {
  engine_lives_ = false;
  kill_at_.reset();
  overdue_at_.reset();
  if (phase_ != Phase::kRunning && phase_ != Phase::kStopping) return Take();
  if (lost_) {
    // Nobody knows of its files, and a later attempt would not find those that came after it
    // looked.
    Clean();
    return Take();
  }
  if (!finished_ && !failed_ && goal_ == Goal::kOutcome) {
    teq::v1::RunFailed& died = failed_.emplace();
    *died.mutable_status() =
        ToProto(Error(absl::StatusCode::kUnavailable, "ENGINE_DIED",
                      fmt::format("the engine process {}; the worker's log tells more", how)));
    died.set_failure_class(teq::v1::FAILURE_CLASS_INFRASTRUCTURE);
  }
  AfterEngine(now);
  return Take();
}

void LeaseMachine::AfterEngine(TimePoint now) {
  // Complete content is worth a commit even if the job was to go back to the queue.
  if (finished_ && (goal_ == Goal::kOutcome || goal_ == Goal::kRelease)) {
    manifest_sha256_ = finished_->manifest_sha256();
    progress_.Clear();
    progress_.set_stage(teq::v1::STAGE_PUBLISH);
    CompleteLeaseRequest request;
    request.mutable_success()->set_manifest_sha256(manifest_sha256_);
    *request.mutable_success()->mutable_report() = finished_->report();
    Report(Phase::kCommitting, std::move(request), now);
    return;
  }
  if (goal_ == Goal::kOutcome && device_was_there_) {
    // No other job would fare better here, and this one may elsewhere.
    const absl::Status failure = FromProto(failed_->status());
    if (ErrorReason(failure) == kNoDevice) {
      device_gone_ = failure;
      goal_ = Goal::kRelease;
    }
  }
  Clean();
}

void LeaseMachine::Clean() {
  phase_ = Phase::kCleaning;
  actions_.emplace_back(RemoveAttempt{});
}

Actions LeaseMachine::OnAttemptRemoved(TimePoint now) {
  if (phase_ != Phase::kCleaning) return Take();
  if (lost_) {
    Finish(Outcome::kLost);
    return Take();
  }
  AfterCleaning(now);
  return Take();
}

void LeaseMachine::AfterCleaning(TimePoint now) {
  CompleteLeaseRequest request;
  switch (goal_) {
    case Goal::kRelease:
      phase_ = Phase::kReleasing;
      ArmGiveUp(now);
      Repeat(now);
      return;
    case Goal::kCancelled:
      request.mutable_cancelled();
      break;
    case Goal::kOverdue:
      *request.mutable_failure()->mutable_status() = ToProto(Error(
          absl::StatusCode::kDeadlineExceeded, "MAX_RUNTIME_EXCEEDED",
          fmt::format(
              "the attempt took longer than limits.max_runtime, {} s; raise it, or ask for less",
              lease_.spec().limits().max_runtime().seconds())));
      request.mutable_failure()->set_failure_class(teq::v1::FAILURE_CLASS_USER_ERROR);
      break;
    case Goal::kOutcome:
      *request.mutable_failure()->mutable_status() = failed_->status();
      request.mutable_failure()->set_failure_class(failed_->failure_class());
      if (failed_->has_report()) *request.mutable_failure()->mutable_report() = failed_->report();
      break;
  }
  Report(Phase::kReporting, std::move(request), now);
}

void LeaseMachine::Report(Phase phase, CompleteLeaseRequest request, TimePoint now) {
  phase_ = phase;
  ArmGiveUp(now);
  report_ = std::move(request);
  report_.set_lease_token(lease_.lease_token());
  report_.set_fence(lease_.fence());
  report_failures_ = 0;
  repeat_at_.reset();
  // The outcome ends what heartbeats may tell, so what they have not told yet goes first.
  report_waits_ = HasNews();
  if (report_waits_) {
    heartbeat_due_ = std::min(heartbeat_due_, heartbeat_sent_);
  } else {
    actions_.emplace_back(SendComplete{report_});
  }
}

bool LeaseMachine::HasNews() const {
  const bool under_way = unacknowledged_ && (unacknowledged_->samples_size() > 0 ||
                                             unacknowledged_->perplexities_size() > 0);
  // In which stage a job failed is half of why.
  const bool stage_is_untold = report_.has_failure() && progress_.stage() != told_stage_;
  return under_way || stage_is_untold || !samples_.empty() || !perplexities_.empty();
}

void LeaseMachine::Fail(const absl::Status& status, teq::v1::FailureClass failure_class) {
  goal_ = Goal::kOutcome;
  failed_.emplace();
  *failed_->mutable_status() = ToProto(status);
  failed_->set_failure_class(failure_class);
}

// Sends again what was not answered, or tries again what failed.
void LeaseMachine::Repeat(TimePoint now) {
  repeat_at_.reset();
  if (phase_ == Phase::kPublishing) {
    AskToPublish(now);
  } else if (phase_ == Phase::kReleasing) {
    SendRelease action;
    action.request.set_lease_token(lease_.lease_token());
    action.request.set_fence(lease_.fence());
    action.request.set_reason(device_gone_.ok() ? teq::v1::ReleaseLeaseRequest::REASON_DRAIN
                                                : teq::v1::ReleaseLeaseRequest::REASON_PREEMPTED);
    actions_.emplace_back(std::move(action));
  } else {
    actions_.emplace_back(SendComplete{report_});
  }
}

void LeaseMachine::AskToPublish(TimePoint now) {
  phase_ = Phase::kPublishing;
  if (now >= expires_) {
    // The next heartbeat's answer asks again.
    heartbeat_due_ = std::min(heartbeat_due_, now);
    ArmGiveUp(now);
    return;
  }
  publish_asked_ = true;
  const bool mine = !lease_.has_publish_only();
  actions_.emplace_back(
      Publish{.attempt = mine ? lease_.attempt() : lease_.publish_only().attempt(),
              .fence = mine ? lease_.fence() : lease_.publish_only().fence(),
              .manifest_sha256 = manifest_sha256_});
}

Actions LeaseMachine::OnPublished(const absl::Status& status, TimePoint now) {
  if (phase_ != Phase::kPublishing) return Take();
  publish_asked_ = false;
  if (lost_) {
    Finish(Outcome::kLost);
    return Take();
  }
  CompleteLeaseRequest request;
  if (status.ok()) {
    request.mutable_published()->set_manifest_sha256(manifest_sha256_);
    Report(Phase::kReporting, std::move(request), now);
    return Take();
  }
  const teq::v1::FailureClass failure_class = ClassOf(status);
  if (failure_class == teq::v1::FAILURE_CLASS_TRANSIENT &&
      ++publish_failures_ < timings_.publish_tries) {
    repeat_at_ = now + Backoff(publish_failures_);
    return Take();
  }
  *request.mutable_failure()->mutable_status() = ToProto(status);
  request.mutable_failure()->set_failure_class(failure_class);
  Report(Phase::kReporting, std::move(request), now);
  return Take();
}

Actions LeaseMachine::OnComplete(const absl::Status& status, TimePoint now) {
  if (!IsHeld() || (phase_ != Phase::kCommitting && phase_ != Phase::kReporting)) return Take();
  if (status.ok()) {
    if (phase_ == Phase::kCommitting) {
      AskToPublish(now);
    } else {
      Finish(Outcome::kReported);
    }
    return Take();
  }
  if (IsTransient(status)) {
    repeat_at_ = now + Backoff(++report_failures_);
  } else if (phase_ == Phase::kCommitting && !IsLost(status)) {
    // FAILED_PRECONDITION: the job was cancelled before the commit came.
    if (absl::IsFailedPrecondition(status)) {
      goal_ = Goal::kCancelled;
      Clean();
    } else if (report_failures_ > 0) {
      // One that was sent before and not answered may have been taken.
      Lose();
    } else {
      Fail(status, teq::v1::FAILURE_CLASS_INFRASTRUCTURE);
      Clean();
    }
  } else {
    // Lost, or the server does not take the outcome because it has another one.
    Lose();
  }
  return Take();
}

Actions LeaseMachine::OnRelease(const absl::Status& status, TimePoint now) {
  if (!IsHeld() || phase_ != Phase::kReleasing) return Take();
  if (status.ok()) {
    Finish(Outcome::kReleased);
  } else if (IsTransient(status)) {
    repeat_at_ = now + Backoff(++report_failures_);
  } else {
    Lose();
  }
  return Take();
}

Actions LeaseMachine::OnDrain(TimePoint now) {
  if (!IsHeld() || draining_) return Take();
  draining_ = true;
  ArmGiveUp(now);
  if (phase_ == Phase::kRunning && !finished_ && !failed_) {
    Stop(Goal::kRelease, timings_.release_grace, now);
  }
  return Take();
}

void LeaseMachine::Stop(Goal goal, Duration grace, TimePoint now) {
  phase_ = Phase::kStopping;
  goal_ = goal;
  kill_at_ = now + grace;
  actions_.emplace_back(CancelEngine{});
}

void LeaseMachine::Lose() {
  lost_ = true;
  repeat_at_.reset();
  if (engine_lives_) {
    actions_.emplace_back(KillEngine{});
  } else if (phase_ != Phase::kCleaning && !publish_asked_) {
    Finish(Outcome::kLost);
  }
}

void LeaseMachine::Finish(Outcome outcome) {
  phase_ = Phase::kDone;
  outcome_ = outcome;
  if (engine_lives_) actions_.emplace_back(KillEngine{});
}

void LeaseMachine::News(TimePoint now) {
  const TimePoint soon = std::max(now, heartbeat_sent_ + timings_.news_delay);
  // A server that does not answer is not asked more often because there is more to tell.
  if (heartbeat_failures_ == 0) heartbeat_due_ = std::min(heartbeat_due_, soon);
}

void LeaseMachine::Heartbeat(TimePoint now) {
  if (!unacknowledged_) {
    teq::v1::HeartbeatRequest& request = unacknowledged_.emplace();
    request.set_lease_token(lease_.lease_token());
    request.set_fence(lease_.fence());
    request.set_sequence(++sequence_);
    *request.mutable_progress() = progress_;
    MoveSome(samples_, *request.mutable_samples());
    MoveSome(perplexities_, *request.mutable_perplexities());
  }
  heartbeat_pending_ = true;
  heartbeat_sent_ = now;
  actions_.emplace_back(SendHeartbeat{*unacknowledged_});
}

Actions LeaseMachine::OnHeartbeat(const absl::StatusOr<teq::v1::HeartbeatResponse>& response,
                                  TimePoint sent, TimePoint now) {
  heartbeat_pending_ = false;
  if (!IsHeld()) return Take();
  if (!response.ok()) {
    if (IsLost(response.status())) {
      Lose();
      return Take();
    }
    answers_with_errors_ = !IsUnreachable(response.status()) && !CannotWrite(response.status());
    heartbeat_due_ = now + Backoff(++heartbeat_failures_);
    return Take();
  }
  heartbeat_failures_ = 0;
  answers_with_errors_ = false;
  expires_ = sent + ToDuration(response->lease_ttl());
  if (response->has_next_heartbeat_after()) {
    interval_ = std::max(kShortestInterval, std::min(ToDuration(lease_.lease_duration()) / 3,
                                                     ToDuration(response->next_heartbeat_after())));
  }
  heartbeat_due_ = sent + interval_;
  if (unacknowledged_ && response->acknowledged_sequence() >= unacknowledged_->sequence()) {
    const bool is_old =
        unacknowledged_->progress().SerializeAsString() != progress_.SerializeAsString();
    told_stage_ = unacknowledged_->progress().stage();
    unacknowledged_.reset();
    if (is_old || !samples_.empty() || !perplexities_.empty()) News(now);
  }
  Obey(response->directive(), now);
  if (IsHeld() && report_waits_) AfterNews(now);
  if (IsHeld() && phase_ == Phase::kPublishing && !publish_asked_ && !repeat_at_) AskToPublish(now);
  return Take();
}

void LeaseMachine::AfterNews(TimePoint now) {
  if (HasNews()) {
    heartbeat_due_ = now;
    return;
  }
  report_waits_ = false;
  actions_.emplace_back(SendComplete{report_});
}

void LeaseMachine::Obey(teq::v1::Directive directive, TimePoint now) {
  switch (directive) {
    case teq::v1::DIRECTIVE_ABANDON:
      Lose();
      return;
    case teq::v1::DIRECTIVE_CANCEL:
      if (phase_ == Phase::kRunning) Stop(Goal::kCancelled, timings_.cancel_grace, now);
      // Neither RELEASE nor a drain outlives a cancellation. From the commit on the server refuses
      // to cancel; what it thinks of a commit under way, that call's answer tells.
      if (phase_ == Phase::kStopping || phase_ == Phase::kCleaning) goal_ = Goal::kCancelled;
      return;
    case teq::v1::DIRECTIVE_RELEASE:
      if (phase_ == Phase::kRunning && !finished_ && !failed_) {
        Stop(Goal::kRelease, timings_.release_grace, now);
      }
      return;
    default:
      return;
  }
}

Actions LeaseMachine::OnTimer(TimePoint now) {
  if (phase_ == Phase::kDone) return Take();
  if (kill_at_ && now >= *kill_at_) {
    kill_at_.reset();
    actions_.emplace_back(KillEngine{});
  }
  if (lost_) return Take();
  if (give_up_at_ && now >= *give_up_at_ && WaitsForServer()) {
    Finish(Outcome::kUnreported);
    return Take();
  }
  if (answers_with_errors_ && now >= expires_) {
    Lose();
    return Take();
  }
  if (overdue_at_ && now >= *overdue_at_) {
    overdue_at_.reset();
    if (phase_ == Phase::kRunning && !finished_ && !failed_) {
      Stop(Goal::kOverdue, timings_.cancel_grace, now);
    }
  }
  if (repeat_at_ && now >= *repeat_at_) Repeat(now);
  if (!heartbeat_pending_ && now >= heartbeat_due_) Heartbeat(now);
  return Take();
}

TimePoint LeaseMachine::NextTimer() const {
  TimePoint next = TimePoint::max();
  const auto consider = [&next](const std::optional<TimePoint>& time) {
    if (time) next = std::min(next, *time);
  };
  if (phase_ == Phase::kDone) return next;
  consider(kill_at_);
  if (lost_) return next;
  if (WaitsForServer()) consider(give_up_at_);
  consider(overdue_at_);
  consider(repeat_at_);
  if (answers_with_errors_) consider(expires_);
  if (!heartbeat_pending_) consider(heartbeat_due_);
  return next;
}

// A server that begins to be waited for now gets the whole limit.
void LeaseMachine::ArmGiveUp(TimePoint now) {
  if (draining_) give_up_at_ = now + timings_.drain_limit;
}

// Whether nothing is left to do before the server answers.
bool LeaseMachine::WaitsForServer() const {
  if (phase_ == Phase::kPublishing) return !publish_asked_ && !repeat_at_;
  return phase_ == Phase::kCommitting || phase_ == Phase::kReporting || phase_ == Phase::kReleasing;
}

Duration LeaseMachine::Backoff(int failures) {
  Duration delay = std::min(timings_.first_backoff, interval_);
  for (int i = 1; i < failures && delay < interval_; ++i) delay *= 2;
  delay = std::min(delay, interval_);
  return std::chrono::duration_cast<Duration>(delay * (0.5 + 0.5 * jitter_()));
}

Actions LeaseMachine::Take() { return std::exchange(actions_, {}); }

}  // namespace teq::agent
