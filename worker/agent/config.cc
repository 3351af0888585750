#include "worker/agent/config.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <regex>
#include <set>

#include "client/side_port/address.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "proto/spec/error.h"
#include "yaml-cpp/yaml.h"

namespace teq::agent {
namespace {

absl::Status Invalid(std::string_view file, const YAML::Mark& mark, std::string_view what) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_CONFIG",
               fmt::format("{}:{}: {}", file, mark.line + 1, what));
}

// What is wrong with the value, or nothing.
using Reader = std::function<std::string(const YAML::Node&)>;

Reader Text(std::string& target) {
  return [&target](const YAML::Node& node) -> std::string {
    if (!node.IsScalar()) return "must be text";
    target = node.Scalar();
    return {};
  };
}

Reader Threads(int& target) {
  return [&target](const YAML::Node& node) -> std::string {
    int value = -1;
    if (!node.IsScalar() || !YAML::convert<int>::decode(node, value) || value < 0 ||
        value > kMaxThreads) {
      return fmt::format("must be a number from 0 (the machine's cores) to {}", kMaxThreads);
    }
    target = value;
    return {};
  };
}

template <typename T>
Reader Number(T& target, T low, T high) {
  return [&target, low, high](const YAML::Node& node) -> std::string {
    T value = 0;
    if (!node.IsScalar() || !YAML::convert<T>::decode(node, value) || value < low || value > high) {
      return fmt::format("must be a number from {} to {}", low, high);
    }
    target = value;
    return {};
  };
}

Reader LogFormat(logs::Format& target) {
  return [&target](const YAML::Node& node) -> std::string {
    const auto format = logs::ParseFormat(node.IsScalar() ? node.Scalar() : "");
    if (!format) return "must be text or json";
    target = *format;
    return {};
  };
}

Reader Texts(std::vector<std::string>& target) {
  return [&target](const YAML::Node& node) -> std::string {
    if (!node.IsSequence()) return "must be a list of texts";
    for (const YAML::Node& element : node) {
      if (!element.IsScalar()) return "must be a list of texts";
      target.push_back(element.Scalar());
    }
    return {};
  };
}

absl::StatusOr<WorkerConfig> Read(const YAML::Node& root, std::string_view file) {
  WorkerConfig config;
  if (root.IsNull()) return config;
  if (!root.IsMap()) return Invalid(file, root.Mark(), "the top level must be fields with values");
  const std::map<std::string, Reader> readers = {
      {"server", Text(config.server)},
      {"id", Text(config.id)},
      {"threads", Threads(config.threads)},
      {"http", Text(config.http)},
      {"uri_prefixes", Texts(config.uri_prefixes)},
      {"hpu_plugin", Text(config.hpu_plugin)},
      {"device_index", Number(config.device_index, 0, kMaxDeviceIndex)},
      {"data", Text(config.data)},
      {"cache_gib", Number(config.cache_gib, std::int64_t{1}, kMaxCacheGib)},
      {"log_format", LogFormat(config.log_format)}};
  std::set<std::string> seen;
  for (const auto& entry : root) {
    const std::string name = entry.first.IsScalar() ? entry.first.Scalar() : "(not a name)";
    const auto reader = readers.find(name);
    if (reader == readers.end()) {
      std::vector<std::string> known;
      known.reserve(readers.size());
      for (const auto& [key, unused] : readers) known.push_back(key);
      return Invalid(file, entry.first.Mark(),
                     fmt::format("{}: unknown field; known: {}", name, fmt::join(known, ", ")));
    }
    if (!seen.insert(name).second) {
      return Invalid(file, entry.first.Mark(), fmt::format("{}: is given twice", name));
    }
    const std::string wrong = reader->second(entry.second);
    if (!wrong.empty()) {
      return Invalid(file, entry.second.Mark(), fmt::format("{}: {}", name, wrong));
    }
  }
  return config;
}

absl::Status Invalid(std::string_view what) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_CONFIG", what);
}

// host:port, or one of gRPC's schemes and what that makes of the rest.
bool IsTarget(std::string_view server) {
  constexpr std::array<std::string_view, 7> kSchemes = {"dns",           "ipv4",  "ipv6", "unix",
                                                        "unix-abstract", "vsock", "xds"};
  const std::size_t colon = std::min(server.find(':'), server.size());
  if (std::ranges::find(kSchemes, server.substr(0, colon)) != kSchemes.end()) {
    return colon + 1 < server.size();
  }
  const absl::StatusOr<http::HostPort> address = http::ParseHostPort(server);
  return address.ok() && address->port > 0;
}

}  // namespace

absl::Status CheckWorkerConfig(const WorkerConfig& config) {
  if (config.data.empty()) {
    return Invalid("data: is empty; name a directory that this worker may write");
  }
  if (!config.http.empty()) {
    const absl::Status http = http::ParseHostPort(config.http).status();
    if (!http.ok()) return WithContext(http, "http");
  }
  if (IsTarget(config.server)) return absl::OkStatus();
  return Invalid(
      fmt::format("server: \"{}\" is no address of a server; write host:port, such as "
                  "127.0.0.1:8470, or unix:PATH",
                  config.server));
}

absl::StatusOr<WorkerConfig> ParseWorkerConfig(std::string_view yaml, std::string_view file) {
  try {
    return Read(YAML::Load(std::string(yaml)), file);
  } catch (const YAML::Exception& error) {
    return Invalid(file, error.mark, error.msg);
  }
}

absl::StatusOr<std::string> WorkerId(const std::string& id) {
  std::string chosen = id;
  if (chosen.empty()) {
    std::array<char, 256> name{};
    if (::gethostname(name.data(), name.size() - 1) == 0) chosen = name.data();
  }
  static const std::regex kPattern("[a-zA-Z0-9._-]{1,63}");
  if (!std::regex_match(chosen, kPattern)) {
    return Error(
        absl::StatusCode::kInvalidArgument, "INVALID_CONFIG",
        fmt::format("id: '{}' does not match [a-zA-Z0-9._-]{{1,63}}; give one by --id", chosen));
  }
  return chosen;
}

}  // namespace teq::agent
