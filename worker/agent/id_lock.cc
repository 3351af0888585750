#include "worker/agent/id_lock.h"

#include <cstddef>
#include <optional>
#include <system_error>
#include <utility>

#include "client/objects/file.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::agent {

absl::StatusOr<cache::FileLock> LockId(const std::filesystem::path& data, const std::string& server,
                                       const std::string& id) {
  constexpr std::size_t kServerDigits = 16;
  const std::filesystem::path directory = data / "workers";
  std::error_code ignored;  // the lock tells what is wrong
  std::filesystem::create_directories(directory, ignored);
  const std::filesystem::path file =
      directory / fmt::format("{}-{}.lock", id, objects::Sha256(server).substr(0, kServerDigits));
  TEQ_ASSIGN_OR_RETURN(std::optional<cache::FileLock> lock,
                       cache::FileLock::Try(file, cache::FileLock::Kind::kExclusive));
  if (lock) return *std::move(lock);
  return Error(absl::StatusCode::kAlreadyExists, "WORKER_ID_IN_USE",
               fmt::format("id: '{}' is that of another worker of {} with this --data ({}); give "
                           "each an id of its own by --id",
                           id, server, file.string()));
}

}  // namespace teq::agent
