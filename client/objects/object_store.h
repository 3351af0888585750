#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/spec/uri.h"

namespace teq::objects {

/// What a store says of one object.
struct ObjectInfo {
  std::string key;
  std::uint64_t bytes = 0;
  std::string etag;    // names this content of the key; empty where the store has no such thing
  std::string sha256;  // of the bytes, hexadecimal; empty where the store does not say it
};

/// What a write does where the key is taken.
enum class IfExists { kReplace, kFail };

/// A URL that reads an object by GET, without credentials.
struct SignedUrl {
  std::string url;
  absl::Time expiry;  // of the URL, or of the keys that signed it where those end before
};

/// Told of bytes as they arrive, from any thread, one call at a time; false ends the transfer with
/// CANCELLED.
using TransferProgress = std::function<bool(std::uint64_t done, std::uint64_t total)>;

/// Named bytes below one place: a directory, a prefix of a bucket, a path of a web server, a model
/// of a hub. Keys are relative to it, UTF-8, such as "gptq/config.json"; none is empty, absolute,
/// or has a segment that is empty, "." or "..".
///
/// A reader sees a key's old bytes or its new ones, never a part. Calls block, retry what can
/// succeed on a second try, and are thread-safe.
///
/// Errors of all calls: INVALID_ARGUMENT, INVALID_KEY; NOT_FOUND, OBJECT_NOT_FOUND; NOT_FOUND,
/// BUCKET_NOT_FOUND; PERMISSION_DENIED, OBJECT_ACCESS_DENIED (wrong credentials, a clock that is
/// off: each its own message); FAILED_PRECONDITION, WRONG_REGION, TLS_FAILED (a certificate that is
/// not trusted), NO_CREDENTIALS, BAD_CREDENTIALS, REDIRECTED (to what is not to be followed),
/// NO_RANGES (a web server that sends whole files only); INVALID_ARGUMENT, INVALID_ENDPOINT;
/// UNAVAILABLE, OBJECT_STORE_UNAVAILABLE, CREDENTIALS_UNAVAILABLE, after the last retry;
/// RESOURCE_EXHAUSTED, TOO_MANY_OBJECTS; DATA_LOSS, OBJECT_CORRUPT, for bytes that fail their
/// checksum; UNIMPLEMENTED, READ_ONLY_STORE, for writes to a web server; INTERNAL, BAD_ANSWER, from
/// what speaks another protocol; INTERNAL, OBJECT_STORE_ERROR, for all else that a store answers.
/// Local directories answer as file.h. No message holds keys, tokens or signed URLs.
class ObjectStore {
 public:
  virtual ~ObjectStore() = default;

  [[nodiscard]] virtual absl::StatusOr<ObjectInfo> Head(const std::string& key) const = 0;

  /// `length` bytes from `offset`; all of them or an error: OUT_OF_RANGE, RANGE_BEYOND_END, where
  /// there are fewer. With `etag`, FAILED_PRECONDITION, OBJECT_CHANGED, where the object is another
  /// by now.
  [[nodiscard]] virtual absl::StatusOr<std::string> Read(const std::string& key,
                                                         std::uint64_t offset, std::uint64_t length,
                                                         const std::string& etag = {}) const = 0;

  /// Every object whose key starts with `prefix` (empty: all), in key order. UNIMPLEMENTED,
  /// NOT_LISTABLE, for a web server.
  [[nodiscard]] virtual absl::StatusOr<std::vector<ObjectInfo>> List(
      const std::string& prefix) const = 0;

  /// A small object. ALREADY_EXISTS, OBJECT_EXISTS, where it may not replace one.
  [[nodiscard]] virtual absl::Status Write(const std::string& key, std::string_view content,
                                           IfExists if_exists) = 0;

  /// A file of any size, in constant memory, in parallel parts where that helps. `sha256`: of its
  /// bytes, hexadecimal; DATA_LOSS, OBJECT_CORRUPT, where the bytes sent had another.
  [[nodiscard]] virtual absl::Status Upload(const std::string& key,
                                            const std::filesystem::path& file,
                                            const std::string& sha256,
                                            const TransferProgress& progress = {}) = 0;

  /// The object's bytes to `file`, in parallel ranges where that helps: written beside it, synced,
  /// renamed. `object` is Head's or List's answer; OBJECT_CHANGED as in Read.
  [[nodiscard]] virtual absl::Status Download(const ObjectInfo& object,
                                              const std::filesystem::path& file,
                                              const TransferProgress& progress = {}) const = 0;

  /// OK also where nothing has the key.
  [[nodiscard]] virtual absl::Status Remove(const std::string& key) = 0;

  /// Ends uploads below `prefix` that were begun and never finished, so that their parts cost
  /// nothing. OK where the store has no such thing.
  [[nodiscard]] virtual absl::Status AbortUploads(const std::string& prefix) = 0;

  /// A URL of the object that is good for `ttl`, or as long as the keys are. FAILED_PRECONDITION,
  /// NOT_PRESIGNABLE, for stores that cannot.
  [[nodiscard]] virtual absl::StatusOr<SignedUrl> PresignedUrl(const std::string& key,
                                                               absl::Duration ttl) const = 0;

  /// The URI of a key, as people write it, such as s3://bucket/prefix/gptq/config.json.
  [[nodiscard]] virtual std::string Uri(const std::string& key) const = 0;
};

/// The store below a URI. Object stores take what the usual variables of the environment say
/// (environment.h); a file's URI gives a store of its directory.
///
/// INVALID_ARGUMENT, INVALID_URI; PERMISSION_DENIED, URI_NOT_ALLOWED; FAILED_PRECONDITION,
/// NO_CREDENTIALS, with the places that were looked at; and for a hub those of hub_store.h.
[[nodiscard]] absl::StatusOr<std::shared_ptr<ObjectStore>> OpenStore(std::string_view uri,
                                                                     const UriPolicy& policy);
/// The same, whose calls end with CANCELLED soon after `go_on`, asked by any thread, says false.
[[nodiscard]] absl::StatusOr<std::shared_ptr<ObjectStore>> OpenStore(std::string_view uri,
                                                                     const UriPolicy& policy,
                                                                     std::function<bool()> go_on);

}  // namespace teq::objects
