#include "worker/engine/eval/tasks.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <string>
#include <string_view>

#include "proto/spec/error.h"
#include "tests/unit/worker/engine/model/tiny_decoder.h"
#include "tests/unit/worker/engine/text/test_directory.h"

namespace teq::eval {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const TaskCallback kIgnore = [](std::int64_t, std::int64_t) {};
const std::atomic<bool> kNotCancelled{false};

// Letters are 1 to 26, a space 27, "th" 28, all else 29; 0 stands before a text.
class LetterTokenizer : public text::Tokenizer {
 public:
  explicit LetterTokenizer(std::vector<std::int32_t> prefix = {0}) : prefix_(std::move(prefix)) {}

  absl::StatusOr<std::vector<std::int32_t>> Encode(std::string_view text) const override {
    std::vector<std::int32_t> ids;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const char c = text[i];
      if (text.substr(i).starts_with("th")) {
        ids.push_back(28);
        ++i;
      } else if (c >= 'a' && c <= 'z') {
        ids.push_back(c - 'a' + 1);
      } else {
        ids.push_back(c == ' ' ? 27 : 29);
      }
    }
    return ids;
  }
  const std::vector<std::int32_t>& prefix() const override { return prefix_; }
  const std::vector<std::int32_t>& suffix() const override { return suffix_; }
  std::int64_t vocabulary_size() const override { return 30; }

 private:
  std::vector<std::int32_t> prefix_;
  std::vector<std::int32_t> suffix_ = {29};
};

// ---- Reading ----

class ReadTaskTest : public ::testing::Test {
 protected:
  absl::StatusOr<Task> Read(std::string_view bytes) {
    return ReadTask("file:///task.jsonl", directory_.Write("task.jsonl", bytes), tokenizer_,
                    config_);
  }

