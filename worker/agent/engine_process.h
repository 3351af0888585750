#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "boost/asio/io_context.hpp"
#include "teq/v1/engine.pb.h"

namespace teq::agent {

/// A child process that runs one job, or measures the devices (see engine_host.h). All calls and
/// handlers belong to the io_context's one thread; the child dies with the thread that called
/// Start. What it has started itself, and has not left its process group, is killed when it ends.
class EngineProcess {
 public:
  struct Handlers {
    std::function<void(const teq::v1::EngineEvent&)> on_event;
    /// Once, after the last event: how the process ended, such as "exited with code 1" or "was
    /// killed by signal 9 (Killed)".
    std::function<void(const std::string& how)> on_exit;
    /// A line that the process, or one that it started, printed, without its end; before on_exit.
    /// Longer ones come in parts.
    std::function<void(const std::string& line)> on_line;
  };

  /// Starts `command` (program and arguments) with the socket pair's end as descriptor 3 and no
  /// other inherited one; what it prints goes to on_line. Sends `start`. INTERNAL,
  /// ENGINE_NOT_STARTED, names the program.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<EngineProcess>> Start(
      boost::asio::io_context& io, const std::vector<std::string>& command,
      const teq::v1::StartRun& start, Handlers handlers);
  /// The same, but sends `calibrate`.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<EngineProcess>> Calibrate(
      boost::asio::io_context& io, const std::vector<std::string>& command, Handlers handlers);

  /// Kills the process if it lives, and waits for its end. Tells its last lines; then no handler is
  /// called any more.
  ~EngineProcess();
  EngineProcess(const EngineProcess&) = delete;
  EngineProcess& operator=(const EngineProcess&) = delete;

  /// Asks the run to stop.
  void Cancel();
  /// SIGKILL.
  void Kill();

  [[nodiscard]] pid_t pid() const;

 private:
  class Child;
  explicit EngineProcess(std::shared_ptr<Child> child);
  static absl::StatusOr<std::unique_ptr<EngineProcess>> StartWith(
      boost::asio::io_context& io, const std::vector<std::string>& command,
      const teq::v1::EngineCommand& first, Handlers handlers);
  std::shared_ptr<Child> child_;
};

}  // namespace teq::agent
