#include "client/objects/credentials.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "client/objects/endpoint.h"
#include "client/objects/file.h"
#include "client/objects/s3_answers.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

namespace fs = std::filesystem;
using Settings = std::map<std::string, std::string, std::less<>>;

constexpr absl::Duration kRefreshBefore = absl::Minutes(5);
constexpr std::uint64_t kMaxFileBytes = 1 << 20;
constexpr std::size_t kMaxAnswerBytes = std::size_t{256} << 10;
constexpr std::string_view kContainerHost = "http://169.254.170.2";

absl::Status BadCredentials(std::string_view problem) {
  return Error(absl::StatusCode::kFailedPrecondition, "BAD_CREDENTIALS", problem);
}

absl::Status Unavailable(std::string_view place, std::string_view problem) {
  return Error(absl::StatusCode::kUnavailable, "CREDENTIALS_UNAVAILABLE",
               fmt::format("{} gives no keys: {}", place, problem));
}

std::string Text(const absl::Status& status) { return std::string(status.message()); }

absl::StatusOr<std::string> ReadSmallFile(const fs::path& path) {
  std::error_code error;
  if (const auto bytes = fs::file_size(path, error); !error && bytes > kMaxFileBytes) {
    return BadCredentials(
        fmt::format("{}: has {} bytes; at most {} are read", path.string(), bytes, kMaxFileBytes));
  }
  return ReadFile(path);
}

fs::path ProfileFile(const Environment& environment, const std::string& variable,
                     std::string_view name) {
  if (const std::string path = environment(variable); !path.empty()) return path;
  const std::string home = environment("HOME");
  return home.empty() ? fs::path() : fs::path(home) / ".aws" / name;
}

std::string ProfileName(const Environment& environment) {
  const std::string name = environment("AWS_PROFILE");
  return name.empty() ? "default" : name;
}

// One section of a file of AWS's; nothing where it has none. A line that stands further in than the
// setting above it belongs to that setting, which is none of ours.
std::optional<Settings> Section(std::string_view text, std::string_view section) {
  std::optional<Settings> settings;
  bool inside = false;
  std::optional<std::size_t> indent;  // of the setting above; none right below a section's name
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const std::size_t first = line.find_first_not_of(" \t\r");
    if (first == std::string_view::npos || line[first] == '#' || line[first] == ';') continue;
    if (indent && first > *indent) continue;
    line.remove_prefix(first);
    if (line.front() == '[') {
      inside = Trimmed(line.substr(1, std::min(line.find(']'), line.size()) - 1)) == section;
      indent.reset();
      if (inside && !settings) settings.emplace();
    } else if (const std::size_t equals = line.find('='); equals != std::string_view::npos) {
      indent = first;
      if (inside) (*settings)[Trimmed(line.substr(0, equals))] = Trimmed(line.substr(equals + 1));
    }
  }
  return settings;
}

std::string Setting(const Settings& settings, std::string_view key) {
  const auto found = settings.find(key);
  return found == settings.end() ? std::string() : found->second;
}

// Nothing where the configuration file has no such profile.
std::optional<Settings> ConfiguredProfile(const Environment& environment) {
  const fs::path file = ProfileFile(environment, "AWS_CONFIG_FILE", "config");
  const absl::StatusOr<std::string> text = ReadSmallFile(file);
  if (!text.ok()) return std::nullopt;
  const std::string name = ProfileName(environment);
  std::optional<Settings> settings = Section(*text, "profile " + name);
  if (!settings && name == "default") settings = Section(*text, name);
  return settings;
}

absl::StatusOr<std::optional<Credentials>> FromEnvironment(const Environment& environment) {
  Credentials keys{.access_key_id = environment("AWS_ACCESS_KEY_ID"),
                   .secret_access_key = environment("AWS_SECRET_ACCESS_KEY"),
                   .session_token = environment("AWS_SESSION_TOKEN")};
  if (keys.access_key_id.empty() && keys.secret_access_key.empty()) return std::nullopt;
  if (keys.access_key_id.empty() || keys.secret_access_key.empty()) {
    return BadCredentials(
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: one is set and the other is not; set both, "
        "or "
        "neither");
  }
  return keys;
}

// Keys that stand in a section of a file.
absl::StatusOr<std::optional<Credentials>> KeysOf(const Settings& settings, const fs::path& file) {
  Credentials keys{.access_key_id = Setting(settings, "aws_access_key_id"),
                   .secret_access_key = Setting(settings, "aws_secret_access_key"),
                   .session_token = Setting(settings, "aws_session_token")};
  if (keys.access_key_id.empty() && keys.secret_access_key.empty()) return std::nullopt;
  if (keys.access_key_id.empty() || keys.secret_access_key.empty()) {
    return BadCredentials(
        fmt::format("{}: a profile has one of aws_access_key_id and aws_secret_access_key and not "
                    "the other; write both",
                    file.string()));
  }
  return keys;
}

