#define PCRE2_CODE_UNIT_WIDTH 8
#include "worker/engine/text/pattern.h"

#include <pcre2.h>

#include <array>
#include <cctype>
#include <optional>
#include <utility>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/text/utf8.h"

namespace teq::text {
namespace {

absl::Status Invalid(std::string_view expression, std::string_view what) {
  return {absl::StatusCode::kInvalidArgument, fmt::format("the pattern {} {}", expression, what)};
}

// Writes an Oniguruma expression (Ruby's syntax) as PCRE2's. The two agree on most; this rewrites
// what is spelled otherwise and refuses what PCRE2 would read as something else.
class Translator {
 public:
  explicit Translator(std::string_view expression) : expression_(expression) {}

  absl::StatusOr<std::string> Run() {
    while (at_ < expression_.size()) {
      const std::string_view problem = class_depth_ > 0 ? InClass() : Outside();
      if (!problem.empty()) return Invalid(expression_, problem);
    }
    return std::move(output_);
  }

 private:
  [[nodiscard]] char Peek(std::size_t ahead = 0) const {
    return at_ + ahead < expression_.size() ? expression_[at_ + ahead] : '\0';
  }
  void Copy() { output_ += expression_[at_++]; }

  std::string_view Outside() {
    const char c = Peek();
    if (c == '\\') return Escape();
    if (c == '[') {
      Copy();
      if (Peek() == '^') Copy();
      if (Peek() == ']') Copy();
      class_depth_ = 1;
      return {};
    }
    if (c == '(') return Group();
    if (c == '{') return Interval();
    if (c == '}' && Peek(1) == '+')
      return "has + after }, which Oniguruma and PCRE2 read differently";
    Copy();
    if (c == '|') branch_ = at_;
    return {};
  }

  // {n}, {n,}, {n,m} or {,m}; other braces are characters to both.
  std::string_view Interval() {
    const std::size_t least = Digits(1);
    if (least > 0 && Peek(1 + least) == '}' && Peek(2 + least) == '?') {
      return "has ? after {n}, which Oniguruma and PCRE2 read differently";
    }
    Copy();
    // {,m}: up to m; PCRE2 10.42 takes it literally.
    const std::size_t most = least == 0 && Peek() == ',' ? Digits(1) : 0;
    if (most > 0 && Peek(1 + most) == '}') output_ += '0';
    return {};
  }

  // How many digits stand there.
  [[nodiscard]] std::size_t Digits(std::size_t ahead) const {
    std::size_t count = 0;
    while (std::isdigit(static_cast<unsigned char>(Peek(ahead + count))) != 0) ++count;
    return count;
  }

  std::string_view InClass() {
    const char c = Peek();
    if (c == '\\') return Escape();
    if (c == '[' && Peek(1) != ':') return OpenNestedClass();
    if (c == '[') return ClassName();
    if (c == '&' && Peek(1) == '&') return "intersects character classes by &&";
    if (c == ']' && class_depth_ > 1) return CloseNestedClass();
    if (c == ']') class_depth_ = 0;
    Copy();
    return {};
  }

  // [:name:], which PCRE2 reads more narrowly.
  std::string_view ClassName() {
    const std::size_t end = expression_.find(":]", at_);
    if (end == std::string_view::npos) return "has a class name without its end";
    const std::string_view name = expression_.substr(at_ + 2, end - at_ - 2);
    at_ = end + 2;
    if (name == "alpha") {
      output_ += "\\p{Alphabetic}";
    } else if (name == "alnum") {
      output_ += "\\p{Alphabetic}\\p{Nd}";
    } else if (name == "digit") {
      output_ += "\\p{Nd}";
    } else if (name == "space") {
      output_ += "\\p{WSpace}";
    } else if (name == "punct") {
      output_ += "\\p{P}\\p{S}";
    } else if (name == "upper") {
      output_ += "\\p{Uppercase}";
    } else if (name == "lower") {
      output_ += "\\p{Lowercase}";
    } else if (name == "word") {
      output_ += kWord;
    } else {
      return "has a class name other than alpha, alnum, digit, space, punct, upper, lower, word";
    }
    return {};
  }

  // A class inside another adds its characters to it, so its brackets go, which PCRE2 would take
  // for characters.
  std::string_view OpenNestedClass() {
    if (Peek(1) == '^') return "nests a negated character class in another";
    if (Peek(1) == ']' || Peek(1) == '-' || output_.ends_with('-')) return kAmbiguousNesting;
    ++class_depth_;
    ++at_;
    return {};
  }
  std::string_view CloseNestedClass() {
    if (Peek(1) == '-' || output_.ends_with('-')) return kAmbiguousNesting;
    --class_depth_;
    ++at_;
    return {};
  }

