#include "client/cache/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <system_error>
#include <thread>
#include <utility>

#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::cache {
namespace {

absl::Status Unusable(const std::filesystem::path& file, int error_number) {
  return Error(
      absl::StatusCode::kInternal, "CACHE_UNUSABLE",
      fmt::format("{}: cannot be locked: {}; let the worker's user write there, or give it "
                  "another --data",
                  file.string(), std::generic_category().message(error_number)));
}

}  // namespace

absl::StatusOr<std::optional<FileLock>> FileLock::Try(const std::filesystem::path& file,
                                                      Kind kind) {
  objects::Descriptor descriptor(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (descriptor.get() < 0) return Unusable(file, errno);
  const int operation = (kind == Kind::kShared ? LOCK_SH : LOCK_EX) | LOCK_NB;
  int result = 0;
  do {
    result = ::flock(descriptor.get(), operation);
  } while (result != 0 && errno == EINTR);
  if (result == 0) return FileLock(std::move(descriptor));
  if (errno == EWOULDBLOCK) return std::optional<FileLock>();
  return Unusable(file, errno);
}

absl::StatusOr<FileLock> FileLock::Acquire(const std::filesystem::path& file, Kind kind,
                                           const StopCheck& check) {
  while (true) {
    TEQ_ASSIGN_OR_RETURN(std::optional<FileLock> lock, Try(file, kind));
    if (lock) return *std::move(lock);
    TEQ_RETURN_IF_ERROR(check());
    std::this_thread::sleep_for(kPollInterval);
  }
}

void FileLock::Touch(std::chrono::system_clock::time_point time) const {
  const auto since = time.time_since_epoch();
  const auto seconds = std::chrono::floor<std::chrono::seconds>(since);
  const timespec when = {.tv_sec = seconds.count(),
                         .tv_nsec = std::chrono::nanoseconds(since - seconds).count()};
  const timespec both[] = {when, when};
  ::futimens(descriptor_.get(), both);
}

}  // namespace teq::cache
