#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace teq {

/// Which URIs a process may touch, by prefix (`file:///models/`); DESIGN section 8. With no prefix
/// every supported scheme and path is allowed.
struct UriPolicy {
  std::vector<std::string> allowed_prefixes;
};

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
