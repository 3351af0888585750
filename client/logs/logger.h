#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "spdlog/logger.h"

namespace teq::logs {

/// How a line looks: readable, or a JSON object for those who collect lines.
enum class Format { kText, kJson };

/// "text" and "json"; nothing for other words.
[[nodiscard]] std::optional<Format> ParseFormat(std::string_view word);

/// What a line is about. What is empty or 0 is left out.
struct Subject {
  std::string worker;  // its id
  std::string job;     // the resource name
  int attempt = 0;
  std::int64_t fence = 0;
  std::string trace_id;  // of W3C Trace Context
};

/// A logger whose lines tell what they are about, as text
///   2026-01-31T12:00:00.123+0000 info projects/p/jobs/j: stage FETCH
/// where only the job of the subject is told, or as JSON, in UTC,
///   {"ts":"2026-01-31T12:00:00.123456Z","level":"info","logger":"teq-worker","msg":"stage FETCH",
///    "job":"projects/p/jobs/j","attempt":1,"fence":3,"worker":"w","trace_id":"4bf9..."}
/// in one line, whatever the message holds. Thread-safe where its sinks are.
class Logger final : public spdlog::logger {
 public:
  /// `name` is the program's. Sets the sink's pattern.
  Logger(std::string name, Format format, spdlog::sink_ptr sink, Subject subject = {});

  /// The same with another subject.
  [[nodiscard]] std::shared_ptr<Logger> About(Subject subject) const;

  [[nodiscard]] const Subject& subject() const { return subject_; }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override;

 private:
  [[nodiscard]] std::string Text(std::string_view message) const;
  [[nodiscard]] std::string Json(const spdlog::details::log_msg& message) const;

  Format format_;
  Subject subject_;
};

/// A logger that writes to standard error, in colours where that is a terminal.
[[nodiscard]] std::shared_ptr<Logger> ToStandardError(const std::string& name, Format format);

/// ToStandardError, and where spdlog's own functions write from now on.
std::shared_ptr<Logger> StartLog(const std::string& name, Format format);

/// Says on standard error why the program ends: "NAME: REASON: message", or a line of JSON.
void TellFailure(const std::string& name, Format format, const absl::Status& status);

}  // namespace teq::logs
