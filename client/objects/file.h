#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace teq::objects {

/// Writes a whole file: temporary name in the same directory, fsync, rename, fsync of the
/// directory. RESOURCE_EXHAUSTED, DISK_FULL, with the path and the bytes; PERMISSION_DENIED,
/// OUTPUT_NOT_WRITABLE; INTERNAL, WRITE_FAILED, with the path and the system's words.
[[nodiscard]] absl::Status WriteFileAtomically(const std::filesystem::path& path,
                                               std::string_view content);

/// A whole file. NOT_FOUND, FILE_NOT_FOUND; INTERNAL, READ_FAILED.
[[nodiscard]] absl::StatusOr<std::string> ReadFile(const std::filesystem::path& path);

/// The sha256 of a file's bytes, hexadecimal.
[[nodiscard]] absl::StatusOr<std::string> FileSha256(const std::filesystem::path& path);

/// Names the content that a file has: another file, or this one written anew, has another name.
[[nodiscard]] std::string VersionOf(const struct stat& info);

/// The sha256 of a text, hexadecimal.
[[nodiscard]] std::string Sha256(std::string_view text);

/// Writes what the system still holds of a file or directory to disk. Symbolic links are refused.
/// Errors as WriteFileAtomically.
[[nodiscard]] absl::Status Sync(const std::filesystem::path& path);

/// The error of a failed system call that was to write `bytes` bytes to `path` (0: none): ENOSPC,
/// EDQUOT and EFBIG are RESOURCE_EXHAUSTED, DISK_FULL; EACCES, EPERM and EROFS are
/// PERMISSION_DENIED, OUTPUT_NOT_WRITABLE; others INTERNAL, WRITE_FAILED.
[[nodiscard]] absl::Status WriteError(int error_number, const std::filesystem::path& path,
                                      std::uint64_t bytes);

}  // namespace teq::objects
