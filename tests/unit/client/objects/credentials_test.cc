#include "client/objects/credentials.h"

#include <filesystem>
#include <map>
#include <string>

#include "client/objects/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"
#include "tests/unit/client/objects/fake_transport.h"

namespace teq::objects {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

class CredentialsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = fs::temp_directory_path() / "teq-keys-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    home_ = pattern;
    fs::create_directory(home_ / ".aws");
    variables_ = {{"HOME", home_.string()}, {"AWS_EC2_METADATA_DISABLED", "true"}};
  }
  void TearDown() override { fs::remove_all(home_); }

  std::string Write(const std::string& name, const std::string& text) const {
    EXPECT_TRUE(WriteFileAtomically(home_ / name, text).ok());
    return home_ / name;
  }

  Environment Variables() const {
    return [this](const std::string& name) {
      const auto found = variables_.find(name);
      return found == variables_.end() ? std::string() : found->second;
    };
  }

  std::shared_ptr<CredentialsProvider> Chain() {
    transport_ = std::make_shared<FakeTransport>([this](const auto& request) {
      return answer_ ? answer_(request) : absl::UnavailableError("nobody listens");
    });
    return MakeCredentialsChain({.environment = Variables(),
                                 .transport = transport_,
                                 .local_transport = transport_,
                                 .now = [this] { return now_; }});
  }

  fs::path home_;
  std::map<std::string, std::string> variables_;
  FakeTransport::Answer answer_;
  std::shared_ptr<FakeTransport> transport_;
  absl::Time now_ = absl::FromCivil(absl::CivilSecond(2026, 1, 1), absl::UTCTimeZone());
};

TEST_F(CredentialsTest, EnvironmentComesFirst) {
  Write(".aws/credentials", "[default]\naws_access_key_id = F\naws_secret_access_key = f\n");
  variables_["AWS_ACCESS_KEY_ID"] = "E";
  variables_["AWS_SECRET_ACCESS_KEY"] = "e";
  variables_["AWS_SESSION_TOKEN"] = "t";
  const auto keys = Chain()->Get();
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_EQ(keys->access_key_id, "E");
  EXPECT_EQ(keys->secret_access_key, "e");
  EXPECT_EQ(keys->session_token, "t");
}

TEST_F(CredentialsTest, HalfAPairOfKeysIsAnErrorAndDoesNotShowIt) {
  variables_["AWS_SECRET_ACCESS_KEY"] = "tellnobody";
  const absl::Status status = Chain()->Get().status();
  EXPECT_EQ(ErrorReason(status), "BAD_CREDENTIALS");
  EXPECT_THAT(status.ToString(), Not(HasSubstr("tellnobody")));
}

TEST_F(CredentialsTest, ProfileOfTheFileIsTheOneThatIsNamed) {
  Write(".aws/credentials",
        "# comment\n[default]\naws_access_key_id = D\naws_secret_access_key = d\n\n"
        "[other]\naws_access_key_id=O\r\naws_secret_access_key = o=o\r\nnested =\n  "
        "aws_access_key_id = N\n");
  EXPECT_EQ(Chain()->Get()->access_key_id, "D");
  variables_["AWS_PROFILE"] = "other";
  EXPECT_EQ(Chain()->Get()->access_key_id, "O");
  EXPECT_EQ(Chain()->Get()->secret_access_key, "o=o");
}

TEST_F(CredentialsTest, SettingsMayStandFurtherInThanTheirSection) {
  Write(".aws/credentials",
        "[default]\n  aws_access_key_id = D\n  # comment\n\n  aws_secret_access_key = d\n"
        "  s3 =\n    aws_access_key_id = N\n  aws_session_token = t\n"
        "[other]\n\taws_access_key_id = O\n\taws_secret_access_key = o\n");
  const auto keys = Chain()->Get();
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_EQ(keys->access_key_id, "D");
  EXPECT_EQ(keys->secret_access_key, "d");
  EXPECT_EQ(keys->session_token, "t");
  variables_["AWS_PROFILE"] = "other";
  EXPECT_EQ(Chain()->Get()->access_key_id, "O");
}

TEST_F(CredentialsTest, SettingsBelowASettingAreNotTheSections) {
  variables_["AWS_CONFIG_FILE"] = Write(
      "config", "[default]\ns3 =\n  addressing_style = path\n  region = nested\nregion = r0\n");
  EXPECT_EQ(ProfileSetting(Variables(), "addressing_style"), "");
  EXPECT_EQ(RegionOf(Variables()), "r0");
}

