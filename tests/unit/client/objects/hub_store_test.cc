#include "client/objects/hub_store.h"

#include <unistd.h>

#include <deque>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "client/objects/hub_answers.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kCommit = "0123456789abcdef0123456789abcdef01234567";
constexpr const char* kSha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

// As the hub's API is documented and answers, shortened.
std::string RevisionAnswer() {
  return fmt::format(
      R"({{"_id":"1","id":"owner/name","sha":"{}","private":false,"siblings":[)"
      R"({{"rfilename":"config.json","size":2,"blobId":"b6f2"}},)"
      R"({{"rfilename":"model.safetensors","size":6,"blobId":"aa","lfs":{{"sha256":"{}","size":6,)"
      R"("pointerSize":130}}}},)"
      R"({{"rfilename":"../escape","size":1,"blobId":"cc"}}]}})",
      kCommit, kSha256);
}

/// Answers by URL, and keeps what was asked.
class FakeHub : public HttpTransport {
 public:
  absl::StatusOr<HttpAnswer> Send(const HttpRequest& request) override {
    asked.push_back({request.url, {}});
    for (const auto& [name, value] : request.headers) asked.back().headers[name] = value;
    auto& answers = by_url[request.url];
    if (answers.empty()) return HttpAnswer{.status = 404};
    HttpAnswer answer = answers.front();
    if (answers.size() > 1) answers.pop_front();
    if (answer.body.size() > request.max_body_bytes) {
      return Error(absl::StatusCode::kResourceExhausted, "HTTP_ANSWER_TOO_LARGE", request.url);
    }
    return answer;
  }

  struct Asked {
    std::string url;
    std::map<std::string, std::string> headers;
  };
  std::vector<Asked> asked;
  std::map<std::string, std::deque<HttpAnswer>> by_url;
};

class HubStoreTest : public ::testing::Test {
 protected:
  const std::string list_ = "https://hub.test/api/models/owner/name/revision/main?blobs=true";
  const std::string file_ =
      fmt::format("https://hub.test/owner/name/resolve/{}/model.safetensors", kCommit);

  absl::StatusOr<std::shared_ptr<ObjectStore>> Open(const std::string& token = "hf_secret") {
    HubStoreOptions options{.endpoint = "https://hub.test",
                            .repository = "owner/name",
                            .revision = "main",
                            .token = token,
                            .token_place = "/home/me/token",
                            .transport = hub_,
                            .world = {.now = [] { return absl::UnixEpoch(); },
                                      .sleep = [this](absl::Duration pause) { slept_ += pause; },
                                      .random = [] { return 0.5; }}};
    options.retry.attempts = 3;
    return OpenHubStore(std::move(options));
  }
  std::shared_ptr<ObjectStore> Opened() {
    hub_->by_url[list_] = {{.status = 200, .body = RevisionAnswer()}};
    auto store = Open();
    EXPECT_TRUE(store.ok()) << store.status();
    hub_->asked.clear();
    return *store;
  }
  absl::Status RefusedWith(int status, const std::string& code, const std::string& token) {
    hub_->by_url[list_] = {{.status = status, .headers = {{"x-error-code", code}}}};
    return Open(token).status();
  }

  std::shared_ptr<FakeHub> hub_ = std::make_shared<FakeHub>();
  absl::Duration slept_ = absl::ZeroDuration();
};

TEST_F(HubStoreTest, ListsTheRevisionsFilesOfWhichLargeOnesHaveASha256) {
  const auto store = Opened();
  const auto files = store->List("");
  ASSERT_TRUE(files.ok());
  ASSERT_EQ(files->size(), 2);
  EXPECT_EQ((*files)[0].key, "config.json");
  EXPECT_EQ((*files)[0].bytes, 2);
  EXPECT_EQ((*files)[0].etag, "b6f2");
  EXPECT_EQ((*files)[0].sha256, "");
  EXPECT_EQ((*files)[1].sha256, kSha256);
  EXPECT_EQ(ErrorReason(store->Head("none").status()), "OBJECT_NOT_FOUND");
  EXPECT_EQ(store->Uri("config.json"), fmt::format("hf://owner/name@{}/config.json", kCommit));
}

