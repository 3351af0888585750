#include "proto/spec/uri.h"

#include <algorithm>
#include <optional>
#include <system_error>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "proto/spec/utf8.h"

namespace teq {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kScheme = "file://";
constexpr std::size_t kMaxLength = 4096;
constexpr std::size_t kMaxQuotedLength = 200;

// The URI as a message may show it: cut, and without bytes that would disturb a terminal or a log.
std::string Shown(std::string_view uri) {
  std::string shown(uri.substr(0, kMaxQuotedLength));
  std::ranges::replace_if(
      shown, [](char c) { return c < 0x20 || c > 0x7e; }, '?');
  return shown;
}

absl::Status InvalidUri(std::string_view uri, std::string_view problem) {
  const std::string shown = Shown(uri);
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_URI",
               fmt::format("\"{}\" {}", shown, problem), {{"uri", shown}});
}

absl::Status NotAFileUri(std::string_view uri) {
  if (uri.empty()) return InvalidUri(uri, "is empty; write file:// and an absolute path");
  if (uri.front() == '/') {
    return InvalidUri(uri, fmt::format("has no scheme; write file://{}", Shown(uri)));
  }
  const std::size_t colon = uri.find(':');
  if (colon == std::string_view::npos) {
    return InvalidUri(uri, "has no scheme; write file:// and an absolute path");
  }
  return InvalidUri(uri, fmt::format("has scheme \"{}\", which is not supported; write file:// and "
                                     "an absolute path",
                                     Shown(uri.substr(0, colon))));
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Nothing where an escape is malformed.
std::optional<std::string> PercentDecode(std::string_view text) {
  std::string decoded;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded += text[i];
      continue;
    }
    if (i + 2 >= text.size()) return std::nullopt;
    const int high = HexDigit(text[i + 1]);
    const int low = HexDigit(text[i + 2]);
    if (high < 0 || low < 0) return std::nullopt;
    decoded += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return decoded;
}

absl::StatusOr<std::string> ParseSegment(std::string_view uri, std::string_view segment) {
  if (segment.empty()) return InvalidUri(uri, "has an empty segment (\"//\" in its path)");
  const std::optional<std::string> decoded = PercentDecode(segment);
  if (!decoded) {
    return InvalidUri(uri, "has a malformed percent escape; write % and two hexadecimal digits");
  }
  if (*decoded == "." || *decoded == "..") {
    return InvalidUri(uri,
                      fmt::format("has a \"{}\" segment; write the path without it", *decoded));
  }
  const auto is_control = [](char c) { return (c >= 0 && c < 0x20) || c == 0x7f; };
  if (std::ranges::any_of(*decoded, is_control)) {
    return InvalidUri(uri, "has a control character in its path");
  }
  if (decoded->find('/') != std::string::npos) {
    return InvalidUri(uri, "has an escaped slash in a segment");
  }
  if (!IsUtf8(*decoded)) return InvalidUri(uri, "is not UTF-8");
  return *decoded;
}

absl::Status NotAllowed(std::string_view uri, std::string_view problem) {
  const std::string shown = Shown(uri);
  return Error(absl::StatusCode::kPermissionDenied, "URI_NOT_ALLOWED",
               fmt::format("\"{}\" {}", shown, problem), {{"uri", shown}});
}

absl::StatusOr<fs::path> FollowLinks(std::string_view uri, const fs::path& path) {
  std::error_code error;
  const fs::path canonical = fs::weakly_canonical(path, error);
  if (error) return NotAllowed(uri, fmt::format("cannot be resolved: {}", error.message()));
  // What weakly_canonical leaves of a link without a target would be followed by whoever creates
  // it.
  fs::path walked;
  for (const fs::path& part : canonical) {
    walked /= part;
    if (fs::is_symlink(fs::symlink_status(walked, error))) {
      return NotAllowed(uri, "passes a symbolic link whose target does not exist");
    }
  }
  return canonical;
}

}  // namespace

absl::StatusOr<fs::path> ParseFileUri(std::string_view uri) {
  if (uri.size() > kMaxLength) {
    return InvalidUri(uri, fmt::format("is longer than {} bytes", kMaxLength));
  }
  if (!uri.starts_with(kScheme)) return NotAFileUri(uri);
  std::string_view rest = uri.substr(kScheme.size());
  if (!rest.starts_with('/')) {
    return InvalidUri(uri, "names a host or a relative path; write file:/// and an absolute path");
  }
  if (rest.find_first_of("?#") != std::string_view::npos) {
    return InvalidUri(uri, "has a query or a fragment; write ? as %3F and # as %23");
  }
  rest.remove_prefix(1);
  fs::path path = "/";
  while (!rest.empty()) {  // one slash at the end is a directory's
    const std::size_t end = std::min(rest.find('/'), rest.size());
    TEQ_ASSIGN_OR_RETURN(const std::string segment, ParseSegment(uri, rest.substr(0, end)));
    path /= segment;
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return path;
}

absl::StatusOr<fs::path> ResolveUri(std::string_view uri, const UriPolicy& policy) {
  TEQ_ASSIGN_OR_RETURN(fs::path path, ParseFileUri(uri));
  if (policy.allowed_prefixes.empty()) return path;
  TEQ_ASSIGN_OR_RETURN(path, FollowLinks(uri, path));
  for (const std::string& prefix : policy.allowed_prefixes) {
    const absl::StatusOr<fs::path> allowed = ParseFileUri(prefix);
    if (!allowed.ok()) return WithContext(allowed.status(), "allowed prefix");
    TEQ_ASSIGN_OR_RETURN(const fs::path directory, FollowLinks(prefix, *allowed));
    if (IsWithin(path, directory)) return path;
  }
  return NotAllowed(uri, fmt::format("is not below an allowed prefix; allowed: {}",
                                     fmt::join(policy.allowed_prefixes, ", ")));
}

bool IsWithin(const fs::path& path, const fs::path& directory) {
  const auto [end, unused] =
      std::mismatch(directory.begin(), directory.end(), path.begin(), path.end());
  return end == directory.end();
}

std::string FileUri(const fs::path& path) {
  constexpr std::string_view kPlain = "/-._~!$&'()*+,;=:@";
  std::string uri(kScheme);
  for (const char c : path.lexically_normal().string()) {
    const bool alphanumeric =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (alphanumeric || kPlain.find(c) != std::string_view::npos) {
      uri += c;
    } else {
      uri += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return uri;
}

}  // namespace teq