// The keys of one JSON answer: of a container's endpoint, and of the machine's.
absl::StatusOr<Credentials> KeysOfJson(std::string_view place, const std::string& body) {
  const auto json = nlohmann::json::parse(body, nullptr, /*allow_exceptions=*/false);
  const auto text = [&json](const char* name) {
    const auto found = json.is_object() ? json.find(name) : json.end();
    return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  Credentials keys{.access_key_id = text("AccessKeyId"),
                   .secret_access_key = text("SecretAccessKey"),
                   .session_token = text("Token")};
  const std::string expiry = text("Expiration");
  if (keys.access_key_id.empty() || keys.secret_access_key.empty() ||
      (!expiry.empty() && !absl::ParseTime(absl::RFC3339_full, expiry, &keys.expiry, nullptr))) {
    return Unavailable(place, "its answer holds none");
  }
  return keys;
}

// Whether STS may answer another time.
bool IsPassing(int status, std::string_view code) {
  constexpr std::array<std::string_view, 4> kCodes = {
      "Throttling", "ThrottlingException", "RequestLimitExceeded", "IDPCommunicationError"};
  return status >= 500 || status == 408 || status == 429 ||
         std::ranges::find(kCodes, code) != kCodes.end();
}

class CredentialsChain : public CredentialsProvider {
 public:
  explicit CredentialsChain(CredentialsWorld world) : world_(std::move(world)) {}

  absl::StatusOr<Credentials> Get() override {
    const std::lock_guard lock(mutex_);
    const absl::Time now = world_.now();
    if (kept_ && kept_->expiry - kRefreshBefore > now) return *kept_;
    absl::StatusOr<Credentials> found = Find();
    // What is still good serves while its endpoint is away.
    if (!found.ok() && kept_ && kept_->expiry > now) return *kept_;
    if (found.ok()) kept_ = *found;
    return found;
  }

  void Forget() override {
    const std::lock_guard lock(mutex_);
    kept_.reset();
  }

 private:
  using Found = absl::StatusOr<std::optional<Credentials>>;

  absl::StatusOr<Credentials> Find() const {
    constexpr std::array kPlaces = {&CredentialsChain::Environment, &CredentialsChain::WebIdentity,
                                    &CredentialsChain::Files, &CredentialsChain::Container,
                                    &CredentialsChain::Instance};
    std::vector<std::string> looked;
    for (const auto place : kPlaces) {
      TEQ_ASSIGN_OR_RETURN(const std::optional<Credentials> keys, (this->*place)(looked));
      if (keys) return *keys;
    }
    return Error(absl::StatusCode::kFailedPrecondition, "NO_CREDENTIALS",
                 fmt::format("there are no keys for S3; looked at: {}; set AWS_ACCESS_KEY_ID and "
                             "AWS_SECRET_ACCESS_KEY, or one of the others",
                             fmt::join(looked, "; ")));
  }

  Found Environment(std::vector<std::string>& looked) const {
    looked.emplace_back("AWS_ACCESS_KEY_ID (not set)");
    return FromEnvironment(world_.environment);
  }

  Found WebIdentity(std::vector<std::string>& looked) const {
    const std::string file = world_.environment("AWS_WEB_IDENTITY_TOKEN_FILE");
    const std::string role = world_.environment("AWS_ROLE_ARN");
    looked.emplace_back("AWS_WEB_IDENTITY_TOKEN_FILE with AWS_ROLE_ARN (not set)");
    if (file.empty() || role.empty()) return std::nullopt;
    return AssumeRole(file, role, world_.environment("AWS_ROLE_SESSION_NAME"));
  }

  Found Files(std::vector<std::string>& looked) const {
    const fs::path file =
        ProfileFile(world_.environment, "AWS_SHARED_CREDENTIALS_FILE", "credentials");
    const fs::path config = ProfileFile(world_.environment, "AWS_CONFIG_FILE", "config");
    const std::string profile = ProfileName(world_.environment);
    const std::string files =
        fmt::format("{} and {}", file.empty() ? "~/.aws/credentials" : file.string(),
                    config.empty() ? "~/.aws/config" : config.string());
    looked.push_back(fmt::format("profile \"{}\" of {}", profile, files));
    std::optional<Settings> shared;
    if (const auto text = ReadSmallFile(file); text.ok()) {
      shared = Section(*text, profile);
      TEQ_ASSIGN_OR_RETURN(auto keys, KeysOf(shared.value_or(Settings()), file));
      if (keys) return keys;
    } else if (!absl::IsNotFound(text.status())) {
      return BadCredentials(Text(text.status()));
    }
    const std::optional<Settings> configured = ConfiguredProfile(world_.environment);
    // One that is misspelt must not end with the keys of the machine.
    if (!shared && !configured && !world_.environment("AWS_PROFILE").empty()) {
      return BadCredentials(fmt::format(
          "AWS_PROFILE: {} have no profile \"{}\"; write it there, or unset AWS_PROFILE", files,
          profile));
    }
    const Settings settings = configured.value_or(Settings());
    TEQ_ASSIGN_OR_RETURN(auto keys, KeysOf(settings, config));
    if (keys) return keys;
    const std::string token_file = Setting(settings, "web_identity_token_file");
    if (!token_file.empty() && settings.contains("role_arn")) {
      return AssumeRole(token_file, Setting(settings, "role_arn"),
                        Setting(settings, "role_session_name"));
    }
    for (const char* kind : {"credential_process", "sso_session", "sso_start_url", "role_arn"}) {
      if (!settings.contains(kind)) continue;
      return BadCredentials(
          fmt::format("{}: profile \"{}\" has {}, which teqd does not follow; give keys, or "
                      "role_arn with web_identity_token_file",
                      config.string(), profile, kind));
    }
    return std::nullopt;
  }

  Found Container(std::vector<std::string>& looked) const {
    const std::string relative = world_.environment("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
    const std::string full = world_.environment("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    looked.emplace_back("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI and _FULL_URI (not set)");
    if (relative.empty() && full.empty()) return std::nullopt;
    const std::string url = relative.empty() ? full : std::string(kContainerHost) + relative;
    constexpr std::string_view kPlace = "the container's endpoint for credentials";
    if (!IsTrustedForKeys(url)) {
      return BadCredentials(
          "AWS_CONTAINER_CREDENTIALS_FULL_URI: is neither https:// nor a loopback or link-local "
          "address of a container's endpoint, and keys would be read from it in the open");
    }
    std::string token = world_.environment("AWS_CONTAINER_AUTHORIZATION_TOKEN");
    const std::string token_file = world_.environment("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    if (!token_file.empty()) {
      TEQ_ASSIGN_OR_RETURN(token, ReadSmallFile(token_file));
      token = Trimmed(token);
    }
    HttpRequest request{.url = url};
    if (!token.empty()) request.headers.emplace_back("Authorization", token);
    TEQ_ASSIGN_OR_RETURN(const std::string body, BodyOf(kPlace, Send(request)));
    return KeysOfJson(kPlace, body);
  }

  Found Instance(std::vector<std::string>& looked) const {
    if (world_.environment("AWS_EC2_METADATA_DISABLED") == "true") {
      looked.emplace_back("the machine's endpoint (AWS_EC2_METADATA_DISABLED)");
      return std::nullopt;
    }
    looked.emplace_back("the machine's endpoint (IMDSv2; no answer)");
    std::string base = world_.environment("AWS_EC2_METADATA_SERVICE_ENDPOINT");
    if (base.empty()) base = "http://169.254.169.254";
    while (base.ends_with('/')) base.pop_back();
    HttpRequest token{.method = "PUT",
                      .url = base + "/latest/api/token",
                      .headers = {{"X-aws-ec2-metadata-token-ttl-seconds", "21600"}},
                      .body = std::string_view()};
    constexpr std::string_view kPlace = "the machine's endpoint for credentials";
    const absl::StatusOr<HttpAnswer> session = Send(token);
    if (MeansNoEndpoint(session)) return std::nullopt;
    if (!session.ok()) {
      return Unavailable(kPlace, Text(session.status()) +
                                     "; in a container it is heard only where its hop limit is 2");
    }
    TEQ_ASSIGN_OR_RETURN(const std::string session_token, BodyOf(kPlace, session));
    const std::string roles = base + "/latest/meta-data/iam/security-credentials/";
    const Pairs headers = {{"X-aws-ec2-metadata-token", session_token}};
    const absl::StatusOr<HttpAnswer> listed = Send({.url = roles, .headers = headers});
    if (listed.ok() && listed->status == 404) {
      looked.back() = "the machine's endpoint (IMDSv2; the machine has no role)";
      return std::nullopt;
    }
    TEQ_ASSIGN_OR_RETURN(const std::string role, BodyOf(kPlace, listed));
    const std::string name = Trimmed(role.substr(0, role.find('\n')));
    TEQ_ASSIGN_OR_RETURN(
        const std::string body,
        BodyOf(kPlace, Send({.url = roles + EncodePath(name), .headers = headers})));
    return KeysOfJson(kPlace, body);
  }

  // To an endpoint of this machine.
  absl::StatusOr<HttpAnswer> Send(HttpRequest request) const {
    request.connect_timeout = absl::Seconds(1);
    request.total_timeout = absl::Seconds(5);
    request.max_body_bytes = kMaxAnswerBytes;
    return world_.local_transport->Send(request);
  }

  // Whether the answer to the request for a session says that this machine has no such endpoint:
  // nobody is there, or somebody who knows nothing of sessions.
  static bool MeansNoEndpoint(const absl::StatusOr<HttpAnswer>& session) {
    if (!session.ok()) return ErrorReason(session.status()) == "HTTP_NO_CONNECTION";
    return session->status >= 400 && session->status < 500 && session->status != 429;
  }

  // The body of a 200.
  static absl::StatusOr<std::string> BodyOf(std::string_view place,
                                            const absl::StatusOr<HttpAnswer>& answer) {
    if (!answer.ok()) return Unavailable(place, Text(answer.status()));
    if (answer->status != 200) return Unavailable(place, fmt::format("HTTP {}", answer->status));
    return answer->body;
  }

  Found AssumeRole(const fs::path& token_file, const std::string& role, std::string session) const {
    constexpr std::string_view kPlace = "STS, which AWS_WEB_IDENTITY_TOKEN_FILE is shown to,";
    absl::StatusOr<std::string> token = ReadSmallFile(token_file);
    if (!token.ok()) {
      return BadCredentials(fmt::format("AWS_WEB_IDENTITY_TOKEN_FILE: {}", Text(token.status())));
    }
    if (session.empty()) session = "teqd";
    const std::string body = CanonicalQuery({{"Action", "AssumeRoleWithWebIdentity"},
                                             {"Version", "2011-06-15"},
                                             {"RoleArn", role},
                                             {"RoleSessionName", session},
                                             {"WebIdentityToken", Trimmed(*token)}});
    std::string url = world_.environment("AWS_ENDPOINT_URL_STS");
    if (!url.empty() && !IsTrustedForKeys(url) && world_.environment("TEQ_S3_ALLOW_HTTP") != "1") {
      return Error(absl::StatusCode::kInvalidArgument, "INVALID_ENDPOINT",
                   "AWS_ENDPOINT_URL_STS: is neither https:// nor on this machine, and the token "
                   "and keys would travel in the open; use https://, or set TEQ_S3_ALLOW_HTTP=1 "
                   "where the network is trusted");
    }
    if (url.empty()) url = fmt::format("https://sts.{}", AwsHost(RegionOf(world_.environment)));
    const absl::StatusOr<HttpAnswer> answer =
        world_.transport->Send({.method = "POST",
                                .url = url.ends_with('/') ? url : url + "/",
                                .headers = {{"Content-Type", "application/x-www-form-urlencoded"}},
                                .body = body,
                                .max_body_bytes = kMaxAnswerBytes,
                                .total_timeout = absl::Seconds(30)});
    if (!answer.ok()) return Unavailable(kPlace, Text(answer.status()));
    if (answer->status != 200) {
      const S3Error error = ParseError(answer->body);
      const std::string problem =
          fmt::format("HTTP {} {} for role {}", answer->status, error.code, role);
      if (IsPassing(answer->status, error.code)) return Unavailable(kPlace, problem);
      return BadCredentials(
          fmt::format("{} refuses: {}; check AWS_ROLE_ARN and what it trusts", kPlace, problem));
    }
    TEQ_ASSIGN_OR_RETURN(Credentials keys, ParseAssumedRole(answer->body));
    return keys;
  }

  CredentialsWorld world_;
  std::mutex mutex_;
  std::optional<Credentials> kept_;
};

}  // namespace

std::shared_ptr<CredentialsProvider> MakeCredentialsChain(CredentialsWorld world) {
  return std::make_shared<CredentialsChain>(std::move(world));
}

std::string ProfileSetting(const Environment& environment, std::string_view key) {
  return Setting(ConfiguredProfile(environment).value_or(Settings()), key);
}

std::string RegionOf(const Environment& environment) {
  for (const char* name : {"AWS_REGION", "AWS_DEFAULT_REGION"}) {
    if (std::string region = environment(name); !region.empty()) return region;
  }
  std::string region = ProfileSetting(environment, "region");
  return region.empty() ? "us-east-1" : region;
}

}  // namespace teq::objects
