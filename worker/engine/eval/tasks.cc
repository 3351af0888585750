#include "worker/engine/eval/tasks.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "client/objects/file.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/cancellation.h"
#include "worker/engine/model/head_loss.h"
#include "worker/engine/text/data_error.h"
#include "worker/engine/text/json_lines.h"

namespace teq::eval {
namespace {

using torch::Tensor;

// Tokens that run at once, padding included; bounds the memory of the logits.
constexpr std::int64_t kBatchTokens = 2048;
constexpr std::string_view kWhiteSpace = " \t\n\r\f\v";

absl::Status InvalidTask(std::string_view where, std::string_view what) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_TASK",
               fmt::format("{}: {}", where, what));
}

// ---- Reading ----

absl::StatusOr<std::string> ReadBytes(const std::filesystem::path& file) {
  absl::StatusOr<std::string> bytes = objects::ReadFile(file);
  if (bytes.ok()) return bytes;
  const std::string message(bytes.status().message());
  if (absl::IsNotFound(bytes.status())) {
    return Error(absl::StatusCode::kNotFound, "TASK_NOT_FOUND", message);
  }
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_TASK", message);
}

// What a line says.
struct Line {
  std::string context;
  std::vector<std::string> choices;
  std::size_t answer = 0;
};

absl::StatusOr<Line> ParseLine(std::string_view where, const nlohmann::json& json) {
  if (!json.is_object()) {
    return InvalidTask(where, "must be an object with context, choices and answer");
  }
  for (const char* key : {"context", "choices", "answer"}) {
    if (!json.contains(key)) return InvalidTask(where, fmt::format("{} is missing", key));
  }
  Line line;
  const auto& context = json.at("context");
  if (!context.is_string()) return InvalidTask(where, "context is not a string");
  line.context = context.get<std::string>();

  const auto& choices = json.at("choices");
  if (!choices.is_array()) return InvalidTask(where, "choices is not a list");
  if (choices.size() < 2) {
    return InvalidTask(where, fmt::format("choices has {} texts; give at least 2", choices.size()));
  }
  for (std::size_t i = 0; i < choices.size(); ++i) {
    if (!choices[i].is_string()) {
      return InvalidTask(where, fmt::format("choices[{}] is not a string", i));
    }
    line.choices.push_back(choices[i].get<std::string>());
    if (line.choices.back().find_first_not_of(kWhiteSpace) == std::string::npos) {
      return InvalidTask(where, fmt::format("choices[{}] is empty", i));
    }
  }

  const auto& answer = json.at("answer");
  if (!answer.is_number_unsigned() || answer.get<std::uint64_t>() >= choices.size()) {
    return InvalidTask(where, fmt::format("answer is {}; give a whole number from 0 to {}",
                                          answer.is_number() ? answer.dump() : answer.type_name(),
                                          choices.size() - 1));
  }
  line.answer = answer.get<std::size_t>();
  return line;
}

// Makes the tokens of lines for one model.
struct Encoder {
  const text::Tokenizer& tokenizer;
  const model_info::ModelConfig& config;

  absl::StatusOr<std::vector<std::int32_t>> Encode(std::string_view where,
                                                   std::string_view text) const {
    TEQ_ASSIGN_OR_RETURN(const auto own, text::EncodeText(tokenizer, "INVALID_TASK", where, text,
                                                          config.vocabulary_size));
    std::vector<std::int32_t> ids = tokenizer.prefix();
    ids.insert(ids.end(), own.begin(), own.end());
    return ids;
  }

