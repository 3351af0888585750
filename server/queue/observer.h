#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/store/job_store.h"

namespace teq::queue {

/// A committed change of one job.
struct JobChange {
  const store::JobRecord* before;  // null: the job is new
  const store::JobRecord& after;
  const std::vector<teq::v1::JobEvent>& events;
  /// Set where an attempt ended with a failure.
  teq::v1::FailureClass failure_class;
};

/// Is told what the queue did, after the commit and in the order of the commits. Called while the
/// queue is locked: must be quick and must not call the queue.
class QueueObserver {
 public:
  virtual ~QueueObserver() = default;
  virtual void OnChange(const JobChange& change) = 0;
  virtual void OnDelete(const store::JobRecord& record) = 0;
  /// A worker wrote under a lease that it had lost.
  virtual void OnLeaseConflict() {}
  /// A call was refused because a project has as much as it may have of `quota`, such as
  /// "queued_jobs".
  virtual void OnQuotaRejection(const std::string& /*project*/, std::string_view /*quota*/) {}
};

}  // namespace teq::queue
