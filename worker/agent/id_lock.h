#pragma once

#include <filesystem>
#include <string>

#include "absl/status/statusor.h"
#include "client/cache/file_lock.h"

namespace teq::agent {

/// Keeps other workers of `server` that have the same `id` and `data` from starting, as long as the
/// result lives: a second registration would end the first worker's lease. ALREADY_EXISTS, reason
/// WORKER_ID_IN_USE; else FileLock's errors.
[[nodiscard]] absl::StatusOr<cache::FileLock> LockId(const std::filesystem::path& data,
                                                     const std::string& server,
                                                     const std::string& id);

}  // namespace teq::agent
