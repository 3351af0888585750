#include "client/objects/file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <initializer_list>
#include <system_error>

#include "client/objects/digest.h"
#include "client/objects/temporary_file.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kChunk = std::size_t{1} << 20;

std::string Words(int error_number) { return std::generic_category().message(error_number); }

absl::Status ReadError(int error_number, const fs::path& path) {
  if (error_number == ENOENT || error_number == ENOTDIR) {
    return Error(absl::StatusCode::kNotFound, "FILE_NOT_FOUND",
                 fmt::format("{}: there is no such file", path.string()));
  }
  return Error(absl::StatusCode::kInternal, "READ_FAILED",
               fmt::format("{}: cannot be read: {}", path.string(), Words(error_number)));
}

// Calls `consume` with each part of a file; returns 0 or the error number.
template <typename Consume>
int ReadParts(const fs::path& path, const Consume& consume) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return errno;
  std::string buffer(kChunk, '\0');
  while (true) {
    const ssize_t count = ::read(file.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno;
    if (count == 0) return 0;
    consume(std::string_view(buffer.data(), static_cast<std::size_t>(count)));
  }
}

}  // namespace

absl::Status WriteError(int error_number, const fs::path& path, std::uint64_t bytes) {
  const std::string what = bytes > 0 ? fmt::format("{} bytes cannot be written", bytes)
                                     : std::string("cannot be written");
  const auto is_one_of = [error_number](std::initializer_list<int> numbers) {
    return std::ranges::find(numbers, error_number) != numbers.end();
  };
  if (is_one_of({ENOSPC, EDQUOT, EFBIG})) {
    return Error(absl::StatusCode::kResourceExhausted, "DISK_FULL",
                 fmt::format("{}: {}: {}; free space there, or choose another place", path.string(),
                             what, Words(error_number)),
                 {{"path", path.string()}, {"bytes", std::to_string(bytes)}});
  }
  if (is_one_of({EACCES, EPERM, EROFS})) {
    return Error(absl::StatusCode::kPermissionDenied, "OUTPUT_NOT_WRITABLE",
                 fmt::format("{}: {}: {}; let this program's user write there, or choose another "
                             "place",
                             path.string(), what, Words(error_number)),
                 {{"path", path.string()}});
  }
  return Error(absl::StatusCode::kInternal, "WRITE_FAILED",
               fmt::format("{}: {}: {}", path.string(), what, Words(error_number)),
               {{"path", path.string()}});
}

absl::Status Sync(const fs::path& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (file.get() < 0 || ::fsync(file.get()) != 0) return WriteError(errno, path, 0);
  return absl::OkStatus();
}

absl::Status WriteFileAtomically(const fs::path& path, std::string_view content) {
  TEQ_ASSIGN_OR_RETURN(TemporaryFile file, TemporaryFile::Beside(path));
  TEQ_RETURN_IF_ERROR(file.WriteAt(0, content));
  return file.Commit(IfExists::kReplace);
}

absl::StatusOr<std::string> ReadFile(const fs::path& path) {
  std::string content;
  if (const int error = ReadParts(path, [&](std::string_view part) { content += part; })) {
    return ReadError(error, path);
  }
  return content;
}

absl::StatusOr<std::string> FileSha256(const fs::path& path) {
  Sha256Digest hasher;
  if (const int error = ReadParts(path, [&](std::string_view part) { hasher.Add(part); })) {
    return ReadError(error, path);
  }
  return hasher.Hex();
}

std::string VersionOf(const struct stat& info) {
  return fmt::format("{:x}-{:x}-{:x}.{:09}", info.st_ino, info.st_size, info.st_mtim.tv_sec,
                     info.st_mtim.tv_nsec);
}

std::string Sha256(std::string_view text) {
  Sha256Digest hasher;
  hasher.Add(text);
  return hasher.Hex();
}

}  // namespace teq::objects
