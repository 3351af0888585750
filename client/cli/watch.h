#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "client/cli/terminal.h"
#include "teq/v1/job_service.grpc.pb.h"

namespace teq::cli {

/// How a watch ended.
struct WatchResult {
  bool interrupted = false;  // by the user; the job goes on
  teq::v1::Job job;          // as it ended
};

/// Where a watch shows what it sees.
struct WatchDisplay {
  std::ostream& out;
  bool in_place = false;  // a terminal
};

/// Follows a job to its end. A lost connection is taken up again by resume token for up to 10
/// minutes since the last contact, so the restart of a server does not end a watch.
[[nodiscard]] absl::StatusOr<WatchResult> WatchJob(teq::v1::JobService::StubInterface& stub,
                                                   const teq::v1::Job& job,
                                                   const Terminal& terminal,
                                                   const WatchDisplay& display);

}  // namespace teq::cli
