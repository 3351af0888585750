#include "client/objects/store_publication.h"

#include <algorithm>
#include <cerrno>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <system_error>
#include <utility>

#include "client/objects/attempt_files.h"
#include "client/objects/early_upload.h"
#include "client/objects/manifest.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kDirectoryDigits = 16;

std::string NewNonce() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
}

// The object's bytes, or nothing where there is none.
absl::StatusOr<std::optional<std::string>> ReadIfThere(const ObjectStore& store,
                                                       const std::string& key) {
  absl::StatusOr<std::string> text = ReadSmallObject(store, key);
  if (text.ok()) return *std::move(text);
  if (IsMissing(text.status())) return std::nullopt;
  return text.status();
}

// Writes an object that nobody may have written differently before.
absl::Status WriteOnce(ObjectStore& store, const std::string& key, const std::string& text,
                       std::string_view in_use) {
  absl::Status status = store.Write(key, text, IfExists::kFail);
  if (ErrorReason(status) != "OBJECT_EXISTS") return status;
  // It may be this very write, whose answer was lost.
  TEQ_ASSIGN_OR_RETURN(const std::optional<std::string> found, ReadIfThere(store, key));
  if (found == text) return absl::OkStatus();
  return InUse(store.Uri(key), in_use);
}

// Where one attempt stages its files: a directory of its own, locked while it works.
class StagingArea {
 public:
  StagingArea(const fs::path& data, const ObjectStore& store, const Publisher& publisher)
      : root_(data / "staging"),
        directory_(root_ / fmt::format("{}-{}",
                                       Sha256(store.Uri(kManifestKey) + "\n" + publisher.job_uid)
                                           .substr(0, kDirectoryDigits),
                                       AttemptName(publisher))) {}

  [[nodiscard]] const fs::path& directory() const { return directory_; }
  [[nodiscard]] bool locked() const { return lock_ != nullptr; }

  // The nonce of the attempt that was staged here last, whether or not its process lives.
  [[nodiscard]] std::string Nonce() const {
    const absl::StatusOr<std::string> text = ReadFile(directory_ / kOwnerKey);
    const std::optional<Owner> owner = text.ok() ? ParseOwner(*text) : std::nullopt;
    return owner ? owner->nonce : std::string();
  }

  // Removes what dead processes have left here, and takes this attempt's directory.
  absl::Status Open() {
    TEQ_RETURN_IF_ERROR(MakeDirectories(root_).status());
    // Held while directories are made and removed, so that none is removed before it is locked.
    TEQ_ASSIGN_OR_RETURN(const auto all, DirectoryLock::Take(root_, DirectoryLock::IfHeld::kWait));
    TEQ_RETURN_IF_ERROR(RemoveDead());
    TEQ_RETURN_IF_ERROR(MakeDirectories(directory_).status());
    TEQ_ASSIGN_OR_RETURN(lock_, DirectoryLock::Take(directory_));
    return absl::OkStatus();
  }

  // What this attempt's last process has staged goes; `owner` says whose it is now.
  absl::Status Clear(const std::string& owner, const std::vector<std::string>& directories) {
    TEQ_RETURN_IF_ERROR(RemoveFiles());
    TEQ_RETURN_IF_ERROR(WriteFileAtomically(directory_ / kOwnerKey, owner));
    for (const std::string& name : directories) {
      TEQ_RETURN_IF_ERROR(MakeDirectories(directory_ / name).status());
    }
    return absl::OkStatus();
  }

  // The files go, unless another process works there. The owner stays, so that the next process
  // that asks knows it too; whoever opens its own area here removes it.
  absl::Status Strip() {
    if (lock_) return RemoveFiles();
    const auto lock = DirectoryLock::Take(directory_);
    return lock.ok() ? RemoveFiles() : absl::OkStatus();
  }

  // Unless another process works there.
  absl::Status Remove() {
    if (!IsDirectory(directory_)) return absl::OkStatus();
    if (!lock_) {
      const auto lock = DirectoryLock::Take(directory_);
      return lock.ok() ? RemoveTree(directory_) : absl::OkStatus();
    }
    lock_.reset();
    return RemoveTree(directory_);
  }

