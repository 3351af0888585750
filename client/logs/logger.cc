#include "client/logs/logger.h"

#include <chrono>
#include <cstdio>
#include <utility>

#include "fmt/chrono.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"
#include "spdlog/sinks/stdout_color_sinks.h"
#include "spdlog/spdlog.h"

namespace teq::logs {
namespace {

std::string_view ToView(spdlog::string_view_t text) { return {text.data(), text.size()}; }

// RFC 3339, in UTC.
std::string TimeText(spdlog::log_clock::time_point time) {
  using std::chrono::microseconds;
  const auto since_epoch = std::chrono::duration_cast<microseconds>(time.time_since_epoch());
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:06}Z", fmt::gmtime(spdlog::log_clock::to_time_t(time)),
                     since_epoch.count() % std::micro::den);
}

}  // namespace

std::optional<Format> ParseFormat(std::string_view word) {
  if (word == "text") return Format::kText;
  if (word == "json") return Format::kJson;
  return std::nullopt;
}

Logger::Logger(std::string name, Format format, spdlog::sink_ptr sink, Subject subject)
    : spdlog::logger(std::move(name), std::move(sink)),
      format_(format),
      subject_(std::move(subject)) {
  set_pattern(format == Format::kJson ? "%v" : "%Y-%m-%dT%H:%M:%S.%e%z %^%l%$ %v");
}

std::shared_ptr<Logger> Logger::About(Subject subject) const {
  auto other = std::make_shared<Logger>(*this);
  other->subject_ = std::move(subject);
  return other;
}

std::string Logger::Text(std::string_view message) const {
  if (subject_.job.empty()) return std::string(message);
  return fmt::format("{}: {}", subject_.job, message);
}

std::string Logger::Json(const spdlog::details::log_msg& message) const {
  using Object = nlohmann::ordered_json;
  Object line = {{"ts", TimeText(message.time)},
                 {"level", ToView(spdlog::level::to_string_view(message.level))},
                 {"logger", ToView(message.logger_name)},
                 {"msg", ToView(message.payload)}};
  if (!subject_.job.empty()) line["job"] = subject_.job;
  if (subject_.attempt != 0) line["attempt"] = subject_.attempt;
  if (subject_.fence != 0) line["fence"] = subject_.fence;
  if (!subject_.worker.empty()) line["worker"] = subject_.worker;
  if (!subject_.trace_id.empty()) line["trace_id"] = subject_.trace_id;
  // What a child process prints need not be UTF-8.
  return line.dump(-1, ' ', false, Object::error_handler_t::replace);
}

void Logger::sink_it_(const spdlog::details::log_msg& message) {
  const std::string line = format_ == Format::kJson ? Json(message) : Text(ToView(message.payload));
  spdlog::details::log_msg written = message;
  written.payload = line;
  spdlog::logger::sink_it_(written);
}

std::shared_ptr<Logger> ToStandardError(const std::string& name, Format format) {
  return std::make_shared<Logger>(name, format,
                                  std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
}

std::shared_ptr<Logger> StartLog(const std::string& name, Format format) {
  auto log = ToStandardError(name, format);
  spdlog::set_default_logger(log);
  return log;
}

void TellFailure(const std::string& name, Format format, const absl::Status& status) {
  const std::string why = ErrorText(status);
  if (format == Format::kJson) {
    ToStandardError(name, format)->error("{}", why);
  } else {
    fmt::print(stderr, "{}: {}\n", name, why);
  }
}

}  // namespace teq::logs
