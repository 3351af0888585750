#include "server/api/watch_hub.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "server/api/answer.h"
#include "server/store/timestamps.h"

namespace teq::api {
namespace {

using teq::v1::JobEvent;
using teq::v1::WatchJobRequest;
using teq::v1::WatchJobResponse;
using SteadyTime = std::chrono::steady_clock::time_point;

constexpr int kBatch = 256;

absl::Status TooManyStreams(int limit) {
  absl::Status status = Error(
      absl::StatusCode::kResourceExhausted, "TOO_MANY_STREAMS",
      fmt::format("{} watches are open, which is the limit; close some, or use GetJob", limit));
  google::rpc::QuotaFailure failure;
  auto* violation = failure.add_violations();
  violation->set_subject("watch streams");
  violation->set_description(std::string(status.message()));
  AddDetail(status, failure);
  return status;
}

absl::Status JobDeleted() {
  return Error(absl::StatusCode::kNotFound, "JOB_NOT_FOUND", "the job was deleted meanwhile");
}

}  // namespace

/// One stream. Everything but the reactions is called under the hub's mutex.
class WatchHub::Stream final : public grpc::ServerWriteReactor<WatchJobResponse> {
 public:
  Stream(WatchHub* hub, const WatchJobRequest& request)
      : hub_(hub), interval_(store::FromDuration(request.min_sample_interval())) {}

  [[nodiscard]] int64_t key() const { return cursor_.key; }

  void Begin(queue::WatchStart start) {
    cursor_ = std::move(start.cursor);
    if (start.snapshot) {
      WatchJobResponse response;
      *response.mutable_snapshot() = *std::move(start.snapshot);
      response.set_resume_token(cursor_.ResumeToken());
      pending_.push_back(std::move(response));
    }
    SetKeepalive();
    Pump();
  }

  void MarkChanged(bool deleted) {
    unread_ = true;
    deleted_ = deleted_ || deleted;
  }

  /// Sends what there is to send, unless a message is on its way already.
  void Pump() {
    if (finished_ || writing_) return;
    if (pending_.empty() && unread_) {
      if (const absl::Status status = Read(); !status.ok()) return End(status);
    }
    if (!pending_.empty()) return Send();
    if (over_) return End(absl::OkStatus());
    if (deleted_) return End(JobDeleted());
    if (std::chrono::steady_clock::now() >= keepalive_) {
      WatchJobResponse response;
      response.mutable_keepalive();
      response.set_resume_token(cursor_.ResumeToken());
      pending_.push_back(std::move(response));
      Send();
    }
  }

  /// At once, or after the message that is on its way.
  void End(const absl::Status& status) {
    if (finished_ || !end_.ok()) return;
    if (writing_) {
      end_ = status;
      return;
    }
    finished_ = true;
    Finish(ToAnswer(status));
  }

  void OnWriteDone(bool ok) override {
    const std::lock_guard lock(hub_->mutex_);
    writing_ = false;
    pending_.pop_front();
    SetKeepalive();
    if (!ok && end_.ok()) end_ = absl::CancelledError("the client is gone");
    if (!end_.ok()) {
      finished_ = true;
      return Finish(ToAnswer(end_));
    }
    Pump();
  }

  void OnCancel() override {
    const std::lock_guard lock(hub_->mutex_);
    End(absl::CancelledError("cancelled by the client"));
  }

  void OnDone() override {
    {
      const std::lock_guard lock(hub_->mutex_);
      hub_->streams_.erase(this);
    }
    delete this;
  }

 private:
  absl::Status Read() {
    do {
      queue::WatchCursor after = cursor_;
      TEQ_ASSIGN_OR_RETURN(std::vector<JobEvent> events, hub_->queue_->ReadWatch(after, kBatch));
      for (JobEvent& event : events) Keep(std::move(event));
      cursor_ = after;
      unread_ = static_cast<int>(events.size()) == kBatch;
    } while (unread_ && pending_.empty());  // a batch of samples, none of them due
    over_ = !unread_ && store::IsFinished(cursor_.state);
    return absl::OkStatus();
  }

