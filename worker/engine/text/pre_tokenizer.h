#pragma once

#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/engine/text/json_part.h"
#include "worker/engine/text/piece.h"

namespace teq::text {

/// One cut of pieces into smaller ones; added tokens pass. Thread-safe.
using PreTokenizerStep = std::function<absl::Status(std::vector<Piece>&)>;

/// The steps of tokenizer.json's `pre_tokenizer`; none where it is absent.
[[nodiscard]] absl::StatusOr<std::vector<PreTokenizerStep>> ParsePreTokenizer(const JsonPart& part);

}  // namespace teq::text
