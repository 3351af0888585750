#pragma once

#include <string>

#include "client/cli/session.h"

namespace teq::cli {

struct EstimateOptions {
  std::string file;    // "-": standard input
  bool local = false;  // without a server: from the model's place as this machine sees it
};

/// Writes what a job would take. A server answers for the workers that it knows; without one no
/// time is known.
[[nodiscard]] ExitCode Estimate(const Session& session, const EstimateOptions& options);

}  // namespace teq::cli
