#include "client/side_port/address.h"

#include <boost/asio/ip/address.hpp>
#include <charconv>

#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::http {
namespace {

absl::Status InvalidAddress(std::string_view address) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_ADDRESS",
               fmt::format("{}: not an address to listen on; write host:port, such as "
                           "127.0.0.1:8470 or [::1]:8470",
                           address));
}

}  // namespace

std::string HostPort::ToString() const {
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port)
                                             : fmt::format("[{}]:{}", host, port);
}

bool HostPort::IsLoopback() const {
  if (host == "localhost") return true;
  boost::system::error_code error;
  const auto address = boost::asio::ip::make_address(host, error);
  return !error && address.is_loopback();
}

absl::StatusOr<HostPort> ParseHostPort(std::string_view address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return InvalidAddress(address);
  std::string_view host = address.substr(0, colon);
  const std::string_view port = address.substr(colon + 1);
  const bool bracketed = host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  // An IPv6 number without brackets would swallow the port.
  if (host.empty() || (!bracketed && host.find(':') != std::string_view::npos)) {
    return InvalidAddress(address);
  }
  HostPort result{.host = std::string(host), .port = 0};
  const auto read = std::from_chars(port.data(), port.data() + port.size(), result.port);
  if (read.ec != std::errc() || read.ptr != port.data() + port.size()) {
    return InvalidAddress(address);
  }
  return result;
}

}  // namespace teq::http
