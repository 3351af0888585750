#pragma once

#include <chrono>
#include <functional>
#include <iosfwd>
#include <string>

namespace teq::cli {

/// What teqctl stands on. Tests replace all of it.
struct Terminal {
  std::istream& in;
  std::ostream& out;
  std::ostream& err;
  bool out_is_terminal = false;
  bool err_is_terminal = false;
  /// Columns of the terminal now; it may change.
  std::function<int()> width;
  std::function<std::chrono::steady_clock::time_point()> now;
  std::function<void(std::chrono::milliseconds)> sleep;
  /// Whether the user asked to stop (Ctrl-C). Asked for only while a job is watched.
  std::function<bool()> interrupted;
  /// TRACEPARENT of the environment: the trace that this call belongs to.
  std::string traceparent;
};

}  // namespace teq::cli
