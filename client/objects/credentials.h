#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/objects/environment.h"
#include "client/objects/http.h"
#include "client/objects/sigv4.h"

namespace teq::objects {

/// Gives keys that are good now. Thread-safe. No error holds a secret.
class CredentialsProvider {
 public:
  virtual ~CredentialsProvider() = default;

  /// Asked before each request; a provider keeps what it found until shortly before its expiry.
  /// FAILED_PRECONDITION, NO_CREDENTIALS, names the places that were looked at;
  /// FAILED_PRECONDITION, BAD_CREDENTIALS: a place that was chosen holds no good ones;
  /// INVALID_ARGUMENT, INVALID_ENDPOINT: they would travel unencrypted; UNAVAILABLE,
  /// CREDENTIALS_UNAVAILABLE: an endpoint that gives them does not answer, or not now.
  [[nodiscard]] virtual absl::StatusOr<Credentials> Get() = 0;

  /// Forgets what is kept: a store said that it is no longer good.
  virtual void Forget() = 0;
};

/// What credentials need of the world.
struct CredentialsWorld {
  Environment environment;
  std::shared_ptr<HttpTransport> transport;        // for STS; trusts what S3's does
  std::shared_ptr<HttpTransport> local_transport;  // for endpoints of the machine; without a proxy
  std::function<absl::Time()> now;
};

/// The first of these places that has keys: the environment's; a web identity token's role; the
/// profile of the shared credentials file, then of the configuration file; the container's
/// endpoint; the machine's endpoint (IMDSv2). environment.h names the variables.
[[nodiscard]] std::shared_ptr<CredentialsProvider> MakeCredentialsChain(CredentialsWorld world);

/// The value of `key` in the profile that AWS_PROFILE names ("default" without it), from the
/// configuration file, such as its region; empty where there is none.
[[nodiscard]] std::string ProfileSetting(const Environment& environment, std::string_view key);

/// The region of AWS_REGION, AWS_DEFAULT_REGION or the profile; else us-east-1.
[[nodiscard]] std::string RegionOf(const Environment& environment);

}  // namespace teq::objects