 private:
  // All but the owner.
  [[nodiscard]] absl::Status RemoveFiles() const {
    std::error_code error;
    std::vector<fs::path> entries;
    for (const auto& entry : fs::directory_iterator(directory_, error)) {
      if (entry.path().filename() != kOwnerKey) entries.push_back(entry.path());
    }
    for (const fs::path& entry : entries) TEQ_RETURN_IF_ERROR(RemoveTree(entry));
    return absl::OkStatus();
  }

  absl::Status RemoveDead() const {
    std::error_code error;
    std::vector<fs::path> dead;
    for (const auto& entry : fs::directory_iterator(root_, error)) {
      if (entry.path() == directory_ || !IsDirectory(entry.path())) continue;
      const auto lock = DirectoryLock::Take(entry.path());
      if (lock.ok() && (*lock)->protects()) dead.push_back(entry.path());
    }
    if (error) return WriteError(error.value(), root_, 0);
    for (const fs::path& path : dead) TEQ_RETURN_IF_ERROR(RemoveTree(path));
    return absl::OkStatus();
  }

  fs::path root_;
  fs::path directory_;
  std::shared_ptr<const DirectoryLock> lock_;
};

// An object store as Publication says.
class StorePublication final : public Publication::Attempt {
 public:
  StorePublication(std::shared_ptr<ObjectStore> store, const fs::path& data, Publisher publisher)
      : store_(std::move(store)),
        publisher_(std::move(publisher)),
        prefix_(AttemptName(publisher_) + "/"),
        staging_(data, *store_, publisher_),
        early_(store_, [this] {
          const absl::StatusOr<bool> is_owner = IsOwner();
          return is_owner.ok() && *is_owner;
        }) {}

  [[nodiscard]] absl::Status Begin(const std::vector<std::string>& format_directories);
  [[nodiscard]] fs::path StagingDirectory(const std::string& format_directory) const override {
    return staging_.directory() / format_directory;
  }
  void Settle(const std::string& format_directory, const std::map<std::string, std::string>& sha256,
              const StepHook& hook) override;
  [[nodiscard]] absl::StatusOr<std::string> Seal(teq::v1::Report& report,
                                                 const PageWriter& page) override;
  [[nodiscard]] absl::Status Upload(const TransferProgress& progress,
                                    const StepHook& hook) override;
  [[nodiscard]] absl::Status Publish(const std::string& manifest_sha256,
                                     const StepHook& hook) override;
  [[nodiscard]] absl::Status Abandon() override;

 private:
  [[nodiscard]] absl::Status BeginStaged(const std::vector<std::string>& format_directories);
  [[nodiscard]] absl::Status ClearAttempts(const std::string& last_nonce);
  [[nodiscard]] absl::Status ClearAttempt(const std::string& prefix, const std::string& last_nonce);
  [[nodiscard]] absl::Status RemoveAttempt(const std::string& prefix);
  [[nodiscard]] absl::Status RemoveObjects(const std::string& prefix);
  [[nodiscard]] absl::StatusOr<std::optional<Owner>> ReadOwner(const std::string& prefix) const;
  [[nodiscard]] absl::StatusOr<bool> IsOwner() const;
  [[nodiscard]] bool Owns(const Owner& owner, const std::string& nonce) const;
  [[nodiscard]] absl::StatusOr<std::string> CommittedManifest(
      const std::string& manifest_sha256) const;

  std::shared_ptr<ObjectStore> store_;
  Publisher publisher_;
  std::string prefix_;
  StagingArea staging_;
  SettledFiles settled_;
  EarlyUpload early_;
};

absl::Status StorePublication::Begin(const std::vector<std::string>& format_directories) {
  TEQ_ASSIGN_OR_RETURN(const std::optional<std::string> root, ReadIfThere(*store_, kManifestKey));
  if (root) return PublishedBefore(store_->Uri(kManifestKey), *root);
  TEQ_RETURN_IF_ERROR(staging_.Open());
  const absl::Status status = BeginStaged(format_directories);
  // The first error is the one to tell.
  if (!status.ok()) staging_.Remove().IgnoreError();
  return status;
}

