#pragma once

#include <cstddef>
#include <filesystem>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/model_info/layout.h"
#include "proto/spec/validate.h"
#include "teq/v1/job.pb.h"

namespace teq::model_info {

/// A linear layer and the grid that the recipe gives it.
struct PlannedLayer {
  LinearLayer layer;
  LayerGrid grid;
};

/// The grid of every linear layer under a recipe with defaults, in LinearLayers' order; where
/// BitsAreOpen, with provisional bits. Whether the formats can hold it, CheckFormats says.
///
/// INVALID_ARGUMENT: GROUP_SIZE_MISMATCH where group_size does not divide a layer's inputs; names
/// the layers and the override that would leave them float. INVALID_SPEC for an override that
/// matches no layer, or a recipe that leaves every layer float.
[[nodiscard]] absl::StatusOr<std::vector<PlannedLayer>> PlanLayers(const teq::v1::JobSpec& spec,
                                                                   const ModelConfig& config);

/// The layers whose bits target_bits chooses, as indices of the plan; together those that servers
/// load as one, which get the same bits.
[[nodiscard]] std::vector<std::vector<std::size_t>> OpenSets(const teq::v1::Recipe& recipe,
                                                             const std::vector<PlannedLayer>& plan);

/// Everything that a checkpoint's headers can tell about a job: config.json, tensors, PlanLayers,
/// CheckFormats, CheckMemoryLimit.
/// For CreateJob, where the server can read the model's directory, and for FETCH.
[[nodiscard]] absl::Status CheckModel(const teq::v1::JobSpec& spec,
                                      const std::filesystem::path& directory);

}  // namespace teq::model_info
