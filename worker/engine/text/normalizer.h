#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/engine/text/json_part.h"
#include "worker/engine/text/piece.h"

namespace teq::text {

/// One normalization of a piece's text. Thread-safe.
using NormalizerStep = std::function<absl::Status(Piece&)>;

/// The steps of tokenizer.json's `normalizer`; none where it is absent.
[[nodiscard]] absl::StatusOr<std::vector<NormalizerStep>> ParseNormalizer(const JsonPart& part);

}  // namespace teq::text
