#include "proto/spec/uri.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <system_error>
#include <utility>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "proto/spec/utf8.h"

namespace teq {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kScheme = "file://";
constexpr std::size_t kMaxLength = 4096;
constexpr std::size_t kMaxKeyBytes = 1024;      // S3's
constexpr std::size_t kMaxRepositoryName = 96;  // the hub's
constexpr std::size_t kMaxRevisionBytes = 255;
// What a path may have unescaped beside letters and digits.
constexpr std::string_view kPlain = "/-._~!$&'()*+,;=:@";
constexpr std::string_view kDefaultRevision = "main";
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
  if (segment.empty()) {
    return InvalidUri(uri, "has an empty segment (\"//\" in its path); write the path without it");
  }
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

// The segments of a path; one slash at its end is a directory's.
absl::StatusOr<std::vector<std::string>> ParseSegments(std::string_view uri,
                                                       std::string_view path) {
  if (path.find_first_of("?#") != std::string_view::npos) {
    return InvalidUri(uri, "has a query or a fragment; write ? as %3F and # as %23");
  }
  std::vector<std::string> segments;
  while (!path.empty()) {
    const std::size_t end = std::min(path.find('/'), path.size());
    TEQ_ASSIGN_OR_RETURN(segments.emplace_back(), ParseSegment(uri, path.substr(0, end)));
    path.remove_prefix(std::min(end + 1, path.size()));
  }
  return segments;
}

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const std::size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

bool IsLowerOrDigit(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }
bool IsAlphanumeric(char c) { return IsLowerOrDigit(c) || (c >= 'A' && c <= 'Z'); }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }

std::string Lower(std::string_view text) {
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return lower;
}

bool IsIpv4Shaped(std::string_view text) {
  const std::vector<std::string_view> parts = Split(text, '.');
  return parts.size() == 4 && std::ranges::all_of(parts, [](std::string_view part) {
           return !part.empty() && part.size() <= 3 && std::ranges::all_of(part, IsDigit);
         });
}

// What S3 asks of a bucket's name; the rest of its rules is about names that nobody else may take.
absl::Status CheckBucket(std::string_view uri, std::string_view bucket) {
  if (bucket.empty()) return InvalidUri(uri, "names no bucket; write s3://bucket/prefix");
  const auto allowed = [](char c) { return IsLowerOrDigit(c) || c == '.' || c == '-'; };
  if (bucket.size() < 3 || bucket.size() > 63 || !std::ranges::all_of(bucket, allowed) ||
      !IsLowerOrDigit(bucket.front()) || !IsLowerOrDigit(bucket.back())) {
    return InvalidUri(uri,
                      fmt::format("has bucket \"{}\"; a bucket's name has 3 to 63 of a-z, 0-9, "
                                  "'.' and '-', and begins and ends with a letter or a digit",
                                  Shown(bucket)));
  }
  if (bucket.find("..") != std::string_view::npos || IsIpv4Shaped(bucket) ||
      bucket.starts_with("xn--")) {
    return InvalidUri(uri,
                      fmt::format("has bucket \"{}\"; a bucket's name has no two dots in a row, "
                                  "does not begin with xn-- and is no IP address",
                                  bucket));
  }
  return absl::OkStatus();
}

