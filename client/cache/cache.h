#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cache/cached_file.h"
#include "client/cache/file_lock.h"
#include "client/cache/view.h"

namespace teq::cache {

struct Options {
  std::filesystem::path directory;
  std::uint64_t bytes = 0;  // the most that all entries together may have
  std::uint64_t chunk_bytes = std::uint64_t{8} << 20;
  Clock now = [] { return std::chrono::system_clock::now(); };
};

/// A bounded directory of what stores hold, shared by jobs and by processes on one disk. An entry
/// is named by its content: by the sha256 that the store announces, else by URI, etag and size; one
/// without an etag serves one job only. Every entry counts with its whole size from the moment that
/// it is admitted. What is in use is never removed.
///
/// A process that dies at any moment leaves entries that others complete, and half-made or
/// half-removed ones under other names, which the next call sweeps. Thread-safe.
class Cache {
 public:
  explicit Cache(Options options) : options_(std::move(options)) {}

  /// Entries for all of `sources`, in their order, kept as long as the result lives. Makes room by
  /// removing what was used least lately. `what` is what messages call them together.
  ///
  /// RESOURCE_EXHAUSTED, CACHE_FULL, where the bound does not allow it, with the numbers and the
  /// remedy; nothing is removed then. RESOURCE_EXHAUSTED, DISK_FULL; INTERNAL, CACHE_UNUSABLE; and
  /// `check`'s.
  [[nodiscard]] absl::StatusOr<std::vector<std::shared_ptr<CachedFile>>> Admit(
      std::string_view what, const std::vector<Source>& sources, const StopCheck& check);

  /// A new empty directory of links, beside the entries.
  [[nodiscard]] absl::StatusOr<std::unique_ptr<View>> NewView(const StopCheck& check);

  /// An entry's name.
  [[nodiscard]] static std::string Key(const Source& source, std::uint64_t chunk_bytes);

  /// Where an entry lies.
  [[nodiscard]] std::filesystem::path EntryDirectory(const Source& source) const;

 private:
  struct Entry;
  struct Removals;

  [[nodiscard]] absl::StatusOr<FileLock> LockAll(const StopCheck& check) const;
  void Sweep(Removals& removals) const;
  [[nodiscard]] std::vector<Entry> Entries() const;
  [[nodiscard]] absl::Status MakeRoom(std::string_view what, std::uint64_t needed,
                                      std::uint64_t wanted, Removals& removals) const;
  [[nodiscard]] absl::StatusOr<std::shared_ptr<CachedFile>> OpenEntry(
      const std::filesystem::path& directory, const Source& source) const;
  [[nodiscard]] absl::StatusOr<std::shared_ptr<CachedFile>> CreateEntry(
      const std::filesystem::path& directory, const Source& source) const;

  const Options options_;
};

}  // namespace teq::cache
