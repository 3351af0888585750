#include "client/objects/manifest.h"

#include <algorithm>
#include <cctype>
#include <set>

#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"
#include "proto/spec/json.h"

namespace teq::objects {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kSchema = "teqd.manifest.v1";

absl::Status Invalid(std::string_view place, std::string_view problem) {
  return Error(absl::StatusCode::kDataLoss, "MANIFEST_INVALID",
               fmt::format("{}: {}; it is not a manifest that teqd has published", place, problem));
}

bool IsDigest(std::string_view text) {
  constexpr std::size_t kDigits = 64;
  const auto is_digit = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  return text.size() == kDigits && std::ranges::all_of(text, is_digit);
}

// Whether `path` names something below the directory that it is relative to.
bool IsInside(std::string_view path) {
  if (path.empty() || path.find('\0') != std::string_view::npos) return false;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view segment = path.substr(begin, end - begin);
    if (segment.empty() || segment == "." || segment == "..") return false;
    begin = end + 1;
  }
  return true;
}

// Throws what nlohmann-json throws.
Manifest ReadFields(const ordered_json& json) {
  Manifest manifest;
  manifest.job = json.at("job").get<std::string>();
  manifest.job_uid = json.at("job_uid").get<std::string>();
  manifest.spec_digest = json.at("spec_digest").get<std::string>();
  manifest.attempt = json.at("attempt").get<int>();
  manifest.fence = json.at("fence").get<std::int64_t>();
  for (const ordered_json& file : json.at("files")) {
    manifest.files.push_back({.path = file.at("path").get<std::string>(),
                              .bytes = file.at("bytes").get<std::uint64_t>(),
                              .sha256 = file.at("sha256").get<std::string>()});
  }
  for (const ordered_json& artifact : json.at("artifacts")) {
    teq::v1::Artifact& read = manifest.artifacts.emplace_back();
    read.set_format(artifact.at("format").get<std::string>());
    read.set_path(artifact.at("path").get<std::string>());
    read.set_bytes(artifact.at("bytes").get<std::int64_t>());
    read.set_sha256(artifact.at("sha256").get<std::string>());
  }
  return manifest;
}

}  // namespace

std::string Manifest::Prefix() const {
  const std::string prefix = fmt::format("{}-{}/", attempt, fence);
  const auto below = [&prefix](const ManifestFile& file) { return file.path.starts_with(prefix); };
  return !files.empty() && std::ranges::all_of(files, below) ? prefix : std::string();
}

std::vector<ManifestFile> Manifest::FilesOf(std::string_view format) const {
  const std::string directory = Prefix() + FormatDirectory(format) + "/";
  std::vector<ManifestFile> found;
  std::ranges::copy_if(files, std::back_inserter(found), [&directory](const ManifestFile& file) {
    return file.path.starts_with(directory);
  });
  return found;
}

absl::StatusOr<Manifest> ParseManifest(std::string_view text, std::string_view place) {
  const ordered_json json = ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return Invalid(place, "is not a JSON object");
  Manifest manifest;
  try {
    const auto schema = json.at("schema").get<std::string>();
    if (schema != kSchema) {
      return Invalid(place, fmt::format("has schema \"{}\", not \"{}\"", schema, kSchema));
    }
    manifest = ReadFields(json);
  } catch (const ordered_json::exception& error) {
    return Invalid(place, error.what());
  }
  std::set<std::string_view> paths;
  for (const ManifestFile& file : manifest.files) {
    if (!IsInside(file.path) || file.path == kManifestKey ||
        file.path == fmt::format("{}-{}/{}", manifest.attempt, manifest.fence, kManifestKey)) {
      return Invalid(
          place, fmt::format("lists \"{}\", which is not a path of a published file", file.path));
    }
    if (!paths.insert(file.path).second) {
      return Invalid(place, fmt::format("lists {} twice", file.path));
    }
    if (!IsDigest(file.sha256)) {
      return Invalid(
          place, fmt::format("lists {} with \"{}\", which is no sha256", file.path, file.sha256));
    }
  }
  return manifest;
}

absl::StatusOr<std::string> ReadSmallObject(const ObjectStore& store, const std::string& key) {
  TEQ_ASSIGN_OR_RETURN(const ObjectInfo info, store.Head(key));
  if (info.bytes > kMaxManifestBytes) {
    return Error(absl::StatusCode::kResourceExhausted, "MANIFEST_TOO_LARGE",
                 fmt::format("{}: has {} bytes, at most {} are read", store.Uri(key), info.bytes,
                             kMaxManifestBytes));
  }
  return store.Read(key, 0, info.bytes, info.etag);
}

bool IsMissing(const absl::Status& status) {
  const std::string reason = ErrorReason(status);
  return reason == "OBJECT_NOT_FOUND" || reason == "FILE_NOT_FOUND";
}

std::string FormatDirectory(std::string_view format) {
  std::string directory(format);
  std::ranges::transform(directory, directory.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return directory;
}

}  // namespace teq::objects
