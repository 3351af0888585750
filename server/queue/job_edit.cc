#include "server/queue/job_edit.h"

#include <utility>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "proto/spec/json.h"
#include "server/store/timestamps.h"

namespace teq::queue {

using teq::v1::Job;
using teq::v1::JobEvent;

JobEdit::JobEdit(store::JobRecord before, absl::Time now)
    : before_(std::move(before)), after_(before_), now_(now) {
  *after_.job.mutable_update_time() = store::ToTimestamp(now_);
}

absl::Status JobEdit::Move(Cause cause, std::string_view message) {
  const Job::State from = state();
  const std::optional<Job::State> to = NextState(from, cause);
  if (!to) {
    absl::Status status =
        Error(absl::StatusCode::kFailedPrecondition, "INVALID_STATE",
              fmt::format("{} is {}: it cannot be {}; look at it again by GetJob", job().name(),
                          ShortEnumName(Job::State_descriptor(), from), Describe(cause)),
              {{"state", ShortEnumName(Job::State_descriptor(), from)}});
    google::rpc::PreconditionFailure failure;
    auto* violation = failure.add_violations();
    violation->set_type("STATE");
    violation->set_subject(job().name());
    violation->set_description(std::string(status.message()));
    AddDetail(status, failure);
    return status;
  }
  const google::protobuf::Timestamp time = store::ToTimestamp(now_);
  job().set_state(*to);
  job().set_status_message(std::string(message));
  if (*to == Job::STATE_QUEUED) *job().mutable_queue_time() = time;
  if (store::IsFinished(*to)) *job().mutable_end_time() = time;
  if (*to != Job::STATE_RETRY_WAIT) job().clear_next_attempt_time();

  JobEvent event;
  event.mutable_state_change()->set_from(from);
  event.mutable_state_change()->set_to(*to);
  event.mutable_state_change()->set_message(std::string(message));
  if (!job().worker().empty()) {
    event.mutable_state_change()->set_fence(job().fence());
    event.mutable_state_change()->set_worker(job().worker());
  }
  Record(std::move(event));
  Revise();
  return absl::OkStatus();
}

void JobEdit::Record(JobEvent event) {
  event.set_sequence(++after_.last_sequence);
  *event.mutable_time() = store::ToTimestamp(now_);
  events_.push_back(std::move(event));
}

void JobEdit::Revise() {
  after_.revision = before_.revision + 1;
  job().set_etag(fmt::format("r{}", after_.revision));
}

}  // namespace teq::queue
