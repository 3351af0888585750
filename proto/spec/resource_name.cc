#include "proto/spec/resource_name.h"

#include <algorithm>
#include <vector>

#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq {
namespace {

constexpr std::size_t kMaxIdLength = 63;
constexpr std::size_t kMaxQuotedLength = 200;

std::vector<std::string_view> Split(std::string_view name) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('/', begin), name.size());
    parts.push_back(name.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

// The beginning of a long name, cut between characters: a half of one is not UTF-8, which the
// error's metadata must be.
std::string Shown(std::string_view name) {
  const auto continues = [](char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; };
  std::size_t end = std::min(name.size(), kMaxQuotedLength);
  while (end > 0 && end < name.size() && continues(name[end])) --end;
  return std::string(name.substr(0, end));
}

absl::Status InvalidName(std::string_view name, std::string_view expected) {
  const std::string shown = Shown(name);
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_NAME",
               fmt::format("\"{}\" is not a resource name; expected {}", shown, expected),
               {{"name", shown}});
}

}  // namespace

std::string JobName::ToString() const { return fmt::format("projects/{}/jobs/{}", project, job); }

bool IsResourceId(std::string_view id) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
  };
  return !id.empty() && id.size() <= kMaxIdLength && std::ranges::all_of(id, allowed);
}

absl::StatusOr<JobName> ParseJobName(std::string_view name) {
  const auto parts = Split(name);
  const bool shaped = parts.size() == 4 && parts[0] == "projects" && parts[2] == "jobs";
  if (!shaped || !IsResourceId(parts[1]) || parts[1] == "-" || !IsResourceId(parts[3])) {
    return InvalidName(name,
                       "projects/{project}/jobs/{job}, both parts of a-z, 0-9 and '-', "
                       "1 to 63 characters");
  }
  return JobName{std::string(parts[1]), std::string(parts[3])};
}

absl::StatusOr<std::string> ParseProjectName(std::string_view name) {
  const auto parts = Split(name);
  if (parts.size() != 2 || parts[0] != "projects" || !IsResourceId(parts[1])) {
    return InvalidName(name, "projects/{project}, of a-z, 0-9 and '-', 1 to 63 characters");
  }
  return std::string(parts[1]);
}

}  // namespace teq
