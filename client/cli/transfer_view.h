#pragma once

#include <cstdint>
#include <string>

#include "client/cli/terminal.h"
#include "client/cli/watch_view.h"

namespace teq::cli {

/// How far a transfer is.
struct TransferState {
  std::string what;  // "pull"
  std::uint64_t done = 0;
  std::uint64_t total = 0;
  double seconds = 0;  // since its start
};

/// One line of at most width - 1 columns: "pull  [####----]  50 %  1.0 GiB of 2.0 GiB  120.0 MiB/s
/// 9s left". Pure.
[[nodiscard]] std::string TransferLine(const TransferState& state, int width);

/// Draws a transfer in place on standard error where that is a terminal, a few times a second.
/// Clears the line at the end.
class TransferDisplay {
 public:
  TransferDisplay(const Terminal& terminal, std::string what);
  ~TransferDisplay();
  TransferDisplay(const TransferDisplay&) = delete;
  TransferDisplay& operator=(const TransferDisplay&) = delete;

  void Show(std::uint64_t done, std::uint64_t total);

 private:
  const Terminal& terminal_;
  const SteadyTime start_;
  TransferState state_;
  SteadyTime shown_{};
  bool is_drawn_ = false;
};

}  // namespace teq::cli
