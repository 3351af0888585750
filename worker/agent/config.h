#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/logs/logger.h"

namespace teq::agent {

inline constexpr int kMaxDeviceIndex = 127;  // LibTorch's
inline constexpr int kMaxThreads = 4096;
inline constexpr std::int64_t kMaxCacheGib = 1 << 20;

/// What worker.yaml says; flags of the command line override it.
struct WorkerConfig {
  std::string server = "127.0.0.1:8470";  // host:port, or another name that gRPC resolves
  std::string id;                         // stable over restarts; empty: the host's name
  int threads = 0;                        // 0: the machine's cores
  std::string http;                       // host:port of /metrics; empty: none
  std::vector<std::string> uri_prefixes;  // what jobs may name; empty: every path
  std::string hpu_plugin;                 // a shared object that brings the HPU device
  int device_index = 0;                   // which CUDA or HPU device this worker has
  std::string data = "teqd-data";         // of fetched models, staged results, scratch files
  std::int64_t cache_gib = 100;           // the most that fetched models and texts may take
  logs::Format log_format = logs::Format::kText;  // "text" or "json"
};

/// INVALID_ARGUMENT, reason INVALID_CONFIG: "worker.yaml:3: servr: unknown field; known: ...".
/// `file` is the text's name for messages.
[[nodiscard]] absl::StatusOr<WorkerConfig> ParseWorkerConfig(std::string_view yaml,
                                                             std::string_view file);

/// What must hold of the fields, flags included: a directory for `data`, and a `server` that gRPC
/// can resolve. INVALID_ARGUMENT, reason INVALID_CONFIG.
[[nodiscard]] absl::Status CheckWorkerConfig(const WorkerConfig& config);

/// `id`, or the host's name where it is empty. INVALID_ARGUMENT, reason INVALID_CONFIG, unless it
/// matches [a-zA-Z0-9._-]{1,63}.
[[nodiscard]] absl::StatusOr<std::string> WorkerId(const std::string& id);

}  // namespace teq::agent
