#pragma once

#include <string>

#include "teq/v1/report.pb.h"
#include "worker/engine/report/layer_grid.h"

// The parts of the page, in its order. Each is markup, and empty where the report has nothing for
// it.
namespace teq::report {

/// What ran on what, and the result in a sentence.
[[nodiscard]] std::string HeadSection(const teq::v1::Report& report);

/// Perplexities and accuracies with their standard errors.
[[nodiscard]] std::string QualitySection(const teq::v1::Report& report);

/// Which layers need the transformation, and why: what each gained beside how far its scales
/// travelled, and what that comes to in words.
[[nodiscard]] std::string TransformSection(const teq::v1::Report& report, const LayerGrid& grid);

/// Output errors against plain rounding.
[[nodiscard]] std::string ErrorSection(const LayerGrid& grid);

/// Distributions of the scales.
[[nodiscard]] std::string ScaleSection(const teq::v1::Report& report);

/// Losses, of all blocks together and of each.
[[nodiscard]] std::string TrainingSection(const teq::v1::Report& report);

/// Bits, sensitivities, clipping and changed codes.
[[nodiscard]] std::string CodeSection(const LayerGrid& grid);

/// The recipe as YAML.
[[nodiscard]] std::string RecipeSection(const teq::v1::Report& report);

/// Times, memory, inputs and what was published.
[[nodiscard]] std::string RunSection(const teq::v1::Report& report);

}  // namespace teq::report
