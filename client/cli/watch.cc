#include "client/cli/watch.h"

#include <algorithm>
#include <ostream>
#include <utility>

#include "client/api/grpc_status.h"
#include "client/cli/job_stream.h"
#include "client/cli/render.h"
#include "client/cli/watch_view.h"
#include "proto/spec/error.h"

namespace teq::cli {
namespace {

using std::chrono::milliseconds;

constexpr auto kTick = milliseconds(200);
constexpr auto kFirstBackoff = milliseconds(500);
constexpr auto kLongestBackoff = milliseconds(5'000);
constexpr auto kLongestSilence = std::chrono::minutes(10);
constexpr auto kProbeTimeout = std::chrono::seconds(2);
constexpr auto kCallTimeout = std::chrono::seconds(30);

class Watcher {
 public:
  Watcher(teq::v1::JobService::StubInterface& stub, const teq::v1::Job& job,
          const Terminal& terminal, const WatchDisplay& display)
      : stub_(stub), terminal_(terminal), display_(display), last_contact_(terminal.now()) {
    state_.job = job;
    request_.set_name(job.name());
    // As often as a display is worth drawing.
    request_.mutable_min_sample_interval()->set_nanos(200'000'000);
  }

  absl::StatusOr<WatchResult> Run();

 private:
  // One stream, until it ends.
  absl::Status Follow();
  // The job as it is now.
  absl::StatusOr<teq::v1::Job> Get(std::chrono::seconds timeout);
  // Whether a server answers again. A resumed stream may have nothing to say for long, so it cannot
  // tell.
  absl::Status Probe();
  // Waits before the next try; the error itself where there is to be none.
  absl::Status BackOff(const absl::Status& error);
  void Take(const teq::v1::WatchJobResponse& message);
  void Show();

  teq::v1::JobService::StubInterface& stub_;
  const Terminal& terminal_;
  const WatchDisplay& display_;
  teq::v1::WatchJobRequest request_;
  WatchState state_;
  LiveDisplay live_;
  PlainLog log_;
  SteadyTime last_contact_;
  milliseconds backoff_ = kFirstBackoff;
};

void Watcher::Show() {
  display_.out << (display_.in_place ? live_.Frame(state_, terminal_.width())
                                     : log_.Advance(state_, terminal_.now()))
               << std::flush;
}

void Watcher::Take(const teq::v1::WatchJobResponse& message) {
  last_contact_ = terminal_.now();
  backoff_ = kFirstBackoff;
  if (!message.resume_token().empty()) request_.set_resume_token(message.resume_token());
  Apply(message, state_);
  Show();
}

absl::Status Watcher::Follow() {
  JobStream stream(stub_, request_);
  teq::v1::WatchJobResponse message;
  while (!terminal_.interrupted()) {
    switch (stream.Wait(kTick, &message)) {
      case JobStream::Event::kMessage:
        Take(message);
        break;
      case JobStream::Event::kNothingYet:
        if (display_.in_place) Show();  // the terminal may have a new width
        break;
      case JobStream::Event::kEnd:
        return stream.Finish();
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<teq::v1::Job> Watcher::Get(std::chrono::seconds timeout) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + timeout);
  teq::v1::GetJobRequest request;
  request.set_name(request_.name());
  teq::v1::Job job;
  absl::Status status = client::FromGrpc(stub_.GetJob(&context, request, &job));
  if (!status.ok()) return status;
  return job;
}

absl::Status Watcher::Probe() {
  TEQ_RETURN_IF_ERROR(Get(kProbeTimeout).status());
  state_.connected = true;
  Show();
  return absl::OkStatus();
}

absl::Status Watcher::BackOff(const absl::Status& error) {
  // As after a restored backup, which knows less than the watch has seen; but the name may also be
  // another job's by now.
  if (ErrorReason(error) == "INVALID_RESUME_TOKEN") {
    const absl::StatusOr<teq::v1::Job> job = Get(kProbeTimeout);
    if (job.ok() && job->uid() != state_.job.uid()) return error;
    request_.clear_resume_token();
    return absl::OkStatus();
  }
  // A server that goes down may cancel what it could not finish.
  const bool passing =
      absl::IsUnavailable(error) || absl::IsCancelled(error) || absl::IsDeadlineExceeded(error);
  if (!passing || terminal_.now() - last_contact_ >= kLongestSilence) return error;
  state_.connected = false;
  Show();
  for (auto waited = milliseconds(0); waited < backoff_ && !terminal_.interrupted();
       waited += kTick) {
    terminal_.sleep(kTick);
  }
  backoff_ = std::min(backoff_ * 2, kLongestBackoff);
  return absl::OkStatus();
}

absl::StatusOr<WatchResult> Watcher::Run() {
  Show();
  while (!terminal_.interrupted()) {
    absl::Status status = state_.connected ? absl::OkStatus() : Probe();
    if (status.ok()) status = Follow();
    if (terminal_.interrupted()) break;
    if (status.ok()) {
      absl::StatusOr<teq::v1::Job> job = Get(kCallTimeout);
      if (job.ok() && IsFinal(job->state())) {
        if (display_.in_place) display_.out << live_.Clear(terminal_.width()) << std::flush;
        return WatchResult{.job = *std::move(job)};
      }
      // The stream of an unfinished job ends only with its server.
      status = job.ok() ? absl::UnavailableError("the stream ended before the job") : job.status();
    }
    TEQ_RETURN_IF_ERROR(BackOff(status));
  }
  return WatchResult{.interrupted = true, .job = state_.job};
}

}  // namespace

absl::StatusOr<WatchResult> WatchJob(teq::v1::JobService::StubInterface& stub,
                                     const teq::v1::Job& job, const Terminal& terminal,
                                     const WatchDisplay& display) {
  return Watcher(stub, job, terminal, display).Run();
}

}  // namespace teq::cli
