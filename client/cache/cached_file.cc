#include "client/cache/cached_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <thread>
#include <utility>

#include "client/cache/chunk_slot.h"
#include "client/objects/digest.h"
#include "client/objects/file.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::cache {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kBytesFile = "bytes";
constexpr std::string_view kSlotsFile = "chunks";
constexpr std::string_view kSourceFile = "source";
// The slot of the whole file's sha256; a chunk's is one further than its number.
constexpr std::uint64_t kWholeSlot = 0;

std::uint64_t ChunksOf(std::uint64_t bytes, std::uint64_t chunk_bytes) {
  return (bytes + chunk_bytes - 1) / chunk_bytes;
}

std::uint64_t SlotFileBytes(std::uint64_t chunks) { return (chunks + 1) * kSlotBytes; }

std::string EmptySlot() { return std::string(kSlotBytes, '\0'); }

absl::Status CannotWrite(int error_number, const fs::path& path, std::uint64_t bytes) {
  absl::Status status = objects::WriteError(error_number, path, bytes);
  if (ErrorReason(status) != "DISK_FULL") return status;
  return Error(
      absl::StatusCode::kResourceExhausted, "DISK_FULL",
      fmt::format("{}: {} bytes cannot be written: {}; free space there, lower --cache-gib "
                  "to what the disk has, or give the worker another --data",
                  path.string(), bytes, std::generic_category().message(error_number)));
}

absl::Status CannotRead(int error_number, const fs::path& path) {
  return Error(absl::StatusCode::kInternal, "READ_FAILED",
               fmt::format("{}: cannot be read: {}", path.string(),
                           std::generic_category().message(error_number)));
}

absl::Status CannotOpen(int error_number, const fs::path& path) {
  return Error(
      absl::StatusCode::kInternal, "CACHE_UNUSABLE",
      fmt::format("{}: cannot be opened: {}; let the worker's user read and write there, give it "
                  "another --data, or remove {}",
                  path.string(), std::generic_category().message(error_number),
                  path.parent_path().string()));
}

absl::Status MakeSparseFile(const fs::path& path, std::uint64_t bytes) {
  const objects::Descriptor file(
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (file.get() < 0 || ::ftruncate(file.get(), static_cast<off_t>(bytes)) != 0) {
    return CannotWrite(errno, path, bytes);
  }
  return absl::OkStatus();
}

/// All of `count` bytes, or fewer where the file ends.
absl::StatusOr<std::string> ReadAt(const objects::Descriptor& file, const fs::path& path,
                                   std::uint64_t offset, std::uint64_t count) {
  std::string bytes(count, '\0');
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = ::pread(file.get(), bytes.data() + done, bytes.size() - done,
                                static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return CannotRead(errno, path);
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  bytes.resize(done);
  return bytes;
}

/// A lock on one byte of a file, which stands for a chunk, between processes: byte ranges are what
/// flock does not have.
class ChunkLock {
 public:
  static absl::StatusOr<ChunkLock> Acquire(const fs::path& path, std::uint64_t chunk,
                                           const StopCheck& check) {
    // Of a description of its own, so that it holds between threads too.
    objects::Descriptor file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (file.get() < 0) return CannotRead(errno, path);
    while (true) {
      struct flock range {};
      range.l_type = F_WRLCK;
      range.l_whence = SEEK_SET;
      range.l_start = static_cast<off_t>(chunk);
      range.l_len = 1;
      if (::fcntl(file.get(), F_OFD_SETLK, &range) == 0) return ChunkLock(std::move(file));
      if (errno != EAGAIN && errno != EACCES && errno != EINTR) return CannotRead(errno, path);
      TEQ_RETURN_IF_ERROR(check());
      std::this_thread::sleep_for(kPollInterval);
    }
  }

 private:
  explicit ChunkLock(objects::Descriptor file) : file_(std::move(file)) {}

  objects::Descriptor file_;
};

}  // namespace

absl::Status CachedFile::Create(const fs::path& directory, const Source& source,
                                std::uint64_t chunk_bytes) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) return CannotWrite(error.value(), directory, 0);
  const std::uint64_t bytes = source.object.bytes;
  TEQ_RETURN_IF_ERROR(MakeSparseFile(directory / kBytesFile, bytes));
  TEQ_RETURN_IF_ERROR(
      MakeSparseFile(directory / kSlotsFile, SlotFileBytes(ChunksOf(bytes, chunk_bytes))));
  // For people who look at the disk.
  return objects::WriteFileAtomically(
      directory / kSourceFile,
      fmt::format("{}\n{} bytes\n{}\n", source.store->Uri(source.object.key), bytes,
                  source.object.etag));
}

