#include "server/queue/filter.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"

namespace teq::queue {
namespace {

using store::FilterTerm;
using teq::v1::Job;
using ::testing::HasSubstr;

TEST(FilterTest, EmptyFilterHasNoTerms) {
  EXPECT_TRUE(ParseFilter("")->empty());
  EXPECT_TRUE(ParseFilter("  ")->empty());
}

TEST(FilterTest, ReadsEveryField) {
  const auto terms = ParseFilter(
      "state = RUNNING AND state!=STATE_SUCCEEDED AND labels.team/x-1 = \"a \\\"b\\\"\" AND "
      "priority >= -5 AND create_time > \"2026-01-31T00:00:00Z\"");
  ASSERT_TRUE(terms.ok()) << terms.status();
  ASSERT_EQ(terms->size(), 5U);
  EXPECT_EQ(std::get<int64_t>(terms->at(0).value), Job::STATE_RUNNING);
  EXPECT_EQ(terms->at(1).op, FilterTerm::Operator::kNotEqual);
  EXPECT_EQ(std::get<int64_t>(terms->at(1).value), Job::STATE_SUCCEEDED);
  EXPECT_EQ(terms->at(2).label, "team/x-1");
  EXPECT_EQ(std::get<std::string>(terms->at(2).value), "a \"b\"");
  EXPECT_EQ(std::get<int64_t>(terms->at(3).value), -5);
  // 2026-01-31 is day 20484 after the epoch.
  EXPECT_EQ(std::get<int64_t>(terms->at(4).value), int64_t{20484} * 86400 * 1'000'000);
}

struct BadFilter {
  const char* filter;
  const char* message;
};

class BadFilterTest : public ::testing::TestWithParam<BadFilter> {};

TEST_P(BadFilterTest, ErrorNamesTheColumnAndWhatIsExpected) {
  const absl::Status status = ParseFilter(GetParam().filter).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(ErrorReason(status), "INVALID_FILTER");
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Filters, BadFilterTest,
    ::testing::Values(BadFilter{"stat = RUNNING", "column 1: expected one of state"},
                      BadFilter{"state RUNNING", "column 7: expected one of ="},
                      BadFilter{"state = ", "column 9: expected a value"},
                      BadFilter{"state = WALKING",
                                "column 9: expected a state such as RUNNING, not \"WALKING\""},
                      BadFilter{"state < RUNNING", "column 7: expected = or !="},
                      BadFilter{"state = RUNNING OR priority = 1", "column 17: expected AND"},
                      BadFilter{"state = RUNNING AND", "column 20: expected one of state"},
                      BadFilter{"priority = high", "column 12: expected an integer"},
                      BadFilter{"create_time > yesterday", "column 15: expected a time"},
                      BadFilter{"labels.a = \"x", "column 14: expected a closing double quote"},
                      BadFilter{"labels. = x", "column 1: expected one of state"}));

}  // namespace
}  // namespace teq::queue
