#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "teq/v1/job_service.pb.h"

/// What a watch knows, and how it looks. Pure.
namespace teq::cli {

using SteadyTime = std::chrono::steady_clock::time_point;

/// All that the messages of a watch have said so far.
struct WatchState {
  teq::v1::Job job;  // name, state, status_message, progress, latest_metrics, worker, fence
  std::vector<teq::v1::PerplexitySample> perplexities;  // of the current attempt
  bool connected = true;
};

/// Takes one message in. A new lease forgets what the one before measured.
void Apply(const teq::v1::WatchJobResponse& message, WatchState& state);

/// The lines of the display on a terminal of `width` columns; none is wider than width - 1.
[[nodiscard]] std::vector<std::string> LiveLines(const WatchState& state, int width);

/// Terminal rows that `lines` take where one row has `width` columns.
[[nodiscard]] int RowsOf(const std::vector<std::string>& lines, int width);

/// Draws in place: each frame is the text that replaces the one before; empty where nothing
/// changed.
class LiveDisplay {
 public:
  [[nodiscard]] std::string Frame(const WatchState& state, int width);

  /// Removes the last frame.
  [[nodiscard]] std::string Clear(int width);

 private:
  std::vector<std::string> shown_;
  int shown_width_ = 0;
};

/// A log for files and pipes: a line for each change of state or stage and each perplexity, and one
/// of the training every 2 s or at each tenth of its steps.
class PlainLog {
 public:
  /// The lines that `state` adds to what was said before, each with its newline.
  [[nodiscard]] std::string Advance(const WatchState& state, SteadyTime now);

 private:
  [[nodiscard]] std::string TrainingLine(const WatchState& state, SteadyTime now);

  std::optional<teq::v1::Job> told_;
  teq::v1::MetricSample told_sample_;  // of this lease
  std::size_t told_perplexities_ = 0;
  bool told_connected_ = true;
  SteadyTime last_training_line_{};
};

}  // namespace teq::cli
