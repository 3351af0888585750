#pragma once

#include <string>

#include "client/cli/session.h"

namespace teq::cli {

struct PullOptions {
  std::string what;  // a job, or the URI of an output
  std::string directory;
  std::string format;  // empty: all, and the reports
  bool via_server = false;
};

struct VerifyOptions {
  std::string what;    // as PullOptions
  std::string format;  // empty: all, and the reports
  bool via_server = false;
};

/// The commands on published checkpoints, as those of commands.h. Outputs are read with this
/// process's own credentials, and with `via_server` with nothing but what the server gives.
[[nodiscard]] ExitCode ListArtifacts(const Session& session, const std::string& job);
[[nodiscard]] ExitCode ShowManifest(const Session& session, const std::string& job);
[[nodiscard]] ExitCode Pull(const Session& session, const PullOptions& options);
[[nodiscard]] ExitCode Verify(const Session& session, const VerifyOptions& options);

}  // namespace teq::cli