  std::string_view Group() {
    if (Peek(1) != '?') {
      Copy();
      branch_ = at_;
      return {};
    }
    if (Peek(2) == '\'' || Peek(2) == '#') return "has a group (?'name'...) or (?#...)";
    std::size_t end = 2;
    for (; std::isalpha(static_cast<unsigned char>(Peek(end))) != 0 || Peek(end) == '-'; ++end) {
      // In Ruby, m lets the dot match line ends.
      if (Peek(end) == 'm') return "sets the option m";
    }
    // In Oniguruma a(?i)b|c is a(?i:b|c).
    if (Peek(end) == ')' && at_ != branch_) return "sets options within a branch; write (?i:...)";
    // Behind (?:, (?=, (?<!, (?<name>, (?i) and the like; 0 where there is no end to it.
    branch_ = expression_.find_first_of(":=!>)", at_) + 1;
    Copy();
    Copy();
    return {};
  }

  std::string_view Escape() {
    const char c = Peek(1);
    at_ += 2;
    switch (c) {
      case '\0':
        return "ends in a backslash";
      case 's':
        output_ += "\\p{WSpace}";
        return {};
      case 'S':
        output_ += "\\P{WSpace}";
        return {};
      case 'w':
        output_ +=
            class_depth_ > 0 ? std::string(kWord) : fmt::format("[{}{}]", kWord, kWordOutside);
        return {};
      case 'W':
        if (class_depth_ > 0) return "has \\W in a character class";
        output_ += fmt::format("[^{}{}]", kWord, kWordOutside);
        return {};
      // Words of PCRE2 have all numbers and no marks.
      case 'b':
        output_ += class_depth_ > 0
                       ? std::string("\\x08")
                       : fmt::format("(?:(?<=[{0}{1}])(?![{0}{1}])|(?<![{0}{1}])(?=[{0}{1}]))",
                                     kWord, kWordOutside);
        return {};
      case 'B':
        if (class_depth_ > 0) return "has \\B in a character class";
        output_ += fmt::format("(?:(?<=[{0}{1}])(?=[{0}{1}])|(?<![{0}{1}])(?![{0}{1}]))", kWord,
                               kWordOutside);
        return {};
      case 'v':
        output_ += "\\x0B";
        return {};
      case 'u':
        if (at_ + 4 > expression_.size()) return "has \\u without four digits";
        output_ += fmt::format("\\x{{{}}}", expression_.substr(at_, 4));
        at_ += 4;
        return {};
      case 'h':
      case 'H':
      case 'V':
      case 'y':
      case 'Y':
      case 'N':
      case 'O':
      case 'R':
      case 'X':
      case 'C':
      case 'Q':
      case 'E':
        return "has one of the escapes \\h \\H \\V \\y \\Y \\N \\O \\R \\X \\C \\Q \\E";
      case 'p':
      case 'P':
        if (Peek() != '{') return "has \\p or \\P without braces";
        [[fallthrough]];
      case 'x':
        output_ += '\\';
        output_ += c;
        CopyBraces();
        return {};
      default:
        output_ += '\\';
        output_ += c;
        return {};
    }
  }

  // The argument of \p, \P and \x.
  void CopyBraces() {
    const std::size_t end = expression_.find('}', at_);
    if (Peek() != '{' || end == std::string_view::npos) return;
    std::string_view name = expression_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    output_ += '{';
    if (name.starts_with('^')) {
      output_ += '^';
      name.remove_prefix(1);
    }
    // A script's bare name means its extensions too in PCRE2, and not in Oniguruma.
    if (Compiles(fmt::format("\\p{{sc:{}}}", name))) output_ += "sc:";
    output_ += name;
    output_ += '}';
  }

  static bool Compiles(std::string_view expression) {
    int code = 0;
    PCRE2_SIZE offset = 0;
    pcre2_code* compiled = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()),
                                         expression.size(), PCRE2_UTF, &code, &offset, nullptr);
    pcre2_code_free(compiled);
    return compiled != nullptr;
  }

  static constexpr std::string_view kAmbiguousNesting =
      "nests a character class that is empty or stands beside a minus";
  static constexpr std::string_view kWord = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
  // Outside a class Oniguruma counts Latin-1's superscript digits and fractions too.
  static constexpr std::string_view kWordOutside = "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}";

  std::string_view expression_;
  std::size_t at_ = 0;
  int class_depth_ = 0;
  std::size_t branch_ = 0;  // where a group, or one of its alternatives, begins
  std::string output_;
};

struct MatchDataDeleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct MatchContextDeleter {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
struct JitStackDeleter {
  void operator()(pcre2_jit_stack* stack) const { pcre2_jit_stack_free(stack); }
};
struct CompileContextDeleter {
  void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
};

// One search over a text; what PCRE2 needs beside the program.
class Search {
 public:
  Search(const pcre2_code* code, std::string_view text)
      : code_(code), text_(text), data_(pcre2_match_data_create_from_pattern(code, nullptr)) {}