  void ExpectInvalid(std::string_view bytes, const std::string& part) {
    const auto task = Read(bytes);
    ASSERT_FALSE(task.ok()) << part;
    EXPECT_EQ(task.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(ErrorReason(task.status()), "INVALID_TASK");
    EXPECT_THAT(std::string(task.status().message()), HasSubstr(part));
  }

  text::TestDirectory directory_;
  LetterTokenizer tokenizer_;
  model_info::ModelConfig config_{.vocabulary_size = 64, .max_positions = 128};
};

TEST_F(ReadTaskTest, ChoicesTokensAreThoseBeyondTheContexts) {
  const auto task = Read(
      "{\"context\": \"ab\", \"choices\": [\" c\", \" de\"], \"answer\": 1, \"id\": \"x7\"}\n"
      "\n"
      "{\"context\": \"a\", \"choices\": [\"b\", \"c\", \"d\"], \"answer\": 0}\r\n");
  ASSERT_TRUE(task.ok()) << task.status();
  EXPECT_EQ(task->uri, "file:///task.jsonl");
  ASSERT_EQ(task->examples.size(), 2U);
  const Example& first = task->examples[0];
  EXPECT_EQ(first.answer, 1U);
  ASSERT_EQ(first.choices.size(), 2U);
  EXPECT_THAT(first.choices[0].ids, ElementsAre(0, 1, 2, 27, 3));
  EXPECT_EQ(first.choices[0].choice_tokens, 2);
  EXPECT_EQ(first.choices[0].bytes, 1);  // without its space
  EXPECT_THAT(first.choices[1].ids, ElementsAre(0, 1, 2, 27, 4, 5));
  EXPECT_EQ(first.choices[1].choice_tokens, 3);
  EXPECT_EQ(first.choices[1].bytes, 2);
  EXPECT_EQ(task->examples[1].choices.size(), 3U);
  EXPECT_EQ(task->examples[1].answer, 0U);
}

TEST_F(ReadTaskTest, SpaceAtTheContextsEndBelongsToTheChoice) {
  const auto task = Read(R"({"context": "ab ", "choices": ["c", "d"], "answer": 0})");
  ASSERT_TRUE(task.ok()) << task.status();
  const Choice& choice = task->examples[0].choices[0];
  EXPECT_THAT(choice.ids, ElementsAre(0, 1, 2, 27, 3));
  EXPECT_EQ(choice.choice_tokens, 2);
  EXPECT_EQ(choice.bytes, 1);
}

TEST_F(ReadTaskTest, ContextAndChoiceAreEncodedTogether) {
  // "sit" + "hx": s i th x. The context's own are s i t, three beside the prefix.
  const auto task = Read(R"({"context": "sit", "choices": ["hx", "y"], "answer": 0})");
  ASSERT_TRUE(task.ok()) << task.status();
  EXPECT_THAT(task->examples[0].choices[0].ids, ElementsAre(0, 19, 9, 28, 24));
  EXPECT_EQ(task->examples[0].choices[0].choice_tokens, 1);
  EXPECT_EQ(task->examples[0].choices[0].bytes, 2);
  ExpectInvalid(R"({"context": "sit", "choices": ["y", "h"], "answer": 0})",
                "task.jsonl:1: choices[1] adds no token to the context's");
}

TEST_F(ReadTaskTest, BytesAreOfUtf8) {
  const auto task = Read(R"({"context": "a", "choices": [" \u00e4", "\u20ac"], "answer": 0})");
  ASSERT_TRUE(task.ok()) << task.status();
  EXPECT_EQ(task->examples[0].choices[0].bytes, 2);
  EXPECT_EQ(task->examples[0].choices[1].bytes, 3);
}

TEST_F(ReadTaskTest, WhatIsTooLongLosesTokensFromTheLeft) {
  config_.max_positions = 4;
  const auto task = Read(R"({"context": "abcdefg", "choices": ["xy", "zzzz"], "answer": 0})");
  ASSERT_TRUE(task.ok()) << task.status();
  // Four are read, a fifth is predicted.
  EXPECT_THAT(task->examples[0].choices[0].ids, ElementsAre(5, 6, 7, 24, 25));
  EXPECT_EQ(task->examples[0].choices[0].choice_tokens, 2);
  EXPECT_THAT(task->examples[0].choices[1].ids, ElementsAre(7, 26, 26, 26, 26));
  ExpectInvalid(R"({"context": "a", "choices": ["x", "zzzzz"], "answer": 0})",
                "task.jsonl:1: choices[1] has 5 tokens, more than the model's "
                "max_position_embeddings, 4");
}

TEST_F(ReadTaskTest, WhatIsTooLongKeepsAPrefixThatEveryWindowHas) {
  config_.max_positions = 4;
  config_.prefix_in_every_window = true;
  const auto task = Read(R"({"context": "abcdefg", "choices": ["xy", "zzzz"], "answer": 0})");
  ASSERT_TRUE(task.ok()) << task.status();
  EXPECT_THAT(task->examples[0].choices[0].ids, ElementsAre(0, 6, 7, 24, 25));
  EXPECT_THAT(task->examples[0].choices[1].ids, ElementsAre(0, 26, 26, 26, 26));
}

TEST_F(ReadTaskTest, EmptyContextNeedsATokenBeforeTheText) {
  const std::string_view line = R"({"context": "", "choices": ["x", "y"], "answer": 0})";
  const auto task = Read(line);
  ASSERT_TRUE(task.ok()) << task.status();
  EXPECT_THAT(task->examples[0].choices[0].ids, ElementsAre(0, 24));
  EXPECT_EQ(task->examples[0].choices[0].choice_tokens, 1);
  tokenizer_ = LetterTokenizer(std::vector<std::int32_t>());
  ExpectInvalid(line, "task.jsonl:1: context is empty");
}

TEST_F(ReadTaskTest, BadLinesAreNamed) {
  const std::string good = R"({"context": "a", "choices": ["x", "y"], "answer": 0})";
  ExpectInvalid(good + "\n{\"context\": \"a\n", "task.jsonl:2: is not JSON");
  ExpectInvalid(good + "\n\n[1]\n", "task.jsonl:3: must be an object with context, choices and");
  ExpectInvalid(R"({"choices": ["x", "y"], "answer": 0})", "task.jsonl:1: context is missing");
  ExpectInvalid(R"({"context": "a", "answer": 0})", ":1: choices is missing");
  ExpectInvalid(R"({"context": "a", "choices": ["x", "y"]})", ":1: answer is missing");
  ExpectInvalid(R"({"context": 1, "choices": ["x", "y"], "answer": 0})", "context is not a string");
  ExpectInvalid(R"({"context": "a", "choices": "xy", "answer": 0})", "choices is not a list");
  ExpectInvalid(R"({"context": "a", "choices": [], "answer": 0})",
                "choices has 0 texts; give at least 2");
  ExpectInvalid(R"({"context": "a", "choices": ["x"], "answer": 0})", "choices has 1 texts");
  ExpectInvalid(R"({"context": "a", "choices": ["x", 2], "answer": 0})",
                "choices[1] is not a string");
  ExpectInvalid(R"({"context": "a", "choices": ["x", " "], "answer": 0})", "choices[1] is empty");
  ExpectInvalid(R"({"context": "a", "choices": ["x", "y"], "answer": 2})",
                "answer is 2; give a whole number from 0 to 1");
  ExpectInvalid(R"({"context": "a", "choices": ["x", "y"], "answer": -1})", "answer is -1");
  ExpectInvalid(R"({"context": "a", "choices": ["x", "y"], "answer": 0.5})", "answer is 0.5");
  ExpectInvalid(R"({"context": "a", "choices": ["x", "y"], "answer": "x"})", "answer is string");
}

TEST_F(ReadTaskTest, FileWithoutExamplesIsNamed) {
  ExpectInvalid("", "task.jsonl: holds no example");
  ExpectInvalid("\n  \n", "task.jsonl: holds no example");
  const auto directory = ReadTask("u", directory_.path(), tokenizer_, config_);
  EXPECT_EQ(ErrorReason(directory.status()), "INVALID_TASK");
  const auto missing = ReadTask("u", directory_.path() / "no.jsonl", tokenizer_, config_);
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ErrorReason(missing.status()), "TASK_NOT_FOUND");
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("no.jsonl"));
}

