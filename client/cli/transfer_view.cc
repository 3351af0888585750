#include "client/cli/transfer_view.h"

#include <algorithm>
#include <chrono>
#include <ostream>
#include <utility>

#include "client/cli/text.h"
#include "fmt/format.h"

namespace teq::cli {
namespace {

constexpr auto kInterval = std::chrono::milliseconds(100);
constexpr int kWidestBar = 30;
constexpr int kNarrowestBar = 5;

std::string Size(std::uint64_t bytes) { return BytesText(static_cast<std::int64_t>(bytes)); }

}  // namespace

std::string TransferLine(const TransferState& state, int width) {
  const double fraction =
      state.total > 0 ? static_cast<double>(state.done) / static_cast<double>(state.total) : 1.0;
  std::string figures =
      fmt::format("{:3.0f} %  {} of {}", 100 * fraction, Size(state.done), Size(state.total));
  if (state.seconds > 0 && state.done > 0) {
    const double rate = static_cast<double>(state.done) / state.seconds;
    figures += fmt::format("  {}/s", Size(static_cast<std::uint64_t>(rate)));
    if (state.done < state.total) {
      figures += fmt::format("  {} left",
                             DurationText(static_cast<double>(state.total - state.done) / rate));
    }
  }
  const int others = static_cast<int>(Columns(state.what) + Columns(figures)) + 6;
  const int bar = std::min(kWidestBar, width - 1 - others);
  std::string line = state.what + "  ";
  if (bar >= kNarrowestBar) {
    const auto filled = static_cast<std::size_t>(std::clamp(fraction, 0.0, 1.0) * bar);
    line += fmt::format("[{}{}]  ", std::string(filled, '#'),
                        std::string(static_cast<std::size_t>(bar) - filled, '-'));
  }
  return Cut(line + figures, static_cast<std::size_t>(std::max(width - 1, 1)));
}

TransferDisplay::TransferDisplay(const Terminal& terminal, std::string what)
    : terminal_(terminal), start_(terminal.now()) {
  state_.what = std::move(what);
}

TransferDisplay::~TransferDisplay() {
  if (is_drawn_) terminal_.err << "\r\x1b[K" << std::flush;
}

void TransferDisplay::Show(std::uint64_t done, std::uint64_t total) {
  if (!terminal_.err_is_terminal) return;
  const SteadyTime now = terminal_.now();
  if (is_drawn_ && now - shown_ < kInterval && done < total) return;
  shown_ = now;
  is_drawn_ = true;
  state_.done = done;
  state_.total = total;
  state_.seconds = std::chrono::duration<double>(now - start_).count();
  terminal_.err << "\r\x1b[K" << TransferLine(state_, terminal_.width()) << std::flush;
}

}  // namespace teq::cli