  void Keep(JobEvent event) {
    if (event.has_sample() && !SampleDue(event)) {
      ++hub_->coalesced_;
      return;
    }
    queue::WatchCursor at = cursor_;
    at.sequence = event.sequence();
    WatchJobResponse response;
    *response.mutable_event() = std::move(event);
    response.set_resume_token(at.ResumeToken());
    pending_.push_back(std::move(response));
  }

  bool SampleDue(const JobEvent& event) {
    const absl::Time time = store::FromTimestamp(event.time());
    if (time - last_sample_ < interval_) return false;
    last_sample_ = time;
    return true;
  }

  void Send() {
    writing_ = true;
    StartWrite(&pending_.front());
  }

  void SetKeepalive() {
    keepalive_ =
        std::chrono::steady_clock::now() + absl::ToChronoMilliseconds(hub_->options_.keepalive);
  }

  WatchHub* const hub_;
  const absl::Duration interval_;
  queue::WatchCursor cursor_;
  std::deque<WatchJobResponse> pending_;  // at most a batch; the first may be on its way
  absl::Time last_sample_ = absl::InfinitePast();
  SteadyTime keepalive_;
  absl::Status end_;    // set: how to finish when the write is done
  bool unread_ = true;  // the store may hold more events
  bool over_ = false;   // the job is finished and all events were read
  bool deleted_ = false;
  bool writing_ = false;
  bool finished_ = false;
};

WatchHub::WatchHub(WatchOptions options, queue::Queue* queue)
    : options_(options), queue_(queue), thread_([this] { Run(); }) {}

WatchHub::~WatchHub() {
  {
    const std::lock_guard lock(wake_mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

grpc::ServerWriteReactor<WatchJobResponse>* WatchHub::Open(const WatchJobRequest& request) {
  auto* stream = new Stream(this, request);
  absl::StatusOr<queue::WatchStart> start = queue_->StartWatch(request);
  const std::lock_guard lock(mutex_);
  const bool room = static_cast<int>(streams_.size()) < options_.max_streams;
  streams_.insert(stream);
  if (draining_) {
    stream->End(Draining());
  } else if (!start.ok()) {
    stream->End(start.status());
  } else if (!room) {
    stream->End(TooManyStreams(options_.max_streams));
  } else {
    stream->Begin(*std::move(start));
  }
  return stream;
}

void WatchHub::Drain() {
  const std::lock_guard lock(mutex_);
  draining_ = true;
  for (Stream* stream : streams_) stream->End(Draining());
}

int WatchHub::StreamCount() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int>(streams_.size());
}

void WatchHub::OnChange(const queue::JobChange& change) {
  if (!change.events.empty()) Wake(change.after.key, /*deleted=*/false);
}

void WatchHub::OnDelete(const store::JobRecord& record) { Wake(record.key, /*deleted=*/true); }

void WatchHub::Wake(int64_t key, bool deleted) {
  {
    const std::lock_guard lock(wake_mutex_);
    changed_.insert(key);
    if (deleted) deleted_.insert(key);
  }
  wake_.notify_one();
}

void WatchHub::Run() {
  const auto tick = absl::ToChronoMilliseconds(std::min(options_.keepalive / 4, absl::Seconds(1)));
  while (true) {
    std::unordered_set<int64_t> changed;
    std::unordered_set<int64_t> deleted;
    {
      std::unique_lock lock(wake_mutex_);
      wake_.wait_for(lock, tick, [this] { return stop_ || !changed_.empty(); });
      if (stop_) return;
      changed.swap(changed_);
      deleted.swap(deleted_);
    }
    const std::lock_guard lock(mutex_);
    for (Stream* stream : streams_) {
      if (changed.contains(stream->key())) stream->MarkChanged(deleted.contains(stream->key()));
      stream->Pump();
    }
  }
}

}  // namespace teq::api
