#include "client/objects/transfer.h"

#include <algorithm>
#include <system_error>
#include <thread>

#include "client/objects/temporary_file.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::objects {

std::uint64_t PartBytesOf(std::uint64_t bytes) {
  constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
  const std::uint64_t least = bytes / kMaxParts + (bytes % kMaxParts != 0 ? 1 : 0);
  return std::max(kPartBytes, (least + kMiB - 1) / kMiB * kMiB);
}

std::vector<Part> PlanParts(std::uint64_t bytes, std::uint64_t part_bytes) {
  std::vector<Part> parts;
  for (std::uint64_t offset = 0; offset < bytes; offset += parts.back().length) {
    parts.push_back({offset, std::min(part_bytes, bytes - offset)});
  }
  if (parts.empty()) parts.emplace_back();
  return parts;
}

bool Transfer::Add(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  done_ += bytes;
  return Tell();
}

bool Transfer::GoOn() {
  if (stopped_) return false;
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock() || std::chrono::steady_clock::now() - told_ < std::chrono::seconds(1)) {
    return true;
  }
  return Tell();
}

bool Transfer::Tell() {
  if (stopped_) return false;
  told_ = std::chrono::steady_clock::now();
  if (progress_ && !progress_(done_, total_)) stopped_ = true;
  return !stopped_;
}

absl::Status RunInThreads(int threads, Transfer& transfer,
                          const std::function<absl::Status()>& body) {
  std::mutex mutex;
  absl::Status first;
  const auto run = [&] {
    const absl::Status status = body();
    if (status.ok()) return;
    const std::lock_guard lock(mutex);
    if (first.ok()) first = status;
    transfer.Stop();
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) {
    try {
      others.emplace_back(run);
    } catch (const std::system_error&) {
      break;  // fewer threads do the same work
    }
  }
  run();
  for (std::thread& other : others) other.join();
  return first;
}

absl::Status DownloadByParts(const ObjectInfo& object, const std::filesystem::path& file,
                             const TransferProgress& progress, const RangeFetcher& fetch) {
  TEQ_ASSIGN_OR_RETURN(TemporaryFile target, TemporaryFile::Beside(file));
  const std::vector<Part> parts = PlanParts(object.bytes, kPartBytes);
  Transfer transfer(object.bytes, progress);
  std::atomic<std::size_t> next = 0;
  const auto body = [&]() -> absl::Status {
    for (std::size_t i = next++; i < parts.size() && object.bytes > 0; i = next++) {
      absl::Status written;
      std::uint64_t told = parts[i].offset;  // up to where progress knows
      const RangeSink sink = [&](std::uint64_t offset, std::string_view bytes) {
        written = target.WriteAt(offset, bytes);
        const std::uint64_t end = offset + bytes.size();
        const std::uint64_t news = end > told ? end - told : 0;
        told += news;
        return written.ok() && transfer.Add(news);
      };
      const absl::Status fetched = fetch(parts[i], sink, [&] { return transfer.GoOn(); });
      TEQ_RETURN_IF_ERROR(written);
      TEQ_RETURN_IF_ERROR(fetched);
    }
    return absl::OkStatus();
  };
  const auto threads = static_cast<int>(std::min<std::size_t>(parts.size(), kTransferThreads));
  TEQ_RETURN_IF_ERROR(RunInThreads(threads, transfer, body));
  return target.Commit(IfExists::kReplace);
}

}  // namespace teq::objects
