#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <mutex>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "client/objects/object_store.h"

namespace teq::objects {

/// A part of a file or an object.
struct Part {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;

  bool operator==(const Part&) const = default;
};

/// The smallest part that is worth a request of its own.
inline constexpr std::uint64_t kPartBytes = std::uint64_t{16} << 20;
/// How many parts S3 takes.
inline constexpr std::uint64_t kMaxParts = 10'000;
/// How many parts of one object travel at once.
inline constexpr int kTransferThreads = 4;

/// The size of all parts but the last for an object of `bytes` bytes: kPartBytes, or as many whole
/// MiB as keep the parts at most kMaxParts.
[[nodiscard]] std::uint64_t PartBytesOf(std::uint64_t bytes);

/// Parts of `part_bytes`, the last with the rest; one empty part of an empty object.
[[nodiscard]] std::vector<Part> PlanParts(std::uint64_t bytes, std::uint64_t part_bytes);

/// The state that the threads of one transfer share: how far it is, and whether it goes on.
class Transfer {
 public:
  Transfer(std::uint64_t total, const TransferProgress& progress)
      : total_(total), progress_(progress) {}

  /// Tells progress of `bytes` more; whether to go on.
  bool Add(std::uint64_t bytes);

  /// Whether to go on; also tells progress where nothing was told for a second, so that a transfer
  /// that stands can be stopped.
  [[nodiscard]] bool GoOn();

  void Stop() { stopped_ = true; }

 private:
  bool Tell();

  const std::uint64_t total_;
  const TransferProgress& progress_;
  std::atomic<bool> stopped_ = false;
  std::mutex mutex_;
  std::uint64_t done_ = 0;
  std::chrono::steady_clock::time_point told_ = std::chrono::steady_clock::now();
};

/// Runs `body` in so many threads, the caller's among them. Where one fails, the transfer is
/// stopped; the first error is returned.
[[nodiscard]] absl::Status RunInThreads(int threads, Transfer& transfer,
                                        const std::function<absl::Status()>& body);

/// Fetches bytes of an object, all of them or an error, after as many tries as that takes: hands
/// each piece to `sink` with its place in the object, again from a place before where a try began
/// anew. `sink` and `go_on` end the fetch by false.
using RangeSink = std::function<bool(std::uint64_t offset, std::string_view bytes)>;
using RangeFetcher = std::function<absl::Status(const Part& part, const RangeSink& sink,
                                                const std::function<bool()>& go_on)>;

/// Writes an object to `file` as ObjectStore::Download says, by parts in threads.
[[nodiscard]] absl::Status DownloadByParts(const ObjectInfo& object,
                                           const std::filesystem::path& file,
                                           const TransferProgress& progress,
                                           const RangeFetcher& fetch);

}  // namespace teq::objects
