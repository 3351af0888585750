#include "client/objects/hub_answers.h"

#include <algorithm>
#include <utility>

#include "client/objects/http.h"
#include "client/objects/object_key.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

using nlohmann::json;

constexpr std::size_t kCommitDigits = 40;
constexpr std::size_t kSha256Digits = 64;

absl::Status BadAnswer(std::string_view what) {
  return Error(absl::StatusCode::kInternal, "BAD_ANSWER",
               fmt::format("the hub's answer {}; check that HF_ENDPOINT is a hub", what));
}

bool IsHex(std::string_view text, std::size_t digits) {
  return text.size() == digits &&
         text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::string Text(const json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

absl::StatusOr<ObjectInfo> ParseFile(const json& file) {
  if (!file.is_object()) return BadAnswer("has a file that is no object");
  ObjectInfo object{.key = Text(file, "rfilename"), .etag = Text(file, "blobId")};
  const auto size = file.find("size");
  if (size == file.end() || !size->is_number_unsigned()) {
    return BadAnswer(fmt::format("has no size of {}", object.key));
  }
  object.bytes = size->get<std::uint64_t>();
  const auto lfs = file.find("lfs");
  if (lfs != file.end() && lfs->is_object()) {
    object.sha256 = Text(*lfs, "sha256");
    if (!IsHex(object.sha256, kSha256Digits)) {
      return BadAnswer(fmt::format("has \"{}\" for the sha256 of {}", object.sha256, object.key));
    }
    object.etag = object.sha256;
  }
  return object;
}

}  // namespace

absl::StatusOr<HubRevision> ParseHubRevision(std::string_view text) {
  const json answer = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!answer.is_object()) return BadAnswer("is no JSON object");
  HubRevision revision{.commit = Text(answer, "sha")};
  if (!IsHex(revision.commit, kCommitDigits)) {
    return BadAnswer(fmt::format("has \"{}\" for the commit's sha", revision.commit));
  }
  const auto files = answer.find("siblings");
  if (files == answer.end() || !files->is_array()) return BadAnswer("has no list of siblings");
  for (const json& file : *files) {
    TEQ_ASSIGN_OR_RETURN(ObjectInfo object, ParseFile(file));
    if (!CheckKey(object.key).ok()) continue;
    std::string key = object.key;
    revision.files.emplace(std::move(key), std::move(object));
  }
  return revision;
}

absl::StatusOr<std::string> RedirectTarget(std::string_view url, std::string_view location) {
  if (location.starts_with('/') && !location.starts_with("//")) {
    return fmt::format("{}{}", OriginOf(url), location);
  }
  if (location.starts_with("https://")) return std::string(location);
  if (location.starts_with("http://") && url.starts_with("http://")) return std::string(location);
  return BadAnswer("leads to a place that is neither on the same host nor https://");
}

}  // namespace teq::objects
