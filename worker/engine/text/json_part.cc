#include "worker/engine/text/json_part.h"

#include <fstream>
#include <iterator>
#include <limits>
#include <optional>
#include <system_error>
#include <unordered_set>
#include <utility>

#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::text {
namespace {

constexpr std::uintmax_t kMaxFileBytes = std::uintmax_t{256} << 20;
constexpr int kMaxDepth = 64;

absl::Status Malformed(std::string_view what) {
  return {absl::StatusCode::kInvalidArgument, std::string(what)};
}

absl::Status InvalidFile(const std::filesystem::path& file, std::string_view what) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_TOKENIZER",
               fmt::format("{} {}", file.filename().string(), what));
}

}  // namespace

JsonPart JsonPart::operator[](std::string_view key) const {
  const std::string separator = path_.find(": ") == std::string::npos ? ": " : ".";
  const std::string path = fmt::format("{}{}{}", path_, separator, key);
  if (value_ == nullptr || !value_->is_object()) return {nullptr, path};
  const auto found = value_->find(std::string(key));
  return {found == value_->end() || found->is_null() ? nullptr : &*found, path};
}

absl::StatusOr<std::string> JsonPart::String() const {
  if (!present() || !value_->is_string()) return WrongType("a string");
  return value_->get<std::string>();
}

absl::StatusOr<std::int32_t> JsonPart::Id() const {
  if (!present() || !value_->is_number_unsigned()) return WrongType("a token id");
  const auto id = value_->get<std::uint64_t>();
  if (id > static_cast<std::uint64_t>(std::numeric_limits<std::int32_t>::max())) {
    return Invalid(fmt::format("is {}, which is no token id", id));
  }
  return static_cast<std::int32_t>(id);
}

absl::StatusOr<double> JsonPart::Number() const {
  if (!present() || !value_->is_number()) return WrongType("a number");
  return value_->get<double>();
}

absl::StatusOr<std::vector<JsonPart>> JsonPart::List() const {
  if (!present() || !value_->is_array()) return WrongType("a list");
  std::vector<JsonPart> parts;
  parts.reserve(value_->size());
  for (std::size_t i = 0; i < value_->size(); ++i) {
    parts.push_back(JsonPart(&(*value_)[i], fmt::format("{}[{}]", path_, i)));
  }
  return parts;
}

absl::StatusOr<const nlohmann::json::object_t*> JsonPart::Object() const {
  if (!present() || !value_->is_object()) return WrongType("an object");
  return value_->get_ptr<const nlohmann::json::object_t*>();
}

absl::StatusOr<std::string> JsonPart::StringOr(std::string_view fallback) const {
  if (!present()) return std::string(fallback);
  return String();
}

absl::StatusOr<bool> JsonPart::BoolOr(bool fallback) const {
  if (!present()) return fallback;
  if (!value_->is_boolean()) return WrongType("true or false");
  return value_->get<bool>();
}

absl::Status JsonPart::Invalid(std::string_view what) const {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_TOKENIZER",
               fmt::format("{} {}", path_, what));
}

absl::Status JsonPart::Unsupported(std::string_view value, std::string_view supported) const {
  return Invalid(fmt::format("{} is not supported; supported: {}", value, supported));
}

absl::Status JsonPart::WrongType(std::string_view wanted) const {
  if (!present()) return Invalid(fmt::format("is missing; it must be {}", wanted));
  constexpr std::size_t kShown = 80;
  const bool simple = value_->is_primitive();
  std::string shown = simple
                          ? value_->dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)
                          : std::string(value_->type_name());
  if (shown.size() > kShown) shown = value_->type_name();
  return Invalid(fmt::format("is {}; it must be {}", shown, wanted));
}

absl::StatusOr<nlohmann::json> ReadJsonFile(const std::filesystem::path& file) {
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(file, error);
  if (error) return InvalidFile(file, fmt::format("cannot be read: {}", error.message()));
  if (size > kMaxFileBytes) {
    return InvalidFile(file,
                       fmt::format("has {} bytes, above the limit of {}", size, kMaxFileBytes));
  }
  std::ifstream stream(file, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(stream)), {});
  if (!stream) return InvalidFile(file, "cannot be read; check its permissions");
  auto json = ParseJson(text);
  if (!json.ok()) return InvalidFile(file, std::string(json.status().message()));
  return json;
}

absl::StatusOr<nlohmann::json> ParseJson(std::string_view text) {
  using Event = nlohmann::json::parse_event_t;
  bool too_deep = false;
  std::vector<std::unordered_set<std::string>> keys;  // of the objects that are open
  std::optional<std::string> twice;
  const auto guard = [&](int depth, Event event, nlohmann::json& parsed) {
    too_deep = too_deep || depth > kMaxDepth;
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(parsed.get<std::string>()).second) {
      twice = parsed.get<std::string>();
    }
    return depth <= kMaxDepth;
  };
  try {
    nlohmann::json json = nlohmann::json::parse(text, guard);
    if (too_deep) return Malformed(fmt::format("is nested deeper than {} levels", kMaxDepth));
    if (twice) return Malformed(fmt::format("has the key \"{}\" twice in one object", *twice));
    return json;
  } catch (const nlohmann::json::parse_error& error) {
    return Malformed(fmt::format("is not JSON, at its byte {}", error.byte));
  } catch (const nlohmann::json::exception& error) {
    return Malformed(fmt::format("cannot be read as JSON: {}", error.what()));
  }
}

}  // namespace teq::text
