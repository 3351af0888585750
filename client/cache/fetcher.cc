#include "client/cache/fetcher.h"

#include <algorithm>
#include <chrono>

#include "proto/spec/error.h"

namespace teq::cache {
namespace {

constexpr std::chrono::milliseconds kProgressInterval(200);

}  // namespace

Fetcher::Fetcher(int threads) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Work(); });
}

Fetcher::~Fetcher() {
  {
    const std::lock_guard lock(mutex_);
    stops_ = true;
  }
  work_.notify_all();
}

std::size_t Fetcher::Add(std::shared_ptr<CachedFile> file) {
  const std::lock_guard lock(mutex_);
  total_bytes_ += file->bytes();
  const std::uint64_t chunks = file->chunk_count();
  files_.push_back({.file = std::move(file), .chunks = std::vector(chunks, ChunkState::kMissing)});
  return files_.size() - 1;
}

absl::Status Fetcher::CheckStop() {
  const std::lock_guard lock(mutex_);
  if (!stops_) return absl::OkStatus();
  return Error(absl::StatusCode::kCancelled, "CANCELLED", "the fetch was stopped");
}

absl::Status Fetcher::Wait(std::unique_lock<std::mutex>& lock, const WaitProgress& progress) {
  arrived_.wait_for(lock, kProgressInterval);
  const auto [done, total] = std::pair(done_bytes_, total_bytes_);
  lock.unlock();
  const absl::Status status = progress(done, total);
  lock.lock();
  return status;
}

// The chunks of a range: the first, and the one behind the last.
std::pair<std::uint64_t, std::uint64_t> Fetcher::Range(const File& file, std::uint64_t offset,
                                                       std::uint64_t length) const {
  const std::uint64_t size = file.file->bytes();
  const std::uint64_t begin = std::min(offset, size);
  const std::uint64_t end = begin + std::min(length, size - begin);
  const std::uint64_t chunk_bytes = file.file->chunk_bytes();
  if (begin == end) return {0, 0};
  return {begin / chunk_bytes, (end - 1) / chunk_bytes + 1};
}

absl::Status Fetcher::EnsureRange(std::size_t number, std::uint64_t offset, std::uint64_t length,
                                  const WaitProgress& progress) {
  std::unique_lock lock(mutex_);
  File& file = files_[number];  // a deque's elements stay where they are
  const auto [begin, end] = Range(file, offset, length);
  for (std::uint64_t chunk = begin; chunk < end; ++chunk) {
    ChunkState& state = file.chunks[chunk];
    if (state != ChunkState::kMissing && state != ChunkState::kFailed) continue;
    state = ChunkState::kWanted;
    wanted_.emplace_back(number, chunk);
  }
  work_.notify_all();
  for (std::uint64_t chunk = begin; chunk < end; ++chunk) {
    while (file.chunks[chunk] != ChunkState::kThere) {
      if (file.chunks[chunk] == ChunkState::kFailed) return error_;
      TEQ_RETURN_IF_ERROR(Wait(lock, progress));
    }
  }
  // Fetching again would not help here: these chunks count as there. Other errors of a digest say
  // nothing of the bytes.
  const bool is_corrupt =
      file.digest_state == ChunkState::kFailed && absl::IsDataLoss(file.digest.status());
  return is_corrupt ? file.digest.status() : absl::OkStatus();
}

void Fetcher::Prefetch() {
  {
    const std::lock_guard lock(mutex_);
    prefetches_ = true;
  }
  work_.notify_all();
}

void Fetcher::WantDigest(std::size_t number) {
  ChunkState& state = files_[number].digest_state;
  if (state != ChunkState::kMissing && state != ChunkState::kFailed) return;
  state = ChunkState::kWanted;
  digests_.push_back(number);
  work_.notify_all();
}

absl::StatusOr<std::string> Fetcher::Sha256(std::size_t number, const WaitProgress& progress) {
  std::unique_lock lock(mutex_);
  File& file = files_[number];
  const std::uint64_t bytes = file.file->bytes();
  lock.unlock();
  TEQ_RETURN_IF_ERROR(EnsureRange(number, 0, bytes, progress));
  lock.lock();
  WantDigest(number);
  while (file.digest_state == ChunkState::kWanted || file.digest_state == ChunkState::kRunning) {
    TEQ_RETURN_IF_ERROR(Wait(lock, progress));
  }
  return file.digest;
}

std::optional<Fetcher::ChunkId> Fetcher::NextChunk() {
  if (!wanted_.empty()) {
    const ChunkId id = wanted_.front();
    wanted_.pop_front();
    return id;
  }
  while (prefetches_ && cursor_.first < files_.size()) {
    const File& file = files_[cursor_.first];
    if (cursor_.second == file.chunks.size()) {
      cursor_ = {cursor_.first + 1, 0};
      continue;
    }
    const ChunkId id = cursor_;
    ++cursor_.second;
    if (file.chunks[id.second] == ChunkState::kMissing) return id;
  }
  return std::nullopt;
}

void Fetcher::RunChunk(std::unique_lock<std::mutex>& lock, ChunkId id) {
  File& file = files_[id.first];
  file.chunks[id.second] = ChunkState::kRunning;
  lock.unlock();
  const absl::Status status = file.file->FetchChunk(id.second, [this] { return CheckStop(); });
  lock.lock();
  file.chunks[id.second] = status.ok() ? ChunkState::kThere : ChunkState::kFailed;
  if (status.ok()) {
    ++file.there;
    const std::uint64_t begin = id.second * file.file->chunk_bytes();
    done_bytes_ += std::min(file.file->chunk_bytes(), file.file->bytes() - begin);
    if (prefetches_ && file.there == file.chunks.size()) WantDigest(id.first);
  } else {
    error_ = status;
    prefetches_ = false;
  }
  arrived_.notify_all();
}

void Fetcher::RunDigest(std::unique_lock<std::mutex>& lock, std::size_t number) {
  File& file = files_[number];
  file.digest_state = ChunkState::kRunning;
  lock.unlock();
  absl::StatusOr<std::string> digest = file.file->Sha256([this] { return CheckStop(); });
  lock.lock();
  file.digest_state = digest.ok() ? ChunkState::kThere : ChunkState::kFailed;
  file.digest = std::move(digest);
  arrived_.notify_all();
}

void Fetcher::Work() {
  std::unique_lock lock(mutex_);
  while (!stops_) {
    if (!digests_.empty() && wanted_.empty()) {
      const std::size_t number = digests_.front();
      digests_.pop_front();
      RunDigest(lock, number);
    } else if (const auto id = NextChunk()) {
      RunChunk(lock, *id);
    } else {
      work_.wait(lock);
    }
  }
}

}  // namespace teq::cache