TEST_F(HubStoreTest, TokenIsForTheHubAndNotForWhereItLeads) {
  const auto store = Opened();
  hub_->by_url[file_] = {{.status = 302,
                          .headers = {{"location", "https://cdn.test/blob?signature=s"},
                                      {"x-repo-commit", kCommit},
                                      {"x-linked-etag", fmt::format("\"{}\"", kSha256)}}}};
  hub_->by_url["https://cdn.test/blob?signature=s"] = {
      {.status = 206, .headers = {{"content-range", "bytes 1-3/6"}}, .body = "eig"}};
  EXPECT_EQ(store->Read("model.safetensors", 1, 3).value(), "eig");
  ASSERT_EQ(hub_->asked.size(), 2);
  EXPECT_EQ(hub_->asked[0].headers.at("Authorization"), "Bearer hf_secret");
  EXPECT_EQ(hub_->asked[0].headers.at("Range"), "bytes=1-3");
  EXPECT_FALSE(hub_->asked[1].headers.contains("Authorization"));
  EXPECT_EQ(hub_->asked[1].headers.at("Range"), "bytes=1-3");
}

TEST_F(HubStoreTest, AnotherPortIsAnotherPlace) {
  EXPECT_EQ(OriginOf("http://127.0.0.1:8000/a"), "http://127.0.0.1:8000");
  EXPECT_NE(OriginOf("http://127.0.0.1:8000/a"), OriginOf("http://127.0.0.1:80001/a"));
}

TEST_F(HubStoreTest, RedirectOnTheSameHostKeepsTheToken) {
  const auto store = Opened();
  hub_->by_url[file_] = {{.status = 307, .headers = {{"location", "/api/resolve-cache/x"}}}};
  hub_->by_url["https://hub.test/api/resolve-cache/x"] = {{.status = 200, .body = "weight"}};
  EXPECT_EQ(store->Read("model.safetensors", 0, 6).value(), "weight");
  EXPECT_TRUE(hub_->asked[1].headers.contains("Authorization"));
}

TEST_F(HubStoreTest, PagesOfRedirectsAndErrorsMayBeLongerThanTheFile) {
  const auto store = Opened();
  const std::string page(1000, 'p');
  hub_->by_url[fmt::format("https://hub.test/owner/name/resolve/{}/config.json", kCommit)] = {
      {.status = 429, .body = page},
      {.status = 307, .headers = {{"location", "/api/resolve-cache/x"}}, .body = page}};
  hub_->by_url["https://hub.test/api/resolve-cache/x"] = {{.status = 503, .body = page},
                                                          {.status = 200, .body = "{}"}};
  const auto config = store->Read("config.json", 0, 2);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(*config, "{}");
}

TEST_F(HubStoreTest, PlaceOfARedirectIsNamedWithoutItsPassword) {
  const auto store = Opened();
  hub_->by_url[file_] = {
      {.status = 302, .headers = {{"location", "https://user:password@cdn.test/blob"}}}};
  const std::string message(store->Read("model.safetensors", 0, 6).status().message());
  EXPECT_THAT(message, AllOf(HasSubstr("https://cdn.test,"), Not(HasSubstr("password"))));
}

TEST_F(HubStoreTest, RedirectFromHttpsToHttpIsNotFollowed) {
  const auto store = Opened();
  hub_->by_url[file_] = {{.status = 302, .headers = {{"location", "http://cdn.test/blob"}}}};
  EXPECT_EQ(ErrorReason(store->Read("model.safetensors", 0, 6).status()), "BAD_ANSWER");
  EXPECT_EQ(hub_->asked.size(), 1);
}

TEST_F(HubStoreTest, RedirectsInACircleEnd) {
  const auto store = Opened();
  hub_->by_url[file_] = {{.status = 302, .headers = {{"location", file_}}}};
  EXPECT_EQ(ErrorReason(store->Read("model.safetensors", 0, 6).status()), "BAD_ANSWER");
  EXPECT_LT(hub_->asked.size(), 10);
}

TEST_F(HubStoreTest, FileOfAnotherCommitIsNotTaken) {
  const auto store = Opened();
  hub_->by_url[file_] = {
      {.status = 206,
       .headers = {{"content-range", "bytes 0-2/6"}, {"x-repo-commit", std::string(40, 'f')}},
       .body = "wei"}};
  EXPECT_EQ(ErrorReason(store->Read("model.safetensors", 0, 3).status()), "OBJECT_CHANGED");
}

TEST_F(HubStoreTest, FileWithAnotherEtagIsNotTaken) {
  const auto store = Opened();
  hub_->by_url[file_] = {
      {.status = 302,
       .headers = {{"location", "https://cdn.test/blob"}, {"x-linked-etag", "\"another\""}}}};
  EXPECT_EQ(ErrorReason(store->Read("model.safetensors", 0, 3).status()), "OBJECT_CHANGED");
  EXPECT_EQ(ErrorReason(store->Read("model.safetensors", 0, 3, "older").status()),
            "OBJECT_CHANGED");
}