// host[:port] in lower case, without the port that https has anyway.
absl::StatusOr<std::string> ParseAuthority(std::string_view uri, std::string_view authority) {
  if (authority.empty()) return InvalidUri(uri, "names no host; write https://host/path");
  if (authority.find('@') != std::string_view::npos) {
    // The message must not repeat a password.
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_URI",
                 "an https:// URI has a user or a password before its host; leave them out, as "
                 "URIs are stored and shown");
  }
  const bool is_ipv6 = authority.starts_with('[');
  const std::size_t host_end = is_ipv6 ? std::min(authority.find(']'), authority.size() - 1) + 1
                                       : std::min(authority.find(':'), authority.size());
  std::string host = Lower(authority.substr(0, host_end));
  const auto in_name = [](char c) { return IsLowerOrDigit(c) || c == '.' || c == '-'; };
  const auto in_ipv6 = [](char c) {
    return IsDigit(c) || (c >= 'a' && c <= 'f') || c == ':' || c == '.';
  };
  const bool good =
      is_ipv6 ? host.size() > 3 && host.ends_with(']') &&
                    std::ranges::all_of(std::string_view(host).substr(1, host.size() - 2), in_ipv6)
              : !host.empty() && std::ranges::all_of(host, in_name) && IsLowerOrDigit(host.front());
  if (!good) return InvalidUri(uri, fmt::format("has host \"{}\", which is none", Shown(host)));
  std::string_view port = authority.substr(host_end);
  if (port.empty()) return host;
  int number = 0;
  const auto [end, error] = std::from_chars(port.data() + 1, port.data() + port.size(), number);
  if (port.front() != ':' || error != std::errc() || end != port.data() + port.size() ||
      number < 1 || number > 65535) {
    return InvalidUri(
        uri, fmt::format("has port \"{}\"; write a number from 1 to 65535", Shown(port.substr(1))));
  }
  return number == 443 ? host : fmt::format("{}:{}", host, number);
}

absl::Status CheckRepositoryPart(std::string_view uri, std::string_view what,
                                 std::string_view name) {
  const auto allowed = [](char c) { return IsAlphanumeric(c) || c == '.' || c == '_' || c == '-'; };
  const auto at_an_end = [](char c) { return c == '.' || c == '-'; };
  if (!name.empty() && name.size() <= kMaxRepositoryName && std::ranges::all_of(name, allowed) &&
      !at_an_end(name.front()) && !at_an_end(name.back()) &&
      name.find("..") == std::string_view::npos && name.find("--") == std::string_view::npos) {
    return absl::OkStatus();
  }
  return InvalidUri(uri,
                    fmt::format("has {} \"{}\"; write hf://owner/name[@revision], each of 1 to "
                                "{} of a-z, A-Z, 0-9, '.', '_' and '-', without '-' or '.' at "
                                "its ends or twice in a row",
                                what, Shown(name), kMaxRepositoryName));
}

absl::Status CheckRevision(std::string_view uri, std::string_view revision) {
  const auto good_part = [](std::string_view part) {
    const auto allowed = [](char c) {
      return IsAlphanumeric(c) || c == '.' || c == '_' || c == '-' || c == '+';
    };
    return !part.empty() && part.front() != '.' && part.front() != '-' &&
           part.find("..") == std::string_view::npos && std::ranges::all_of(part, allowed);
  };
  if (revision.size() <= kMaxRevisionBytes &&
      std::ranges::all_of(Split(revision, '/'), good_part)) {
    return absl::OkStatus();
  }
  return InvalidUri(uri, fmt::format("has revision \"{}\"; write a branch, a tag or a commit: a-z, "
                                     "A-Z, 0-9, '.', '_', '-', '+' and '/'",
                                     Shown(revision)));
}

absl::StatusOr<Location> ParseFile(std::string_view uri) {
  Location location;
  TEQ_ASSIGN_OR_RETURN(location.path, ParseFileUri(uri));
  return location;
}

absl::StatusOr<Location> ParseBucket(std::string_view uri, std::string_view rest) {
  const std::size_t end = std::min(rest.find('/'), rest.size());
  Location location{.scheme = Location::Scheme::kS3, .authority = std::string(rest.substr(0, end))};
  TEQ_RETURN_IF_ERROR(CheckBucket(uri, location.authority));
  TEQ_ASSIGN_OR_RETURN(const auto segments,
                       ParseSegments(uri, rest.substr(std::min(end + 1, rest.size()))));
  location.key = fmt::format("{}", fmt::join(segments, "/"));
  if (location.key.size() > kMaxKeyBytes) {
    return InvalidUri(
        uri, fmt::format("has a key of {} bytes; at most {}", location.key.size(), kMaxKeyBytes));
  }
  return location;
}

