#include "server/queue/filter.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <optional>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::queue {
namespace {

using store::FilterTerm;
using teq::v1::Job;
using Operator = FilterTerm::Operator;
using Field = FilterTerm::Field;

constexpr size_t kMaxTerms = 32;
constexpr std::string_view kLabelPrefix = "labels.";

// Longer operators first, so that `<=` is not read as `<`.
constexpr std::array<std::pair<std::string_view, Operator>, 6> kOperators = {{
    {"!=", Operator::kNotEqual},
    {"<=", Operator::kLessOrEqual},
    {">=", Operator::kGreaterOrEqual},
    {"=", Operator::kEqual},
    {"<", Operator::kLess},
    {">", Operator::kGreater},
}};

absl::Status InvalidFilter(size_t position, std::string_view expected) {
  google::rpc::BadRequest::FieldViolation violation;
  violation.set_field("filter");
  violation.set_description(fmt::format("column {}: expected {}", position + 1, expected));
  return InvalidFields("INVALID_FILTER", {violation});
}

bool IsWordCharacter(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-' || c == '.';
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  absl::StatusOr<std::vector<FilterTerm>> Parse() {
    std::vector<FilterTerm> terms;
    SkipSpace();
    while (!AtEnd()) {
      if (terms.size() == kMaxTerms) {
        return InvalidFilter(position_, fmt::format("at most {} terms", kMaxTerms));
      }
      if (!terms.empty()) {
        const size_t start = position_;
        if (Word(/*label=*/false) != "AND") return InvalidFilter(start, "AND");
        SkipSpace();
      }
      TEQ_ASSIGN_OR_RETURN(FilterTerm term, ParseTerm());
      terms.push_back(std::move(term));
      SkipSpace();
    }
    return terms;
  }

 private:
  absl::StatusOr<FilterTerm> ParseTerm() {
    FilterTerm term;
    const size_t field_start = position_;
    const std::string field = Word(/*label=*/true);
    TEQ_RETURN_IF_ERROR(SetField(field, field_start, term));
    SkipSpace();
    const size_t operator_start = position_;
    const std::optional<Operator> op = ReadOperator();
    if (!op) return InvalidFilter(operator_start, "one of = != < <= > >=");
    term.op = *op;
    const bool ordered = term.field == Field::kPriority || term.field == Field::kCreateTime;
    if (!ordered && term.op != Operator::kEqual && term.op != Operator::kNotEqual) {
      return InvalidFilter(operator_start, fmt::format("= or != after {}", field));
    }
    SkipSpace();
    const size_t value_start = position_;
    TEQ_ASSIGN_OR_RETURN(const std::string value, ReadValue());
    TEQ_RETURN_IF_ERROR(SetValue(value, value_start, term));
    return term;
  }

  static absl::Status SetField(const std::string& field, size_t start, FilterTerm& term) {
    if (field == "state") {
      term.field = Field::kState;
    } else if (field == "priority") {
      term.field = Field::kPriority;
    } else if (field == "create_time") {
      term.field = Field::kCreateTime;
    } else if (field.starts_with(kLabelPrefix) && field.size() > kLabelPrefix.size()) {
      term.field = Field::kLabel;
      term.label = field.substr(kLabelPrefix.size());
    } else {
      return InvalidFilter(start, "one of state, priority, create_time, labels.KEY");
    }
    return absl::OkStatus();
  }

  static absl::Status SetValue(const std::string& value, size_t start, FilterTerm& term) {
    switch (term.field) {
      case Field::kLabel:
        term.value = value;
        return absl::OkStatus();
      case Field::kState: {
        Job::State state = Job::STATE_UNSPECIFIED;
        if (!Job::State_Parse(value, &state) && !Job::State_Parse("STATE_" + value, &state)) {
          return InvalidFilter(start, fmt::format("a state such as RUNNING, not \"{}\"", value));
        }
        term.value = int64_t{state};
        return absl::OkStatus();
      }
      case Field::kPriority: {
        int64_t number = 0;
        const char* end = value.data() + value.size();
        const auto result = std::from_chars(value.data(), end, number);
        if (result.ec != std::errc() || result.ptr != end) {
          return InvalidFilter(start, fmt::format("an integer, not \"{}\"", value));
        }
        term.value = number;
        return absl::OkStatus();
      }
      case Field::kCreateTime: {
        absl::Time time;
        std::string error;
        if (!absl::ParseTime(absl::RFC3339_full, value, &time, &error)) {
          return InvalidFilter(start, fmt::format("a time such as \"2026-01-31T00:00:00Z\", not "
                                                  "\"{}\"",
                                                  value));
        }
        term.value = absl::ToUnixMicros(time);
        return absl::OkStatus();
      }
    }
    return absl::OkStatus();
  }

  [[nodiscard]] bool AtEnd() const { return position_ >= text_.size(); }

  void SkipSpace() {
    while (!AtEnd() && std::isspace(static_cast<unsigned char>(text_[position_])) != 0) ++position_;
  }

  /// Label keys may hold a slash.
  std::string Word(bool label) {
    const size_t start = position_;
    while (!AtEnd() && (IsWordCharacter(text_[position_]) || (label && text_[position_] == '/'))) {
      ++position_;
    }
    return std::string(text_.substr(start, position_ - start));
  }

  std::optional<Operator> ReadOperator() {
    for (const auto& [sign, op] : kOperators) {
      if (text_.substr(position_).starts_with(sign)) {
        position_ += sign.size();
        return op;
      }
    }
    return std::nullopt;
  }

  absl::StatusOr<std::string> ReadValue() {
    const size_t start = position_;
    if (AtEnd() || text_[position_] != '"') {
      std::string word = Word(/*label=*/false);
      if (word.empty()) return InvalidFilter(start, "a value, or one in double quotes");
      return word;
    }
    std::string value;
    for (++position_; !AtEnd(); ++position_) {
      char c = text_[position_];
      if (c == '"') {
        ++position_;
        return value;
      }
      if (c == '\\' && position_ + 1 < text_.size()) c = text_[++position_];
      value += c;
    }
    return InvalidFilter(text_.size(), "a closing double quote");
  }

  std::string_view text_;
  size_t position_ = 0;
};

}  // namespace

absl::StatusOr<std::vector<FilterTerm>> ParseFilter(std::string_view filter) {
  return Parser(filter).Parse();
}

}  // namespace teq::queue
