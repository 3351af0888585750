#include "worker/engine/text/data_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/text/data_error.h"

namespace teq::text {
namespace {

absl::Status Invalid(const std::filesystem::path& path, std::string_view what) {
  return DataError("INVALID_TEXT", path.string(), what);
}

absl::Status CannotRead(const std::filesystem::path& path, int code) {
  return Invalid(path, fmt::format("cannot be read: {}",
                                   std::error_code(code, std::generic_category()).message()));
}

}  // namespace

absl::StatusOr<DataFile> DataFile::Open(const std::filesystem::path& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0 && (errno == ENOENT || errno == ENOTDIR)) {
    return Error(absl::StatusCode::kNotFound, "TEXT_NOT_FOUND",
                 fmt::format("{}: no such file", path.string()));
  }
  if (descriptor < 0) return CannotRead(path, errno);
  DataFile file(path, descriptor, 0);
  struct stat status {};
  if (fstat(descriptor, &status) != 0) return CannotRead(path, errno);
  if (S_ISDIR(status.st_mode)) {
    return Invalid(path, "is a directory; name a text, .jsonl or .safetensors file");
  }
  if (!S_ISREG(status.st_mode)) return Invalid(path, "is no regular file; copy it into one");
  file.size_ = static_cast<std::uint64_t>(status.st_size);
  return file;
}

DataFile::DataFile(DataFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      size_(other.size_) {}

DataFile::~DataFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

absl::StatusOr<std::string> DataFile::Read(std::uint64_t offset, std::uint64_t count) const {
  std::string bytes(offset < size_ ? std::min(count, size_ - offset) : 0, '\0');
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = pread(descriptor_, bytes.data() + done, bytes.size() - done,
                              static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return CannotRead(path_, errno);
    if (got == 0) return Invalid(path_, "grew shorter while it was read; leave it alone");
    done += static_cast<std::size_t>(got);
  }
  return bytes;
}

}  // namespace teq::text
