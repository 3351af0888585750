#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/logs/logger.h"

namespace teq::server {

/// Bounds on what clients can make grow.
struct LimitsConfig {
  int queued_jobs_per_project = 1000;
  int watch_streams = 1000;
  int waiting_workers = 10'000;
  int spec_bytes = 64 << 10;
  int events_per_job = 200'000;
  int metrics_jobs = 200;      // jobs with series of their own; the newest
  int metrics_projects = 100;  // more are counted as "other"
};

/// What teq-server is told. The names are those of the keys of its file.
struct Config {
  std::string listen = "127.0.0.1:8470";  // gRPC; port 0: any free one
  std::string http = "127.0.0.1:8471";    // metrics and health; port 0: any free one
  std::filesystem::path data = "./teqd-data";
  /// Serve other machines without encryption, on both ports.
  bool allow_plaintext = false;
  /// What jobs may name, by prefix (`file:///models/`). Empty: everything, on loopback only.
  std::vector<std::string> uri_prefixes;
  /// How long a worker may be silent: "30s", "2m"; 5 s at least.
  absl::Duration lease_duration = absl::Seconds(30);
  /// How long calls may go on after SIGTERM.
  absl::Duration drain_timeout = absl::Seconds(10);
  /// "text" or "json".
  logs::Format log_format = logs::Format::kText;
  LimitsConfig limits;
};

/// Reads the YAML of a config file; `file` is its name for messages. INVALID_ARGUMENT, reason
/// INVALID_CONFIG: "server.yaml:3: listne: unknown key; known: ...".
[[nodiscard]] absl::StatusOr<Config> ParseConfig(std::string_view yaml, std::string_view file);

/// The same from a file. NOT_FOUND, reason CONFIG_NOT_FOUND.
[[nodiscard]] absl::StatusOr<Config> ReadConfig(const std::filesystem::path& file);

/// What must hold between the fields, flags included. FAILED_PRECONDITION: reason
/// URI_PREFIXES_REQUIRED where other machines can reach a server that accepts every path,
/// PLAINTEXT_NOT_ALLOWED where they can reach it without encryption. INVALID_ARGUMENT:
/// INVALID_ADDRESS, INVALID_URI.
[[nodiscard]] absl::Status CheckConfig(const Config& config);

}  // namespace teq::server