absl::StatusOr<Location> ParseHttps(std::string_view uri, std::string_view rest) {
  const std::size_t end = std::min(rest.find_first_of("/?#"), rest.size());
  Location location{.scheme = Location::Scheme::kHttps};
  TEQ_ASSIGN_OR_RETURN(location.authority, ParseAuthority(uri, rest.substr(0, end)));
  rest.remove_prefix(end);
  if (rest.starts_with('/')) rest.remove_prefix(1);
  TEQ_ASSIGN_OR_RETURN(const auto segments, ParseSegments(uri, rest));
  location.key = fmt::format("{}", fmt::join(segments, "/"));
  return location;
}

absl::StatusOr<Location> ParseHub(std::string_view uri, std::string_view rest) {
  const std::size_t at = rest.find('@');
  Location location{.scheme = Location::Scheme::kHub, .revision = std::string(kDefaultRevision)};
  if (at != std::string_view::npos) {
    location.revision = rest.substr(at + 1);
    TEQ_RETURN_IF_ERROR(CheckRevision(uri, location.revision));
  }
  location.authority = rest.substr(0, at);
  const std::vector<std::string_view> parts = Split(location.authority, '/');
  if (parts.size() != 2) {
    return InvalidUri(uri, "is not a repository of a hub; write hf://owner/name[@revision]");
  }
  TEQ_RETURN_IF_ERROR(CheckRepositoryPart(uri, "owner", parts[0]));
  TEQ_RETURN_IF_ERROR(CheckRepositoryPart(uri, "name", parts[1]));
  return location;
}

struct SchemeRow {
  std::string_view prefix;
  Location::Scheme scheme;
  bool data;
  bool output;
};
constexpr std::array<SchemeRow, 4> kSchemes = {{
    {kScheme, Location::Scheme::kFile, true, true},
    {"s3://", Location::Scheme::kS3, true, true},
    {"https://", Location::Scheme::kHttps, true, false},
    {"hf://", Location::Scheme::kHub, false, false},
}};

bool Serves(const SchemeRow& row, UriUse use) {
  return use == UriUse::kModel || (use == UriUse::kData ? row.data : row.output);
}

const SchemeRow* FindScheme(std::string_view uri) {
  const auto row = std::ranges::find_if(
      kSchemes, [uri](const SchemeRow& each) { return uri.starts_with(each.prefix); });
  return row == kSchemes.end() ? nullptr : row;
}

// "file://, s3:// or https://"
std::string SchemesFor(UriUse use) {
  std::vector<std::string_view> names;
  for (const SchemeRow& row : kSchemes) {
    if (Serves(row, use)) names.push_back(row.prefix);
  }
  const std::string_view last = names.back();
  names.pop_back();
  return fmt::format("{} or {}", fmt::join(names, ", "), last);
}

absl::Status UnknownScheme(std::string_view uri, UriUse use) {
  const std::string schemes = SchemesFor(use);
  if (uri.empty()) return InvalidUri(uri, fmt::format("is empty; write {}", schemes));
  if (uri.front() == '/') {
    return InvalidUri(uri, fmt::format("has no scheme; write file://{}", Shown(uri)));
  }
  const std::size_t colon = uri.find(':');
  if (colon == std::string_view::npos) {
    return InvalidUri(uri, fmt::format("has no scheme; write {}", schemes));
  }
  return InvalidUri(uri, fmt::format("has scheme \"{}\", which is not supported; write {}",
                                     Shown(uri.substr(0, colon)), schemes));
}

absl::Status NotAllowed(std::string_view uri, std::string_view problem) {
  const std::string shown = Shown(uri);
  return Error(absl::StatusCode::kPermissionDenied, "URI_NOT_ALLOWED",
               fmt::format("\"{}\" {}", shown, problem), {{"uri", shown}});
}