TEST_F(CredentialsTest, NamedProfileThatNoFileHasIsAnErrorAndTheMachineIsNotAsked) {
  variables_.erase("AWS_EC2_METADATA_DISABLED");
  Write(".aws/credentials", "[default]\naws_access_key_id = D\naws_secret_access_key = d\n");
  variables_["AWS_PROFILE"] = "mispelt";
  const absl::Status status = Chain()->Get().status();
  EXPECT_EQ(ErrorReason(status), "BAD_CREDENTIALS");
  for (const char* word : {"AWS_PROFILE", "\"mispelt\"", ".aws/credentials", ".aws/config"}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(word));
  }
  EXPECT_TRUE(transport_->seen.empty());
}

TEST_F(CredentialsTest, NamedProfileWithoutKeysLeavesThemToOtherPlaces) {
  Write(".aws/config", "[profile other]\nregion = r1\n");
  variables_["AWS_PROFILE"] = "other";
  EXPECT_EQ(ErrorReason(Chain()->Get().status()), "NO_CREDENTIALS");
}

TEST_F(CredentialsTest, ConfigurationFileHoldsKeysAndTheRegion) {
  variables_["AWS_CONFIG_FILE"] =
      Write("config",
            "[default]\nregion = r0\n[profile other]\nregion = eu-west-1\n"
            "aws_access_key_id = O\naws_secret_access_key = o\n");
  EXPECT_EQ(RegionOf(Variables()), "r0");
  variables_["AWS_PROFILE"] = "other";
  EXPECT_EQ(Chain()->Get()->access_key_id, "O");
  EXPECT_EQ(RegionOf(Variables()), "eu-west-1");
  variables_["AWS_REGION"] = "us-west-2";
  EXPECT_EQ(RegionOf(Variables()), "us-west-2");
}

TEST_F(CredentialsTest, ProfileThatNeedsAnotherProgramIsNamed) {
  variables_["AWS_CONFIG_FILE"] = Write("config", "[default]\ncredential_process = /bin/keys\n");
  const absl::Status status = Chain()->Get().status();
  EXPECT_EQ(ErrorReason(status), "BAD_CREDENTIALS");
  EXPECT_THAT(std::string(status.message()), HasSubstr("credential_process"));
}

TEST_F(CredentialsTest, NothingAnywhereNamesEveryPlace) {
  const absl::Status status = Chain()->Get().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ErrorReason(status), "NO_CREDENTIALS");
  for (const char* place :
       {"AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", ".aws/credentials", ".aws/config",
        "AWS_CONTAINER_CREDENTIALS", "AWS_EC2_METADATA_DISABLED"}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(place));
  }
}

TEST_F(CredentialsTest, WebIdentityAsksStsForTheRoleAndKeepsTheKeysUntilNearTheirEnd) {
  variables_["AWS_WEB_IDENTITY_TOKEN_FILE"] = Write("token", "jwt.a+b\n");
  variables_["AWS_ROLE_ARN"] = "arn:aws:iam::1:role/r";
  variables_["AWS_REGION"] = "eu-west-1";
  int asked = 0;
  answer_ = [&](const auto&) -> absl::StatusOr<HttpAnswer> {
    ++asked;
    return HttpAnswer{.status = 200,
                      .body =
                          "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult>"
                          "<Credentials><AccessKeyId>A" +
                          std::to_string(asked) +
                          "</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t"
                          "</SessionToken><Expiration>2026-01-01T0" +
                          std::to_string(asked) +
                          ":00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult>"
                          "</AssumeRoleWithWebIdentityResponse>"};
  };
  const auto chain = Chain();
  EXPECT_EQ(chain->Get()->access_key_id, "A1");
  EXPECT_EQ(transport_->seen[0].url, "https://sts.eu-west-1.amazonaws.com/");
  EXPECT_EQ(transport_->seen[0].method, "POST");
  EXPECT_EQ(transport_->seen[0].body,
            "Action=AssumeRoleWithWebIdentity&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr&"
            "RoleSessionName=teqd&Version=2011-06-15&WebIdentityToken=jwt.a%2Bb");
  now_ += absl::Minutes(54);
  EXPECT_EQ(chain->Get()->access_key_id, "A1");
  now_ += absl::Minutes(2);
  EXPECT_EQ(chain->Get()->access_key_id, "A2");
  EXPECT_EQ(asked, 2);
  chain->Forget();
  EXPECT_EQ(chain->Get()->access_key_id, "A3");
}

