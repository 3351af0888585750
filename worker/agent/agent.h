#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "client/logs/logger.h"
#include "proto/spec/uri.h"
#include "teq/v1/job.pb.h"
#include "worker/agent/lease_machine.h"
#include "worker/agent/metrics.h"

namespace teq::agent {

/// Exit codes of the agent.
inline constexpr int kExitOk = 0;            // stopped, or done; every outcome was reported
inline constexpr int kExitError = 1;         // the server refuses this worker; its device is gone
inline constexpr int kExitUnreachable = 20;  // the server could not be reached
inline constexpr int kExitLeaseLost = 30;    // a lease was lost, with max_jobs
inline constexpr int kExitAtOnce = 143;      // told to stop twice

struct AgentOptions {
  std::string server;
  std::string worker_id;
  /// Program and arguments of the engine process.
  std::vector<std::string> engine_command;
  /// The same for the engine process that measures the devices before the worker registers; empty:
  /// none are measured. Without its answer the worker registers all the same.
  std::vector<std::string> calibration_command;
  Duration calibration_limit = std::chrono::seconds(15);
  std::string engine_version;
  std::vector<teq::v1::Device> devices = {teq::v1::DEVICE_CPU};
  UriPolicy uri_policy;
  /// The directory that results are staged below before they go to an object store.
  std::filesystem::path data = "teqd-data";

  /// Stop after so many jobs whose outcome was reported; 0: never.
  int max_jobs = 0;
  /// Stop when a poll for work came back empty.
  bool exit_when_idle = false;

  /// Of one poll for work.
  Duration poll_wait = std::chrono::seconds(20);
  /// With max_jobs or exit_when_idle: how long a server may be away while no lease is held. A
  /// worker that holds one waits for as long as it takes.
  Duration unreachable_limit = std::chrono::seconds(60);
  LeaseTimings timings;
};

struct AgentDeps {
  WorkerMetrics* metrics = nullptr;
  std::shared_ptr<logs::Logger> log;
};

/// Leases and runs jobs until it is told to stop, and returns the process's exit code. All state
/// lives on the calling thread's event loop; calls to the server are asynchronous, and what waits
/// for a disk runs on one more thread.
///
/// SIGTERM and SIGINT: the job goes back to the queue at once (one whose content is complete is
/// published first), then the agent ends. A second one ends it on the spot.
[[nodiscard]] int RunAgent(const AgentOptions& options, const AgentDeps& deps);

}  // namespace teq::agent
