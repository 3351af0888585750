#pragma once

#include <string>

#include "client/cli/commands.h"
#include "client/cli/terminal.h"

namespace teq::cli {

/// Writes what a job with `preset` does, every default written out: for people as a job file would
/// say it, with kJson and kYaml the Recipe itself. An empty `preset` lists the presets. Needs no
/// server. `preset` is a name in any case; another one is kInvalid with reason UNKNOWN_PRESET and
/// the known names.
[[nodiscard]] ExitCode ShowRecipe(const Terminal& terminal, Format format,
                                  const std::string& preset);

}  // namespace teq::cli
