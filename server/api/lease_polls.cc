#include "server/api/lease_polls.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "server/api/answer.h"
#include "server/store/timestamps.h"

namespace teq::api {
namespace {

using teq::v1::AcquireLeaseRequest;
using teq::v1::AcquireLeaseResponse;
using teq::v1::Job;
using teq::v1::Lease;
using SteadyTime = std::chrono::steady_clock::time_point;

absl::Status TooManyWorkers(int limit) {
  absl::Status status =
      Error(absl::StatusCode::kResourceExhausted, "TOO_MANY_WORKERS",
            fmt::format("{} workers wait for work, which is the limit; stop some", limit));
  google::rpc::QuotaFailure failure;
  auto* violation = failure.add_violations();
  violation->set_subject("waiting workers");
  violation->set_description(std::string(status.message()));
  AddDetail(status, failure);
  return status;
}

bool IsClaimable(const store::JobRecord& record) {
  return record.job.state() == Job::STATE_QUEUED ||
         (record.job.state() == Job::STATE_PUBLISHING && !record.lease.live);
}

}  // namespace

/// One call. Everything but the reactions is called under the mutex of LeasePolls.
class LeasePolls::Poll final : public grpc::ServerUnaryReactor {
 public:
  Poll(LeasePolls* polls, grpc::CallbackServerContext* context, const AcquireLeaseRequest& request,
       AcquireLeaseResponse* response)
      : polls_(polls), context_(context), session_(request.worker_session()), response_(response) {
    const absl::Duration wait =
        std::min(store::FromDuration(request.max_wait()), polls->options_.longest_wait);
    deadline_ = std::chrono::steady_clock::now() + absl::ToChronoMilliseconds(wait);
  }

  [[nodiscard]] const std::string& session() const { return session_; }
  [[nodiscard]] SteadyTime deadline() const { return deadline_; }
  [[nodiscard]] bool cancelled() const { return context_->IsCancelled(); }

  void Grant(Lease lease) {
    *response_->mutable_lease() = std::move(lease);
    End(absl::OkStatus());
  }

  void End(const absl::Status& status) {
    if (finished_) return;
    finished_ = true;
    Finish(ToAnswer(status));
  }

  void OnCancel() override {
    const std::lock_guard lock(polls_->mutex_);
    polls_->waiting_.remove(this);
    End(absl::CancelledError("cancelled by the client"));
  }

  void OnDone() override { delete this; }

 private:
  LeasePolls* const polls_;
  grpc::CallbackServerContext* const context_;
  const std::string session_;
  AcquireLeaseResponse* const response_;
  SteadyTime deadline_;
  bool finished_ = false;
};

LeasePolls::LeasePolls(PollOptions options, queue::Queue* queue)
    : options_(options), queue_(queue), thread_([this] { Run(); }) {}

LeasePolls::~LeasePolls() {
  {
    const std::lock_guard lock(wake_mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

grpc::ServerUnaryReactor* LeasePolls::Acquire(grpc::CallbackServerContext* context,
                                              const AcquireLeaseRequest& request,
                                              AcquireLeaseResponse* response) {
  auto* poll = new Poll(this, context, request, response);
  const std::lock_guard lock(mutex_);
  if (draining_) {
    poll->End(Draining());
  } else if (!TryAcquire(*poll)) {
    if (std::chrono::steady_clock::now() >= poll->deadline()) {
      poll->End(absl::OkStatus());
    } else if (static_cast<int>(waiting_.size()) >= options_.max_waiting) {
      poll->End(TooManyWorkers(options_.max_waiting));
    } else {
      waiting_.push_back(poll);
      const std::lock_guard wake_lock(wake_mutex_);
      added_ = true;
      wake_.notify_one();
    }
  }
  return poll;
}

/// True: the call is answered.
bool LeasePolls::TryAcquire(Poll& poll) {
  absl::StatusOr<std::optional<Lease>> acquired = queue_->AcquireLease(poll.session());
  if (!acquired.ok()) {
    poll.End(acquired.status());
    return true;
  }
  std::optional<Lease>& lease = *acquired;
  if (!lease) return false;
  if (poll.cancelled()) {
    // Nobody will run it: give it back rather than let it expire.
    teq::v1::ReleaseLeaseRequest release;
    release.set_lease_token(lease->lease_token());
    release.set_fence(lease->fence());
    release.set_reason(teq::v1::ReleaseLeaseRequest::REASON_DRAIN);
    poll.End(queue_->ReleaseLease(release).status());
    return true;
  }
  poll.Grant(*std::move(lease));
  return true;
}

void LeasePolls::Drain() {
  const std::lock_guard lock(mutex_);
  draining_ = true;
  for (Poll* poll : waiting_) poll->End(Draining());
  waiting_.clear();
}

void LeasePolls::OnChange(const queue::JobChange& change) {
  if (!IsClaimable(change.after)) return;
  {
    const std::lock_guard lock(wake_mutex_);
    woken_ = true;
  }
  wake_.notify_one();
}

void LeasePolls::OnDelete(const store::JobRecord& /*record*/) {}

void LeasePolls::ServeWaiting() {
  for (auto poll = waiting_.begin(); poll != waiting_.end();) {
    poll = TryAcquire(**poll) ? waiting_.erase(poll) : std::next(poll);
  }
}

absl::Duration LeasePolls::UntilNextDeadline() const {
  absl::Duration wait = options_.longest_wait;
  for (const Poll* poll : waiting_) {
    wait = std::min(wait, absl::FromChrono(poll->deadline() - std::chrono::steady_clock::now()));
  }
  return std::max(wait, absl::Milliseconds(1));
}

void LeasePolls::Run() {
  absl::Duration wait = options_.longest_wait;
  while (true) {
    bool woken = false;
    {
      std::unique_lock lock(wake_mutex_);
      wake_.wait_for(lock, absl::ToChronoMilliseconds(wait),
                     [this] { return woken_ || added_ || stop_; });
      if (stop_) return;
      added_ = false;
      woken = std::exchange(woken_, false);
    }
    const std::lock_guard lock(mutex_);
    if (woken) ServeWaiting();
    const SteadyTime now = std::chrono::steady_clock::now();
    for (auto poll = waiting_.begin(); poll != waiting_.end();) {
      if ((*poll)->deadline() > now) {
        ++poll;
        continue;
      }
      (*poll)->End(absl::OkStatus());
      poll = waiting_.erase(poll);
    }
    wait = UntilNextDeadline();
  }
}

}  // namespace teq::api