absl::StatusOr<fs::path> FollowLinks(std::string_view uri, const fs::path& path) {
  std::error_code error;
  fs::path canonical = fs::weakly_canonical(path, error);
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

// One allowed prefix that is no file's: what its scheme, and each segment that it has, must be.
struct Prefix {
  Location::Scheme scheme = Location::Scheme::kS3;
  std::vector<std::string> segments;
  std::string revision;  // kHub; empty: every one
};

std::vector<std::string> SegmentsOf(const Location& location) {
  std::vector<std::string> segments;
  for (const std::string_view part : Split(location.authority, '/')) segments.emplace_back(part);
  if (location.key.empty()) return segments;
  for (const std::string_view part : Split(location.key, '/')) segments.emplace_back(part);
  return segments;
}

absl::StatusOr<Prefix> ParsePrefix(std::string_view uri, const SchemeRow& row) {
  Prefix prefix{.scheme = row.scheme};
  std::string_view rest = uri.substr(row.prefix.size());
  if (rest.empty()) return prefix;
  if (row.scheme == Location::Scheme::kHub && rest.ends_with('/')) rest.remove_suffix(1);
  if (row.scheme == Location::Scheme::kHub && rest.find_first_of("/@") == std::string_view::npos) {
    TEQ_RETURN_IF_ERROR(CheckRepositoryPart(uri, "owner", rest));
    prefix.segments.emplace_back(rest);
    return prefix;
  }
  TEQ_ASSIGN_OR_RETURN(const Location location,
                       ParseUri(uri.substr(0, row.prefix.size() + rest.size()), UriUse::kModel));
  prefix.segments = SegmentsOf(location);
  if (rest.find('@') != std::string_view::npos) prefix.revision = location.revision;
  return prefix;
}

bool Allows(const Prefix& prefix, const Location& location) {
  if (prefix.scheme != location.scheme) return false;
  if (!prefix.revision.empty() && prefix.revision != location.revision) return false;
  const std::vector<std::string> segments = SegmentsOf(location);
  return prefix.segments.size() <= segments.size() &&
         std::equal(prefix.segments.begin(), prefix.segments.end(), segments.begin());
}

absl::Status NotBelowAPrefix(std::string_view uri, const UriPolicy& policy) {
  return NotAllowed(uri, fmt::format("is not below an allowed prefix; allowed: {}",
                                     fmt::join(policy.allowed_prefixes, ", ")));
}

std::string PercentEncode(std::string_view text, std::string_view plain) {
  std::string encoded;
  for (const char c : text) {
    if (IsAlphanumeric(c) || plain.find(c) != std::string_view::npos) {
      encoded += c;
    } else {
      encoded += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return encoded;
}

}  // namespace

absl::StatusOr<Location> ParseUri(std::string_view uri, UriUse use) {
  if (uri.size() > kMaxLength) {
    return InvalidUri(uri, fmt::format("is longer than {} bytes", kMaxLength));
  }
  const SchemeRow* row = FindScheme(uri);
  if (row == nullptr) return UnknownScheme(uri, use);
  if (!Serves(*row, use)) {
    return InvalidUri(uri,
                      fmt::format("cannot serve here: {} is for {} only; write {}", row->prefix,
                                  row->data ? "input" : "models", SchemesFor(use)));
  }
  const std::string_view rest = uri.substr(row->prefix.size());
  absl::StatusOr<Location> location;
  switch (row->scheme) {
    case Location::Scheme::kFile:
      return ParseFile(uri);
    case Location::Scheme::kHub:
      return ParseHub(uri, rest);
    case Location::Scheme::kS3:
      location = ParseBucket(uri, rest);
      break;
    case Location::Scheme::kHttps:
      location = ParseHttps(uri, rest);
      break;
  }
  if (location.ok() && use == UriUse::kData && location->key.empty()) {
    return InvalidUri(uri, "names no object; write the path of a file after it");
  }
  return location;
}

absl::StatusOr<Location> ResolveLocation(std::string_view uri, UriUse use,
                                         const UriPolicy& policy) {
  TEQ_ASSIGN_OR_RETURN(Location location, ParseUri(uri, use));
  if (location.scheme == Location::Scheme::kFile) {
    TEQ_ASSIGN_OR_RETURN(location.path, ResolveUri(uri, policy));
    return location;
  }
  if (policy.allowed_prefixes.empty()) return location;
  for (const std::string& text : policy.allowed_prefixes) {
    const SchemeRow* row = FindScheme(text);
    if (row != nullptr && row->scheme == Location::Scheme::kFile) continue;
    if (row == nullptr) return WithContext(CheckUriPrefix(text), "allowed prefix");
    const absl::StatusOr<Prefix> prefix = ParsePrefix(text, *row);
    if (!prefix.ok()) return WithContext(prefix.status(), "allowed prefix");
    if (Allows(*prefix, location)) return location;
  }
  return NotBelowAPrefix(uri, policy);
}

absl::Status CheckUriPrefix(std::string_view prefix) {
  const SchemeRow* row = FindScheme(prefix);
  if (row == nullptr) return UnknownScheme(prefix, UriUse::kModel);
  if (row->scheme == Location::Scheme::kFile) return ParseFileUri(prefix).status();
  return ParsePrefix(prefix, *row).status();
}

std::string UriOf(const Location& location) {
  if (location.scheme == Location::Scheme::kFile) return FileUri(location.path);
  const auto row = std::ranges::find(kSchemes, location.scheme, &SchemeRow::scheme);
  std::string uri = fmt::format("{}{}", row->prefix, location.authority);
  if (location.scheme == Location::Scheme::kHub) {
    return location.revision == kDefaultRevision ? uri : uri + "@" + location.revision;
  }
  if (!location.key.empty()) uri += "/" + PercentEncode(location.key, kPlain);
  return uri;
}

bool IsWithin(const Location& inner, const Location& outer) {
  if (inner.scheme != outer.scheme) return false;
  if (inner.scheme == Location::Scheme::kFile) return IsWithin(inner.path, outer.path);
  return Allows({outer.scheme, SegmentsOf(outer), outer.revision}, inner);
}

absl::StatusOr<fs::path> ParseFileUri(std::string_view uri) {
  if (uri.size() > kMaxLength) {
    return InvalidUri(uri, fmt::format("is longer than {} bytes", kMaxLength));
  }
  if (!uri.starts_with(kScheme)) return NotAFileUri(uri);
  std::string_view rest = uri.substr(kScheme.size());
  if (!rest.starts_with('/')) {
    return InvalidUri(uri, "names a host or a relative path; write file:/// and an absolute path");
  }
  TEQ_ASSIGN_OR_RETURN(const auto segments, ParseSegments(uri, rest.substr(1)));
  fs::path path = "/";
  for (const std::string& segment : segments) path /= segment;
  return path;
}

absl::StatusOr<fs::path> ResolveUri(std::string_view uri, const UriPolicy& policy) {
  TEQ_ASSIGN_OR_RETURN(fs::path path, ParseFileUri(uri));
  if (policy.allowed_prefixes.empty()) return path;
  TEQ_ASSIGN_OR_RETURN(path, FollowLinks(uri, path));
  for (const std::string& prefix : policy.allowed_prefixes) {
    const SchemeRow* row = FindScheme(prefix);
    if (row != nullptr && row->scheme != Location::Scheme::kFile) continue;
    const absl::StatusOr<fs::path> allowed = ParseFileUri(prefix);
    if (!allowed.ok()) return WithContext(allowed.status(), "allowed prefix");
    TEQ_ASSIGN_OR_RETURN(const fs::path directory, FollowLinks(prefix, *allowed));
    if (IsWithin(path, directory)) return path;
  }
  return NotBelowAPrefix(uri, policy);
}

bool IsWithin(const fs::path& path, const fs::path& directory) {
  const auto [end, unused] =
      std::mismatch(directory.begin(), directory.end(), path.begin(), path.end());
  return end == directory.end();
}

std::string FileUri(const fs::path& path) {
  return std::string(kScheme) + PercentEncode(path.lexically_normal().string(), kPlain);
}

}  // namespace teq
