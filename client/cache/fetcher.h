#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cache/cached_file.h"

namespace teq::cache {

/// Told of the bytes that are there and of all, by the thread that waits for some, several times a
/// second; an error ends the wait with it.
using WaitProgress = std::function<absl::Status(std::uint64_t done, std::uint64_t total)>;

/// Fetches chunks of files with a few threads: what somebody waits for first, and with Prefetch the
/// rest in the order of the files. No thread that calls it ever waits for a store itself, so that
/// waits end when `progress` says so. Thread-safe.
class Fetcher {
 public:
  explicit Fetcher(int threads);
  /// Lets the chunks that are on their way arrive.
  ~Fetcher();
  Fetcher(const Fetcher&) = delete;
  Fetcher& operator=(const Fetcher&) = delete;

  /// One more file; its number.
  std::size_t Add(std::shared_ptr<CachedFile> file);

  /// Waits until these bytes are there; those behind the file's end need not. Errors as
  /// CachedFile::FetchChunk, of the first chunk that could not be fetched; a later call tries anew.
  /// DATA_LOSS, OBJECT_CORRUPT, once the file's sha256 was taken and is not the announced one.
  [[nodiscard]] absl::Status EnsureRange(std::size_t file, std::uint64_t offset,
                                         std::uint64_t length, const WaitProgress& progress);

  /// From now on fetches everything, and takes the sha256 of every file that is complete. Stops at
  /// the first error, which those who wait for the bytes then meet themselves.
  void Prefetch();

  /// Waits for all bytes of a file; their sha256. Errors as CachedFile::Sha256.
  [[nodiscard]] absl::StatusOr<std::string> Sha256(std::size_t file, const WaitProgress& progress);

 private:
  enum class ChunkState : std::uint8_t { kMissing, kWanted, kRunning, kThere, kFailed };
  using ChunkId = std::pair<std::size_t, std::uint64_t>;  // file, chunk
  struct File {
    std::shared_ptr<CachedFile> file;
    std::vector<ChunkState> chunks;
    std::uint64_t there = 0;  // chunks
    ChunkState digest_state = ChunkState::kMissing;
    absl::StatusOr<std::string> digest = std::string();
  };

  void Work();
  [[nodiscard]] std::optional<ChunkId> NextChunk();
  void RunChunk(std::unique_lock<std::mutex>& lock, ChunkId id);
  void RunDigest(std::unique_lock<std::mutex>& lock, std::size_t number);
  void WantDigest(std::size_t number);
  [[nodiscard]] std::pair<std::uint64_t, std::uint64_t> Range(const File& file,
                                                              std::uint64_t offset,
                                                              std::uint64_t length) const;
  [[nodiscard]] absl::Status CheckStop();
  [[nodiscard]] absl::Status Wait(std::unique_lock<std::mutex>& lock, const WaitProgress& progress);

  std::mutex mutex_;
  std::condition_variable work_;     // for the threads: something to do, or the end
  std::condition_variable arrived_;  // for those who wait: something is done
  std::deque<File> files_;
  std::deque<ChunkId> wanted_;
  std::deque<std::size_t> digests_;
  absl::Status error_;  // of the chunk that failed last
  bool prefetches_ = false;
  ChunkId cursor_ = {0, 0};  // where the prefetch goes on
  std::uint64_t done_bytes_ = 0;
  std::uint64_t total_bytes_ = 0;
  bool stops_ = false;
  std::vector<std::jthread> threads_;  // last: they use all of the above
};

}  // namespace teq::cache
