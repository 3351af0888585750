#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/queue/transitions.h"
#include "server/store/job_store.h"

namespace teq::queue {

/// A change of one job in the making: the record before it, the record after it, and the events
/// that tell of it. A value; touches no store.
class JobEdit {
 public:
  JobEdit(store::JobRecord before, absl::Time now);

  [[nodiscard]] const store::JobRecord& before() const { return before_; }
  [[nodiscard]] store::JobRecord& record() { return after_; }
  [[nodiscard]] const store::JobRecord& record() const { return after_; }
  [[nodiscard]] teq::v1::Job& job() { return after_.job; }
  [[nodiscard]] teq::v1::Job::State state() const { return after_.job.state(); }
  [[nodiscard]] absl::Time now() const { return now_; }
  [[nodiscard]] const std::vector<teq::v1::JobEvent>& events() const { return events_; }

  /// Moves the job by the table, records the event and gives the job a new etag.
  /// FAILED_PRECONDITION, reason INVALID_STATE, where the table has no such move.
  [[nodiscard]] absl::Status Move(Cause cause, std::string_view message);

  /// Appends an event with the next number.
  void Record(teq::v1::JobEvent event);

  /// Gives the job a new etag; once per edit is enough.
  void Revise();

  /// Why the attempt that this edit ends failed; for those who count retries.
  teq::v1::FailureClass failure_class = teq::v1::FAILURE_CLASS_UNSPECIFIED;

 private:
  store::JobRecord before_;
  store::JobRecord after_;
  absl::Time now_;
  std::vector<teq::v1::JobEvent> events_;
};

}  // namespace teq::queue