TEST_F(ReadTaskTest, TokenizerOfAnotherModelIsTold) {
  config_.vocabulary_size = 24;
  ExpectInvalid(R"({"context": "a", "choices": ["x", "z"], "answer": 0})",
                "the tokenizer gives the id 24, but the model has only 24 tokens");
}

// ---- Scoring ----

Choice MakeChoice(std::vector<std::int32_t> ids, std::int64_t tokens, std::int64_t bytes) {
  return {std::move(ids), tokens, bytes};
}

// Log-likelihood of the last `tokens` of `ids`, alone in a batch and from the logits of all
// positions.
double LogLikelihood(const model::Decoder& decoder, const Choice& choice) {
  const auto length = static_cast<std::int64_t>(choice.ids.size());
  const torch::Tensor ids = torch::tensor(choice.ids, torch::kInt64).view({1, length});
  const torch::Tensor logits = model::Logits(decoder, ids).value()[0].to(torch::kFloat64);
  double sum = 0;
  for (std::int64_t i = length - choice.choice_tokens; i < length; ++i) {
    const torch::Tensor row = logits[i - 1];
    const double normalizer = std::log(row.exp().sum().item<double>());
    sum += row[choice.ids[static_cast<std::size_t>(i)]].item<double>() - normalizer;
  }
  return sum;
}

// Forty questions of two to four choices, of very different lengths.
Task RandomTask() {
  torch::manual_seed(7);
  const auto draw = [](std::int64_t low, std::int64_t high) {
    return torch::randint(low, high + 1, {1}).item<std::int64_t>();
  };
  Task task;
  for (int i = 0; i < 40; ++i) {
    Example example;
    const std::int64_t context = draw(1, 90);
    for (std::int64_t k = draw(2, 4); k > 0; --k) {
      const std::int64_t tokens = draw(1, 30);
      Choice choice{.choice_tokens = tokens, .bytes = draw(tokens, 3 * tokens)};
      for (std::int64_t t = 0; t < context + tokens; ++t) {
        choice.ids.push_back(static_cast<std::int32_t>(draw(0, 63)));
      }
      example.choices.push_back(std::move(choice));
    }
    task.examples.push_back(std::move(example));
  }
  return task;
}

TEST(ScoreTaskTest, RanksAsEachChoicesOwnLogitsDo) {
  const model::Decoder decoder = TinyDecoder(3);
  Task task = RandomTask();
  for (Example& example : task.examples) {
    double best = -std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < example.choices.size(); ++i) {
      const Choice& choice = example.choices[i];
      const double score = LogLikelihood(decoder, choice) / static_cast<double>(choice.bytes);
      if (score <= best) continue;
      best = score;
      example.answer = i;
    }
  }
  const auto right = ScoreTask(decoder, task, kIgnore, kNotCancelled);
  ASSERT_TRUE(right.ok()) << right.status();
  EXPECT_THAT(right->correct, Each(true));
  EXPECT_EQ(right->Accuracy(), 1);

  for (Example& example : task.examples) {
    example.answer = (example.answer + 1) % example.choices.size();
  }
  const auto wrong = ScoreTask(decoder, task, kIgnore, kNotCancelled);
  EXPECT_THAT(wrong->correct, Each(false));
  EXPECT_EQ(wrong->Accuracy(), 0);
}