  // `index`: the choice's, for messages. `context_tokens`: of the text that `text` begins with.
  absl::StatusOr<Choice> EncodeChoice(std::string_view where, std::size_t index,
                                      std::string_view text, std::size_t context_tokens) const {
    Choice choice;
    TEQ_ASSIGN_OR_RETURN(choice.ids, Encode(where, text));
    if (choice.ids.size() <= context_tokens) {
      return InvalidTask(where,
                         fmt::format("choices[{}] adds no token to the context's; begin it with a "
                                     "space, or end the context with a whole word",
                                     index));
    }
    if (context_tokens == 0) {
      return InvalidTask(where,
                         "context is empty, and the tokenizer puts no token before a text; give a "
                         "context");
    }
    choice.choice_tokens = static_cast<std::int64_t>(choice.ids.size() - context_tokens);
    if (choice.choice_tokens > config.max_positions) {
      return InvalidTask(where, fmt::format("choices[{}] has {} tokens, more than the model's "
                                            "max_position_embeddings, {}; shorten it",
                                            index, choice.choice_tokens, config.max_positions));
    }
    // The last token is predicted and never read.
    const auto longest = static_cast<std::size_t>(config.max_positions) + 1;
    if (choice.ids.size() > longest) {
      // The context loses its beginning, but not the token that every text of the model begins
      // with.
      const std::size_t kept =
          config.prefix_in_every_window
              ? std::min(tokenizer.prefix().size(),
                         longest - static_cast<std::size_t>(choice.choice_tokens))
              : 0;
      const auto first = choice.ids.begin() + static_cast<std::ptrdiff_t>(kept);
      choice.ids.erase(first, first + static_cast<std::ptrdiff_t>(choice.ids.size() - longest));
    }
    return choice;
  }

  absl::StatusOr<Example> EncodeLine(std::string_view where, const Line& line) const {
    // npos + 1 is 0: a context of white space only.
    const std::string_view context =
        std::string_view(line.context).substr(0, line.context.find_last_not_of(kWhiteSpace) + 1);
    TEQ_ASSIGN_OR_RETURN(const auto context_ids, Encode(where, context));
    Example example{.answer = line.answer};
    for (std::size_t i = 0; i < line.choices.size(); ++i) {
      const std::string& text = line.choices[i];
      TEQ_ASSIGN_OR_RETURN(Choice choice,
                           EncodeChoice(where, i, line.context + text, context_ids.size()));
      choice.bytes = static_cast<std::int64_t>(text.size() - text.find_first_not_of(kWhiteSpace));
      example.choices.push_back(std::move(choice));
    }
    return example;
  }
};

// ---- Scoring ----

// A choice and its place in the task.
struct Item {
  const Choice* choice;
  std::size_t place;
};

// Inputs: every token but the last, which is only predicted.
std::int64_t InputLength(const Choice& choice) {
  return static_cast<std::int64_t>(choice.ids.size()) - 1;
}

// The items in batches of like length, the longest first in each.
std::vector<std::vector<Item>> MakeBatches(const Task& task) {
  std::vector<Item> items;
  for (const Example& example : task.examples) {
    for (const Choice& choice : example.choices) items.push_back({&choice, items.size()});
  }
  std::ranges::stable_sort(items, std::ranges::greater(),
                           [](const Item& item) { return InputLength(*item.choice); });
  std::vector<std::vector<Item>> batches;
  std::int64_t padded = 0;
  for (const Item& item : items) {
    if (batches.empty() || (std::ssize(batches.back()) + 1) * padded > kBatchTokens) {
      batches.emplace_back();
      padded = InputLength(*item.choice);
    }
    batches.back().push_back(item);
  }
  return batches;
}

// Inputs, int64 [batch, longest], padded to the right: a causal model's outputs do not see it.
Tensor InputsOf(const std::vector<Item>& batch) {
  const auto count = static_cast<std::int64_t>(batch.size());
  Tensor inputs = torch::zeros({count, InputLength(*batch.front().choice)}, torch::kInt64);
  auto values = inputs.accessor<std::int64_t, 2>();
  for (std::int64_t row = 0; row < count; ++row) {
    const Choice& choice = *batch[static_cast<std::size_t>(row)].choice;
    for (std::int64_t i = 0; i < InputLength(choice); ++i) {
      values[row][i] = choice.ids[static_cast<std::size_t>(i)];
    }
  }
  return inputs;
}

// The log-likelihood of each choice's tokens, nats.
absl::StatusOr<std::vector<double>> LogLikelihoods(const model::Decoder& decoder,
                                                   const std::vector<Item>& batch) {
  TEQ_ASSIGN_OR_RETURN(const Tensor states, model::HiddenStates(decoder, InputsOf(batch)));
  // Only the choices' tokens need logits.
  std::vector<Tensor> predicting;
  std::vector<std::int64_t> next;
  for (std::size_t row = 0; row < batch.size(); ++row) {
    const Choice& choice = *batch[row].choice;
    const std::int64_t end = InputLength(choice);
    predicting.push_back(
        states[static_cast<std::int64_t>(row)].slice(0, end - choice.choice_tokens, end));
    next.insert(next.end(), choice.ids.end() - choice.choice_tokens, choice.ids.end());
  }
  const Tensor token_losses =
      model::HeadTokenLosses(decoder, torch::cat(predicting), torch::tensor(next, torch::kInt64))
          .to(torch::kCPU, torch::kFloat64);
  std::vector<double> sums;
  std::int64_t begin = 0;
  for (const Item& item : batch) {
    const std::int64_t end = begin + item.choice->choice_tokens;
    sums.push_back(-token_losses.slice(0, begin, end).sum().item<double>());
    begin = end;
  }
  return sums;
}

