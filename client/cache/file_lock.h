#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/objects/temporary_file.h"

namespace teq::cache {

/// Asked now and then by calls that wait; an error ends the wait with it.
using StopCheck = std::function<absl::Status()>;

/// How long a wait goes on before it asks again.
inline constexpr std::chrono::milliseconds kPollInterval(20);

/// A lock on a file, between processes and within one, by flock: held until its owner ends, however
/// it ends. The file is made where there is none, in a directory that exists. INTERNAL,
/// CACHE_UNUSABLE, where the system refuses.
class FileLock {
 public:
  enum class Kind { kShared, kExclusive };

  /// Nothing where another owner is in the way.
  [[nodiscard]] static absl::StatusOr<std::optional<FileLock>> Try(
      const std::filesystem::path& file, Kind kind);

  /// Waits for it.
  [[nodiscard]] static absl::StatusOr<FileLock> Acquire(const std::filesystem::path& file,
                                                        Kind kind, const StopCheck& check);

  /// Sets the file's time of last change.
  void Touch(std::chrono::system_clock::time_point time) const;

 private:
  explicit FileLock(objects::Descriptor descriptor) : descriptor_(std::move(descriptor)) {}

  objects::Descriptor descriptor_;
};

}  // namespace teq::cache
