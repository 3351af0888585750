#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace teq::queue {

/// A token that clients carry and must not read: `payload` with a checksum, safe in URLs. The
/// checksum finds mistakes, not forgers: what the payload says is checked again where it is used.
[[nodiscard]] std::string EncodeToken(std::string_view payload);

/// The payload; nothing where `token` was not made by EncodeToken.
[[nodiscard]] std::optional<std::string> DecodeToken(std::string_view token);

}  // namespace teq::queue
