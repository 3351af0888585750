#include "server/config.h"

#include <functional>
#include <map>
#include <set>
#include <utility>

#include "client/objects/file.h"
#include "client/side_port/address.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "proto/spec/error.h"
#include "proto/spec/uri.h"
#include "yaml-cpp/yaml.h"

namespace teq::server {
namespace {

/// What is wrong with a value; empty: nothing.
using Setter = std::function<std::string(const YAML::Node& value)>;
using Setters = std::map<std::string, Setter>;

std::string ReadDuration(const std::string& text, absl::Duration& duration) {
  constexpr std::string_view kExpected = "expected a duration such as 30s, 2m or 1h";
  static const std::map<std::string, absl::Duration> kUnits = {
      {"s", absl::Seconds(1)}, {"m", absl::Minutes(1)}, {"h", absl::Hours(1)}};
  double number = 0;
  size_t size = 0;
  try {
    number = std::stod(text, &size);
  } catch (const std::exception&) {
    return std::string(kExpected);
  }
  const auto unit = kUnits.find(text.substr(size));
  if (unit == kUnits.end() || !(number > 0)) return std::string(kExpected);
  duration = unit->second * number;
  return {};
}

Setter Text(std::string& target) {
  return [&target](const YAML::Node& value) -> std::string {
    if (!value.IsScalar() || value.Scalar().empty()) return "expected a text";
    target = value.Scalar();
    return {};
  };
}

Setter Flag(bool& target) {
  return [&target](const YAML::Node& value) -> std::string {
    if (!value.IsScalar() || !YAML::convert<bool>::decode(value, target)) {
      return "expected true or false";
    }
    return {};
  };
}

Setter Positive(int& target) {
  return [&target](const YAML::Node& value) -> std::string {
    if (!value.IsScalar() || !YAML::convert<int>::decode(value, target) || target < 1) {
      return "expected a positive integer";
    }
    return {};
  };
}

Setter Seconds(absl::Duration& target, absl::Duration least) {
  return [&target, least](const YAML::Node& value) -> std::string {
    if (!value.IsScalar()) return "expected a duration such as 30s";
    std::string wrong = ReadDuration(value.Scalar(), target);
    if (wrong.empty() && target < least) {
      return fmt::format("expected at least {}", absl::FormatDuration(least));
    }
    return wrong;
  };
}

Setter LogFormat(logs::Format& target) {
  return [&target](const YAML::Node& value) -> std::string {
    const auto format = logs::ParseFormat(value.IsScalar() ? value.Scalar() : "");
    if (!format) return "expected text or json";
    target = *format;
    return {};
  };
}

Setter List(std::vector<std::string>& target) {
  return [&target](const YAML::Node& value) -> std::string {
    if (!value.IsSequence()) return "expected a list";
    for (const YAML::Node& entry : value) {
      if (!entry.IsScalar()) return "expected a list of texts";
      target.push_back(entry.Scalar());
    }
    return {};
  };
}

absl::Status Invalid(std::string_view file, const YAML::Mark& mark, std::string_view what) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_CONFIG",
               fmt::format("{}:{}: {}", file, mark.line + 1, what));
}

std::string KnownKeys(const Setters& setters) {
  std::vector<std::string> keys;
  for (const auto& [key, setter] : setters) keys.push_back(key);
  return fmt::format("{}", fmt::join(keys, ", "));
}

