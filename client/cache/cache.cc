#include "client/cache/cache.h"

#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <system_error>
#include <tuple>
#include <utility>

#include "client/objects/file.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::cache {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kLockFile = "lock";
constexpr std::string_view kEntries = "files";
constexpr std::string_view kIncoming = "incoming";
constexpr std::string_view kTrash = "trash";
constexpr std::string_view kViews = "views";
// Before the names of entries that have no content to be known by.
constexpr std::string_view kOnce = "once-";

std::string RandomName() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}{:08x}", random(), random(), random());
}

std::string Gib(std::uint64_t bytes) {
  return fmt::format("{:.2f} GiB", static_cast<double>(bytes) / (1 << 30));
}

std::uint64_t WholeGib(std::uint64_t bytes) { return (bytes + (1 << 30) - 1) >> 30; }

}  // namespace

/// One that lies on the disk.
struct Cache::Entry {
  fs::path directory;
  std::uint64_t bytes = 0;
  std::int64_t used_ns = 0;
  std::optional<FileLock> lock;  // exclusive; none where it is in use
  absl::Status lock_error;       // where the system tells neither
};

/// Directories that were renamed out of the way. They are removed when all else is done and no lock
/// is held any more: many gigabytes take their time.
struct Cache::Removals {
  Removals() = default;
  Removals(const Removals&) = delete;
  Removals& operator=(const Removals&) = delete;
  ~Removals() {
    std::error_code ignored;
    for (const fs::path& directory : directories) fs::remove_all(directory, ignored);
  }
  std::vector<fs::path> directories;
};

namespace {

/// Takes an entry's name from it.
bool MoveToTrash(const fs::path& cache, const fs::path& directory,
                 std::vector<fs::path>& directories) {
  std::error_code error;
  fs::create_directories(cache / kTrash, error);
  const fs::path trash = cache / kTrash / RandomName();
  fs::rename(directory, trash, error);
  if (!error) directories.push_back(trash);
  return !error;
}

void EachDirectory(const fs::path& parent, const std::function<void(const fs::path&)>& use) {
  std::error_code error;
  std::vector<fs::path> found;
  for (fs::directory_iterator entry(parent, error), end; !error && entry != end;
       entry.increment(error)) {
    found.push_back(entry->path());
  }
  for (const fs::path& directory : found) use(directory);
}

}  // namespace

std::string Cache::Key(const Source& source, std::uint64_t chunk_bytes) {
  const objects::ObjectInfo& object = source.object;
  const std::string content =
      object.sha256.empty() ? fmt::format("{}\n{}", source.store->Uri(object.key), object.etag)
                            : object.sha256;
  if (object.sha256.empty() && object.etag.empty()) return std::string(kOnce) + RandomName();
  return objects::Sha256(fmt::format("{}\n{}\n{}", content, object.bytes, chunk_bytes));
}

fs::path Cache::EntryDirectory(const Source& source) const {
  return options_.directory / kEntries / Key(source, options_.chunk_bytes);
}

absl::StatusOr<FileLock> Cache::LockAll(const StopCheck& check) const {
  std::error_code error;
  for (const std::string_view name : {kEntries, kIncoming}) {
    fs::create_directories(options_.directory / name, error);
    if (error) {
      return Error(absl::StatusCode::kInternal, "CACHE_UNUSABLE",
                   fmt::format("{}: cannot be made: {}; let the worker's user write there, or give "
                               "it another --data",
                               (options_.directory / name).string(), error.message()));
    }
  }
  return FileLock::Acquire(options_.directory / kLockFile, FileLock::Kind::kExclusive, check);
}

void Cache::Sweep(Removals& removals) const {
  // Under the lock of all nobody else is making or removing an entry: what lies here is of the
  // dead, or is being removed by its owner, which does no harm.
  EachDirectory(options_.directory / kIncoming,
                [&](const fs::path& path) { removals.directories.push_back(path); });
  EachDirectory(options_.directory / kTrash,
                [&](const fs::path& path) { removals.directories.push_back(path); });
  EachDirectory(options_.directory / kEntries, [&](const fs::path& path) {
    if (!path.filename().string().starts_with(kOnce)) return;
    const auto lock = FileLock::Try(CachedFile::LockFile(path), FileLock::Kind::kExclusive);
    if (lock.ok() && lock->has_value()) {
      MoveToTrash(options_.directory, path, removals.directories);
    }
  });
  View::RemoveStale(options_.directory / kViews);
}

std::vector<Cache::Entry> Cache::Entries() const {
  std::vector<Entry> entries;
  EachDirectory(options_.directory / kEntries, [&](const fs::path& path) {
    Entry entry{.directory = path};
    struct stat status {};
    if (::stat((path / "bytes").c_str(), &status) == 0) {
      entry.bytes = static_cast<std::uint64_t>(status.st_size);
    }
    if (::stat(CachedFile::LockFile(path).c_str(), &status) == 0) {
      entry.used_ns = std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
    }
    auto lock = FileLock::Try(CachedFile::LockFile(path), FileLock::Kind::kExclusive);
    if (lock.ok()) {
      entry.lock = *std::move(lock);
    } else {
      entry.lock_error = lock.status();
    }
    entries.push_back(std::move(entry));
  });
  std::ranges::sort(entries, [](const Entry& a, const Entry& b) {
    return std::tie(a.used_ns, a.directory) < std::tie(b.used_ns, b.directory);
  });
  return entries;
}