  // The next match at or after `from`; nothing where there is none.
  absl::StatusOr<std::optional<Span>> Next(std::size_t from) {
    int result = Match(from);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT && stack_ == nullptr) {
      GrowStack();
      result = Match(from);
    }
    if (result == PCRE2_ERROR_NOMATCH) return std::optional<Span>();
    if (result < 0) {
      std::array<PCRE2_UCHAR, 256> message{};
      pcre2_get_error_message(result, message.data(), message.size());
      return Error(absl::StatusCode::kInvalidArgument, "INVALID_TOKENIZER",
                   fmt::format("matching failed at byte {}: {}; give a simpler pattern, or a text "
                               "in shorter lines",
                               from, reinterpret_cast<const char*>(message.data())));
    }
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(data_.get());
    return std::optional<Span>(Span{offsets[0], offsets[1], true});
  }

 private:
  static constexpr std::size_t kStackStart = std::size_t{256} << 10;
  static constexpr std::size_t kStackLimit = std::size_t{16} << 20;

  int Match(std::size_t from) {
    // The text is known to be UTF-8; checking it again at every match would take quadratic time.
    return pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text_.data()), text_.size(), from,
                       PCRE2_NO_UTF_CHECK, data_.get(), context_.get());
  }

  // Few texts need more than the 32 KiB of the machine's stack that PCRE2 uses by itself.
  void GrowStack() {
    stack_.reset(pcre2_jit_stack_create(kStackStart, kStackLimit, nullptr));
    context_.reset(pcre2_match_context_create(nullptr));
    pcre2_jit_stack_assign(context_.get(), nullptr, stack_.get());
  }

  const pcre2_code* code_;
  std::string_view text_;
  std::unique_ptr<pcre2_match_data, MatchDataDeleter> data_;
  std::unique_ptr<pcre2_jit_stack, JitStackDeleter> stack_;
  std::unique_ptr<pcre2_match_context, MatchContextDeleter> context_;
};

}  // namespace

absl::StatusOr<Pattern> Pattern::Regex(std::string_view expression) {
  const auto translated = Translator(expression).Run();
  if (!translated.ok()) return translated.status();
  // In Ruby's syntax ^ and $ are at every line.
  auto pattern = Compile(*translated, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE);
  if (!pattern.ok()) return Invalid(expression, std::string(pattern.status().message()));
  return pattern;
}

absl::StatusOr<Pattern> Pattern::Literal(std::string_view text) {
  if (text.empty()) return Invalid("\"\"", "is empty");
  return Compile(text, PCRE2_UTF | PCRE2_LITERAL);
}

absl::StatusOr<Pattern> Pattern::Compile(std::string_view expression, unsigned options) {
  const std::unique_ptr<pcre2_compile_context, CompileContextDeleter> context(
      pcre2_compile_context_create(nullptr));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int code = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* compiled = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()),
                                       expression.size(), options, &code, &offset, context.get());
  if (compiled == nullptr) {
    std::array<PCRE2_UCHAR, 256> message{};
    pcre2_get_error_message(code, message.data(), message.size());
    return absl::Status(
        absl::StatusCode::kInvalidArgument,
        fmt::format("does not compile: {}", reinterpret_cast<const char*>(message.data())));
  }
  // Without the compiler for this processor the interpreter does the same, slower.
  (void)pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);
  return Pattern({compiled, pcre2_code_free});
}

absl::StatusOr<std::vector<Span>> Pattern::Split(std::string_view text) const {
  std::vector<Span> spans;
  if (text.empty()) return std::vector<Span>{Span{}};
  Search search(code_.get(), text);
  std::size_t covered = 0;
  std::size_t from = 0;
  std::optional<std::size_t> last_match_end;
  while (from <= text.size()) {
    const auto found = search.Next(from);
    if (!found.ok() && place_.empty()) return found.status();
    if (!found.ok()) return WithContext(found.status(), place_);
    if (!found->has_value()) break;
    const Span match = **found;
    if (match.begin == match.end && last_match_end == match.end) {
      // As Oniguruma's iterator: no empty match right after another match.
      from += from < text.size() ? FirstCharacterSize(text.substr(from)) : 1;
      continue;
    }
    if (covered != match.begin) spans.push_back({covered, match.begin, false});
    spans.push_back(match);
    covered = from = match.end;
    last_match_end = match.end;
  }
  if (covered != text.size()) spans.push_back({covered, text.size(), false});
  return spans;
}

absl::StatusOr<Pattern> ParsePattern(const JsonPart& part) {
  const bool literal = part["String"].present();
  TEQ_ASSIGN_OR_RETURN(const std::string text, part[literal ? "String" : "Regex"].String());
  auto pattern = literal ? Pattern::Literal(text) : Pattern::Regex(text);
  if (!pattern.ok()) return part.Invalid(std::string(pattern.status().message()));
  pattern->set_place(part.path());
  return pattern;
}

}  // namespace teq::text
