#include "client/logs/logger.h"

#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "spdlog/sinks/ostream_sink.h"

namespace teq::logs {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::ElementsAre;
using ::testing::MatchesRegex;

class LoggerTest : public ::testing::Test {
 protected:
  std::shared_ptr<Logger> Make(Format format) {
    return std::make_shared<Logger>("teq-worker", format,
                                    std::make_shared<spdlog::sinks::ostream_sink_mt>(out_));
  }

  std::vector<std::string> Lines() const {
    std::istringstream text(out_.str());
    std::vector<std::string> lines;
    for (std::string line; std::getline(text, line);) lines.push_back(line);
    return lines;
  }

  std::vector<std::string> Keys() const {
    const Json line = Json::parse(out_.str());
    std::vector<std::string> keys;
    for (const auto& [key, value] : line.items()) keys.push_back(key);
    return keys;
  }

  std::ostringstream out_;
};

TEST_F(LoggerTest, JsonLineTellsTimeLevelMessageAndSubject) {
  const auto log = Make(Format::kJson)
                       ->About({.worker = "w-1",
                                .job = "projects/p/jobs/j",
                                .attempt = 2,
                                .fence = 7,
                                .trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"});
  log->warn("stage {}", "FETCH");
  ASSERT_EQ(Lines().size(), 1U);
  const Json line = Json::parse(Lines()[0]);
  EXPECT_THAT(line["ts"].get<std::string>(),
              MatchesRegex("20[0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9]"
                           "\\.[0-9][0-9][0-9][0-9][0-9][0-9]Z"));
  EXPECT_EQ(line["level"], "warning");
  EXPECT_EQ(line["logger"], "teq-worker");
  EXPECT_EQ(line["msg"], "stage FETCH");
  EXPECT_EQ(line["job"], "projects/p/jobs/j");
  EXPECT_EQ(line["attempt"], 2);
  EXPECT_EQ(line["fence"], 7);
  EXPECT_EQ(line["worker"], "w-1");
  EXPECT_EQ(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
}

TEST_F(LoggerTest, JsonLineLeavesOutWhatDoesNotApply) {
  Make(Format::kJson)->info("listening");
  EXPECT_THAT(Keys(), ElementsAre("ts", "level", "logger", "msg"));
}

TEST_F(LoggerTest, JsonLineStaysOneLineWhateverTheMessageHolds) {
  Make(Format::kJson)->info("{}", "two\nlines, a \"quote\", a \\ and a byte \xff");
  ASSERT_EQ(Lines().size(), 1U);
  EXPECT_EQ(Json::parse(Lines()[0])["msg"],
            "two\nlines, a \"quote\", a \\ and a byte \xef\xbf\xbd");
}

TEST_F(LoggerTest, TextLineBeginsWithTheJob) {
  const auto log = Make(Format::kText);
  log->info("stopping");
  log->About({.worker = "w", .job = "projects/p/jobs/j", .fence = 1})->error("failed");
  const std::vector<std::string> lines = Lines();
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_THAT(lines[0], MatchesRegex("20[-0-9]*T[.:0-9]*[-+][0-9:]* info stopping"));
  EXPECT_THAT(lines[1],
              MatchesRegex("20[-0-9]*T[.:0-9]*[-+][0-9:]* error projects/p/jobs/j: failed"));
}

TEST_F(LoggerTest, SubjectOfOneLoggerIsNotThatOfAnother) {
  const auto log = Make(Format::kJson);
  const auto other = log->About({.job = "projects/p/jobs/j"});
  log->info("idle");
  EXPECT_THAT(Keys(), ElementsAre("ts", "level", "logger", "msg"));
}

TEST(FormatTest, IsReadByItsWord) {
  EXPECT_EQ(ParseFormat("text"), Format::kText);
  EXPECT_EQ(ParseFormat("json"), Format::kJson);
  EXPECT_EQ(ParseFormat("JSON"), std::nullopt);
  EXPECT_EQ(ParseFormat(""), std::nullopt);
}

}  // namespace
}  // namespace teq::logs
