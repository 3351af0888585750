#include "client/side_port/http_server.h"

#include <boost/asio/dispatch.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <memory>
#include <thread>
#include <utility>

#include "client/side_port/address.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "spdlog/spdlog.h"

namespace teq::http {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
using asio::ip::tcp;
using Request = beast::http::request<beast::http::empty_body>;
using Response = beast::http::response<beast::http::string_body>;
using Parser = beast::http::request_parser<beast::http::empty_body>;
using Serializer = beast::http::response_serializer<beast::http::string_body>;
using Status = beast::http::status;

constexpr uint32_t kMaxHeaderBytes = 8 << 10;
constexpr auto kAcceptPause = std::chrono::milliseconds(100);

Response Text(const Request& request, Status status, std::string body,
              std::string_view type = "text/plain; charset=utf-8") {
  Response response(status, request.version(), std::move(body));
  response.set(beast::http::field::content_type, beast::string_view(type.data(), type.size()));
  response.keep_alive(request.keep_alive());
  response.prepare_payload();
  // HEAD: the header of GET, its length included, without the body.
  if (request.method() == beast::http::verb::head) response.body().clear();
  return response;
}

Response Fault(const Request& request, const absl::Status& status) {
  return Text(request, Status::service_unavailable, ErrorText(status) + "\n");
}

Response Respond(const Request& request, const HttpPages& pages) {
  const bool get =
      request.method() == beast::http::verb::get || request.method() == beast::http::verb::head;
  const std::string_view target(request.target().data(), request.target().size());
  const std::string_view path = target.substr(0, target.find('?'));
  if (path != "/metrics" && path != "/healthz" && path != "/readyz") {
    return Text(request, Status::not_found, "not found; there are /metrics, /healthz, /readyz\n");
  }
  if (!get) {
    Response response = Text(request, Status::method_not_allowed, "only GET and HEAD\n");
    response.set(beast::http::field::allow, "GET, HEAD");
    return response;
  }
  if (path == "/healthz") return Text(request, Status::ok, "ok\n");
  if (path == "/readyz") {
    const absl::Status ready = pages.ready();
    return ready.ok() ? Text(request, Status::ok, "ready\n") : Fault(request, ready);
  }
  absl::StatusOr<std::string> metrics = pages.metrics();
  if (!metrics.ok()) return Fault(request, metrics.status());
  return Text(request, Status::ok, *std::move(metrics), "text/plain; version=0.0.4; charset=utf-8");
}

/// One connection; owns itself through the handlers that wait for it.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(tcp::socket socket, const HttpPages* pages, std::chrono::seconds timeout,
             std::function<void()> on_close)
      : stream_(std::move(socket)),
        pages_(pages),
        timeout_(timeout),
        on_close_(std::move(on_close)) {}
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection() { on_close_(); }

  void Read() {
    parser_ = std::make_unique<Parser>();
    parser_->header_limit(kMaxHeaderBytes);
    stream_.expires_after(timeout_);
    beast::http::async_read_header(
        stream_, buffer_, *parser_,
        [self = shared_from_this()](beast::error_code error, size_t /*bytes*/) {
          self->OnRead(error);
        });
  }

 private:
  void OnRead(beast::error_code error) {
    if (error == beast::http::error::header_limit) {
      Request request;
      request.keep_alive(false);
      return Write(Text(request, Status::request_header_fields_too_large,
                        fmt::format("the header is larger than {} bytes\n", kMaxHeaderBytes)));
    }
    if (error) return;  // gone, silent for too long, or not HTTP
    Response response = Respond(parser_->get(), *pages_);
    // Nothing here takes a body: one that is sent is not read, and the connection ends.
    if (!parser_->is_done()) response.keep_alive(false);
    Write(std::move(response));
  }

  void Write(Response response) {
    response_ = std::move(response);
    // A response to HEAD states a length without a body, which the string body's writer would not.
    serializer_ = std::make_unique<Serializer>(response_);
    const bool header_only =
        parser_->is_header_done() && parser_->get().method() == beast::http::verb::head;
    const auto done = [self = shared_from_this()](beast::error_code error, size_t /*bytes*/) {
      self->OnWritten(error);
    };
    if (header_only) {
      beast::http::async_write_header(stream_, *serializer_, done);
    } else {
      beast::http::async_write(stream_, *serializer_, done);
    }
  }

  void OnWritten(beast::error_code error) {
    if (error) return;
    if (response_.keep_alive()) return Read();
    beast::error_code ignored;
    stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
  }

  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  std::unique_ptr<Parser> parser_;  // of the request that is read, or was last
  Response response_;
  std::unique_ptr<Serializer> serializer_;
  const HttpPages* const pages_;
  const std::chrono::seconds timeout_;
  const std::function<void()> on_close_;
};

