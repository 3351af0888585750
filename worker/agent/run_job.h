#pragma once

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "client/logs/logger.h"
#include "proto/spec/uri.h"
#include "worker/agent/lease_machine.h"

namespace teq::agent {

/// Exit codes of `run`.
inline constexpr int kRunOk = 0;
inline constexpr int kRunFailed = 1;
inline constexpr int kRunInvalid = 2;      // the job file or its spec; nothing was started
inline constexpr int kRunCancelled = 130;  // by SIGINT or SIGTERM

struct RunJobOptions {
  std::filesystem::path job_file;
  /// Where the report is written as well, as JSON; empty: nowhere. Also when the run failed, if it
  /// measured anything.
  std::filesystem::path report_file;
  /// Program and arguments of the engine process.
  std::vector<std::string> engine_command;
  UriPolicy uri_policy;
  /// The directory that results are staged below before they go to an object store.
  std::filesystem::path data = "teqd-data";
  /// From asking the engine to stop to killing it.
  Duration cancel_grace = std::chrono::seconds(10);
  /// From the engine's last event to killing it.
  Duration exit_grace = std::chrono::seconds(10);
  std::FILE* out = stdout;       // perplexities and artifacts
  std::FILE* progress = stderr;  // progress and errors: "teq-worker: REASON: message"
  /// Where progress and errors go instead; null: to `progress`.
  std::shared_ptr<logs::Logger> log;
};

/// Runs one job without a server, the engine in a child process, and publishes its result. SIGINT
/// and SIGTERM cancel it and leave nothing; a second one does so at once. Returns the exit code.
[[nodiscard]] int RunJob(const RunJobOptions& options);

}  // namespace teq::agent
