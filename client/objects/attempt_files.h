#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/objects/publication.h"

/// What the attempts of every kind of output are made of. For client/objects alone.
namespace teq::objects {

inline constexpr const char* kOwnerKey = "owner.json";

/// Whether anything has this name, a dangling symbolic link too.
[[nodiscard]] bool Exists(const std::filesystem::path& path);

/// Whether it is a directory; a symbolic link to one is not.
[[nodiscard]] bool IsDirectory(const std::filesystem::path& path);

/// Nothing where it is not a regular file.
[[nodiscard]] std::optional<std::uint64_t> RegularFileSize(const std::filesystem::path& path);

/// FAILED_PRECONDITION, OUTPUT_IN_USE: "<place>: <what>".
[[nodiscard]] absl::Status InUse(const std::string& place, std::string_view what);

/// DATA_LOSS, MANIFEST_MISMATCH.
[[nodiscard]] absl::Status Mismatch(std::string_view message);

/// OUTPUT_IN_USE for the root manifest at `place` that holds `text`; names who published it.
[[nodiscard]] absl::Status PublishedBefore(const std::string& place, std::string_view text);

/// A job's name, or words for a run without a server.
[[nodiscard]] std::string JobOrRun(const std::string& job);

/// Makes `path` and what is missing above it; whether `path` itself was made.
[[nodiscard]] absl::StatusOr<bool> MakeDirectories(const std::filesystem::path& path);

/// Removes a directory with all that it holds; OK where nothing has the name.
[[nodiscard]] absl::Status RemoveTree(const std::filesystem::path& path);

/// An exclusive lock on a directory, held by this process and given back at the end or when the
/// process dies. A file system without locks gives one that protects nothing.
class DirectoryLock {
 public:
  enum class IfHeld { kRefuse, kWait };
  /// OUTPUT_IN_USE where another process holds it, with kRefuse, or removes the directory
  /// meanwhile.
  [[nodiscard]] static absl::StatusOr<std::shared_ptr<const DirectoryLock>> Take(
      const std::filesystem::path& directory, IfHeld if_held = IfHeld::kRefuse);
  ~DirectoryLock();
  /// Whether the file system has locks.
  [[nodiscard]] bool protects() const { return protects_; }
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  explicit DirectoryLock(int fd) : fd_(fd) {}
  int fd_;
  bool protects_ = false;
};

/// "<attempt>-<fence>", the name of an attempt's directory or prefix.
[[nodiscard]] std::string AttemptName(const Publisher& publisher);

/// Whether a name looks like one.
[[nodiscard]] bool IsAttemptName(const std::string& name);

/// What an owner.json says.
struct Owner {
  std::string job;
  std::string job_uid;
  std::int64_t fence = 0;
  bool made_output = false;  // the run made the output's directory
  std::string nonce;         // tells runs without a server apart; empty for a directory
};

/// Nothing where `text` is no owner.json.
[[nodiscard]] std::optional<Owner> ParseOwner(std::string_view text);

/// The owner.json of a publisher's attempt.
[[nodiscard]] std::string OwnerText(const Publisher& publisher, bool made_output,
                                    const std::string& nonce = {});

/// ABORTED, LEASE_LOST: the attempt at `place` is newer than the publisher's.
[[nodiscard]] absl::Status NewerAttempt(const std::string& place, std::int64_t found,
                                        std::int64_t own);

/// A staged file whose digest is known since it was written.
struct SettledFile {
  std::string sha256;
  std::string version;  // VersionOf it when it was settled; empty: it was not there
};
using SettledFiles = std::map<std::string, SettledFile>;  // by path below the attempt

/// Publication::Settle for the files of one directory.
void SettleFiles(const std::filesystem::path& attempt, const std::string& format_directory,
                 const std::map<std::string, std::string>& sha256, SettledFiles& settled);

/// Publication::Seal for the files below `attempt`. `prefix` stands before every path of the
/// manifest; `place` tells where a format's directory will lie at the end.
[[nodiscard]] absl::StatusOr<std::string> SealAttempt(
    const std::filesystem::path& attempt, const SettledFiles& settled, const Publisher& publisher,
    const std::string& prefix,
    const std::function<std::string(const std::string& directory)>& place, teq::v1::Report& report,
    const PageWriter& page);

/// Calls `hook` where there is one.
void Tell(const StepHook& hook, std::string_view step);

}  // namespace teq::objects
