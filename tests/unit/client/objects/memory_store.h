#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "client/objects/file.h"
#include "client/objects/object_store.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::objects::testing {

/// An object store in memory, for tests of what stands on one. `on_call` is asked before each call,
/// by its thread, and may fail it, before or after it has taken effect. Calls may come from several
/// threads; what tests look at and change directly, only while there are none.
class MemoryStore final : public ObjectStore {
 public:
  enum class Fault {
    kNone,
    kRefuse,      // UNAVAILABLE, nothing happens
    kLoseAnswer,  // UNAVAILABLE, but it has happened
  };
  using OnCall = std::function<Fault(const std::string& verb, const std::string& key)>;

  explicit MemoryStore(std::string uri = "s3://bucket/out") : uri_(std::move(uri)) {}

  OnCall on_call = [](const std::string&, const std::string&) { return Fault::kNone; };
  /// All stored bytes, by key; tests may change them.
  std::map<std::string, std::string> objects;
  /// Keys of uploads that were begun and never finished.
  mutable std::set<std::string> uploads;
  /// An upload under this key gets no further than its half, until its progress ends it.
  std::string stuck;
  /// "verb key" of each call that took effect, in order, but for reading ones.
  std::vector<std::string> changes;
  /// When signed URLs end.
  absl::Time urls_end = absl::UnixEpoch();
  /// Answers to every call, such as BUCKET_NOT_FOUND; OK: none.
  absl::Status broken;

  [[nodiscard]] std::set<std::string> Keys() const {
    std::set<std::string> keys;
    for (const auto& [key, content] : objects) keys.insert(key);
    return keys;
  }

  absl::StatusOr<ObjectInfo> Head(const std::string& key) const override {
    const Fault fault = on_call("head", key);
    if (fault != Fault::kNone || !broken.ok()) return Failure(key);
    const std::lock_guard lock(mutex_);
    const auto found = objects.find(key);
    if (found == objects.end()) return NotFound(key);
    return Info(*found);
  }

  absl::StatusOr<std::string> Read(const std::string& key, std::uint64_t offset,
                                   std::uint64_t length, const std::string& etag) const override {
    const Fault fault = on_call("read", key);
    if (fault != Fault::kNone || !broken.ok()) return Failure(key);
    const std::lock_guard lock(mutex_);
    const auto found = objects.find(key);
    if (found == objects.end()) return NotFound(key);
    if (!etag.empty() && etag != Info(*found).etag) {
      return Error(absl::StatusCode::kFailedPrecondition, "OBJECT_CHANGED", key);
    }
    return found->second.substr(offset, length);
  }

  absl::StatusOr<std::vector<ObjectInfo>> List(const std::string& prefix) const override {
    const Fault fault = on_call("list", prefix);
    if (fault != Fault::kNone || !broken.ok()) return Failure(prefix);
    const std::lock_guard lock(mutex_);
    std::vector<ObjectInfo> found;
    for (const auto& object : objects) {
      if (object.first.starts_with(prefix)) found.push_back(Info(object));
    }
    return found;
  }

  absl::Status Write(const std::string& key, std::string_view content,
                     IfExists if_exists) override {
    return Change("write", key, [&]() -> absl::Status {
      if (if_exists == IfExists::kFail && objects.contains(key)) {
        return Error(absl::StatusCode::kAlreadyExists, "OBJECT_EXISTS", key);
      }
      objects[key] = std::string(content);
      return absl::OkStatus();
    });
  }

  /// Leaves an unfinished upload where `on_call` refuses it or `progress` ends it.
  absl::Status Upload(const std::string& key, const std::filesystem::path& file,
                      const std::string& sha256, const TransferProgress& progress) override {
    {
      const std::lock_guard lock(mutex_);
      uploads.insert(key);
    }
    const Fault fault = on_call("upload", key);
    if (fault == Fault::kRefuse || !broken.ok()) return Failure(key);
    TEQ_ASSIGN_OR_RETURN(std::string content, ReadFile(file));
    if (Sha256(content) != sha256) {
      return Error(absl::StatusCode::kDataLoss, "OBJECT_CORRUPT", key);
    }
    const std::uint64_t size = content.size();
    bool goes_on = !progress || progress(size / 2, size);
    while (goes_on && key == stuck) goes_on = progress(size / 2, size);
    if (!goes_on) return absl::CancelledError("cancelled");
    {
      const std::lock_guard lock(mutex_);
      objects[key] = std::move(content);
      changes.push_back("upload " + key);
      if (fault == Fault::kLoseAnswer) return Failure(key);
      uploads.erase(key);
    }
    if (progress && !progress(size, size)) return absl::CancelledError("cancelled");
    return absl::OkStatus();
  }

  absl::Status Download(const ObjectInfo& object, const std::filesystem::path& file,
                        const TransferProgress& progress) const override {
    TEQ_ASSIGN_OR_RETURN(const std::string content, Read(object.key, 0, object.bytes, object.etag));
    if (progress && !progress(content.size(), content.size())) {
      return absl::CancelledError("cancelled");
    }
    return WriteFileAtomically(file, content);
  }

  absl::Status Remove(const std::string& key) override {
    return Change("remove", key, [&] {
      objects.erase(key);
      return absl::OkStatus();
    });
  }

  absl::Status AbortUploads(const std::string& prefix) override {
    return Change("abort", prefix, [&] {
      std::erase_if(uploads, [&](const std::string& key) { return key.starts_with(prefix); });
      return absl::OkStatus();
    });
  }

  absl::StatusOr<SignedUrl> PresignedUrl(const std::string& key,
                                         absl::Duration ttl) const override {
    if (!broken.ok()) return broken;
    return SignedUrl{.url = fmt::format("https://store/{}?for={}", key, absl::ToInt64Seconds(ttl)),
                     .expiry = urls_end};
  }

  std::string Uri(const std::string& key) const override { return uri_ + "/" + key; }

 private:
  static ObjectInfo Info(const std::pair<const std::string, std::string>& object) {
    return {.key = object.first,
            .bytes = object.second.size(),
            .etag = Sha256(object.second).substr(0, 8)};
  }

  static absl::Status NotFound(const std::string& key) {
    return Error(absl::StatusCode::kNotFound, "OBJECT_NOT_FOUND", key);
  }

  [[nodiscard]] absl::Status Failure(const std::string& key) const {
    if (!broken.ok()) return broken;
    return Error(absl::StatusCode::kUnavailable, "OBJECT_STORE_UNAVAILABLE", key);
  }

  absl::Status Change(const std::string& verb, const std::string& key,
                      const std::function<absl::Status()>& effect) {
    const Fault fault = on_call(verb, key);
    if (fault == Fault::kRefuse || !broken.ok()) return Failure(key);
    const std::lock_guard lock(mutex_);
    const absl::Status status = effect();
    if (!status.ok()) return status;
    changes.push_back(verb + " " + key);
    return fault == Fault::kLoseAnswer ? Failure(key) : status;
  }

  std::string uri_;
  mutable std::mutex mutex_;
};

}  // namespace teq::objects::testing
