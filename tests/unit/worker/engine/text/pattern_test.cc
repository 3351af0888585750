#include "worker/engine/text/pattern.h"

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"

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

TEST(PatternTest, OpenLowerBoundIsZero) {
  EXPECT_EQ(Regex("ab{,2}", "abbbab"), "[abb]b[ab]");
  EXPECT_EQ(Regex("\\d{,3}", "12345"), "[123][45]");
  // No bounds at all are characters.
  EXPECT_EQ(Regex("a{,}", "aa{,}"), "a[a{,}]");
}

// What follows was recorded of libonig 6.9.8, by onig_search in its default syntax.
TEST(PatternTest, WordBoundariesAreOnigurumas) {
  // Cohere's: groups of three digits from the right.
  EXPECT_EQ(Regex("\\d{1,3}(?=(?:\\d{3})*\\b)", "1234567"), "[1][234][567]");
  EXPECT_EQ(Regex("\\d{1,3}(?=(?:\\d{3})*\\b)", "1234\u2074"), "[1][234]\u2074");
  EXPECT_EQ(Regex("\\b", "ab \u2074c\u00b2"), "[]ab[] \u2074[]c\u00b2[]");
  EXPECT_EQ(Regex("\\B", "ab \u2074c\u00b2"), "a[]b []\u2074c[]\u00b2");
  EXPECT_EQ(Regex("[\\b]", "a\bb"), "a[\b]b");
}

TEST(PatternTest, VerticalTabIsOneCharacter) {
  EXPECT_EQ(Regex("\\v", "a\vb\nc"), "a[\v]b\nc");
  EXPECT_EQ(Regex("[\\v]", "a\vb\nc"), "a[\v]b\nc");
}

TEST(PatternTest, OptionsOfABranchReachOverTheNext) {
  EXPECT_EQ(Regex("(?i)b|c", "B C"), "[B] [C]");
  EXPECT_EQ(Regex("x|(?i)b|c", "x X B C"), "[x] X [B] [C]");
  EXPECT_EQ(Regex("(?:(?i)b|c)d", "BD Cd bd CD"), "BD [Cd] [bd] CD");
}

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
      {"\\d{1,3}+", "+ after }"},
      {"\\.{1,2}+", "+ after }"},
      {"a{2}?", "? after {n}"},
      {"\\d{2}?", "? after {n}"},
      {"a(?i)b|c", "sets options within a branch"},
      {"(a(?i)b|c)", "sets options within a branch"},
      {"(?'n'a)(?i)b|c", "(?'name'...)"},
      {"a(?#x)(?i)b|c", "(?#...)"},
      {"(?m:.)", "option m"},
      {"\\h", "\\h"},
      {"\\V", "\\V"},
      {"[\\B]", "\\B in a character class"},
      {"\\pL", "\\p or \\P without braces"},
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
  EXPECT_EQ(ErrorReason(spans.status()), "INVALID_TOKENIZER");
  EXPECT_THAT(std::string(spans.status().message()), HasSubstr("limit"));
}

}  // namespace
}  // namespace teq::text