fs::path CachedFile::LockFile(const fs::path& directory) { return directory / "lock"; }

CachedFile::CachedFile(const fs::path& directory, Source source, std::uint64_t chunk_bytes,
                       FileLock pin, Clock now)
    : key_(directory.filename()),
      path_(directory / kBytesFile),
      source_(std::move(source)),
      chunk_bytes_(chunk_bytes),
      pin_(std::move(pin)),
      now_(std::move(now)),
      verified_(ChunksOf(source_.object.bytes, chunk_bytes)) {
  pin_.Touch(now_());
}

CachedFile::~CachedFile() { pin_.Touch(now_()); }

absl::StatusOr<std::shared_ptr<CachedFile>> CachedFile::Open(const fs::path& directory,
                                                             Source source,
                                                             std::uint64_t chunk_bytes,
                                                             FileLock pin, Clock now) {
  std::shared_ptr<CachedFile> file(
      new CachedFile(directory, std::move(source), chunk_bytes, std::move(pin), std::move(now)));
  TEQ_RETURN_IF_ERROR(file->OpenFiles(directory));
  return file;
}

absl::Status CachedFile::OpenFiles(const fs::path& directory) {
  const auto open_sized = [](const fs::path& path, std::uint64_t size,
                             objects::Descriptor& file) -> absl::Status {
    objects::Descriptor opened(::open(path.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC));
    struct stat status {};
    const bool is_open = opened.get() >= 0 && ::fstat(opened.get(), &status) == 0;
    if (!is_open && errno != ENOENT) return CannotOpen(errno, path);
    if (!is_open || static_cast<std::uint64_t>(status.st_size) != size) {
      return Error(absl::StatusCode::kDataLoss, "CACHE_DAMAGED",
                   fmt::format("{}: is missing, or has not {} bytes; remove {}", path.string(),
                               size, path.parent_path().string()));
    }
    file = std::move(opened);
    return absl::OkStatus();
  };
  TEQ_RETURN_IF_ERROR(open_sized(path_, bytes(), bytes_));
  return open_sized(directory / kSlotsFile, SlotFileBytes(chunk_count()), slots_);
}

std::uint64_t CachedFile::ChunkSize(std::uint64_t chunk) const {
  return std::min(chunk_bytes_, bytes() - chunk * chunk_bytes_);
}

std::optional<std::string> CachedFile::ReadSlot(std::uint64_t number) const {
  const auto slot = ReadAt(slots_, path_, number * kSlotBytes, kSlotBytes);
  if (!slot.ok()) return std::nullopt;
  return DecodeSlot(key_, number, *slot);
}