TEST_F(CredentialsTest, KeysThatAreStillGoodServeWhileTheirEndpointIsAway) {
  variables_["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"] = "/v2/credentials/1";
  answer_ = [](const auto&) {
    return HttpAnswer{.status = 200,
                      .body = R"({"AccessKeyId":"A","SecretAccessKey":"s","Token":"t",)"
                              R"("Expiration":"2026-01-01T01:00:00Z"})"};
  };
  const auto chain = Chain();
  EXPECT_EQ(chain->Get()->session_token, "t");
  EXPECT_EQ(transport_->seen[0].url, "http://169.254.170.2/v2/credentials/1");
  answer_ = [](const auto&) { return HttpAnswer{.status = 500}; };
  now_ += absl::Minutes(58);
  EXPECT_EQ(chain->Get()->access_key_id, "A");
  now_ += absl::Minutes(3);
  const absl::Status status = chain->Get().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ErrorReason(status), "CREDENTIALS_UNAVAILABLE");
}

TEST_F(CredentialsTest, RefusedRoleIsNamedAndTheTokenIsNot) {
  variables_["AWS_WEB_IDENTITY_TOKEN_FILE"] = Write("token", "secret.jwt");
  variables_["AWS_ROLE_ARN"] = "arn:role";
  answer_ = [](const auto&) {
    return HttpAnswer{.status = 403,
                      .body =
                          "<ErrorResponse><Error><Code>AccessDenied</Code></Error>"
                          "</ErrorResponse>"};
  };
  const absl::Status status = Chain()->Get().status();
  EXPECT_EQ(ErrorReason(status), "BAD_CREDENTIALS");
  EXPECT_THAT(std::string(status.message()), HasSubstr("arn:role"));
  EXPECT_THAT(status.ToString(), Not(HasSubstr("secret.jwt")));
}

TEST_F(CredentialsTest, RoleThatStsCannotGiveNowIsNoRefusal) {
  variables_["AWS_WEB_IDENTITY_TOKEN_FILE"] = Write("token", "jwt");
  variables_["AWS_ROLE_ARN"] = "arn:role";
  const auto reason = [this](int status, const std::string& code) {
    answer_ = [status, code](const auto&) {
      return HttpAnswer{
          .status = status,
          .body = "<ErrorResponse><Error><Code>" + code + "</Code></Error></ErrorResponse>"};
    };
    return ErrorReason(Chain()->Get().status());
  };
  for (const char* code :
       {"Throttling", "ThrottlingException", "RequestLimitExceeded", "IDPCommunicationError"}) {
    EXPECT_EQ(reason(400, code), "CREDENTIALS_UNAVAILABLE") << code;
  }
  EXPECT_EQ(reason(408, ""), "CREDENTIALS_UNAVAILABLE");
  EXPECT_EQ(reason(400, "InvalidIdentityToken"), "BAD_CREDENTIALS");
}

