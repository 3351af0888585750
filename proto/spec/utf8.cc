#include "proto/spec/utf8.h"

#include <algorithm>

#include "nlohmann/json.hpp"

namespace teq {

bool IsUtf8(std::string_view text) {
  if (std::ranges::all_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x80; })) {
    return true;
  }
  try {
    // The strict writer is the checker.
    (void)nlohmann::json(text).dump();
    return true;
  } catch (const nlohmann::json::exception&) {
    return false;
  }
}

}  // namespace teq
