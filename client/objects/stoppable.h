#pragma once

#include <functional>
#include <memory>

#include "client/objects/http.h"
#include "client/objects/retry.h"

namespace teq::objects {

/// The same requests, which end with CANCELLED soon after `go_on`, asked by any thread, says false.
[[nodiscard]] std::shared_ptr<HttpTransport> Stoppable(std::shared_ptr<HttpTransport> transport,
                                                       std::function<bool()> go_on);

/// The same world, whose pauses end soon after `go_on` says false.
[[nodiscard]] RetryWorld Stoppable(RetryWorld world, std::function<bool()> go_on);

}  // namespace teq::objects
