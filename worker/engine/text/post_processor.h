#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/engine/text/json_part.h"

namespace teq::text {

/// What stands before and after a text's ids.
struct Affixes {
  std::vector<std::int32_t> prefix;
  std::vector<std::int32_t> suffix;
};

/// What tokenizer.json's `post_processor` adds to a single text; nothing where it is absent.
[[nodiscard]] absl::StatusOr<Affixes> ParsePostProcessor(const JsonPart& part);

}  // namespace teq::text
