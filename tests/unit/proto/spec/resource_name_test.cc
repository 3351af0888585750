#include "proto/spec/resource_name.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"
#include "proto/spec/utf8.h"

namespace teq {
namespace {

using ::testing::HasSubstr;

TEST(ResourceNameTest, JobNameIsTakenApartAndPutTogether) {
  const auto name = ParseJobName("projects/search-team/jobs/llama-3b-w4");
  ASSERT_TRUE(name.ok()) << name.status();
  EXPECT_EQ(name->project, "search-team");
  EXPECT_EQ(name->job, "llama-3b-w4");
  EXPECT_EQ(name->ToString(), "projects/search-team/jobs/llama-3b-w4");
}

class BadJobNameTest : public ::testing::TestWithParam<std::string> {};

TEST_P(BadJobNameTest, IsRefusedWithThePattern) {
  const auto name = ParseJobName(GetParam());
  ASSERT_FALSE(name.ok());
  EXPECT_EQ(name.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ErrorReason(name.status()), "INVALID_NAME");
  EXPECT_THAT(std::string(name.status().message()),
              HasSubstr("expected projects/{project}/jobs/{job}"));
  EXPECT_THAT(std::string(name.status().message()), HasSubstr(GetParam().substr(0, 200)));
}

INSTANTIATE_TEST_SUITE_P(All, BadJobNameTest,
                         ::testing::Values("", "a", "/projects/a/jobs/b", "projects/a/jobs/b/",
                                           "projects/a/jobs/", "projects//jobs/b",
                                           "projects/a/jobs/B", "projects/a_b/jobs/c",
                                           "projects/-/jobs/b", "projects/a/workers/b",
                                           "projects/a/jobs/b/c",
                                           "projects/a/jobs/" + std::string(64, 'x')));

TEST(ResourceNameTest, LongNameIsShownCutBetweenCharacters) {
  for (const std::string& name : {std::string(199, 'x') + "ä", std::string(200, 'x') + "ä"}) {
    const absl::Status status = ParseJobName(name).status();
    const std::string message(status.message());
    EXPECT_TRUE(IsUtf8(message)) << message;
    EXPECT_THAT(message, HasSubstr(std::string(199, 'x')));
    EXPECT_EQ(message.find("ä"), std::string::npos);
  }
}

TEST(ResourceNameTest, ProjectMayBeTheDashForAll) {
  EXPECT_EQ(*ParseProjectName("projects/default"), "default");
  EXPECT_EQ(*ParseProjectName("projects/-"), "-");
}

TEST(ResourceNameTest, BadProjectNameIsRefused) {
  for (const char* name : {"default", "projects/", "projects/A", "projects/a/jobs"}) {
    EXPECT_EQ(ErrorReason(ParseProjectName(name).status()), "INVALID_NAME") << name;
  }
}

TEST(ResourceNameTest, IdHasOneToSixtyThreeCharacters) {
  EXPECT_TRUE(IsResourceId("a"));
  EXPECT_TRUE(IsResourceId(std::string(63, '9')));
  EXPECT_FALSE(IsResourceId(std::string(64, '9')));
  EXPECT_FALSE(IsResourceId(""));
  EXPECT_FALSE(IsResourceId("a.b"));
}

}  // namespace
}  // namespace teq
