#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// What the report's page is written with. A `text` is plain and is escaped here; an `html` is
// markup and is not. All markup is well-formed XML as well.
namespace teq::report {

/// `text` as the content of an element or of a quoted attribute. What XML cannot hold (control
/// characters, bytes that are not UTF-8) becomes U+FFFD.
[[nodiscard]] std::string Escape(std::string_view text);

/// At most `limit` characters of UTF-8 text, the last one an ellipsis where some were left out.
[[nodiscard]] std::string Shortened(std::string_view text, std::size_t limit);

/// "30.22", "0.6000", "2.870·10⁻⁶", "−1.000"; "NaN" and "∞" for what is not finite.
[[nodiscard]] std::string Significant(double value, int digits = 4);

/// The same without trailing zeros, for the ticks of an axis.
[[nodiscard]] std::string Brief(double value, int digits = 3);

/// With so many digits after the point: "29.6216".
[[nodiscard]] std::string Fixed(double value, int decimals);

/// Fixed with its sign: "+0.6007".
[[nodiscard]] std::string Signed(double value, int decimals);

/// A factor: "× 0.95"; "–" for NaN.
[[nodiscard]] std::string Times(double factor, int decimals = 2);

/// A share as a percentage: "85.3 %".
[[nodiscard]] std::string Percent(double share, int decimals = 1);

/// "46,665".
[[nodiscard]] std::string Count(std::int64_t value);

/// "2.45 MiB".
[[nodiscard]] std::string Bytes(std::int64_t value);

/// What a uri ends with: "llama" of "file:///models/llama/".
[[nodiscard]] std::string LastPart(std::string_view uri);

/// A paragraph of plain text.
[[nodiscard]] std::string Paragraph(std::string_view text);

/// A table of plain text. Beyond kMaxRows rows it says how many are left out and where they are.
class Table {
 public:
  static constexpr std::size_t kMaxRows = 2000;

  enum class Align { kText, kNumber };
  struct Column {
    std::string name;
    Align align = Align::kNumber;
  };

  Table(std::string caption, std::vector<Column> columns)
      : caption_(std::move(caption)), columns_(std::move(columns)) {}

  /// One cell for every column.
  void AddRow(std::vector<std::string> cells);

  [[nodiscard]] bool empty() const { return rows_.empty(); }
  [[nodiscard]] std::string Html() const;

 private:
  std::string caption_;
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
  std::size_t left_out_ = 0;
};

/// One mark of a plot and what it means.
struct LegendEntry {
  enum class Key { kDot, kLine, kTile };
  Key key = Key::kDot;
  std::string style;  // a class of the style sheet
  std::string text;
};
[[nodiscard]] std::string Legend(std::span<const LegendEntry> entries);

/// Small plots side by side.
[[nodiscard]] std::string Panels(std::string_view panels_html);

/// How many characters UTF-8 text has.
[[nodiscard]] std::size_t CharacterCount(std::string_view text);

/// A figure: its title, what it shows, the drawing, and its numbers as a table that unfolds.
struct Figure {
  std::string title;
  std::string caption;
  std::string body_html;
  std::string table_html;  // empty: the drawing is a table itself

  [[nodiscard]] std::string Html() const;
};

/// A part of the page below a heading; empty where `body_html` is.
[[nodiscard]] std::string Section(std::string_view id, std::string_view title,
                                  std::string_view body_html);

/// What unfolds on a click.
[[nodiscard]] std::string Unfolding(std::string_view summary, std::string_view body_html);

}  // namespace teq::report