absl::Status StorePublication::BeginStaged(const std::vector<std::string>& format_directories) {
  TEQ_RETURN_IF_ERROR(ClearAttempts(staging_.Nonce()));
  const std::string owner = OwnerText(publisher_, /*made_output=*/false, NewNonce());
  TEQ_RETURN_IF_ERROR(staging_.Clear(owner, format_directories));
  return WriteOnce(*store_, prefix_ + kOwnerKey, owner, "another run began there at the same time");
}

absl::Status StorePublication::ClearAttempts(const std::string& last_nonce) {
  TEQ_ASSIGN_OR_RETURN(const std::vector<ObjectInfo> objects, store_->List(""));
  std::set<std::string> prefixes;
  for (const ObjectInfo& object : objects) {
    const std::string name = object.key.substr(0, object.key.find('/'));
    if (name.size() < object.key.size() && IsAttemptName(name)) prefixes.insert(name + "/");
  }
  for (const std::string& prefix : prefixes) {
    TEQ_RETURN_IF_ERROR(ClearAttempt(prefix, last_nonce));
  }
  return absl::OkStatus();
}

// Removes one prefix that an earlier attempt may have left, or says why it has to stay.
absl::Status StorePublication::ClearAttempt(const std::string& prefix,
                                            const std::string& last_nonce) {
  TEQ_ASSIGN_OR_RETURN(const std::optional<Owner> owner, ReadOwner(prefix));
  if (!owner) {
    if (prefix != prefix_) return absl::OkStatus();
    return InUse(
        store_->Uri(prefix + kOwnerKey),
        "is missing, so what lies beside it is not known to be teqd's; remove it or choose "
        "another output.uri");
  }
  const bool same_job = !publisher_.job_uid.empty() && owner->job_uid == publisher_.job_uid;
  if (same_job && owner->fence > publisher_.fence) {
    return NewerAttempt(store_->Uri(prefix + kOwnerKey), owner->fence, publisher_.fence);
  }
  // A store does not tell whether another's process lives.
  if (!same_job && !Owns(*owner, last_nonce)) {
    return InUse(
        store_->Uri(prefix + kOwnerKey),
        fmt::format("{} publishes there, or died while it did; wait for it, choose another "
                    "output.uri, or remove what lies below {} if it is dead",
                    JobOrRun(owner->job), prefix));
  }
  if (!same_job) {
    TEQ_ASSIGN_OR_RETURN(const auto sealed, ReadIfThere(*store_, prefix + kManifestKey));
    if (sealed) {
      return InUse(store_->Uri(prefix + kManifestKey),
                   "a run without a server is about to publish there; wait for it, choose another "
                   "output.uri, or remove it if that will not happen");
    }
  }
  return RemoveAttempt(prefix);
}

// Twice: a worker that does not know yet that its lease is lost may write until it looks for the
// owner, as Upload does at its end, and finds it gone.
absl::Status StorePublication::RemoveAttempt(const std::string& prefix) {
  TEQ_RETURN_IF_ERROR(RemoveObjects(prefix));
  return RemoveObjects(prefix);
}

// The owner goes last: as long as anything is left it says whose it is.
absl::Status StorePublication::RemoveObjects(const std::string& prefix) {
  TEQ_RETURN_IF_ERROR(store_->AbortUploads(prefix));
  TEQ_ASSIGN_OR_RETURN(const std::vector<ObjectInfo> objects, store_->List(prefix));
  const std::string owner = prefix + kOwnerKey;
  for (const ObjectInfo& object : objects) {
    if (object.key != owner) TEQ_RETURN_IF_ERROR(store_->Remove(object.key));
  }
  const bool owned = std::ranges::count(objects, owner, &ObjectInfo::key) > 0;
  return owned ? store_->Remove(owner) : absl::OkStatus();
}

absl::StatusOr<std::optional<Owner>> StorePublication::ReadOwner(const std::string& prefix) const {
  TEQ_ASSIGN_OR_RETURN(const std::optional<std::string> text,
                       ReadIfThere(*store_, prefix + kOwnerKey));
  return text ? ParseOwner(*text) : std::nullopt;
}

