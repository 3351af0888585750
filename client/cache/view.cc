#include "client/cache/view.h"

#include <optional>
#include <random>
#include <system_error>
#include <utility>

#include "client/objects/file.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::cache {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kLockExtension = ".lock";

fs::path LockOf(const fs::path& directory) {
  fs::path lock = directory;
  lock += kLockExtension;
  return lock;
}

}  // namespace

absl::StatusOr<std::unique_ptr<View>> View::Create(const fs::path& parent) {
  std::error_code error;
  fs::create_directories(parent, error);
  if (error) return objects::WriteError(error.value(), parent, 0);
  // Links are absolute, wherever the reader's working directory is.
  const fs::path directory =
      fs::absolute(parent) /
      fmt::format("{:08x}{:08x}", std::random_device{}(), std::random_device{}());
  TEQ_ASSIGN_OR_RETURN(std::optional<FileLock> lock,
                       FileLock::Try(LockOf(directory), FileLock::Kind::kExclusive));
  if (!lock || !fs::create_directory(directory, error)) {
    return objects::WriteError(error ? error.value() : EEXIST, directory, 0);
  }
  return std::unique_ptr<View>(new View(directory, *std::move(lock)));
}

void View::RemoveStale(const fs::path& parent) {
  std::error_code error;
  for (fs::directory_iterator entry(parent, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->path().extension() != kLockExtension) continue;
    const auto lock = FileLock::Try(entry->path(), FileLock::Kind::kExclusive);
    if (!lock.ok() || !lock->has_value()) continue;
    std::error_code ignored;
    fs::remove_all(fs::path(entry->path()).replace_extension(), ignored);
    fs::remove(entry->path(), ignored);
  }
}

View::~View() {
  std::error_code ignored;
  fs::remove_all(directory_, ignored);
  fs::remove(LockOf(directory_), ignored);
}

absl::Status View::Add(const fs::path& link, const fs::path& target) {
  std::error_code error;
  fs::create_directories(link.parent_path(), error);
  if (!error) fs::create_symlink(fs::absolute(target), link, error);
  return error ? objects::WriteError(error.value(), link, 0) : absl::OkStatus();
}

}  // namespace teq::cache
