#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace teq {

/// Where something stands in a distributed trace: what the header `traceparent` of W3C Trace
/// Context says. https://www.w3.org/TR/trace-context/#traceparent-header
struct TraceParent {
  std::string trace_id;   // 32 lower-case hexadecimal digits, not all zero
  std::string parent_id;  // 16 of them, not all zero
  bool sampled = false;

  /// As version 00 writes it: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".
  [[nodiscard]] std::string ToString() const;
};

/// Its name, as a header, in gRPC's metadata and as a field of messages.
inline constexpr const char* kTraceParentKey = "traceparent";

/// Reads one, with white space around it. Nothing for a value that the receiver has to ignore:
/// other digits or lengths, ids of zeros only, version ff, anything after version 00's last field.
/// Of later versions the fields that version 00 has are read.
[[nodiscard]] std::optional<TraceParent> ParseTraceParent(std::string_view text);

/// The beginning of a new trace. `random` gives 64 uniform bits.
[[nodiscard]] TraceParent NewTraceParent(const std::function<std::uint64_t()>& random);

}  // namespace teq
