#include "client/objects/verify.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

#include "client/objects/digest.h"
#include "client/objects/file.h"
#include "client/objects/parallel.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

constexpr std::uint64_t kChunk = 8ULL << 20;
constexpr int kFilesAtOnce = 4;

// The directories that hold the files of formats: all but those right below the output or the
// attempt's prefix, where reports lie.
std::set<std::string> DirectoriesOf(const std::vector<ManifestFile>& files) {
  std::set<std::string> directories;
  for (const ManifestFile& file : files) {
    const std::size_t end = file.path.rfind('/');
    if (end != std::string::npos) directories.insert(file.path.substr(0, end + 1));
  }
  // "1-1/" holds "1-1/gptq/" and the attempt's own manifest.
  std::set<std::string> innermost;
  for (const std::string& directory : directories) {
    const bool holds_others = std::ranges::any_of(directories, [&](const std::string& other) {
      return other != directory && other.starts_with(directory);
    });
    if (!holds_others) innermost.insert(directory);
  }
  return innermost;
}

// Counts the bytes of several readers, and asks whether to go on.
class SharedProgress {
 public:
  SharedProgress(const TransferProgress& progress, std::uint64_t total)
      : progress_(progress), total_(total) {}

  absl::Status Add(std::uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    done_ += bytes;
    if (!progress_ || progress_(done_, total_)) return absl::OkStatus();
    return absl::CancelledError("the verification was cancelled");
  }

  [[nodiscard]] std::uint64_t done() const { return done_; }

 private:
  const TransferProgress& progress_;
  const std::uint64_t total_;
  std::mutex mutex_;
  std::uint64_t done_ = 0;
};

absl::StatusOr<std::string> DigestOf(const ObjectStore& store, const ObjectInfo& object,
                                     SharedProgress& progress) {
  Sha256Digest digest;
  for (std::uint64_t offset = 0; offset < object.bytes; offset += kChunk) {
    const std::uint64_t length = std::min(kChunk, object.bytes - offset);
    TEQ_ASSIGN_OR_RETURN(const std::string bytes,
                         store.Read(object.key, offset, length, object.etag));
    digest.Add(bytes);
    TEQ_RETURN_IF_ERROR(progress.Add(length));
  }
  return digest.Hex();
}

using Listing = std::map<std::string, ObjectInfo>;

absl::StatusOr<Listing> ListFiles(const ObjectStore& store, const std::vector<ManifestFile>& files,
                                  const std::set<std::string>& directories) {
  Listing listing;
  for (const std::string& directory : directories) {
    const absl::StatusOr<std::vector<ObjectInfo>> objects = store.List(directory);
    if (ErrorReason(objects.status()) == "NOT_LISTABLE") break;  // a web server: file by file
    if (!objects.ok()) return objects.status();
    for (const ObjectInfo& object : *objects) listing[object.key] = object;
  }
  for (const ManifestFile& file : files) {
    if (listing.contains(file.path)) continue;
    absl::StatusOr<ObjectInfo> object = store.Head(file.path);
    if (object.ok()) {
      listing[file.path] = *std::move(object);
    } else if (!IsMissing(object.status())) {
      return object.status();
    }
  }
  return listing;
}

// What the listing alone tells of a file; nothing where it is as it should be.
std::optional<std::string> SizeProblem(const Listing& listing, const ManifestFile& file) {
  const auto found = listing.find(file.path);
  if (found == listing.end()) return "is missing";
  if (found->second.bytes == file.bytes) return std::nullopt;
  return fmt::format("has {} bytes, the manifest says {}", found->second.bytes, file.bytes);
}

}  // namespace

absl::StatusOr<PublishedOutput> ReadPublishedOutput(const ObjectStore& store,
                                                    const std::string& committed) {
  absl::StatusOr<std::string> text = ReadSmallObject(store, kManifestKey);
  const std::string place = store.Uri(kManifestKey);
  if (!text.ok()) {
    if (!IsMissing(text.status())) return text.status();
    return Error(absl::StatusCode::kNotFound, "NO_MANIFEST",
                 fmt::format("{}: there is no manifest: nothing is published there yet, or the "
                             "output is another",
                             place),
                 {{"uri", place}});
  }
  PublishedOutput output;
  output.text = *std::move(text);
  output.sha256 = Sha256(output.text);
  if (!committed.empty() && output.sha256 != committed) {
    return Error(absl::StatusCode::kDataLoss, "MANIFEST_MISMATCH",
                 fmt::format("{}: its sha256 is {}, the committed one is {}", place, output.sha256,
                             committed),
                 {{"found", output.sha256}, {"committed", committed}});
  }
  TEQ_ASSIGN_OR_RETURN(output.manifest, ParseManifest(output.text, place));
  const std::string prefix = output.manifest.Prefix();
  if (prefix.empty()) return output;
  const absl::StatusOr<std::vector<ObjectInfo>> below = store.List(prefix);
  if (ErrorReason(below.status()) == "NOT_LISTABLE") return output;
  if (!below.ok()) return below.status();
  if (!below->empty()) return output;
  TEQ_ASSIGN_OR_RETURN(const std::vector<ObjectInfo> all, store.List(""));
  std::vector<ManifestFile> stripped = output.manifest.files;
  for (ManifestFile& file : stripped) file.path = file.path.substr(prefix.size());
  const auto is_listed = [&stripped](const ObjectInfo& object) {
    return std::ranges::count(stripped, object.key, &ManifestFile::path) > 0;
  };
  if (std::ranges::any_of(all, is_listed)) output.manifest.files = std::move(stripped);
  return output;
}

absl::StatusOr<Verification> VerifyFiles(const ObjectStore& store,
                                         const std::vector<ManifestFile>& files, VerifyDepth depth,
                                         const TransferProgress& progress) {
  const std::set<std::string> directories = DirectoriesOf(files);
  TEQ_ASSIGN_OR_RETURN(const Listing listing, ListFiles(store, files, directories));
  std::vector<std::optional<std::string>> problems(files.size());
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < files.size(); ++i) {
    problems[i] = SizeProblem(listing, files[i]);
    if (!problems[i]) total += files[i].bytes;
  }
  SharedProgress shared(progress, total);
  TEQ_RETURN_IF_ERROR(shared.Add(0));
  if (depth == VerifyDepth::kDigests) {
    const auto read = [&](std::size_t i) -> absl::Status {
      if (problems[i]) return absl::OkStatus();
      TEQ_ASSIGN_OR_RETURN(const std::string found,
                           DigestOf(store, listing.at(files[i].path), shared));
      if (found != files[i].sha256) problems[i] = WrongDigest(files[i].sha256, found);
      return absl::OkStatus();
    };
    TEQ_RETURN_IF_ERROR(ForEachInParallel(files.size(), kFilesAtOnce, read));
  }
  Verification verification;
  verification.files = static_cast<int>(files.size());
  verification.bytes_read = shared.done();
  std::set<std::string_view> listed;
  for (std::size_t i = 0; i < files.size(); ++i) {
    listed.insert(files[i].path);
    std::optional<std::string>& problem = problems[i];
    if (problem) verification.problems.push_back({files[i].path, *std::move(problem)});
  }
  for (const auto& [key, object] : listing) {
    if (!listed.contains(key)) verification.problems.push_back({key, "is not in the manifest"});
  }
  return verification;
}

std::string WrongDigest(const std::string& expected, const std::string& found) {
  return fmt::format("has sha256 {}, the manifest says {}", found, expected);
}

}  // namespace teq::objects
