#include "worker/agent/data_directory.h"

#include <unistd.h>

#include <system_error>

#include "client/objects/file.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::agent {

absl::Status CheckDataDirectory(const std::filesystem::path& data) {
  std::error_code error;
  std::filesystem::create_directories(data, error);
  absl::Status status;
  if (error) {
    status = objects::WriteError(error.value(), data, 0);
  } else {
    const std::filesystem::path probe = data / fmt::format("writable-{}", ::getpid());
    status = objects::WriteFileAtomically(probe, "");
    std::filesystem::remove(probe, error);
  }
  return status.ok() ? status : WithContext(status, "data (give another directory by --data)");
}

}  // namespace teq::agent