absl::Status Cache::MakeRoom(std::string_view what, std::uint64_t needed, std::uint64_t wanted,
                             Removals& removals) const {
  const std::string where = options_.directory.string();
  if (wanted > options_.bytes) {
    return Error(absl::StatusCode::kResourceExhausted, "CACHE_FULL",
                 fmt::format("{}: has {}, and the cache {} may hold {}; raise --cache-gib to {} or "
                             "more",
                             what, Gib(wanted), where, Gib(options_.bytes), WholeGib(wanted)));
  }
  std::vector<Entry> entries = Entries();
  std::uint64_t all = 0;
  std::uint64_t in_use = 0;
  for (const Entry& entry : entries) {
    all += entry.bytes;
    if (!entry.lock) in_use += entry.bytes;
  }
  if (in_use + needed > options_.bytes) {
    // What cannot be locked counts as in use, but no job may be using it.
    for (const Entry& entry : entries) TEQ_RETURN_IF_ERROR(entry.lock_error);
    return Error(absl::StatusCode::kResourceExhausted, "CACHE_FULL",
                 fmt::format("{}: {} are still to come, and running jobs use {} of the {} that the "
                             "cache {} may hold; try again when they have ended, or raise "
                             "--cache-gib to {} or more",
                             what, Gib(needed), Gib(in_use), Gib(options_.bytes), where,
                             WholeGib(in_use + needed)));
  }
  for (const Entry& entry : entries) {
    if (all + needed <= options_.bytes) break;
    if (entry.lock && MoveToTrash(options_.directory, entry.directory, removals.directories)) {
      all -= entry.bytes;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<CachedFile>> Cache::OpenEntry(const fs::path& directory,
                                                             const Source& source) const {
  TEQ_ASSIGN_OR_RETURN(std::optional<FileLock> pin,
                       FileLock::Try(CachedFile::LockFile(directory), FileLock::Kind::kShared));
  if (!pin) {
    return Error(
        absl::StatusCode::kInternal, "CACHE_UNUSABLE",
        fmt::format("{}: another program than teq-worker holds a lock there", directory.string()));
  }
  return CachedFile::Open(directory, source, options_.chunk_bytes, *std::move(pin), options_.now);
}

absl::StatusOr<std::shared_ptr<CachedFile>> Cache::CreateEntry(const fs::path& directory,
                                                               const Source& source) const {
  const fs::path incoming = options_.directory / kIncoming / RandomName();
  TEQ_RETURN_IF_ERROR(CachedFile::Create(incoming, source, options_.chunk_bytes));
  std::error_code error;
  fs::rename(incoming, directory, error);
  if (error) return objects::WriteError(error.value(), directory, source.object.bytes);
  return OpenEntry(directory, source);
}

absl::StatusOr<std::vector<std::shared_ptr<CachedFile>>> Cache::Admit(
    std::string_view what, const std::vector<Source>& sources, const StopCheck& check) {
  Removals removals;  // outlives the lock
  TEQ_ASSIGN_OR_RETURN(const FileLock lock, LockAll(check));
  Sweep(removals);
  std::map<fs::path, std::shared_ptr<CachedFile>> opened;
  std::vector<fs::path> directories;
  std::uint64_t needed = 0;
  std::uint64_t wanted = 0;
  for (const Source& source : sources) {
    const fs::path& directory = directories.emplace_back(EntryDirectory(source));
    const auto [at, is_new] = opened.try_emplace(directory);
    if (!is_new) continue;
    wanted += source.object.bytes;
    std::error_code error;
    if (fs::exists(directory, error)) {
      auto entry = OpenEntry(directory, source);
      if (entry.ok()) {
        at->second = *std::move(entry);
        continue;
      }
      if (ErrorReason(entry.status()) != "CACHE_DAMAGED") return entry.status();
      MoveToTrash(options_.directory, directory, removals.directories);
    }
    needed += source.object.bytes;
  }
  if (needed > 0) {
    TEQ_RETURN_IF_ERROR(MakeRoom(what, needed, wanted, removals));
  }
  std::vector<std::shared_ptr<CachedFile>> files;
  for (std::size_t i = 0; i < sources.size(); ++i) {
    std::shared_ptr<CachedFile>& file = opened.at(directories[i]);
    if (!file) {
      TEQ_ASSIGN_OR_RETURN(file, CreateEntry(directories[i], sources[i]));
    }
    files.push_back(file);
  }
  return files;
}

absl::StatusOr<std::unique_ptr<View>> Cache::NewView(const StopCheck& check) {
  TEQ_ASSIGN_OR_RETURN(const FileLock lock, LockAll(check));
  return View::Create(options_.directory / kViews);
}

}  // namespace teq::cache
