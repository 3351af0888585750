#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "client/objects/object_store.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::cache {

/// Numbers that a process and its children count together.
class SharedCount {
 public:
  SharedCount()
      : count_(new (::mmap(nullptr, sizeof(std::atomic<std::uint64_t>), PROT_READ | PROT_WRITE,
                           MAP_SHARED | MAP_ANONYMOUS, -1, 0)) std::atomic<std::uint64_t>(0)) {}
  ~SharedCount() { ::munmap(count_, sizeof(*count_)); }
  SharedCount(const SharedCount&) = delete;
  SharedCount& operator=(const SharedCount&) = delete;

  void Add(std::uint64_t number) { *count_ += number; }
  [[nodiscard]] std::uint64_t value() const { return *count_; }

 private:
  std::atomic<std::uint64_t>* count_;
};

/// A store in memory that counts what it gives away.
class FakeStore final : public objects::ObjectStore {
 public:
  explicit FakeStore(std::string uri = "s3://bucket/model", bool is_listable = true)
      : uri_(std::move(uri)), is_listable_(is_listable) {}

  /// An object with an etag of its own; replaces one. `sha256` is what the store says of it.
  objects::ObjectInfo Put(const std::string& key, std::string content, std::string sha256 = {}) {
    const objects::ObjectInfo info{.key = key,
                                   .bytes = content.size(),
                                   .etag = fmt::format("etag-{}", ++etags_),
                                   .sha256 = std::move(sha256)};
    objects_[key] = {info, std::move(content)};
    return info;
  }

  /// Other bytes of an object, under the etag that it has.
  void Alter(const std::string& key, std::string content) {
    objects_.at(key).second = std::move(content);
  }

  /// Called before each read, with its offset; an error is what the read then answers.
  std::function<absl::Status(std::uint64_t offset)> before_read;

  /// Keys that Head answers with OBJECT_ACCESS_DENIED.
  std::set<std::string> forbidden;
  /// Whether it answers so for what it has not, as public buckets do.
  bool forbids_missing = false;

  [[nodiscard]] std::uint64_t bytes_read() const { return bytes_read_.value(); }
  [[nodiscard]] std::uint64_t reads() const { return reads_.value(); }

  absl::StatusOr<objects::ObjectInfo> Head(const std::string& key) const override {
    const auto found = objects_.find(key);
    if (forbidden.contains(key) || (forbids_missing && found == objects_.end())) {
      return Error(absl::StatusCode::kPermissionDenied, "OBJECT_ACCESS_DENIED",
                   Uri(key) + ": answers HTTP 403");
    }
    if (found != objects_.end()) return found->second.first;
    return Error(absl::StatusCode::kNotFound, "OBJECT_NOT_FOUND", Uri(key) + ": none");
  }
  absl::StatusOr<std::string> Read(const std::string& key, std::uint64_t offset,
                                   std::uint64_t length, const std::string& etag) const override {
    if (before_read) TEQ_RETURN_IF_ERROR(before_read(offset));
    TEQ_ASSIGN_OR_RETURN(const objects::ObjectInfo info, Head(key));
    if (!etag.empty() && etag != info.etag) {
      return Error(absl::StatusCode::kFailedPrecondition, "OBJECT_CHANGED", Uri(key));
    }
    reads_.Add(1);
    bytes_read_.Add(length);
    return objects_.at(key).second.substr(offset, length);
  }
  absl::StatusOr<std::vector<objects::ObjectInfo>> List(const std::string& prefix) const override {
    if (!is_listable_) {
      return Error(absl::StatusCode::kUnimplemented, "NOT_LISTABLE", uri_ + ": has no list");
    }
    std::vector<objects::ObjectInfo> found;
    for (const auto& [key, object] : objects_) {
      if (key.starts_with(prefix)) found.push_back(object.first);
    }
    return found;
  }
  std::string Uri(const std::string& key) const override { return uri_ + "/" + key; }

  absl::Status Write(const std::string&, std::string_view, objects::IfExists) override {
    return Unexpected();
  }
  absl::Status Upload(const std::string&, const std::filesystem::path&, const std::string&,
                      const objects::TransferProgress&) override {
    return Unexpected();
  }
  absl::Status Download(const objects::ObjectInfo&, const std::filesystem::path&,
                        const objects::TransferProgress&) const override {
    return Unexpected();
  }
  absl::Status Remove(const std::string&) override { return Unexpected(); }
  absl::Status AbortUploads(const std::string&) override { return Unexpected(); }
  absl::StatusOr<objects::SignedUrl> PresignedUrl(const std::string&,
                                                  absl::Duration) const override {
    return Unexpected();
  }

 private:
  static absl::Status Unexpected() { return absl::InternalError("nothing here calls this"); }

  const std::string uri_;
  const bool is_listable_;
  int etags_ = 0;
  std::map<std::string, std::pair<objects::ObjectInfo, std::string>> objects_;
  mutable SharedCount bytes_read_;
  mutable SharedCount reads_;
};

}  // namespace teq::cache
