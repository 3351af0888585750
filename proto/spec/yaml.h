#pragma once

#include <string>
#include <string_view>

#include "nlohmann/json.hpp"

namespace teq {

/// What a plain (unquoted) scalar means by YAML 1.2's core schema: null, a boolean, an integer, a
/// number, else a string. An integer beyond 64 bits becomes a double.
[[nodiscard]] nlohmann::ordered_json ReadPlainScalar(std::string_view text);

/// What stands at the top level of a YAML mapping, as it is written: an object of texts and lists
/// of texts; nested values are left out. Null for a text that is no YAML mapping.
[[nodiscard]] nlohmann::ordered_json ReadYamlTexts(std::string_view text);

/// `json` as a YAML document. A string that some YAML reader would take for another type is quoted.
[[nodiscard]] std::string WriteYaml(const nlohmann::ordered_json& json);

}  // namespace teq
