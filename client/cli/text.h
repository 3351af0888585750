#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "google/protobuf/timestamp.pb.h"

/// How values read on a terminal. Pure.
namespace teq::cli {

/// `text` without what could steer a terminal: control characters become '?'. For all text that
/// comes from elsewhere.
[[nodiscard]] std::string Printable(std::string_view text);

/// The number of characters of UTF-8 text; each is taken as one column.
[[nodiscard]] std::size_t Columns(std::string_view text);

/// The first `columns` characters of `text`.
[[nodiscard]] std::string Cut(std::string_view text, std::size_t columns);

/// "0s", "45s", "3m12s", "2h05m", "3d04h".
[[nodiscard]] std::string DurationText(double seconds);

/// "512 B", "1.5 MiB".
[[nodiscard]] std::string BytesText(std::int64_t bytes);

/// "2026-01-31 12:00:00Z"; "-" for an unset time.
[[nodiscard]] std::string TimeText(const google::protobuf::Timestamp& time);

/// A perplexity with three decimals, or four digits where it is large; "-" where none was measured.
[[nodiscard]] std::string PerplexityText(double perplexity);

/// "950", "1.2k", "3.4M".
[[nodiscard]] std::string RateText(double per_second);

/// Where a URI lies, as people write it: the path of a `file://` URI, else the URI.
[[nodiscard]] std::string PlaceText(std::string_view uri);

/// Rows of cells as lines with aligned columns, two spaces apart, no trailing spaces. `right` names
/// the columns that are aligned to the right.
[[nodiscard]] std::string Table(const std::vector<std::vector<std::string>>& rows,
                                const std::vector<std::size_t>& right);

}  // namespace teq::cli
