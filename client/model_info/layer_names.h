#pragma once

#include <functional>
#include <string>
#include <vector>

#include "client/model_info/plan.h"

// How messages name layers.
namespace teq::model_info {

/// "a.b (172 inputs), a.c (172 inputs) and 6 more"; `detail` is what stands in the parentheses.
[[nodiscard]] std::string NameLayers(const std::vector<const PlannedLayer*>& layers,
                                     const std::function<std::string(const PlannedLayer&)>& detail);

/// The override that leaves the layers float: one pattern over the last parts of their names.
[[nodiscard]] std::string SkipOverride(const std::vector<const PlannedLayer*>& layers);

}  // namespace teq::model_info