absl::Status CannotListen(const std::string& address, const beast::error_code& error) {
  return Error(absl::StatusCode::kUnavailable, "ADDRESS_UNAVAILABLE",
               fmt::format("{}: cannot listen: {}; stop the program that uses the address, or "
                           "choose another by --http",
                           address, error.message()));
}

}  // namespace

class HttpServer::Impl {
 public:
  Impl(const HttpOptions& options, HttpPages pages)
      : options_(options), pages_(std::move(pages)), acceptor_(context_), pause_(context_) {}
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  ~Impl() {
    context_.stop();
    if (thread_.joinable()) thread_.join();
  }

  absl::Status Listen() {
    TEQ_ASSIGN_OR_RETURN(const HostPort target, ParseHostPort(options_.address));
    beast::error_code error;
    tcp::resolver resolver(context_);
    const auto endpoints = resolver.resolve(target.host, std::to_string(target.port), error);
    if (error || endpoints.empty()) return CannotListen(options_.address, error);
    const tcp::endpoint endpoint = endpoints.begin()->endpoint();
    acceptor_.open(endpoint.protocol(), error);
    // Without it a restart would wait for old connections to time out.
    if (!error) acceptor_.set_option(asio::socket_base::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error) return CannotListen(options_.address, error);
    address_ = HostPort{target.host, acceptor_.local_endpoint().port()}.ToString();
    Accept();
    thread_ = std::thread([this] { Run(); });
    return absl::OkStatus();
  }

  [[nodiscard]] const std::string& address() const { return address_; }

 private:
  void Accept() {
    accepting_ = true;
    acceptor_.async_accept([this](beast::error_code error, tcp::socket socket) {
      accepting_ = false;
      if (error == asio::error::operation_aborted) return;
      if (error) return AcceptLater();
      ++connections_;
      std::make_shared<Connection>(std::move(socket), &pages_,
                                   std::chrono::seconds(options_.timeout_seconds),
                                   [this] { OnClose(); })
          ->Read();
      if (connections_ < options_.max_connections) Accept();
    });
  }

  // Without file descriptors the next accept would fail at once, and so on.
  void AcceptLater() {
    accepting_ = true;
    pause_.expires_after(kAcceptPause);
    pause_.async_wait([this](beast::error_code error) {
      accepting_ = false;
      if (!error) Accept();
    });
  }

  void OnClose() {
    --connections_;
    if (!accepting_ && !context_.stopped()) Accept();
  }

  void Run() {
    while (!context_.stopped()) {
      try {
        context_.run();
      } catch (const std::exception& error) {
        spdlog::error("http: {}", error.what());
      }
    }
  }

  const HttpOptions options_;
  const HttpPages pages_;
  int connections_ = 0;
  bool accepting_ = false;
  std::string address_;
  asio::io_context context_{1};
  tcp::acceptor acceptor_;
  asio::steady_timer pause_;
  std::thread thread_;
};

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() = default;

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const HttpOptions& options,
                                                              HttpPages pages) {
  auto impl = std::make_unique<Impl>(options, std::move(pages));
  TEQ_RETURN_IF_ERROR(impl->Listen());
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

const std::string& HttpServer::address() const { return impl_->address(); }

}  // namespace teq::http
