#pragma once

#include <string>
#include <vector>

#include "client/model_info/model_config.h"
#include "client/model_info/plan.h"

namespace teq::pack {

/// Linear layers of one grid that lie in one module, or by the same names in experts of one block:
/// what one regular expression can tell from all other layers of the model. Loaders try the
/// expressions of a configuration one after the other for each module, and a mixture has thousands.
struct ModuleSet {
  LayerGrid grid;
  std::vector<const model_info::LinearLayer*> layers;  // in the plan's order
  // Expressions, without dots between them: parent.name, or parent.experts.name.
  std::string parent;              // as ModulePattern's, from its start
  std::string experts;             // the numbers of these experts, "\d+" for all; empty: of none
  std::vector<std::string> names;  // by which the layers are called there, each once
};

/// All linear layers of the model, each in one set, in the order of the sets' first layers. The
/// sets refer to `plan`.
[[nodiscard]] std::vector<ModuleSet> ModuleSets(const model_info::ModelConfig& config,
                                                const std::vector<model_info::PlannedLayer>& plan);

/// An expression that matches any of these.
[[nodiscard]] std::string AnyOf(const std::vector<std::string>& expressions);

}  // namespace teq::pack
