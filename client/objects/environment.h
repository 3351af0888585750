#pragma once

#include <functional>
#include <string>

namespace teq::objects {

/// The value of a variable of the environment; empty where it is not set. Thread-safe.
///
/// Object stores are configured by these and nothing else, so that the server, the worker, its
/// engine and teqctl agree with each other and with the tools of the stores:
///
///   AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN: keys
///   AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN, AWS_ROLE_SESSION_NAME: a role, by a token in a file
///   AWS_ENDPOINT_URL_STS: where that role is asked for; else AWS's, of the region
///   AWS_SHARED_CREDENTIALS_FILE, AWS_CONFIG_FILE, AWS_PROFILE: files with keys and the region; one
///     of them has to have a profile that is named
///   AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or _FULL_URI, AWS_CONTAINER_AUTHORIZATION_TOKEN(_FILE):
///     the endpoint that a container gets its keys from
///   AWS_EC2_METADATA_SERVICE_ENDPOINT, AWS_EC2_METADATA_DISABLED: the machine's own endpoint
///   AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL: the store, where it is not AWS
///   AWS_REGION, AWS_DEFAULT_REGION: its region; else the profile's; else us-east-1
///   AWS_CA_BUNDLE, SSL_CERT_FILE: certificates to trust instead of the system's; the first for S3
///   TEQ_S3_ADDRESSING: "path" or "virtual", where a bucket's name stands; else virtual for AWS and
///     path for other endpoints
///   TEQ_S3_ALLOW_HTTP: "1": an http:// endpoint that is not loopback may be used, also for
///     AWS_ENDPOINT_URL_STS; what is sent is then signed but not secret, and STS' keys neither
///   HF_ENDPOINT: the hub; else the public one
///   HF_TOKEN; HF_TOKEN_PATH, a file with it; else ~/.cache/huggingface/token: who asks the hub
///   https_proxy, http_proxy, no_proxy: as curl's
using Environment = std::function<std::string(const std::string& name)>;

/// The process' own.
[[nodiscard]] Environment ProcessEnvironment();

}  // namespace teq::objects