// A uniform model gives every token ln 1/64, so a choice's score is -tokens ln 64 / bytes.
TEST(ScoreTaskTest, LikelihoodIsNormalizedByBytes) {
  model::Decoder decoder = TinyDecoder(1);
  decoder.head = torch::zeros({64, 32});
  Task task;
  task.examples.push_back({{MakeChoice({1, 2}, 1, 1),      // -1 ln 64
                            MakeChoice({1, 2, 3}, 2, 4)},  // -1/2 ln 64
                           1});
  task.examples.push_back({{MakeChoice({1, 2, 3, 4}, 3, 3),  // -1 ln 64
                            MakeChoice({1, 2, 3}, 1, 3),     // -1/3 ln 64
                            MakeChoice({1, 2, 3}, 2, 3)},    // -2/3 ln 64
                           2});
  task.examples.push_back({{MakeChoice({1, 2}, 1, 2), MakeChoice({1, 3}, 1, 2)}, 0});  // equal
  const auto scores = ScoreTask(decoder, task, kIgnore, kNotCancelled);
  ASSERT_TRUE(scores.ok()) << scores.status();
  EXPECT_THAT(scores->correct, ElementsAre(true, false, true));
  EXPECT_NEAR(scores->Accuracy(), 2.0 / 3, 1e-12);
}

TEST(ScoreTaskTest, BrokenModelIsNeverRight) {
  model::Decoder decoder = TinyDecoder(1);
  decoder.head = torch::full({64, 32}, std::nan(""));
  const auto scores = ScoreTask(decoder, RandomTask(), kIgnore, kNotCancelled);
  EXPECT_EQ(scores->Accuracy(), 0);
}

TEST(ScoreTaskTest, CountsTheChoicesDoneAndCanBeCancelled) {
  const model::Decoder decoder = TinyDecoder(1);
  const Task task = RandomTask();
  std::int64_t choices = 0;
  for (const Example& example : task.examples) choices += std::ssize(example.choices);
  std::int64_t last = 0;
  std::atomic<bool> cancelled{false};
  const auto count = [&](std::int64_t done, std::int64_t total) {
    EXPECT_GT(done, last);
    EXPECT_EQ(total, choices);
    last = done;
  };
  ASSERT_TRUE(ScoreTask(decoder, task, count, cancelled).ok());
  EXPECT_EQ(last, choices);

  last = 0;
  const auto cancel = [&](std::int64_t done, std::int64_t /*total*/) {
    last = done;
    cancelled = true;
  };
  EXPECT_EQ(ScoreTask(decoder, task, cancel, cancelled).status().code(),
            absl::StatusCode::kCancelled);
  EXPECT_LT(last, choices);
}

TEST(TaskScoresTest, StandardErrorIsOfAShare) {
  // sqrt(3/4 * 1/4 / 3)
  EXPECT_NEAR(StandardError({{true, true, false, true}}), 0.25, 1e-12);
  EXPECT_EQ(StandardError({{true, true}}), 0);
  EXPECT_EQ(StandardError({{true}}), 0);
}

TEST(TaskScoresTest, PairedStandardErrorIsOfTheExamplesDifferences) {
  // Differences 0, 1, 0, 1: variance 1/3, over 4 examples.
  const TaskScores a{{true, true, false, true}};
  const TaskScores b{{true, false, false, false}};
  EXPECT_NEAR(PairedStandardError(a, b), std::sqrt(1.0 / 12), 1e-12);
  EXPECT_NEAR(PairedStandardError(b, a), std::sqrt(1.0 / 12), 1e-12);
  // Differences 1, -1: mean 0, variance 2, over 2 examples.
  EXPECT_NEAR(PairedStandardError({{true, false}}, {{false, true}}), 1, 1e-12);
  EXPECT_EQ(PairedStandardError(a, a), 0);
  EXPECT_EQ(PairedStandardError({{true}}, {{false}}), 0);
}

}  // namespace
}  // namespace teq::eval
