#include "worker/engine/report/html.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>

#include "fmt/format.h"
#include "proto/spec/utf8.h"

namespace teq::report {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD
constexpr std::string_view kMinus = "−";
constexpr std::string_view kNoBreak = "\u00A0";

// Bytes of the character that starts `text`, as its first byte says; 1 for a byte that starts none.
std::size_t CharacterBytes(std::string_view text) {
  const auto first = static_cast<unsigned char>(text.front());
  const std::size_t bytes = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC0 ? 2 : 1;
  return std::min(bytes, text.size());
}

bool IsXmlCharacter(std::string_view character) {
  if (character.size() == 1) {
    const auto byte = static_cast<unsigned char>(character.front());
    return (byte >= 0x20 && byte < 0x7F) || byte == '\t' || byte == '\n' || byte == '\r';
  }
  // C1 controls are allowed but mean nothing; U+FFFE and U+FFFF are not characters.
  return IsUtf8(character) && !(character.size() == 2 && character < "\xC2\xA0") &&
         character != "\xEF\xBF\xBE" && character != "\xEF\xBF\xBF";
}

std::string_view Reference(char character) {
  switch (character) {
    case '&':
      return "&amp;";
    case '<':
      return "&lt;";
    case '>':
      return "&gt;";
    case '"':
      return "&quot;";
    case '\'':
      return "&#39;";
    default:
      return {};
  }
}

std::string NotFinite(double value) {
  if (std::isnan(value)) return "NaN";
  return value > 0 ? "∞" : fmt::format("{}∞", kMinus);
}

std::string WithMinus(bool negative, const std::string& digits) {
  return negative ? fmt::format("{}{}", kMinus, digits) : digits;
}

std::string Superscript(int exponent) {
  static constexpr std::array<std::string_view, 10> kDigits = {"⁰", "¹", "²", "³", "⁴",
                                                               "⁵", "⁶", "⁷", "⁸", "⁹"};
  std::string text = exponent < 0 ? "⁻" : "";
  for (const char digit : fmt::format("{}", std::abs(exponent))) text += kDigits[digit - '0'];
  return text;
}

void TrimZeros(std::string& digits) {
  if (digits.find('.') == std::string::npos) return;
  digits.erase(digits.find_last_not_of('0') + 1);
  if (digits.back() == '.') digits.pop_back();
}

enum class Zeros { kKept, kTrimmed };

std::string WithDigits(double value, int digits, Zeros zeros) {
  if (!std::isfinite(value)) return NotFinite(value);
  if (value == 0) return "0";
  const double size = std::abs(value);
  // Through text, so that 9.9996 has the exponent of 10.00.
  const std::string scientific = fmt::format("{:.{}e}", size, digits - 1);
  const std::size_t mark = scientific.find('e');
  const int exponent = std::atoi(scientific.c_str() + mark + 1);
  const bool plain = exponent >= -3 && exponent < 6;
  std::string text = plain ? fmt::format("{:.{}f}", size, std::max(0, digits - 1 - exponent))
                           : scientific.substr(0, mark);
  if (zeros == Zeros::kTrimmed) TrimZeros(text);
  if (plain) return WithMinus(value < 0, text);
  const std::string power = fmt::format("10{}", Superscript(exponent));
  return WithMinus(value < 0, text == "1" ? power : fmt::format("{}·{}", text, power));
}

std::string_view AlignClass(Table::Align align) {
  return align == Table::Align::kNumber ? " class=\"number\"" : "";
}

std::string Mark(const LegendEntry& entry) {
  if (entry.key == LegendEntry::Key::kDot) {
    return fmt::format("<circle class=\"dot {}\" cx=\"50%\" cy=\"50%\" r=\"4\"/>", entry.style);
  }
  return fmt::format("<line class=\"line {}\" x1=\"0\" x2=\"100%\" y1=\"50%\" y2=\"50%\"/>",
                     entry.style);
}

std::string EntryHtml(const LegendEntry& entry) {
  if (entry.key == LegendEntry::Key::kTile) {
    return fmt::format("<span class=\"tile {}\">{}</span> ", entry.style, Escape(entry.text));
  }
  return fmt::format("<span><svg class=\"key\" aria-hidden=\"true\">{}</svg>{}</span> ",
                     Mark(entry), Escape(entry.text));
}

}  // namespace

std::string Escape(std::string_view text) {
  std::string html;
  html.reserve(text.size());
  while (!text.empty()) {
    std::string_view character = text.substr(0, CharacterBytes(text));
    // A byte at a time where the text is broken, so that what follows it is not lost.
    if (!IsXmlCharacter(character)) {
      html += kReplacement;
      if (!IsUtf8(character)) character = character.substr(0, 1);
    } else if (const std::string_view reference = Reference(character.front());
               !reference.empty()) {
      html += reference;
    } else {
      html += character;
    }
    text.remove_prefix(character.size());
  }
  return html;
}

