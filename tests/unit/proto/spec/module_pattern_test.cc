#include "proto/spec/module_pattern.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace teq {
namespace {

using ::testing::HasSubstr;

TEST(ModulePatternTest, PlainTextIsAnExactName) {
  const auto pattern = ModulePattern::Parse("model.layers.0.mlp.up_proj");
  ASSERT_TRUE(pattern.ok());
  EXPECT_TRUE(pattern->Matches("model.layers.0.mlp.up_proj"));
  EXPECT_FALSE(pattern->Matches("modelXlayersX0XmlpXup_proj"));
  EXPECT_FALSE(pattern->Matches("model.layers.0.mlp.up_proj2"));
}

TEST(ModulePatternTest, PatternMustMatchTheWholeName) {
  const auto pattern = ModulePattern::Parse("re:.*down_proj$");
  ASSERT_TRUE(pattern.ok());
  EXPECT_TRUE(pattern->Matches("model.layers.11.mlp.down_proj"));
  EXPECT_FALSE(pattern->Matches("model.layers.11.mlp.down_proj.lora"));

  const auto part = ModulePattern::Parse("re:down_proj");
  EXPECT_FALSE(part->Matches("model.layers.11.mlp.down_proj"));

  const auto either = ModulePattern::Parse("re:a|ab");
  EXPECT_TRUE(either->Matches("ab"));
}

TEST(ModulePatternTest, BrokenPatternNamesTheProblemAndItsPlace) {
  const auto pattern = ModulePattern::Parse("re:layers.(0");
  ASSERT_FALSE(pattern.ok());
  EXPECT_THAT(std::string(pattern.status().message()),
              HasSubstr("\"layers.(0\" is not a PCRE2 pattern: missing closing parenthesis at "
                        "offset 9"));
}

TEST(ModulePatternTest, PatternThatBacktracksForEverEndsAsNoMatch) {
  const auto pattern = ModulePattern::Parse("re:(a+)+(b+)+(a+)+(b+)+c");
  ASSERT_TRUE(pattern.ok());
  EXPECT_FALSE(pattern->Matches(std::string(2000, 'a') + std::string(2000, 'b')));
}

}  // namespace
}  // namespace teq
