#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/model_info/model_config.h"
#include "worker/engine/model/block_runner.h"
#include "worker/engine/text/tokenizer.h"

namespace teq::eval {

/// One choice of an example, after the example's context.
struct Choice {
  std::vector<std::int32_t> ids;   // context and choice, at most max_positions + 1
  std::int64_t choice_tokens = 0;  // how many at the end are the choice's; at least 1, and one
                                   // token stands before them
  std::int64_t bytes = 0;          // of the choice's text without white space at its start
};

/// A question with choices, of which one is right.
struct Example {
  std::vector<Choice> choices;  // at least 2
  std::size_t answer = 0;
};

/// A task of multiple choices.
struct Task {
  std::string uri;
  std::vector<Example> examples;  // at least 1
};

/// Reads a task: JSON lines of {"context": text, "choices": [text], "answer": index from 0}; other
/// keys are ignored, blank lines too. The tokens are lm-eval's: white space at the context's end
/// belongs to the choice, context and choice are encoded together, and the choice's tokens are
/// those beyond the number of the context's own. The tokenizer's special tokens stand before the
/// context, none after the choice. What is longer than the model's positions loses tokens from the
/// left, but not those special ones where the model has them in every window.
///
/// NOT_FOUND, TASK_NOT_FOUND. INVALID_ARGUMENT, INVALID_TASK: names file, line, field and value.
[[nodiscard]] absl::StatusOr<Task> ReadTask(const std::string& uri,
                                            const std::filesystem::path& file,
                                            const text::Tokenizer& tokenizer,
                                            const model_info::ModelConfig& config);

/// What a model made of a task.
struct TaskScores {
  std::vector<bool> correct;  // by example

  [[nodiscard]] double Accuracy() const;
};

/// Called after every batch with the choices done.
using TaskCallback = std::function<void(std::int64_t done, std::int64_t total)>;

/// Ranks the choices of every example by the log-likelihood of their tokens divided by `bytes`:
/// lm-eval's acc_norm with its default delimiter, a space, except that lm-eval counts characters.
/// Of equal choices the first ranks first; one that is not a number never does. CANCELLED,
/// CANCELLED.
[[nodiscard]] absl::StatusOr<TaskScores> ScoreTask(const model::Decoder& decoder, const Task& task,
                                                   const TaskCallback& on_batch,
                                                   const std::atomic<bool>& cancelled);

/// Standard error of the accuracy, sqrt(p (1 - p) / (n - 1)). 0 for fewer than two examples.
[[nodiscard]] double StandardError(const TaskScores& scores);

/// Standard error of the difference of two accuracies on the same task, paired by example. 0 for
/// fewer than two examples.
[[nodiscard]] double PairedStandardError(const TaskScores& a, const TaskScores& b);

}  // namespace teq::eval
