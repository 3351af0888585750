#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "google/protobuf/message.h"
#include "nlohmann/json.hpp"

namespace teq {

/// A message as JSON: snake_case names in field order, zero values printed, unset messages and
/// unset `optional` fields left out, 64-bit integers as numbers, enums without their type's prefix
/// ("AWQ"), non-finite doubles as null, Timestamp and Duration as in protobuf's own JSON, bytes as
/// base64. google.protobuf.Any of a known type is expanded with "@type".
[[nodiscard]] nlohmann::ordered_json ToJson(const google::protobuf::Message& message);

/// The same as YAML text.
[[nodiscard]] std::string ToYaml(const google::protobuf::Message& message);

/// Reads JSON into `message`, which is cleared first. Accepts enum names with and without prefix,
/// durations as "90s", "15m", "6h", "7d" or protobuf's "1.5s".
///
/// INVALID_ARGUMENT, reason INVALID_JSON, with BadRequest: the path of the field
/// ("recipe.weights.bits", "recipe.overrides[1].match"), what is wrong, and for an unknown field or
/// enum value what is known.
[[nodiscard]] absl::Status FromJson(const nlohmann::ordered_json& json,
                                    google::protobuf::Message* message);

/// An enum value's name without its type's prefix; the number where it is unknown.
[[nodiscard]] std::string ShortEnumName(const google::protobuf::EnumDescriptor* type, int number);

}  // namespace teq
