#include "server/store/data_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::store {
namespace {

absl::Status Unusable(const std::filesystem::path& path, int error) {
  return Error(absl::StatusCode::kUnavailable, "STORE_UNAVAILABLE",
               fmt::format("{}: {}; choose another data directory or make this one writable",
                           path.string(), std::generic_category().message(error)));
}

std::string ReadPid(int file) {
  std::array<char, 32> buffer{};
  const ssize_t size = ::pread(file, buffer.data(), buffer.size(), 0);
  return size > 0 ? std::string(buffer.data(), static_cast<size_t>(size)) : "unknown";
}

}  // namespace

std::filesystem::path DatabaseFile(const std::filesystem::path& data) {
  return data / "teqd.sqlite3";
}

DataDirectory::DataDirectory(std::filesystem::path path, int lock)
    : path_(std::move(path)), lock_(lock) {}

DataDirectory::DataDirectory(DataDirectory&& other) noexcept
    : path_(std::move(other.path_)), lock_(std::exchange(other.lock_, -1)) {}

DataDirectory::~DataDirectory() {
  if (lock_ >= 0) ::close(lock_);
}

absl::StatusOr<DataDirectory> DataDirectory::Open(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return Unusable(path, error.value());
  const std::filesystem::path file = path / "lock";
  const int descriptor = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (descriptor < 0) return Unusable(file, errno);
  DataDirectory directory(path, descriptor);
  if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    return Error(absl::StatusCode::kFailedPrecondition, "DATA_DIRECTORY_IN_USE",
                 fmt::format("{}: in use by the teq-server with process id {}; stop it, or choose "
                             "another data directory",
                             path.string(), ReadPid(descriptor)));
  }
  const std::string pid = std::to_string(::getpid());
  if (::ftruncate(descriptor, 0) != 0 ||
      ::pwrite(descriptor, pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
    return Unusable(file, errno);
  }
  return directory;
}

std::filesystem::path DataDirectory::DatabaseFile() const { return store::DatabaseFile(path_); }

}  // namespace teq::store
