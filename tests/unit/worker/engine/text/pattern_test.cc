#include "worker/engine/text/pattern.h"

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace teq::text {
namespace {

using ::testing::HasSubstr;

// The parts of a text, matches in brackets.
std::string Parts(const absl::StatusOr<Pattern>& pattern, std::string_view text) {
  if (!pattern.ok()) return pattern.status().ToString();
  const auto spans = pattern->Split(text);
  if (!spans.ok()) return spans.status().ToString();
  std::string parts;
  for (const Span& span : *spans) {
    const std::string part(text.substr(span.begin, span.end - span.begin));
    parts += span.matched ? "[" + part + "]" : part;
  }
  return parts;
}

std::string Regex(std::string_view expression, std::string_view text) {
  return Parts(Pattern::Regex(expression), text);
}

TEST(PatternTest, TextIsCutIntoMatchesAndTheRest) {
  EXPECT_EQ(Regex("[0-9]+", "a12b3"), "a[12]b[3]");
  EXPECT_EQ(Regex("x", "abc"), "abc");
  EXPECT_EQ(Regex("x", ""), "");
  EXPECT_EQ(Parts(Pattern::Literal("a.c"), "abca.c"), "abc[a.c]");
}

TEST(PatternTest, EmptyMatchesDoNotFollowAMatch) { EXPECT_EQ(Regex("e*", "eeab"), "[ee]a[]b[]"); }

TEST(PatternTest, CharactersAreWhole) { EXPECT_EQ(Regex(".", "é\n日"), "[é]\n[日]"); }

TEST(PatternTest, WhiteSpaceIsUnicodes) {
  EXPECT_EQ(Regex("\\s", "a\u00a0b\u3000c\u0085d"), "a[\u00a0]b[\u3000]c[\u0085]d");
  // No white space since Unicode 6.3, though PCRE2's \s takes it.
  EXPECT_EQ(Regex("\\s", "a\u180eb"), "a\u180eb");
}

TEST(PatternTest, LineAnchorsAreAtEveryLine) { EXPECT_EQ(Regex("^a$", "a\na"), "[a]\n[a]"); }

TEST(PatternTest, ScriptsDoNotMeanTheirExtensions) {
  // The ideographic comma is common to several scripts.
  EXPECT_EQ(Regex("\\p{Han}", "々、日"), "[々]、[日]");
  EXPECT_EQ(Regex("\\p{^Han}", "日、"), "日[、]");
}

TEST(PatternTest, OpenLowerBoundIsZero) { EXPECT_EQ(Regex("ab{,2}", "abbbab"), "[abb]b[ab]"); }

TEST(PatternTest, ClassInsideAClassAddsItsCharacters) {
  // BLOOM's, in which the brackets, the bar and the group are characters or nesting.
  EXPECT_EQ(Regex(" ?[^(\\s|[.,!?])]+", "ab cd, (e|f)g]"), "[ab][ cd], ([e]|[f])[g]]");
  EXPECT_EQ(Regex("[a[b[c]]d]+", "abcd[]"), "[abcd][]");
}

TEST(PatternTest, NamedClassesAreUnicodes) {
  EXPECT_EQ(Regex("[[:alpha:]]+", "aé日1_\u0300"), "[aé日]1_\u0300");
  EXPECT_EQ(Regex("[[:punct:]]", "a¢。+"), "a[¢][。][+]");
  EXPECT_EQ(Regex("[[:digit:][:space:]]", "1٢\u0085x"), "[1][٢][\u0085]x");
}

TEST(PatternTest, ConstructsThatPcre2ReadsOtherwiseAreRefused) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"[a[^bc]]", "nests a negated character class"},
      {"[a-[bc]]", "stands beside a minus"},
      {"[[b-]c]", "stands beside a minus"},
      {"[a[]]", "empty"},
      {"[[:graph:]]", "a class name other than alpha"},
      {"[a-z&&[^b]]", "&&"},
      {"a{1,2}+", "+ after }"},
      {"(?m:.)", "option m"},
      {"\\h", "\\h"},
      {"[\\W]", "\\W in a character class"},
      {"a\\", "ends in a backslash"},
      {"\\u00", "\\u without four digits"},
      {"(a", "does not compile"},
      {"\\p{NoSuch}", "does not compile"},
      {"[[:alpha", "class name"},
  };
  for (const auto& [expression, part] : cases) {
    const auto pattern = Pattern::Regex(expression);
    ASSERT_FALSE(pattern.ok()) << expression;
    EXPECT_THAT(std::string(pattern.status().message()), HasSubstr(part));
    EXPECT_THAT(std::string(pattern.status().message()), HasSubstr("the pattern " + expression));
  }
  EXPECT_FALSE(Pattern::Literal("").ok());
}

TEST(PatternTest, LongMatchTakesTheStackThatItNeeds) {
  const std::string text = std::string(10'000, 'a') + "c";
  EXPECT_EQ(Regex("(?:a|ab)*c", text), "[" + text + "]");
}

TEST(PatternTest, HostilePatternFailsInsteadOfRunningForEver) {
  const auto pattern = Pattern::Regex("(a+)+$");
  ASSERT_TRUE(pattern.ok()) << pattern.status();
  const auto spans = pattern->Split(std::string(64, 'a') + "b");
  ASSERT_FALSE(spans.ok());
  EXPECT_THAT(std::string(spans.status().message()), HasSubstr("limit"));
}

}  // namespace
}  // namespace teq::text
