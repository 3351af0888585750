#include "client/objects/temporary_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <random>
#include <utility>

#include "client/objects/file.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSuffix = ".tmp";
constexpr std::size_t kHexDigits = 8;

absl::Status Exists(const fs::path& path) {
  return Error(
      absl::StatusCode::kAlreadyExists, "OBJECT_EXISTS",
      fmt::format("{}: exists already and is not replaced; choose another place, or remove "
                  "it",
                  path.string()));
}

// Gives `from` the name `to` unless something has it; 0 or the error number.
int RenameWithoutReplacing(int directory, const std::string& from, const std::string& to) {
  if (::renameat2(directory, from.c_str(), directory, to.c_str(), RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return errno;  // a file system that cannot
  if (::linkat(directory, from.c_str(), directory, to.c_str(), 0) != 0) return errno;
  return ::unlinkat(directory, from.c_str(), 0) == 0 ? 0 : errno;
}

}  // namespace

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

Descriptor::Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

absl::StatusOr<TemporaryFile> TemporaryFile::Beside(const fs::path& path) {
  const fs::path parent = path.has_parent_path() ? path.parent_path() : fs::path(".");
  const Descriptor directory(::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() < 0) return WriteError(errno, path, 0);
  return In(directory.get(), path.filename(), path);
}

absl::StatusOr<TemporaryFile> TemporaryFile::In(int directory, const std::string& name,
                                                const fs::path& path) {
  TemporaryFile file(Descriptor(::fcntl(directory, F_DUPFD_CLOEXEC, 0)), name, path);
  if (file.directory_.get() < 0) return WriteError(errno, path, 0);
  // A long name still has room for what is added to it.
  constexpr std::size_t kMaxName = 255 - 1 - kHexDigits - kSuffix.size();
  const std::string temporary =
      fmt::format("{}.{:08x}{}", name.substr(0, kMaxName), std::random_device{}(), kSuffix);
  file.file_ = Descriptor(::openat(file.directory_.get(), temporary.c_str(),
                                   O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666));
  if (file.file_.get() < 0) return WriteError(errno, path, 0);
  file.temporary_ = temporary;
  ::flock(file.file_.get(), LOCK_EX | LOCK_NB);  // a file system without locks has none to respect
  return file;
}

TemporaryFile::~TemporaryFile() {
  if (!temporary_.empty()) ::unlinkat(directory_.get(), temporary_.c_str(), 0);
}

absl::Status TemporaryFile::WriteAt(std::uint64_t offset, std::string_view content) const {
  const std::size_t bytes = content.size();
  while (!content.empty()) {
    const ssize_t count =
        ::pwrite(file_.get(), content.data(), content.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return WriteError(errno, path_, bytes);
    content.remove_prefix(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return absl::OkStatus();
}

absl::Status TemporaryFile::Commit(IfExists if_exists) {
  if (::fsync(file_.get()) != 0) return WriteError(errno, path_, 0);
  const int error =
      if_exists == IfExists::kFail ? RenameWithoutReplacing(directory_.get(), temporary_, name_)
      : ::renameat(directory_.get(), temporary_.c_str(), directory_.get(), name_.c_str()) == 0
          ? 0
          : errno;
  if (error == EEXIST) return Exists(path_);
  if (error != 0) return WriteError(error, path_, 0);
  temporary_.clear();
  return ::fsync(directory_.get()) == 0 ? absl::OkStatus() : WriteError(errno, path_, 0);
}

bool TemporaryFile::IsTemporaryName(std::string_view name) {
  if (!name.ends_with(kSuffix)) return false;
  name.remove_suffix(kSuffix.size());
  if (name.size() < kHexDigits + 1 || name[name.size() - kHexDigits - 1] != '.') return false;
  return std::ranges::all_of(name.substr(name.size() - kHexDigits), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
  });
}

}  // namespace teq::objects