absl::Status ReadMap(const YAML::Node& map, const std::string& path, const Setters& setters,
                     std::string_view file) {
  if (!map.IsMap()) return Invalid(file, map.Mark(), path + "expected keys and values");
  std::set<std::string> seen;
  for (const auto& entry : map) {
    const std::string key = entry.first.IsScalar() ? entry.first.Scalar() : "";
    const auto setter = setters.find(key);
    if (setter == setters.end()) {
      return Invalid(file, entry.first.Mark(),
                     fmt::format("{}{}: unknown key; known: {}", path, key, KnownKeys(setters)));
    }
    if (!seen.insert(key).second) {
      return Invalid(file, entry.first.Mark(),
                     fmt::format("{}{}: given twice; remove one", path, key));
    }
    if (const std::string wrong = setter->second(entry.second); !wrong.empty()) {
      const std::string value = entry.second.IsScalar() ? entry.second.Scalar() : "a structure";
      return Invalid(file, entry.second.Mark(),
                     fmt::format("{}{}: {}, not \"{}\"", path, key, wrong, value));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadDocument(const YAML::Node& document, std::string_view file, Config& config) {
  // A queue that was not looked at for half a lease takes it for a stop of its own and extends the
  // leases: that has to be far beyond what the server leaves between its looks.
  constexpr absl::Duration kShortestLease = absl::Seconds(5);
  std::string data = config.data.string();
  YAML::Node limits;
  const Setters setters = {
      {"listen", Text(config.listen)},
      {"http", Text(config.http)},
      {"data", Text(data)},
      {"allow_plaintext", Flag(config.allow_plaintext)},
      {"uri_prefixes", List(config.uri_prefixes)},
      {"lease_duration", Seconds(config.lease_duration, kShortestLease)},
      {"drain_timeout", Seconds(config.drain_timeout, absl::ZeroDuration())},
      {"log_format", LogFormat(config.log_format)},
      {"limits",
       [&limits](const YAML::Node& value) -> std::string {
         limits = value;
         return {};
       }},
  };
  TEQ_RETURN_IF_ERROR(ReadMap(document, "", setters, file));
  config.data = data;
  if (limits.IsNull()) return absl::OkStatus();
  LimitsConfig& bounds = config.limits;
  return ReadMap(limits, "limits.",
                 {{"queued_jobs_per_project", Positive(bounds.queued_jobs_per_project)},
                  {"watch_streams", Positive(bounds.watch_streams)},
                  {"waiting_workers", Positive(bounds.waiting_workers)},
                  {"spec_bytes", Positive(bounds.spec_bytes)},
                  {"events_per_job", Positive(bounds.events_per_job)},
                  {"metrics_jobs", Positive(bounds.metrics_jobs)},
                  {"metrics_projects", Positive(bounds.metrics_projects)}},
                 file);
}

absl::Status CheckPlaintext(std::string_view key, const http::HostPort& address,
                            const Config& config) {
  if (config.allow_plaintext || address.IsLoopback()) return absl::OkStatus();
  return Error(absl::StatusCode::kFailedPrecondition, "PLAINTEXT_NOT_ALLOWED",
               fmt::format("{}: other machines can reach {} and nothing is encrypted; listen on "
                           "127.0.0.1, or, where the network is trusted, set allow_plaintext: true "
                           "in the config file or give --allow-plaintext",
                           key, address.ToString()));
}

}  // namespace

absl::StatusOr<Config> ParseConfig(std::string_view yaml, std::string_view file) {
  Config config;
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(std::string(yaml));
    if (documents.size() > 1) return Invalid(file, documents[1].Mark(), "more than one document");
    if (documents.empty() || documents[0].IsNull()) return config;
    TEQ_RETURN_IF_ERROR(ReadDocument(documents[0], file, config));
  } catch (const YAML::Exception& error) {
    return Invalid(file, error.mark, error.msg);
  }
  return config;
}

absl::StatusOr<Config> ReadConfig(const std::filesystem::path& file) {
  const absl::StatusOr<std::string> text = objects::ReadFile(file);
  if (!text.ok()) {
    return Error(absl::StatusCode::kNotFound, "CONFIG_NOT_FOUND",
                 fmt::format("{}: cannot be read; name a YAML file by --config", file.string()));
  }
  return ParseConfig(*text, file.string());
}

absl::Status CheckConfig(const Config& config) {
  const absl::StatusOr<http::HostPort> listen = http::ParseHostPort(config.listen);
  if (!listen.ok()) return WithContext(listen.status(), "listen");
  const absl::StatusOr<http::HostPort> http = http::ParseHostPort(config.http);
  if (!http.ok()) return WithContext(http.status(), "http");
  for (const std::string& prefix : config.uri_prefixes) {
    const absl::Status status = CheckUriPrefix(prefix);
    if (!status.ok()) return WithContext(status, "uri_prefixes");
  }
  if (!listen->IsLoopback() && config.uri_prefixes.empty()) {
    return Error(absl::StatusCode::kFailedPrecondition, "URI_PREFIXES_REQUIRED",
                 fmt::format("listen: other machines can reach {}, and jobs could name any file; "
                             "list the directories they may use in uri_prefixes, or listen on "
                             "127.0.0.1",
                             config.listen));
  }
  TEQ_RETURN_IF_ERROR(CheckPlaintext("listen", *listen, config));
  return CheckPlaintext("http", *http, config);
}

}  // namespace teq::server