// The choice with the largest score; none where no score is a number.
std::optional<std::size_t> Best(const Example& example, const double* log_likelihoods) {
  std::optional<std::size_t> best;
  double best_score = -std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < example.choices.size(); ++i) {
    const double score = log_likelihoods[i] / static_cast<double>(example.choices[i].bytes);
    if (score > best_score) {
      best = i;
      best_score = score;
    }
  }
  return best;
}

}  // namespace

absl::StatusOr<Task> ReadTask(const std::string& uri, const std::filesystem::path& file,
                              const text::Tokenizer& tokenizer,
                              const model_info::ModelConfig& config) {
  TEQ_ASSIGN_OR_RETURN(const std::string bytes, ReadBytes(file));
  const Encoder encoder{tokenizer, config};
  Task task{.uri = uri};
  TEQ_RETURN_IF_ERROR(text::ForEachJsonLine(
      file.string(), bytes, "INVALID_TASK",
      [&](std::string_view where, const nlohmann::json& json) -> absl::Status {
        TEQ_ASSIGN_OR_RETURN(const Line line, ParseLine(where, json));
        TEQ_ASSIGN_OR_RETURN(Example example, encoder.EncodeLine(where, line));
        task.examples.push_back(std::move(example));
        return absl::OkStatus();
      }));
  if (task.examples.empty()) {
    return InvalidTask(file.string(),
                       "holds no example; write lines of {\"context\", \"choices\", \"answer\"}");
  }
  return task;
}

double TaskScores::Accuracy() const {
  return static_cast<double>(std::ranges::count(correct, true)) /
         static_cast<double>(correct.size());
}

absl::StatusOr<TaskScores> ScoreTask(const model::Decoder& decoder, const Task& task,
                                     const TaskCallback& on_batch,
                                     const std::atomic<bool>& cancelled) {
  const torch::NoGradGuard no_gradient;
  const std::vector<std::vector<Item>> batches = MakeBatches(task);
  std::size_t total = 0;
  for (const auto& batch : batches) total += batch.size();
  std::vector<double> log_likelihoods(total);
  std::size_t done = 0;
  for (const std::vector<Item>& batch : batches) {
    TEQ_RETURN_IF_ERROR(CheckCancelled(cancelled));
    TEQ_ASSIGN_OR_RETURN(const std::vector<double> values, LogLikelihoods(decoder, batch));
    for (std::size_t i = 0; i < batch.size(); ++i) log_likelihoods[batch[i].place] = values[i];
    done += batch.size();
    on_batch(static_cast<std::int64_t>(done), static_cast<std::int64_t>(total));
  }
  TaskScores scores;
  const double* values = log_likelihoods.data();
  for (const Example& example : task.examples) {
    scores.correct.push_back(Best(example, values) == example.answer);
    values += example.choices.size();
  }
  return scores;
}

double StandardError(const TaskScores& scores) {
  if (scores.correct.size() < 2) return 0;
  const double accuracy = scores.Accuracy();
  return std::sqrt(accuracy * (1 - accuracy) / static_cast<double>(scores.correct.size() - 1));
}

double PairedStandardError(const TaskScores& a, const TaskScores& b) {
  const std::size_t count = a.correct.size();
  if (count < 2) return 0;
  // The differences are -1, 0 or 1, so the mean of their squares is the share that differs.
  std::size_t differing = 0;
  for (std::size_t i = 0; i < count; ++i) differing += a.correct[i] != b.correct[i] ? 1 : 0;
  const double mean_square = static_cast<double>(differing) / static_cast<double>(count);
  const double mean = a.Accuracy() - b.Accuracy();
  return std::sqrt((mean_square - mean * mean) / static_cast<double>(count - 1));
}

}  // namespace teq::eval
