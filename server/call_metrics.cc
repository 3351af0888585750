#include "server/call_metrics.h"

#include <array>
#include <chrono>
#include <string_view>
#include <utility>

namespace teq::server {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::InterceptorBatchMethods;
using grpc::experimental::ServerRpcInfo;
using Sink = std::function<void(const http::CallRecord&)>;
using Clock = std::chrono::steady_clock;

// The names that other servers' metrics have for them.
constexpr std::array<std::string_view, 17> kCodes = {
    "OK",       "Canceled",       "Unknown",          "InvalidArgument",   "DeadlineExceeded",
    "NotFound", "AlreadyExists",  "PermissionDenied", "ResourceExhausted", "FailedPrecondition",
    "Aborted",  "OutOfRange",     "Unimplemented",    "Internal",          "Unavailable",
    "DataLoss", "Unauthenticated"};

std::string_view CodeName(grpc::StatusCode code) {
  const auto index = static_cast<size_t>(code);
  return index < kCodes.size() ? kCodes[index] : kCodes[grpc::StatusCode::UNKNOWN];
}

class CallInterceptor final : public grpc::experimental::Interceptor {
 public:
  CallInterceptor(const ServerRpcInfo& info, const Sink& sink)
      : path_(info.method()),
        unary_(info.type() == ServerRpcInfo::Type::UNARY),
        sink_(sink),
        begin_(Clock::now()) {}
  CallInterceptor(const CallInterceptor&) = delete;
  CallInterceptor& operator=(const CallInterceptor&) = delete;
  ~CallInterceptor() override {
    if (!told_) Tell(grpc::StatusCode::CANCELLED);
  }

  void Intercept(InterceptorBatchMethods* methods) override {
    if (!told_ && methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      Tell(methods->GetSendStatus().error_code());
    }
    methods->Proceed();
  }

 private:
  void Tell(grpc::StatusCode code) {
    told_ = true;
    std::string_view path = path_;  // /service/method
    if (path.starts_with('/')) path.remove_prefix(1);
    const size_t slash = path.find('/');
    sink_({.service = path.substr(0, slash),
           .method = slash == std::string_view::npos ? "" : path.substr(slash + 1),
           .code = CodeName(code),
           .unary = unary_,
           .duration = absl::FromChrono(Clock::now() - begin_)});
  }

  const std::string_view path_;  // registered with the server, which lives longer
  const bool unary_;
  const Sink& sink_;
  const Clock::time_point begin_;
  bool told_ = false;
};

class CallInterceptorFactory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit CallInterceptorFactory(Sink sink) : sink_(std::move(sink)) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(ServerRpcInfo* info) override {
    return new CallInterceptor(*info, sink_);
  }

 private:
  const Sink sink_;
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> CountCalls(Sink sink) {
  return std::make_unique<CallInterceptorFactory>(std::move(sink));
}

}  // namespace teq::server
