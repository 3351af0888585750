#include "client/objects/object_key.h"

#include <algorithm>
#include <string>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "proto/spec/utf8.h"

namespace teq::objects {
namespace {

constexpr std::size_t kMaxBytes = 1024;
constexpr std::size_t kMaxShown = 200;

absl::Status InvalidKey(std::string_view key, std::string_view problem) {
  std::string shown(key.substr(0, kMaxShown));
  std::ranges::replace_if(
      shown, [](char c) { return c < 0x20 || c > 0x7e; }, '?');
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_KEY",
               fmt::format("the key \"{}\" {}", shown, problem), {{"key", shown}});
}

}  // namespace

absl::Status CheckKey(std::string_view key) {
  if (key.empty()) return InvalidKey(key, "is empty");
  if (key.size() > kMaxBytes) {
    return InvalidKey(key, fmt::format("has {} bytes; at most {}", key.size(), kMaxBytes));
  }
  const auto is_control = [](char c) { return (c >= 0 && c < 0x20) || c == 0x7f; };
  if (std::ranges::any_of(key, is_control)) return InvalidKey(key, "has a control character");
  if (!IsUtf8(key)) return InvalidKey(key, "is not UTF-8");
  for (std::string_view rest = key;;) {
    const std::size_t end = rest.find('/');
    const std::string_view segment = rest.substr(0, end);
    if (segment.empty() || segment == "." || segment == "..") {
      return InvalidKey(
          key, fmt::format("has a segment \"{}\"; segments between slashes are names", segment));
    }
    if (end == std::string_view::npos) return absl::OkStatus();
    rest.remove_prefix(end + 1);
  }
}

}  // namespace teq::objects