absl::Status CachedFile::WriteAt(const objects::Descriptor& file, std::uint64_t offset,
                                 std::string_view bytes) const {
  const std::uint64_t size = bytes.size();
  while (!bytes.empty()) {
    const ssize_t count =
        ::pwrite(file.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return CannotWrite(errno, path_, size);
    bytes.remove_prefix(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return absl::OkStatus();
}

absl::Status CachedFile::WriteSlot(std::uint64_t number, std::string_view slot) {
  return WriteAt(slots_, number * kSlotBytes, slot);
}

absl::StatusOr<bool> CachedFile::IsThere(std::uint64_t chunk) const {
  const std::optional<std::string> sha256 = ReadSlot(chunk + 1);
  if (!sha256) return false;
  TEQ_ASSIGN_OR_RETURN(const std::string bytes,
                       ReadAt(bytes_, path_, chunk * chunk_bytes_, ChunkSize(chunk)));
  return objects::Sha256(bytes) == *sha256;
}

absl::Status CachedFile::StoreChunk(std::uint64_t chunk, std::string_view bytes) {
  if (ReadSlot(kWholeSlot)) {
    // A chunk that comes again may be another than the one that the whole was known with.
    TEQ_RETURN_IF_ERROR(WriteSlot(kWholeSlot, EmptySlot()));
    if (::fdatasync(slots_.get()) != 0) return CannotWrite(errno, path_, kSlotBytes);
  }
  TEQ_RETURN_IF_ERROR(WriteAt(bytes_, chunk * chunk_bytes_, bytes));
  // The slot must not reach the disk before what it speaks of.
  if (::fdatasync(bytes_.get()) != 0) return CannotWrite(errno, path_, bytes.size());
  return WriteSlot(chunk + 1, EncodeSlot(key_, chunk + 1, objects::Sha256(bytes)));
}

absl::Status CachedFile::FetchChunk(std::uint64_t chunk, const StopCheck& check) {
  if (verified_[chunk]) return absl::OkStatus();
  TEQ_ASSIGN_OR_RETURN(const ChunkLock lock, ChunkLock::Acquire(path_, chunk, check));
  TEQ_ASSIGN_OR_RETURN(const bool there, IsThere(chunk));
  if (!there) {
    TEQ_ASSIGN_OR_RETURN(const std::string bytes,
                         source_.store->Read(source_.object.key, chunk * chunk_bytes_,
                                             ChunkSize(chunk), source_.object.etag));
    if (bytes.size() != ChunkSize(chunk)) {
      return Error(absl::StatusCode::kDataLoss, "OBJECT_CORRUPT",
                   fmt::format("{}: {} bytes came from offset {}, not {}", uri(), bytes.size(),
                               chunk * chunk_bytes_, ChunkSize(chunk)));
    }
    TEQ_RETURN_IF_ERROR(StoreChunk(chunk, bytes));
  }
  verified_[chunk] = true;
  return absl::OkStatus();
}

absl::StatusOr<std::string> CachedFile::HashBytes(const StopCheck& check) const {
  objects::Sha256Digest digest;
  for (std::uint64_t chunk = 0; chunk < chunk_count(); ++chunk) {
    TEQ_RETURN_IF_ERROR(check());
    TEQ_ASSIGN_OR_RETURN(const std::string bytes,
                         ReadAt(bytes_, path_, chunk * chunk_bytes_, ChunkSize(chunk)));
    digest.Add(bytes);
  }
  return digest.Hex();
}

absl::StatusOr<std::string> CachedFile::Sha256(const StopCheck& check) {
  if (const auto known = ReadSlot(kWholeSlot)) return *known;
  TEQ_ASSIGN_OR_RETURN(std::string sha256, HashBytes(check));
  const std::string& announced = source_.object.sha256;
  if (!announced.empty() && announced != sha256) {
    for (std::uint64_t number = 0; number <= chunk_count(); ++number) {
      TEQ_RETURN_IF_ERROR(WriteSlot(number, EmptySlot()));
    }
    return Error(absl::StatusCode::kDataLoss, "OBJECT_CORRUPT",
                 fmt::format("{}: the bytes that came have the sha256 {}, not {} as announced; try "
                             "again, and look at the store if that happens again",
                             uri(), sha256, announced));
  }
  TEQ_RETURN_IF_ERROR(WriteSlot(kWholeSlot, EncodeSlot(key_, kWholeSlot, sha256)));
  return sha256;
}

}  // namespace teq::cache