TEST_F(HubStoreTest, OtherBytesThanAskedForAreAnError) {
  const auto store = Opened();
  for (const HttpAnswer& answer :
       {HttpAnswer{.status = 200, .body = "weight"},
        HttpAnswer{.status = 206, .headers = {{"content-range", "bytes 0-2/7"}}, .body = "wei"},
        HttpAnswer{.status = 206, .headers = {{"content-range", "bytes 0-2/6"}}, .body = "we"}}) {
    hub_->by_url[file_] = {answer};
    EXPECT_EQ(ErrorReason(store->Read("model.safetensors", 0, 3).status()), "OBJECT_CORRUPT");
  }
}

TEST_F(HubStoreTest, ExpiredPlaceIsAskedForAnew) {
  const auto store = Opened();
  hub_->by_url[file_] = {{.status = 302, .headers = {{"location", "https://cdn.test/old"}}},
                         {.status = 302, .headers = {{"location", "https://cdn.test/new"}}}};
  hub_->by_url["https://cdn.test/old"] = {{.status = 403}};
  hub_->by_url["https://cdn.test/new"] = {{.status = 200, .body = "weight"}};
  EXPECT_EQ(store->Read("model.safetensors", 0, 6).value(), "weight");
}

TEST_F(HubStoreTest, WaitsAsLongAsTheHubAsksFor) {
  const auto store = Opened();
  hub_->by_url[file_] = {{.status = 429, .headers = {{"retry-after", "30"}}},
                         {.status = 200, .body = "weight"}};
  EXPECT_EQ(store->Read("model.safetensors", 0, 6).value(), "weight");
  EXPECT_GE(slept_, absl::Seconds(30));
}

// As the hub's documentation of its rate limits has it.
TEST_F(HubStoreTest, WaitsUntilTheHubCountsAnew) {
  const auto store = Opened();
  hub_->by_url[file_] = {{.status = 429, .headers = {{"ratelimit", "\"resolvers\";r=0;t=280"}}},
                         {.status = 429, .headers = {{"ratelimit", "\"resolvers\";r=0"}}},
                         {.status = 200, .body = "weight"}};
  EXPECT_EQ(store->Read("model.safetensors", 0, 6).value(), "weight");
  EXPECT_GE(slept_, absl::Seconds(280));
  EXPECT_LT(slept_, absl::Seconds(300));
}