TEST_F(CredentialsTest, TokenIsShownToNoStsUnencryptedUnlessAskedFor) {
  variables_["AWS_WEB_IDENTITY_TOKEN_FILE"] = Write("token", "jwt");
  variables_["AWS_ROLE_ARN"] = "arn:role";
  variables_["AWS_ENDPOINT_URL_STS"] = "http://sts.test";
  const absl::Status status = Chain()->Get().status();
  EXPECT_EQ(ErrorReason(status), "INVALID_ENDPOINT");
  EXPECT_THAT(std::string(status.message()), HasSubstr("AWS_ENDPOINT_URL_STS"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("TEQ_S3_ALLOW_HTTP=1"));
  EXPECT_TRUE(transport_->seen.empty());
  const auto asked = [this] {
    static_cast<void>(Chain()->Get());
    return transport_->seen.size();
  };
  variables_["AWS_ENDPOINT_URL_STS"] = "http://127.0.0.1:7480";
  EXPECT_EQ(asked(), 1);
  variables_["AWS_ENDPOINT_URL_STS"] = "http://sts.test";
  variables_["TEQ_S3_ALLOW_HTTP"] = "1";
  EXPECT_EQ(asked(), 1);
}

TEST_F(CredentialsTest, ContainersEndpointIsShownTheTokenOfAFile) {
  variables_["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = "http://169.254.170.23/v1/credentials";
  variables_["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"] = Write("token", "pod-token\n");
  answer_ = [](const auto&) {
    return HttpAnswer{.status = 200, .body = R"({"AccessKeyId":"A","SecretAccessKey":"s"})"};
  };
  EXPECT_EQ(Chain()->Get()->access_key_id, "A");
  EXPECT_EQ(transport_->seen[0].Header("Authorization"), "pod-token");
  variables_["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = "http://example.org/credentials";
  EXPECT_EQ(ErrorReason(Chain()->Get().status()), "BAD_CREDENTIALS");
  EXPECT_TRUE(transport_->seen.empty());
}

TEST_F(CredentialsTest, MachinesEndpointIsAskedBySessionThenRoleThenKeys) {
  variables_.erase("AWS_EC2_METADATA_DISABLED");
  answer_ = [](const auto& request) -> absl::StatusOr<HttpAnswer> {
    if (request.method == "PUT") return HttpAnswer{.status = 200, .body = "session"};
    if (request.Header("X-aws-ec2-metadata-token") != "session") return HttpAnswer{.status = 401};
    if (request.url.ends_with("/")) return HttpAnswer{.status = 200, .body = "my-role"};
    return HttpAnswer{.status = 200,
                      .body = R"({"Code":"Success","AccessKeyId":"I","SecretAccessKey":"s",)"
                              R"("Token":"t","Expiration":"2026-01-01T06:00:00Z"})"};
  };
  EXPECT_EQ(Chain()->Get()->access_key_id, "I");
  ASSERT_EQ(transport_->seen.size(), 3);
  EXPECT_EQ(transport_->seen[0].url, "http://169.254.169.254/latest/api/token");
  EXPECT_EQ(transport_->seen[2].url,
            "http://169.254.169.254/latest/meta-data/iam/security-credentials/my-role");
}

TEST_F(CredentialsTest, MachineWithoutEndpointOrRoleHasNoKeys) {
  variables_.erase("AWS_EC2_METADATA_DISABLED");
  answer_ = [](const auto&) {
    return Error(absl::StatusCode::kUnavailable, "HTTP_NO_CONNECTION", "timed out");
  };
  EXPECT_EQ(ErrorReason(Chain()->Get().status()), "NO_CREDENTIALS");
  answer_ = [](const auto&) { return HttpAnswer{.status = 404}; };
  EXPECT_EQ(ErrorReason(Chain()->Get().status()), "NO_CREDENTIALS");
  answer_ = [](const auto& request) {
    return HttpAnswer{.status = request.method == "PUT" ? 200 : 404, .body = "session"};
  };
  const absl::Status status = Chain()->Get().status();
  EXPECT_EQ(ErrorReason(status), "NO_CREDENTIALS");
  EXPECT_THAT(std::string(status.message()), HasSubstr("has no role"));
}

TEST_F(CredentialsTest, MachinesEndpointThatFailsIsUnavailableWhateverItWasAsked) {
  variables_.erase("AWS_EC2_METADATA_DISABLED");
  const auto reason = [this](const std::string& failing, const absl::StatusOr<HttpAnswer>& answer) {
    answer_ = [=](const auto& request) -> absl::StatusOr<HttpAnswer> {
      if (request.url.ends_with(failing)) return answer;
      return HttpAnswer{.status = 200, .body = "my-role"};
    };
    return ErrorReason(Chain()->Get().status());
  };
  for (const char* failing : {"/token", "/security-credentials/", "/my-role"}) {
    for (const int status : {429, 500, 503}) {
      EXPECT_EQ(reason(failing, HttpAnswer{.status = status}), "CREDENTIALS_UNAVAILABLE")
          << failing << status;
    }
    EXPECT_EQ(reason(failing, Error(absl::StatusCode::kUnavailable, "HTTP_FAILED", "broke")),
              "CREDENTIALS_UNAVAILABLE")
        << failing;
  }
  EXPECT_EQ(reason("/security-credentials/", HttpAnswer{.status = 401}), "CREDENTIALS_UNAVAILABLE");
}

}  // namespace
}  // namespace teq::objects
