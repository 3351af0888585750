#include "client/cli/watch_view.h"

#include <algorithm>
#include <utility>

#include "client/cli/render.h"
#include "client/cli/text.h"
#include "fmt/format.h"
#include "proto/spec/json.h"

namespace teq::cli {
namespace {

using teq::v1::Job;
using teq::v1::PerplexitySample;

constexpr auto kTrainingLineInterval = std::chrono::seconds(2);
constexpr int kStages = 8;
constexpr int kWidestBar = 40;
constexpr int kNarrowestBar = 5;

void ForgetAttempt(WatchState& state) {
  state.job.clear_progress();
  state.job.clear_latest_metrics();
  state.perplexities.clear();
}

void ApplyStateChange(const teq::v1::StateChange& change, WatchState& state) {
  if (change.to() == Job::STATE_RUNNING && change.fence() != state.job.fence()) {
    ForgetAttempt(state);
  }
  state.job.set_state(change.to());
  state.job.set_status_message(change.message());
  state.job.set_worker(change.worker());
  if (change.fence() != 0) state.job.set_fence(change.fence());
}

void ApplyPerplexity(const PerplexitySample& sample, WatchState& state) {
  const auto same = [&sample](const PerplexitySample& known) {
    return known.dataset() == sample.dataset() && known.phase() == sample.phase();
  };
  const auto known = std::ranges::find_if(state.perplexities, same);
  if (known == state.perplexities.end()) {
    state.perplexities.push_back(sample);
  } else {
    *known = sample;
  }
}

void ApplyEvent(const teq::v1::JobEvent& event, WatchState& state) {
  switch (event.payload_case()) {
    case teq::v1::JobEvent::kStateChange:
      return ApplyStateChange(event.state_change(), state);
    case teq::v1::JobEvent::kProgress:
      *state.job.mutable_progress() = event.progress();
      return;
    case teq::v1::JobEvent::kSample:
      *state.job.mutable_latest_metrics() = event.sample();
      return;
    case teq::v1::JobEvent::kPerplexity:
      return ApplyPerplexity(event.perplexity(), state);
    case teq::v1::JobEvent::kAttributeChange:
      state.job.set_priority(event.attribute_change().priority());
      *state.job.mutable_labels() = event.attribute_change().labels();
      return;
    case teq::v1::JobEvent::PAYLOAD_NOT_SET:
      return;
  }
}

const char* PhaseName(PerplexitySample::Phase phase) {
  switch (phase) {
    case PerplexitySample::PHASE_FULL_PRECISION:
      return "float";
    case PerplexitySample::PHASE_ROUND_TO_NEAREST:
      return "RTN";
    case PerplexitySample::PHASE_QUANTIZED:
      return "quantized";
    default:
      return "unknown";
  }
}

std::string StageText(teq::v1::Stage stage) {
  if (stage == teq::v1::STAGE_UNSPECIFIED) return "";
  return fmt::format("{} {}/{}", ShortEnumName(teq::v1::Stage_descriptor(), stage),
                     static_cast<int>(stage), kStages);
}

bool IsTraining(const WatchState& state) {
  return state.job.progress().stage() == teq::v1::STAGE_TRANSFORM &&
         state.job.latest_metrics().total_steps() > 0;
}

// The share of the stage that is done; negative where it is not known.
double StageFraction(const WatchState& state) {
  const auto& progress = state.job.progress();
  const auto& sample = state.job.latest_metrics();
  double fraction = -1;
  if (progress.total() > 0) {
    fraction = static_cast<double>(progress.done()) / static_cast<double>(progress.total());
  }
  // Samples come more often than progress does.
  if (IsTraining(state)) {
    fraction = std::max(fraction, static_cast<double>(sample.step()) / sample.total_steps());
  }
  return std::min(fraction, 1.0);
}

// What follows the bar: "step 90/200  loss 0.12345  1.2k tokens/s  1m20s left".
std::string StageFigures(const WatchState& state) {
  const auto& progress = state.job.progress();
  std::string text;
  const auto add = [&text](const std::string& figure) {
    text += (text.empty() ? "" : "  ") + figure;
  };
  if (IsTraining(state)) {
    const auto& sample = state.job.latest_metrics();
    add(fmt::format("step {}/{}", sample.step(), sample.total_steps()));
    add(fmt::format("loss {:.5g}", sample.loss()));
    if (sample.tokens_per_second() > 0) {
      add(fmt::format("{} tokens/s", RateText(sample.tokens_per_second())));
    }
  } else if (progress.total() > 0) {
    add(fmt::format("{}/{} {}", progress.done(), progress.total(), Printable(progress.unit())));
  }
  if (progress.has_remaining_seconds()) {
    add(fmt::format("{} left", DurationText(progress.remaining_seconds())));
  }
  return text;
}

std::string Bar(double fraction, int width) {
  const int filled = std::clamp(static_cast<int>(fraction * width), 0, width);
  return fmt::format("[{}{}]", std::string(static_cast<std::size_t>(filled), '#'),
                     std::string(static_cast<std::size_t>(width - filled), '-'));
}

// Stage, bar and figures; the bar takes the room that the others leave.
std::string StageLine(const WatchState& state, int width) {
  const std::string stage = StageText(state.job.progress().stage());
  if (stage.empty()) return "";
  const std::string figures = StageFigures(state);
  const double fraction = StageFraction(state);
  if (fraction < 0) return figures.empty() ? stage : fmt::format("{}  {}", stage, figures);
  const std::string percent = fmt::format("{:3.0f} %", 100 * fraction);
  const int others = static_cast<int>(Columns(stage) + Columns(percent) + Columns(figures)) + 7;
  const int bar = std::min(kWidestBar, width - 1 - others);
  if (bar < kNarrowestBar) return fmt::format("{}{}  {}", stage, percent, figures);
  return fmt::format("{} {} {}  {}", stage, Bar(fraction, bar), percent, figures);
}

// One line for each text: "perplexity of /data/test.txt: float 12.3, RTN 14.5".
std::vector<std::string> PerplexityLines(const WatchState& state) {
  std::vector<std::pair<std::string, std::string>> by_dataset;
  for (const auto& sample : state.perplexities) {
    const std::string figure =
        fmt::format("{} {}", PhaseName(sample.phase()), PerplexityText(sample.value()));
    const std::string place = PlaceText(sample.dataset());
    const auto known =
        std::ranges::find(by_dataset, place, &std::pair<std::string, std::string>::first);
    if (known == by_dataset.end()) {
      by_dataset.emplace_back(place, figure);
    } else {
      known->second += ", " + figure;
    }
  }
  std::vector<std::string> lines;
  lines.reserve(by_dataset.size());
  for (const auto& [place, figures] : by_dataset) {
    lines.push_back(fmt::format("perplexity of {}: {}", place, figures));
  }
  return lines;
}

std::string StateLine(const Job& job) {
  std::string line = fmt::format("{}  {}", Printable(job.name()), StateName(job.state()));
  if (!job.worker().empty()) line += fmt::format(" on {}", Printable(job.worker()));
  if (!job.status_message().empty()) line += fmt::format(": {}", Printable(job.status_message()));
  return line;
}

}  // namespace

void Apply(const teq::v1::WatchJobResponse& message, WatchState& state) {
  state.connected = true;
  if (message.has_snapshot()) {
    // Perplexities have no place in a job before its report; those known of this lease are kept.
    if (message.snapshot().fence() != state.job.fence()) state.perplexities.clear();
    state.job = message.snapshot();
  } else if (message.has_event()) {
    ApplyEvent(message.event(), state);
  }
}

std::vector<std::string> LiveLines(const WatchState& state, int width) {
  std::vector<std::string> lines = {StateLine(state.job)};
  if (std::string stage = StageLine(state, width); !stage.empty()) {
    lines.push_back(std::move(stage));
  }
  std::ranges::move(PerplexityLines(state), std::back_inserter(lines));
  if (!state.connected) lines.emplace_back("connection lost; trying again");
  const auto room = static_cast<std::size_t>(std::max(width - 1, 1));
  for (std::string& line : lines) line = Cut(line, room);
  return lines;
}

int RowsOf(const std::vector<std::string>& lines, int width) {
  const int columns = std::max(width, 1);
  int rows = 0;
  for (const std::string& line : lines) {
    rows += std::max(1, (static_cast<int>(Columns(line)) + columns - 1) / columns);
  }
  return rows;
}

std::string LiveDisplay::Clear(int width) {
  if (shown_.empty()) return "";
  // The terminal may have become narrower and wrapped what stands there.
  const int rows = RowsOf(shown_, width);
  shown_.clear();
  return fmt::format("\r\x1b[{}A\x1b[J", rows);
}

std::string LiveDisplay::Frame(const WatchState& state, int width) {
  std::vector<std::string> lines = LiveLines(state, width);
  if (lines == shown_ && width == shown_width_) return "";
  std::string frame = Clear(width);
  shown_ = std::move(lines);
  shown_width_ = width;
  for (const std::string& line : shown_) frame += line + "\n";
  return frame;
}

std::string PlainLog::TrainingLine(const WatchState& state, SteadyTime now) {
  if (!IsTraining(state)) return "";
  const auto& sample = state.job.latest_metrics();
  const auto tenth = [&sample](int step) { return std::int64_t{10} * step / sample.total_steps(); };
  if (sample.step() == told_sample_.step()) return "";
  if (tenth(sample.step()) == tenth(told_sample_.step()) &&
      now - last_training_line_ < kTrainingLineInterval) {
    return "";
  }
  last_training_line_ = now;
  told_sample_ = sample;
  return StageFigures(state) + "\n";
}

std::string PlainLog::Advance(const WatchState& state, SteadyTime now) {
  std::string lines;
  const Job& job = state.job;
  if (state.connected != told_connected_) {
    lines += state.connected ? "connected again\n" : "connection lost; trying again\n";
    told_connected_ = state.connected;
  }
  const bool new_lease = told_ && told_->fence() != job.fence();
  if (!told_ || told_->state() != job.state() || new_lease) lines += StateLine(job) + "\n";
  if (new_lease || told_perplexities_ > state.perplexities.size()) told_perplexities_ = 0;
  const auto stage = job.progress().stage();
  if ((!told_ || told_->progress().stage() != stage) && stage != teq::v1::STAGE_UNSPECIFIED) {
    lines += StageText(stage) + "\n";
  }
  if (new_lease) told_sample_.Clear();
  told_ = job;
  lines += TrainingLine(state, now);
  for (; told_perplexities_ < state.perplexities.size(); ++told_perplexities_) {
    const auto& sample = state.perplexities[told_perplexities_];
    lines += fmt::format("perplexity of {}: {} {}\n", PlaceText(sample.dataset()),
                         PhaseName(sample.phase()), PerplexityText(sample.value()));
  }
  return lines;
}

}  // namespace teq::cli
