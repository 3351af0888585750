#include "server/job_log.h"

#include "proto/spec/json.h"
#include "proto/spec/trace_parent.h"

namespace teq::server {

std::shared_ptr<logs::Logger> JobLog::About(const teq::v1::Job& job,
                                            const std::string& worker) const {
  const auto trace = ParseTraceParent(job.traceparent());
  return log_->About({.worker = worker,
                      .job = job.name(),
                      .attempt = job.attempt_count(),
                      .fence = job.fence(),
                      .trace_id = trace ? trace->trace_id : ""});
}

void JobLog::OnChange(const queue::JobChange& change) {
  for (const teq::v1::JobEvent& event : change.events) {
    if (!event.has_state_change()) continue;
    const teq::v1::StateChange& move = event.state_change();
    About(change.after.job, move.worker())
        ->info("{}: {}", ShortEnumName(teq::v1::Job::State_descriptor(), move.to()),
               move.message());
  }
}

void JobLog::OnDelete(const store::JobRecord& record) { About(record.job, "")->info("deleted"); }

}  // namespace teq::server
