#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace teq::text {

/// A value of a tokenizer's JSON file, absent or there, with its path for messages. Refers to the
/// document, which must outlive it. All errors are INVALID_ARGUMENT, reason INVALID_TOKENIZER.
class JsonPart {
 public:
  JsonPart(const nlohmann::json& document, std::string_view file)
      : value_(&document), path_(file) {}

  /// A member of an object; absent where there is none, where it is null, and where this is no
  /// object.
  [[nodiscard]] JsonPart operator[](std::string_view key) const;

  [[nodiscard]] bool present() const { return value_ != nullptr; }

  /// Where it stands: "tokenizer.json: model.merges[3]".
  [[nodiscard]] const std::string& path() const { return path_; }

  /// The value in its type; an error where it is absent or of another type.
  [[nodiscard]] absl::StatusOr<std::string> String() const;
  [[nodiscard]] absl::StatusOr<std::int32_t> Id() const;
  [[nodiscard]] absl::StatusOr<double> Number() const;
  [[nodiscard]] absl::StatusOr<std::vector<JsonPart>> List() const;
  [[nodiscard]] absl::StatusOr<const nlohmann::json::object_t*> Object() const;

  /// The same, with a value for absent.
  [[nodiscard]] absl::StatusOr<std::string> StringOr(std::string_view fallback) const;
  [[nodiscard]] absl::StatusOr<bool> BoolOr(bool fallback) const;

  /// "tokenizer.json: model.merges[3] <what>".
  [[nodiscard]] absl::Status Invalid(std::string_view what) const;

  /// "tokenizer.json: model.type Unigram is not supported; supported: BPE".
  [[nodiscard]] absl::Status Unsupported(std::string_view value, std::string_view supported) const;

 private:
  JsonPart(const nlohmann::json* value, std::string path) : value_(value), path_(std::move(path)) {}

  [[nodiscard]] absl::Status WrongType(std::string_view wanted) const;

  const nlohmann::json* value_;
  std::string path_;
};

/// Reads a JSON file of at most 256 MB and of sane depth.
[[nodiscard]] absl::StatusOr<nlohmann::json> ReadJsonFile(const std::filesystem::path& file);

/// Parses JSON that may be hostile: INVALID_ARGUMENT without a reason, saying where and what. A key
/// that an object has twice is refused: which of the two is meant nobody can tell.
[[nodiscard]] absl::StatusOr<nlohmann::json> ParseJson(std::string_view text);

}  // namespace teq::text