// Whether no newer attempt has removed this one.
absl::StatusOr<bool> StorePublication::IsOwner() const {
  TEQ_ASSIGN_OR_RETURN(const std::optional<Owner> owner, ReadOwner(prefix_));
  return owner && owner->nonce == staging_.Nonce();
}

// Runs without a server have no uid; one is known by what it has staged on this machine. A job's
// attempt may have nothing staged there any more. Where it has, that tells it from one that was
// given the same fence by a server whose database went back to a backup.
bool StorePublication::Owns(const Owner& owner, const std::string& nonce) const {
  if (owner.job_uid != publisher_.job_uid) return false;
  if (publisher_.job_uid.empty()) return !nonce.empty() && owner.nonce == nonce;
  return owner.fence == publisher_.fence && (nonce.empty() || owner.nonce == nonce);
}

void StorePublication::Settle(const std::string& format_directory,
                              const std::map<std::string, std::string>& sha256,
                              const StepHook& hook) {
  SettleFiles(staging_.directory(), format_directory, sha256, settled_);
  std::vector<EarlyUpload::File> files;
  files.reserve(sha256.size());
  for (const auto& [name, digest] : sha256) {
    files.push_back({.key = fmt::format("{}{}/{}", prefix_, format_directory, name),
                     .path = StagingDirectory(format_directory) / name,
                     .sha256 = digest});
  }
  early_.Add(std::move(files), hook);
}

absl::StatusOr<std::string> StorePublication::Seal(teq::v1::Report& report,
                                                   const PageWriter& page) {
  const auto place = [this](const std::string& directory) {
    return store_->Uri(prefix_ + directory);
  };
  return SealAttempt(staging_.directory(), settled_, publisher_, prefix_, place, report, page);
}

absl::Status StorePublication::Upload(const TransferProgress& progress, const StepHook& hook) {
  const fs::path sealed = staging_.directory() / kManifestKey;
  TEQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(sealed));
  TEQ_ASSIGN_OR_RETURN(const Manifest manifest, ParseManifest(text, sealed.string()));
  std::uint64_t total = text.size();
  for (const ManifestFile& file : manifest.files) total += file.bytes;
  std::uint64_t before = 0;
  const TransferProgress of_all = [&](std::uint64_t done, std::uint64_t /*of_file*/) {
    return !progress || progress(before + done, total);
  };
  if (!early_.Wait([&](std::uint64_t sent) { return of_all(sent, 0); })) {
    return absl::CancelledError("the upload was cancelled");
  }
  std::vector<ManifestFile> left;
  for (const ManifestFile& file : manifest.files) {
    if (early_.Has(file.path, file.sha256)) {
      before += file.bytes;
    } else {
      left.push_back(file);
    }
  }
  for (const ManifestFile& file : left) {
    Tell(hook, "upload_file");
    // Also between files that are too small to be asked about.
    if (!of_all(0, file.bytes)) return absl::CancelledError("the upload was cancelled");
    const fs::path staged = staging_.directory() / file.path.substr(prefix_.size());
    TEQ_RETURN_IF_ERROR(store_->Upload(file.path, staged, file.sha256, of_all));
    before += file.bytes;
  }
  Tell(hook, "upload_manifest");
  if (!of_all(0, text.size())) return absl::CancelledError("the upload was cancelled");
  TEQ_RETURN_IF_ERROR(store_->Write(prefix_ + kManifestKey, text, IfExists::kReplace));
  TEQ_ASSIGN_OR_RETURN(const bool is_owner, IsOwner());
  if (!is_owner) {
    return Error(absl::StatusCode::kAborted, "LEASE_LOST",
                 fmt::format("{}: a newer attempt has removed this one during its upload",
                             store_->Uri(prefix_ + kOwnerKey)));
  }
  before = total;
  of_all(0, 0);
  // From here on the store alone is needed.
  return staging_.Remove();
}

