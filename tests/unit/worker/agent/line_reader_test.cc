#include "worker/agent/line_reader.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace teq::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class LineReaderTest : public ::testing::Test {
 protected:
  std::vector<std::string> lines_;
  LineReader reader_{[this](const std::string& line) { lines_.push_back(line); }};
};

TEST_F(LineReaderTest, LinesAreToldWhenTheyEndHoweverTheBytesCome) {
  reader_.Feed("one\ntw");
  EXPECT_THAT(lines_, ElementsAre("one"));
  reader_.Feed("o\r\nthree");
  EXPECT_THAT(lines_, ElementsAre("one", "two"));
  reader_.Finish();
  EXPECT_THAT(lines_, ElementsAre("one", "two", "three"));
}

TEST_F(LineReaderTest, EmptyLinesAreNotTold) {
  reader_.Feed("\n\r\n");
  reader_.Finish();
  EXPECT_THAT(lines_, IsEmpty());
}

TEST_F(LineReaderTest, EndlessLineIsToldInParts) {
  reader_.Feed(std::string(LineReader::kLongestLine + 3, 'x') + "\n");
  EXPECT_THAT(lines_, ElementsAre(std::string(LineReader::kLongestLine, 'x'), "xxx"));
}

}  // namespace
}  // namespace teq::agent