TEST_F(HubStoreTest, EveryRefusalHasItsReasonAndSaysWhatToDo) {
  const auto text = [](const absl::Status& status) { return std::string(status.message()); };
  const absl::Status gated = RefusedWith(403, "GatedRepo", "hf_secret");
  EXPECT_EQ(ErrorReason(gated), "MODEL_GATED");
  EXPECT_EQ(gated.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(text(gated), AllOf(HasSubstr("licence"), HasSubstr("https://hub.test/owner/name"),
                                 HasSubstr("/home/me/token"), Not(HasSubstr("hf_secret"))));
  const absl::Status wrong = RefusedWith(401, "", "hf_secret");
  EXPECT_EQ(ErrorReason(wrong), "HUB_TOKEN_REFUSED");
  EXPECT_THAT(text(wrong), HasSubstr("/home/me/token"));
  const absl::Status anonymous = RefusedWith(401, "RepoNotFound", "");
  EXPECT_EQ(ErrorReason(anonymous), "OBJECT_ACCESS_DENIED");
  EXPECT_THAT(text(anonymous), HasSubstr("put a token"));
  const absl::Status forbidden = RefusedWith(403, "", "hf_secret");
  EXPECT_EQ(ErrorReason(forbidden), "OBJECT_ACCESS_DENIED");
  EXPECT_THAT(text(forbidden), HasSubstr("may not read it"));
  const absl::Status model = RefusedWith(404, "RepoNotFound", "hf_secret");
  EXPECT_EQ(ErrorReason(model), "MODEL_NOT_FOUND");
  EXPECT_THAT(text(model), HasSubstr("hf://owner/name@main"));
  const absl::Status revision = RefusedWith(404, "RevisionNotFound", "hf_secret");
  EXPECT_EQ(ErrorReason(revision), "REVISION_NOT_FOUND");
  EXPECT_THAT(text(revision), HasSubstr("\"main\""));
  const absl::Status busy = RefusedWith(429, "", "hf_secret");
  EXPECT_EQ(ErrorReason(busy), "OBJECT_STORE_UNAVAILABLE");
  EXPECT_THAT(text(busy), HasSubstr("429"));
  EXPECT_EQ(ErrorReason(RefusedWith(503, "", "")), "OBJECT_STORE_UNAVAILABLE");
}

TEST_F(HubStoreTest, TakesNothing) {
  const auto store = Opened();
  EXPECT_EQ(ErrorReason(store->Write("a", "b", IfExists::kFail)), "READ_ONLY_STORE");
  EXPECT_EQ(ErrorReason(store->Remove("a")), "READ_ONLY_STORE");
}

TEST(HubAnswersTest, AnswersThatAreNoneSayWhatIsWrong) {
  const auto reason = [](const std::string& json) {
    const auto revision = ParseHubRevision(json);
    return revision.ok() ? std::string() : std::string(revision.status().message());
  };
  EXPECT_THAT(reason("<html>"), HasSubstr("no JSON object"));
  EXPECT_THAT(reason("[]"), HasSubstr("no JSON object"));
  EXPECT_THAT(reason(R"({"sha":"../..","siblings":[]})"), HasSubstr("../.."));
  EXPECT_THAT(reason(fmt::format(R"({{"sha":"{}"}})", kCommit)), HasSubstr("siblings"));
  EXPECT_THAT(reason(fmt::format(R"({{"sha":"{}","siblings":[{{"rfilename":"a"}}]}})", kCommit)),
              HasSubstr("size of a"));
  EXPECT_THAT(reason(fmt::format(R"({{"sha":"{}","siblings":[{{"rfilename":"a","size":1,)"
                                 R"("lfs":{{"sha256":"x"}}}}]}})",
                                 kCommit)),
              HasSubstr("sha256 of a"));
}

class HubOptionsTest : public ::testing::Test {
 protected:
  HubOptionsTest()
      : home_(fs::path(::testing::TempDir()) / fmt::format("hub-options-{}", ::getpid())) {
    fs::create_directories(home_ / ".cache/huggingface");
    variables_["HOME"] = home_;
  }
  ~HubOptionsTest() override { fs::remove_all(home_); }

  absl::StatusOr<HubStoreOptions> Options() {
    return HubOptionsOf(
        {.scheme = Location::Scheme::kHub, .authority = "o/n", .revision = "main"},
        [this](const std::string& name) { return variables_[name]; }, nullptr);
  }

  fs::path home_;
  std::map<std::string, std::string> variables_;
};

TEST_F(HubOptionsTest, TokenComesFromTheVariableElseTheFile) {
  std::ofstream(home_ / ".cache/huggingface/token") << "hf_default\n";
  EXPECT_EQ(Options()->token, "hf_default");
  std::ofstream(home_ / "other") << " hf_named \n";
  variables_["HF_TOKEN_PATH"] = home_ / "other";
  EXPECT_EQ(Options()->token, "hf_named");
  EXPECT_EQ(Options()->token_place, home_ / "other");
  variables_["HF_TOKEN"] = "hf_direct";
  EXPECT_EQ(Options()->token, "hf_direct");
}

TEST_F(HubOptionsTest, NoTokenIsAnAnswerButANamedFileMustBeThere) {
  EXPECT_EQ(Options()->token, "");
  variables_["HF_TOKEN_PATH"] = home_ / "none";
  EXPECT_EQ(ErrorReason(Options().status()), "NO_CREDENTIALS");
  EXPECT_THAT(std::string(Options().status().message()), HasSubstr((home_ / "none").string()));
}

TEST_F(HubOptionsTest, TokenWithALineBreakInsideIsRefused) {
  variables_["HF_TOKEN"] = "hf_a\r\nX-Evil: 1";
  EXPECT_EQ(ErrorReason(Options().status()), "NO_CREDENTIALS");
}

TEST_F(HubOptionsTest, EndpointIsChecked) {
  variables_["HF_ENDPOINT"] = "https://hub.test/";
  EXPECT_EQ(Options()->endpoint, "https://hub.test");
  for (const char* endpoint : {"hub.test", "ftp://hub.test", "https://", "https://u@hub.test"}) {
    variables_["HF_ENDPOINT"] = endpoint;
    EXPECT_EQ(ErrorReason(Options().status()), "INVALID_ENDPOINT") << endpoint;
  }
  variables_["HF_ENDPOINT"] = "https://user:password@hub.test";
  EXPECT_THAT(std::string(Options().status().message()),
              AllOf(HasSubstr("...@..."), Not(HasSubstr("password"))));
}

TEST_F(HubOptionsTest, TokenGoesToNoOtherMachineUnencrypted) {
  variables_["HF_ENDPOINT"] = "http://hub.test";
  EXPECT_TRUE(Options().ok());
  variables_["HF_TOKEN"] = "hf_secret";
  EXPECT_EQ(ErrorReason(Options().status()), "INVALID_ENDPOINT");
  variables_["HF_ENDPOINT"] = "http://127.0.0.1:8000";
  EXPECT_TRUE(Options().ok());
}

}  // namespace
}  // namespace teq::objects
