#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cache/file_lock.h"
#include "client/objects/object_store.h"
#include "client/objects/temporary_file.h"

namespace teq::cache {

using Clock = std::function<std::chrono::system_clock::time_point()>;

/// An object, and the store that has its bytes.
struct Source {
  std::shared_ptr<const objects::ObjectStore> store;
  objects::ObjectInfo object;
};

/// An object's bytes on this disk, fetched in chunks of one size. A directory of three files:
/// `bytes`, as large as the object and sparse until its chunks are there; `chunks`, a slot for the
/// whole and one for every chunk (chunk_slot.h), each written after the chunk's bytes were synced;
/// `lock`, whose shared lock keeps the entry and whose time says when it was last used.
///
/// Nothing on the disk is believed by itself: a chunk counts only once its bytes had the slot's
/// sha256 in this process. Thread-safe; processes that share the directory fetch each chunk once.
class CachedFile {
 public:
  /// Makes the files of an entry that is not there yet. Errors as WriteError of file.h.
  [[nodiscard]] static absl::Status Create(const std::filesystem::path& directory,
                                           const Source& source, std::uint64_t chunk_bytes);

  /// Where an entry keeps its lock.
  [[nodiscard]] static std::filesystem::path LockFile(const std::filesystem::path& directory);

  /// The entry `directory`, whose name is its key. Holds `pin` as long as it lives. DATA_LOSS,
  /// CACHE_DAMAGED, where the files are missing or of another size; INTERNAL, CACHE_UNUSABLE, where
  /// the system refuses to open them, which says nothing of what they hold.
  [[nodiscard]] static absl::StatusOr<std::shared_ptr<CachedFile>> Open(
      const std::filesystem::path& directory, Source source, std::uint64_t chunk_bytes,
      FileLock pin, Clock now);

  ~CachedFile();
  CachedFile(const CachedFile&) = delete;
  CachedFile& operator=(const CachedFile&) = delete;

  /// The file of the bytes. Zeros where they have not been fetched.
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::uint64_t bytes() const { return source_.object.bytes; }
  [[nodiscard]] std::uint64_t chunk_bytes() const { return chunk_bytes_; }
  [[nodiscard]] std::uint64_t chunk_count() const { return verified_.size(); }
  /// The object as people write it.
  [[nodiscard]] std::string uri() const { return source_.store->Uri(source_.object.key); }

  /// OK once the chunk's bytes are there, from the disk or from the store. Errors as
  /// ObjectStore::Read; RESOURCE_EXHAUSTED, DISK_FULL.
  [[nodiscard]] absl::Status FetchChunk(std::uint64_t chunk, const StopCheck& check);

  /// The sha256 of all bytes, every chunk of which was fetched by this object; from the disk where
  /// no chunk was fetched since it was taken. DATA_LOSS, OBJECT_CORRUPT, where the store had
  /// announced another; then no chunk is believed any more.
  [[nodiscard]] absl::StatusOr<std::string> Sha256(const StopCheck& check);

 private:
  CachedFile(const std::filesystem::path& directory, Source source, std::uint64_t chunk_bytes,
             FileLock pin, Clock now);

  [[nodiscard]] absl::Status OpenFiles(const std::filesystem::path& directory);
  [[nodiscard]] std::uint64_t ChunkSize(std::uint64_t chunk) const;
  [[nodiscard]] absl::StatusOr<bool> IsThere(std::uint64_t chunk) const;
  [[nodiscard]] absl::Status StoreChunk(std::uint64_t chunk, std::string_view bytes);
  [[nodiscard]] std::optional<std::string> ReadSlot(std::uint64_t number) const;
  [[nodiscard]] absl::Status WriteSlot(std::uint64_t number, std::string_view slot);
  [[nodiscard]] absl::Status WriteAt(const objects::Descriptor& file, std::uint64_t offset,
                                     std::string_view bytes) const;
  [[nodiscard]] absl::StatusOr<std::string> HashBytes(const StopCheck& check) const;

  const std::string key_;
  const std::filesystem::path path_;
  const Source source_;
  const std::uint64_t chunk_bytes_;
  const FileLock pin_;
  const Clock now_;
  objects::Descriptor bytes_;
  objects::Descriptor slots_;
  std::vector<std::atomic<bool>> verified_;  // by chunk
};

}  // namespace teq::cache
