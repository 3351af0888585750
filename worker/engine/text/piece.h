#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace teq::text {

/// A part of a text on its way to ids.
struct Piece {
  std::string text;
  /// Set for an added token, which no later step touches.
  std::optional<std::int32_t> id;
  /// Whether it begins where the whole text does.
  bool at_start = false;
};

}  // namespace teq::text
