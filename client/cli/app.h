#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "client/cli/commands.h"
#include "client/cli/terminal.h"

namespace teq::cli {

/// How a server is spoken to.
struct Stubs {
  std::unique_ptr<teq::v1::JobService::StubInterface> jobs;
  std::unique_ptr<teq::v1::ArtifactService::StubInterface> artifacts;
};

/// Makes the stubs of a server's address.
using Connector = std::function<Stubs(const std::string& server)>;

/// teqctl: reads `arguments` (without the program's name), runs the command and returns its exit
/// code.
/// `--server`, `--project` and `-o` may stand before or after the command; TEQ_SERVER names the
/// server where `--server` does not.
[[nodiscard]] ExitCode RunTeqctl(const std::vector<std::string>& arguments,
                                 const Terminal& terminal, const Connector& connect);

}  // namespace teq::cli
