#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace teq {

/// Which URIs a process may touch, by prefix: `file:///models/`, `s3://bucket/models`,
/// `https://host/path`, `hf://owner`, `hf://owner/name[@revision]`, or a scheme alone (`s3://`).
/// With no prefix every supported scheme and path is allowed.
struct UriPolicy {
  std::vector<std::string> allowed_prefixes;
};

/// What a URI names.
struct Location {
  enum class Scheme {
    kFile,   // file:///path
    kS3,     // s3://bucket/prefix
    kHttps,  // https://host[:port]/path
    kHub,    // hf://owner/name[@revision]
  };
  Scheme scheme = Scheme::kFile;
  std::filesystem::path path;  // kFile: absolute, lexically normal
  std::string authority;       // kS3: the bucket; kHttps: host[:port]; kHub: owner/name
  std::string key;             // kS3, kHttps: percent-decoded, without slashes at its ends
  std::string revision;        // kHub: "main" where the URI names none

  bool operator==(const Location&) const = default;
};

/// What a URI may be used for.
enum class UriUse {
  kModel,   // every scheme
  kData,    // every scheme but kHub; names one object, so that a bucket or a host alone is refused
  kOutput,  // kFile and kS3
};

/// A URI of any supported scheme, taken apart. Pure: touches no disk and no network. The rules of
/// ParseFileUri hold for the path of every scheme. INVALID_ARGUMENT, INVALID_URI, also where the
/// scheme cannot serve `use`; names those that can.
[[nodiscard]] absl::StatusOr<Location> ParseUri(std::string_view uri, UriUse use);

/// As ParseUri, and PERMISSION_DENIED, URI_NOT_ALLOWED, unless the policy allows it. Prefixes of
/// every scheme are compared by whole path segments; for files as ResolveUri says, whose path the
/// location then has.
[[nodiscard]] absl::StatusOr<Location> ResolveLocation(std::string_view uri, UriUse use,
                                                       const UriPolicy& policy);

/// Whether a policy can hold `prefix`: OK, or INVALID_ARGUMENT, INVALID_URI.
[[nodiscard]] absl::Status CheckUriPrefix(std::string_view prefix);

/// The URI of a location, in one spelling: escapes are upper case and only where they must be,
/// hosts lower case, the port 443 and the revision "main" left out. ParseUri reads it back as the
/// same.
[[nodiscard]] std::string UriOf(const Location& location);

/// Whether `inner` is `outer` or lies below it. Locations of two schemes, buckets, hosts or
/// repositories never do. Lexical.
[[nodiscard]] bool IsWithin(const Location& inner, const Location& outer);

/// The absolute path that a `file://` URI names, lexically normal. Pure: touches no disk.
///
/// INVALID_ARGUMENT, reason INVALID_URI: another scheme, a host, a relative path, a `..` or `.`
/// segment, an empty segment, a NUL byte, a percent escape that is malformed.
[[nodiscard]] absl::StatusOr<std::filesystem::path> ParseFileUri(std::string_view uri);

/// As ParseFileUri, and PERMISSION_DENIED, reason URI_NOT_ALLOWED, unless the policy allows it. A
/// prefix allows itself and what lies below it, never a sibling (`file:///data` does not allow
/// `file:///data2`). Existing symbolic links are followed first, so that none leads out of an
/// allowed directory, and with a policy the path returned is the one that was checked; a link
/// without a target is refused. Without a policy it is ParseFileUri's.
[[nodiscard]] absl::StatusOr<std::filesystem::path> ResolveUri(std::string_view uri,
                                                               const UriPolicy& policy);

/// Whether `path` is `directory` or lies below it. Lexical; both absolute and normal.
[[nodiscard]] bool IsWithin(const std::filesystem::path& path,
                            const std::filesystem::path& directory);

/// The `file://` URI of an absolute path.
[[nodiscard]] std::string FileUri(const std::filesystem::path& path);

}  // namespace teq
