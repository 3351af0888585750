#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/engine/text/json_part.h"

struct pcre2_real_code_8;

namespace teq::text {

/// A part of a text: a match, or what lies between two.
struct Span {
  std::size_t begin = 0;
  std::size_t end = 0;
  bool matched = false;

  friend bool operator==(const Span&, const Span&) = default;
};

/// The inside of a character class: \w as the reference's other regular expressions have it, which
/// are not Oniguruma's.
inline constexpr std::string_view kWordCharacters =
    R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D})";

/// A pattern of a tokenizer.json. Hugging Face's tokenizers read them with Oniguruma; this is PCRE2
/// made to agree with it, and what would mean something else is refused. Not followed: what Unicode
/// 15 and 16 added has no class here, as Debian 12's PCRE2 has Unicode 14; where case is ignored, a
/// character never matches two others (a sharp s matches no ss), and a property in a character
/// class still tells the cases apart. Thread-safe; copies share the program.
class Pattern {
 public:
  /// INVALID_ARGUMENT without a reason: what in the expression is wrong or not supported.
  [[nodiscard]] static absl::StatusOr<Pattern> Regex(std::string_view expression);
  [[nodiscard]] static absl::StatusOr<Pattern> Literal(std::string_view text);

  /// `text`, valid UTF-8, cut into matches and what lies between. The spans cover it in order;
  /// empty matches appear as empty spans; empty text is one empty span that does not match.
  /// INVALID_TOKENIZER where matching takes more steps than PCRE2 allows.
  [[nodiscard]] absl::StatusOr<std::vector<Span>> Split(std::string_view text) const;

  /// Where the pattern stands in its file; Split's errors begin with it.
  void set_place(std::string place) { place_ = std::move(place); }

 private:
  explicit Pattern(std::shared_ptr<const pcre2_real_code_8> code) : code_(std::move(code)) {}
  static absl::StatusOr<Pattern> Compile(std::string_view expression, unsigned options);

  std::shared_ptr<const pcre2_real_code_8> code_;
  std::string place_;
};

/// A `pattern` of a tokenizer.json: {"String": ...} or {"Regex": ...}. INVALID_TOKENIZER.
[[nodiscard]] absl::StatusOr<Pattern> ParsePattern(const JsonPart& part);

}  // namespace teq::text
