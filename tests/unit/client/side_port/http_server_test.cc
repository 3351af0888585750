#include "client/side_port/http_server.h"

#include <boost/asio.hpp>

#include "client/side_port/address.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"

namespace teq::http {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class HttpServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto server = HttpServer::Start(
        {.address = "127.0.0.1:0"},
        {.metrics = [this] { return metrics_; }, .ready = [this] { return ready_; }});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  /// Sends bytes and reads until the server closes.
  std::string Exchange(const std::string& request) {
    using boost::asio::ip::tcp;
    const HostPort address = *ParseHostPort(server_->address());
    boost::asio::io_context context;
    tcp::socket socket(context);
    socket.connect({boost::asio::ip::make_address(address.host), address.port});
    boost::asio::write(socket, boost::asio::buffer(request));
    std::string answer;
    boost::system::error_code error;
    boost::asio::read(socket, boost::asio::dynamic_buffer(answer), error);
    return answer;
  }

  std::string Get(const std::string& target) {
    return Exchange("GET " + target + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  }

  absl::StatusOr<std::string> metrics_ = "teq_jobs 1\n";
  absl::Status ready_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, ServesItsThreePages) {
  EXPECT_THAT(Get("/healthz"), StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(Get("/readyz"), StartsWith("HTTP/1.1 200 OK\r\n"));
  const std::string metrics = Get("/metrics");
  EXPECT_THAT(metrics, HasSubstr("Content-Type: text/plain; version=0.0.4"));
  EXPECT_THAT(metrics, EndsWith("\r\n\r\nteq_jobs 1\n"));
  EXPECT_THAT(Get("/metrics?x=1"), StartsWith("HTTP/1.1 200 OK\r\n"));
}

TEST_F(HttpServerTest, UnreadyServerSaysWhyButLives) {
  ready_ = Error(absl::StatusCode::kUnavailable, "SERVER_DRAINING", "the server is stopping");
  EXPECT_THAT(Get("/readyz"), StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(Get("/readyz"), HasSubstr("SERVER_DRAINING: the server is stopping"));
  EXPECT_THAT(Get("/healthz"), StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, MetricsThatCannotBeReadAreAnError) {
  metrics_ = Error(absl::StatusCode::kUnavailable, "STORE_UNAVAILABLE", "disk gone");
  EXPECT_THAT(Get("/metrics"), StartsWith("HTTP/1.1 503"));
}

TEST_F(HttpServerTest, OtherPathsAndMethodsAreRefused) {
  EXPECT_THAT(Get("/"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(Get("/metrics/../etc/passwd"), StartsWith("HTTP/1.1 404"));
  const std::string post =
      Exchange("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx");
  EXPECT_THAT(post, StartsWith("HTTP/1.1 405"));
  EXPECT_THAT(post, HasSubstr("Allow: GET, HEAD\r\n"));
}

TEST_F(HttpServerTest, HeadHasTheHeaderOfGetOnly) {
  const std::string head =
      Exchange("HEAD /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(head, HasSubstr("Content-Length: 11\r\n"));
  EXPECT_THAT(head, Not(HasSubstr("teq_jobs")));
}

TEST_F(HttpServerTest, HeaderWithoutEndIsCutOff) {
  const std::string answer = Exchange("GET /" + std::string(10'000, 'a') + " HTTP/1.1\r\n\r\n");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 431"));
}

TEST_F(HttpServerTest, RequestsMayShareAConnection) {
  const std::string answers = Exchange(
      "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
      "GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(answers, HasSubstr("ok\n"));
  EXPECT_THAT(answers, EndsWith("ready\n"));
}

TEST_F(HttpServerTest, PortInUseIsAnErrorThatNamesTheAddress) {
  const auto second = HttpServer::Start({.address = server_->address()}, {});
  EXPECT_TRUE(absl::IsUnavailable(second.status()));
  EXPECT_EQ(ErrorReason(second.status()), "ADDRESS_UNAVAILABLE");
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(server_->address()));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("--http"));
}

}  // namespace
}  // namespace teq::http