std::string Shortened(std::string_view text, std::size_t limit) {
  std::size_t bytes = 0;
  std::size_t kept = 0;
  std::size_t characters = 0;
  while (bytes < text.size()) {
    if (++characters < limit) kept = bytes + CharacterBytes(text.substr(bytes));
    bytes += CharacterBytes(text.substr(bytes));
  }
  if (characters <= limit) return std::string(text);
  return fmt::format("{}…", text.substr(0, kept));
}

std::size_t CharacterCount(std::string_view text) {
  return static_cast<std::size_t>(std::ranges::count_if(
      text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

std::string Significant(double value, int digits) {
  return WithDigits(value, digits, Zeros::kKept);
}

std::string Brief(double value, int digits) { return WithDigits(value, digits, Zeros::kTrimmed); }

std::string Fixed(double value, int decimals) {
  if (!std::isfinite(value)) return NotFinite(value);
  // Such a number has more digits than a page has room for.
  if (std::abs(value) >= 1e9) return Significant(value, decimals + 1);
  return WithMinus(value < 0, fmt::format("{:.{}f}", std::abs(value), decimals));
}

std::string Signed(double value, int decimals) {
  return fmt::format("{}{}", value > 0 ? "+" : "", Fixed(value, decimals));
}

std::string Times(double factor, int decimals) {
  if (std::isnan(factor)) return "–";
  return fmt::format("×{}{}", kNoBreak, Fixed(factor, decimals));
}

std::string Percent(double share, int decimals) {
  return fmt::format("{}{}%", Fixed(100 * share, decimals), kNoBreak);
}

std::string Count(std::int64_t value) {
  const std::string digits = fmt::format("{}", value);
  const std::size_t first = value < 0 ? 1 : 0;
  std::string grouped;
  for (std::size_t i = first; i < digits.size(); ++i) {
    if (i > first && (digits.size() - i) % 3 == 0) grouped += ',';
    grouped += digits[i];
  }
  return WithMinus(value < 0, grouped);
}

std::string Bytes(std::int64_t value) {
  static constexpr std::array<std::string_view, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto size = static_cast<double>(value);
  std::size_t unit = 0;
  while (size >= 1024 && unit + 1 < kUnits.size()) {
    size /= 1024;
    ++unit;
  }
  return fmt::format("{} {}", unit == 0 ? Count(value) : Significant(size, 3), kUnits[unit]);
}

std::string LastPart(std::string_view uri) {
  while (uri.ends_with('/')) uri.remove_suffix(1);
  return std::string(uri.substr(uri.rfind('/') + 1));
}

std::string Paragraph(std::string_view text) { return fmt::format("<p>{}</p>\n", Escape(text)); }

void Table::AddRow(std::vector<std::string> cells) {
  if (rows_.size() == kMaxRows) {
    ++left_out_;
    return;
  }
  cells.resize(columns_.size());
  rows_.push_back(std::move(cells));
}

std::string Table::Html() const {
  std::string html = fmt::format("<div class=\"wide\"><table><caption>{}</caption>\n<thead><tr>",
                                 Escape(caption_));
  for (const Column& column : columns_) {
    html +=
        fmt::format("<th scope=\"col\"{}>{}</th>", AlignClass(column.align), Escape(column.name));
  }
  html += "</tr></thead>\n<tbody>\n";
  for (const std::vector<std::string>& row : rows_) {
    html += "<tr>";
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      html += fmt::format("<td{}>{}</td>", AlignClass(columns_[i].align), Escape(row[i]));
    }
    html += "</tr>\n";
  }
  if (left_out_ > 0) {
    html += fmt::format("<tr><td colspan=\"{}\">{} more in report.json</td></tr>\n",
                        columns_.size(), left_out_);
  }
  return html + "</tbody></table></div>\n";
}

std::string Legend(std::span<const LegendEntry> entries) {
  std::string html = "<p class=\"legend\">";
  for (const LegendEntry& entry : entries) html += EntryHtml(entry);
  return html + "</p>\n";
}

std::string Figure::Html() const {
  return fmt::format("<figure>\n<figcaption><strong>{}</strong> {}</figcaption>\n{}{}</figure>\n",
                     Escape(title), Escape(caption), body_html,
                     table_html.empty() ? "" : Unfolding("As a table", table_html));
}

std::string Panels(std::string_view panels_html) {
  return fmt::format("<div class=\"panels\">\n{}</div>\n", panels_html);
}

std::string Section(std::string_view id, std::string_view title, std::string_view body_html) {
  if (body_html.empty()) return {};
  return fmt::format("<section id=\"{0}\">\n<h2>{1}</h2>\n{2}</section>\n", id, Escape(title),
                     body_html);
}

std::string Unfolding(std::string_view summary, std::string_view body_html) {
  return fmt::format("<details><summary>{}</summary>\n{}</details>\n", Escape(summary), body_html);
}

}  // namespace teq::report