// The attempt's own manifest, checked against the commit, and every file that it lists against it.
absl::StatusOr<std::string> StorePublication::CommittedManifest(
    const std::string& manifest_sha256) const {
  const std::string place = store_->Uri(prefix_ + kManifestKey);
  TEQ_ASSIGN_OR_RETURN(std::optional<std::string> text,
                       ReadIfThere(*store_, prefix_ + kManifestKey));
  if (!text) {
    return Mismatch(fmt::format("{}: the committed manifest {} is gone", place, manifest_sha256));
  }
  if (const std::string found = Sha256(*text); found != manifest_sha256) {
    return Mismatch(fmt::format("{}: its sha256 is {}, the committed one is {}", place, found,
                                manifest_sha256));
  }
  TEQ_ASSIGN_OR_RETURN(const Manifest manifest, ParseManifest(*text, place));
  TEQ_ASSIGN_OR_RETURN(const std::vector<ObjectInfo> objects, store_->List(prefix_));
  std::map<std::string, std::uint64_t> sizes;
  for (const ObjectInfo& object : objects) sizes[object.key] = object.bytes;
  for (const ManifestFile& file : manifest.files) {
    const auto found = sizes.find(file.path);
    if (found != sizes.end() && found->second == file.bytes) continue;
    return Mismatch(
        fmt::format("{}: the manifest lists {} bytes, found {}", store_->Uri(file.path), file.bytes,
                    found == sizes.end() ? "no such object" : fmt::format("{}", found->second)));
  }
  return *std::move(text);
}

absl::Status StorePublication::Publish(const std::string& manifest_sha256, const StepHook& hook) {
  constexpr std::string_view kInUse = "another result was published there first";
  TEQ_ASSIGN_OR_RETURN(const std::optional<std::string> root, ReadIfThere(*store_, kManifestKey));
  if (root && Sha256(*root) != manifest_sha256) return InUse(store_->Uri(kManifestKey), kInUse);
  if (!root) {
    TEQ_ASSIGN_OR_RETURN(const std::string text, CommittedManifest(manifest_sha256));
    Tell(hook, "publish_manifest");
    TEQ_RETURN_IF_ERROR(WriteOnce(*store_, kManifestKey, text, kInUse));
  }
  Tell(hook, "publish_cleanup");
  // What is left over does no harm: the result is published.
  staging_.Remove().IgnoreError();
  return absl::OkStatus();
}

absl::Status StorePublication::Abandon() {
  early_.Stop();
  const bool is_own = staging_.locked();
  const std::string nonce = staging_.Nonce();
  TEQ_ASSIGN_OR_RETURN(const std::optional<Owner> owner, ReadOwner(prefix_));
  // Without an owner a newer attempt has removed this one, which may have written more since then;
  // what is staged tells that it had begun.
  if (owner ? Owns(*owner, nonce) : !nonce.empty()) {
    if (!is_own && publisher_.job_uid.empty()) {
      // Runs without a server share one name: what is locked or sealed may be another run's.
      const bool locked = !DirectoryLock::Take(staging_.directory()).ok();
      TEQ_ASSIGN_OR_RETURN(const auto sealed, ReadIfThere(*store_, prefix_ + kManifestKey));
      if (locked || sealed) return absl::OkStatus();
    }
    TEQ_RETURN_IF_ERROR(RemoveAttempt(prefix_));
  } else if (owner && Owns(*owner, "")) {
    // The nonce alone tells it from this one: the worker, which abandons it after its engine did,
    // needs it as well.
    return staging_.Strip();
  }
  return staging_.Remove();
}

}  // namespace

absl::StatusOr<Publication> BeginInStore(std::shared_ptr<ObjectStore> store, const fs::path& data,
                                         const Publisher& publisher,
                                         const std::vector<std::string>& format_directories) {
  auto attempt = std::make_shared<StorePublication>(std::move(store), data, publisher);
  TEQ_RETURN_IF_ERROR(attempt->Begin(format_directories));
  return Publication(std::move(attempt));
}

Publication FindInStore(std::shared_ptr<ObjectStore> store, const fs::path& data,
                        const Publisher& publisher) {
  return Publication(std::make_shared<StorePublication>(std::move(store), data, publisher));
}

}  // namespace teq::objects
